"""Pushing and removing (distribution-spec, "Push", "Content Management")."""

from __future__ import annotations

from sampan.images.manifest import LIMIT
from sampan.registryd import names
from sampan.registryd.connection import Reply, Request
from sampan.registryd.events import Events, Target
from sampan.registryd.refusals import Refusal
from sampan.registryd.repositories import Repositories
from sampan.registryd.uploads import Open
from sampan.storage import digest as digests
from sampan.storage.digest import Digest

_TAGS = 100  # tags of one push


class Writing:
    """Writes to repositories of our own; what was done is told to ``events``."""

    def __init__(self, repositories: Repositories, events: Events) -> None:
        self._repositories, self._uploads, self._events = repositories, repositories.uploads, events

    # -- uploads ----------------------------------------------------------------------------------------

    def begin(self, request: Request, repository: str, rest: str) -> Reply:
        """``POST /v2/<name>/blobs/uploads/``: begin, do it all at once, or mount."""
        query = request.query
        if query.get("mount"):
            reply = self._mount(request, repository)
            if reply is not None:
                return reply
        digest = names.digest(query.get("digest")) if query.get("digest") else ""
        expected = (digest or query.get("mount")).partition(":")[0]
        algorithm = query.get("digest-algorithm") or expected or "sha256"
        identity = self._uploads.begin(repository, algorithm)
        if not digest:
            return Reply(202, _progress(repository, identity, 0))
        with self._uploads.open(identity, repository, request.interrupt) as opened:
            try:
                return self._complete(request, repository, opened, digest)
            except BaseException:
                opened.remove()  # nobody was told its name
                raise

    def _mount(self, request: Request, repository: str) -> Reply | None:
        """A blob of another repository; None when that hasn't got it and an upload must begin."""
        digest, source = names.digest(request.query.get("mount")), request.query.get("from")
        if source and not names.is_repository(source):
            return None
        if not self._repositories.mount(repository, digest, source):
            return None
        self._tell_blob("mount", request, repository, digest)
        return Reply(201, _created(repository, digest))

    def status(self, request: Request, repository: str, identity: str) -> Reply:
        """``GET <upload>``: how far it is."""
        offset = self._uploads.offset(identity, repository)
        return Reply(204, _progress(repository, identity, offset))

    def append(self, request: Request, repository: str, identity: str) -> Reply:
        """``PATCH <upload>``: a chunk, or the whole as a stream."""
        with self._uploads.open(identity, repository, request.interrupt) as opened:
            _receive(request, repository, identity, opened)
            return Reply(202, _progress(repository, identity, opened.offset))

    def finish(self, request: Request, repository: str, identity: str) -> Reply:
        """``PUT <upload>?digest=``: the last bytes, or all of them, or none."""
        digest = names.digest(request.query.get("digest"))
        with self._uploads.open(identity, repository, request.interrupt) as opened:
            return self._complete(request, repository, opened, digest, identity)

    def _complete(
        self, request: Request, repository: str, opened: Open, digest: Digest, identity: str = ""
    ) -> Reply:
        _receive(request, repository, identity, opened)
        self._repositories.finish(repository, opened, digest)
        self._tell_blob("push", request, repository, digest)
        return Reply(201, _created(repository, digest))

    def cancel(self, request: Request, repository: str, identity: str) -> Reply:
        """``DELETE <upload>``."""
        self._uploads.cancel(identity, repository)
        return Reply(204)

    def _tell_blob(self, action: str, request: Request, repository: str, digest: Digest) -> None:
        if self._events.wanted:
            size = self._repositories.blobs.size(digest)
            self._events.tell(action, request, Target(repository, digest, "application/octet-stream", size))

    # -- manifests --------------------------------------------------------------------------------------

    def put_manifest(self, request: Request, repository: str, reference: str) -> Reply:
        """``PUT /v2/<name>/manifests/<reference>``."""
        raw = request.body.read(LIMIT)
        if ":" in reference:
            names.digest(reference)
        tags = [names.tag(tag) for tag in request.query.list("tag")]
        if tags and not digests.valid(reference):
            raise Refusal("MANIFEST_INVALID", "the tag parameter needs a digest in the address")
        if len(tags) > _TAGS:
            raise Refusal("MANIFEST_INVALID", f"more than {_TAGS} tags at once", status=414)
        declared = request.headers.get("content-type")
        digest, pushed = self._repositories.put(repository, reference, tags, raw, declared)
        fields = {"Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": digest}
        if pushed.subject:
            fields["OCI-Subject"] = pushed.subject
        if tags:
            fields["OCI-Tag"] = ", ".join(tags)
        for tag in tags or [reference if names.is_tag(reference) else ""]:
            self._events.tell("push", request, Target(repository, digest, pushed.media_type, len(raw), tag))
        return Reply(201, fields)

    def delete_manifest(self, request: Request, repository: str, reference: str) -> Reply:
        """``DELETE /v2/<name>/manifests/<reference>``: a tag, or a manifest with its tags."""
        if ":" in reference:
            names.digest(reference)
        self._repositories.delete(repository, reference)
        tag = reference if names.is_tag(reference) else ""
        digest = "" if tag else reference
        self._events.tell("delete", request, Target(repository, digest, "", 0, tag))
        return Reply(202)

    def delete_blob(self, request: Request, repository: str, reference: str) -> Reply:
        """``DELETE /v2/<name>/blobs/<digest>``."""
        digest = names.digest(reference)
        self._repositories.delete_blob(repository, digest)
        self._events.tell("delete", request, Target(repository, digest, "", 0))
        return Reply(202)


def _receive(request: Request, repository: str, identity: str, opened: Open) -> None:
    """Append a request's body. What comes before a client breaks off is kept for when it comes back."""
    declared = request.headers.get("content-range")
    if declared:
        span = names.chunk(declared)
        if span.start != opened.offset:
            fields = _progress(repository, identity, opened.offset)
            message = f"the chunk begins at {span.start}, the upload stands at {opened.offset}"
            raise Refusal("BLOB_UPLOAD_INVALID", message, status=416, headers=fields)
        if request.body.length is not None and request.body.length != span.length:
            raise Refusal("SIZE_INVALID", "provided length did not match content length")
    begun = opened.offset
    for piece in request.body:
        opened.write(piece)
        if declared and opened.offset - begun > span.length:
            opened.remove()
            raise Refusal("SIZE_INVALID", "the chunk is longer than its Content-Range says")


def _progress(repository: str, identity: str, offset: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{repository}/blobs/uploads/{identity}",
        "Range": f"0-{max(0, offset - 1)}",
        "Docker-Upload-UUID": identity,
    }


def _created(repository: str, digest: Digest) -> dict[str, str]:
    return {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}

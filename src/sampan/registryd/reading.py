"""Pulling and discovery: manifests, blobs, tags, referrers (distribution-spec, "Pull", "Content Discovery")."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec

from sampan.images.manifest import OCI_INDEX
from sampan.registryd import names
from sampan.registryd.connection import Reply, Request
from sampan.registryd.content import Document, Page, Source
from sampan.registryd.events import Events, Target
from sampan.registryd.refusals import Refusal

JSON = "application/json"
_MOST = 1000  # entries of one page, whatever a client asks for
_FOREVER = "max-age=31536000"


class Reading:
    """Answers from a source of content; pulls are told to ``events``."""

    def __init__(self, source: Source, events: Events) -> None:
        self._source, self._events = source, events

    def manifest(self, request: Request, repository: str, reference: str) -> Reply:
        """``GET`` and ``HEAD /v2/<name>/manifests/<reference>``."""
        if ":" in reference:
            names.digest(reference)
        document = self._source.document(repository, reference)
        fields = {
            "Content-Type": document.media_type,
            "Docker-Content-Digest": document.digest,
            "ETag": f'"{document.digest}"',
        }
        if document.warning:
            fields["Warning"] = f'299 - "{document.warning}"'
        if _is_known(request, document.digest):
            return Reply(304, fields)
        if request.method == "GET":
            self._events.tell("pull", request, _target(repository, reference, document))
        return Reply(200, fields, document.raw)

    def blob(self, request: Request, repository: str, reference: str) -> Reply:
        """``GET`` and ``HEAD /v2/<name>/blobs/<digest>``, whole or a range."""
        digest = names.digest(reference)
        blob = self._source.blob(repository, digest)
        fields = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": _FOREVER,
        }
        if _is_known(request, digest):
            return Reply(304, fields, blob=blob)
        try:
            span = _span(request, fields["ETag"], blob.size)
        except Refusal:
            blob.close()
            raise
        if request.method == "GET":
            target = Target(repository, digest, "application/octet-stream", blob.size)
            self._events.tell("pull", request, target)
        if span is None:
            return Reply(200, fields, blob=blob)
        fields["Content-Range"] = f"bytes {span.start}-{span.start + span.length - 1}/{blob.size}"
        return Reply(206, fields, blob=blob, span=span)

    def tags(self, request: Request, repository: str, rest: str) -> Reply:
        """``GET /v2/<name>/tags/list``."""
        page = self._source.tags(repository, _count(request), request.query.get("last"))
        return _list(request, {"name": repository, "tags": page.entries}, page)

    def catalog(self, request: Request) -> Reply:
        """``GET /v2/_catalog``."""
        page = self._source.repositories(_count(request), request.query.get("last"))
        return _list(request, {"repositories": page.entries}, page)

    def referrers(self, request: Request, repository: str, reference: str) -> Reply:
        """``GET /v2/<name>/referrers/<digest>``."""
        digest, kind = names.digest(reference), request.query.get("artifactType")
        found = self._source.referrers(repository, digest, kind, request.query.get("last"))
        fields = {"Content-Type": OCI_INDEX}
        if kind:
            fields["OCI-Filters-Applied"] = "artifactType"
        if found.after:
            more = {"last": found.after, **({"artifactType": kind} if kind else {})}
            fields["Link"] = _link(request, more)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found.manifests}
        return Reply(200, fields, msgspec.json.encode(index))

    def usage(self, request: Request) -> Reply:
        """``GET /v2/_sampan/registry/usage``: an extension, what each repository takes in bytes."""
        body = msgspec.json.encode({"repositories": self._source.usage()})
        return Reply(200, {"Content-Type": JSON}, body + b"\n")


def _target(repository: str, reference: str, document: Document) -> Target:
    tag = reference if names.is_tag(reference) else ""
    return Target(repository, document.digest, document.media_type, len(document.raw), tag)


def _is_known(request: Request, digest: str) -> bool:
    """Whether the client has this content (RFC 9110 section 13.1.2)."""
    wanted = request.headers.get("if-none-match")
    return bool(wanted) and any(
        part.strip().removeprefix("W/").strip('"') in (digest, "*") for part in wanted.split(",")
    )


def _span(request: Request, tag: str, size: int) -> names.Span | None:
    asked = request.headers.get("range")
    if not asked or request.headers.get("if-range", tag) != tag:
        return None
    return names.span(asked, size)


def _count(request: Request) -> int | None:
    """How many entries a client wants at most; None for all (UNSUPPORTED, 400)."""
    text = request.query.get("n")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise Refusal("UNSUPPORTED", "invalid number of results requested", status=400, detail=text[:50])
    return min(int(text), _MOST)


def _list(request: Request, document: dict[str, object], page: Page) -> Reply:
    fields = {"Content-Type": JSON}
    if page.more:
        fields["Link"] = _link(request, {"n": str(len(page.entries)), "last": page.entries[-1]})
    return Reply(200, fields, msgspec.json.encode(document) + b"\n")


def _link(request: Request, query: Mapping[str, str]) -> str:
    """Where the list goes on (RFC 5988)."""
    return f'<{request.path}?{urlencode(query)}>; rel="next"'

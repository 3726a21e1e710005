"""COPY and ADD: sources found and digested, then copied, unpacked or written into a layer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import posixpath
import re
import stat
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.build import fetch, imageconfig, roots
from sampan.build import instructions as ins
from sampan.build.accounts import owner_of
from sampan.build.cache import Hit, Inputs
from sampan.build.context import is_archive
from sampan.build.contextmemo import Copied
from sampan.build.copytree import Copier, write_file
from sampan.build.failure import BuildFailed
from sampan.build.found import Archive, Blob, Found, open_archive, open_source
from sampan.build.ignore import Ignore
from sampan.build.interruptible import in_thread
from sampan.build.modes import Change, parse_mode
from sampan.build.rootfs import RootFs
from sampan.build.trees import Root, Source, expand_glob, relative, scan
from sampan.build.words import Lexer
from sampan.errors import InvalidParameter, NotFound, SampanError
from sampan.storage import compress
from sampan.storage.extract import Extractor, Options
from sampan.storage.tar import TarReader

if TYPE_CHECKING:
    from sampan.build.executor import Build, Made, StageRun


class CopyStep:
    """One COPY or ADD of one stage; ``apply()`` once."""

    def __init__(self, build: Build, run: StageRun, one: ins.Copy) -> None:
        self.build = build
        self.run = run
        self.one = one
        word = run.scope.expander(run.env).word
        self.word = word
        self.destination = word(one.destination)
        self.chown = word(one.chown)
        self.chmod = word(one.chmod)
        self.checksum = word(one.checksum)
        self.from_ = word(one.from_)
        self._check_checksum()
        self.mode: Change | None = parse_mode(self.chmod) if self.chmod else None
        self.exclude = Ignore.of([word(text) for text in one.exclude]) if one.exclude else None
        self.lowers: list[Path] | None = None
        self.opened = ExitStack()
        self.found: list[Found] = []
        self.fetched: dict[int, Found] = {}
        # What was copied before the step's turn, and the task that does what can be done then.
        self.upper: Path | None = None
        self.begun: asyncio.Task[None] | None = None

    def _check_checksum(self) -> None:
        if not self.checksum:
            return
        if len(self.one.sources) > 1:
            raise InvalidParameter("checksum can't be specified for multiple sources")
        source = self.word(self.one.sources[0])
        if fetch.is_git(source):
            return
        if not fetch.is_url(source):
            raise InvalidParameter("checksum can't be specified for non-HTTP(S) sources")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", self.checksum):
            raise InvalidParameter(f"checksum {self.checksum}: invalid checksum digest format")

    async def apply(self) -> None:
        """Take the layer from the cache or make it."""
        with self.opened:
            if not self.destination:
                raise InvalidParameter(f"{self.one.name} requires a destination")
            if self.begun is not None:
                await self.begun
            if self.from_:
                image = await self.build.from_image(self.from_, self.run)
                self.lowers = self.build.worker.layers.lowers(image.chain)
                if await self._known(image.chain or ""):
                    return
            copied = await self._look()
            self._check_count(copied.count)

            async def make() -> Made:
                return await asyncio.to_thread(self._make, await self._sources())

            comment = self._comment(copied.label)
            inputs = self._inputs(copied)
            hit = await self.build.layered(self.run, inputs, comment, self._created_by(comment), make)
            if self.from_:
                self.build.worker.cache.store(self.alias, "", comment, hit, 0)
                self.build.results[self.alias.key()] = Hit(hit.chain, hit.created, comment)

    async def _look(self) -> Copied:
        """Fetch what is to be fetched, and find out what goes in."""
        self.fetched = self.fetched or await self._fetch()
        of_context = self.lowers is None and not self.fetched
        copied = self._remembered() if of_context else None
        if copied is None:
            copied = self._described(await self._sources())
            if of_context:
                self.build.context.known.keep(self._memo_key(), copied)
        return copied

    async def _sources(self) -> list[Found]:
        self.found = self.found or await asyncio.to_thread(self._gather, self.fetched)
        return self.found

    # -- before the step's turn -------------------------------------------------------------------------

    def may_begin(self) -> bool:
        """Whether something can be done that needs nothing of the stage: fetching, or a whole layer."""
        if not self.destination:
            return False
        if self.from_ and self.build.find_stage(self.from_, self.run) is None:
            return True
        return self._stands_alone() or (self.one.is_add and any(map(self._is_remote, self.one.sources)))

    def _is_remote(self, text: str) -> bool:
        source = self.word(text)
        return fetch.is_git(source) or fetch.is_url(source)

    def _stands_alone(self) -> bool:
        """Whether its layer is the same over anything; a user's name is looked up in the stage."""
        return self.one.link and not set(self.chown) - set("0123456789:")

    def begin(self) -> None:
        """Begin; errors wait for the step's turn."""
        self.begun = asyncio.create_task(self._begin())

    async def _begin(self) -> None:
        chain = ""
        if self.from_:
            image = await self.build.from_image(self.from_, self.run)
            self.lowers, chain = self.build.worker.layers.lowers(image.chain), image.chain or ""
        async with self.build.early:
            if not self.from_:
                self.fetched = await self._fetch()
            if self._stands_alone() and not self._is_cached(self._alias(chain)):
                inputs = self._inputs(await self._look())
                if not self._is_cached(inputs):
                    self.upper = await asyncio.to_thread(self._copied_alone, await self._sources())

    def _is_cached(self, inputs: Inputs) -> bool:
        return not self.build.builds_anew(self.run) and self.build.worker.cache.has(inputs.key())

    def _copied_alone(self, found: list[Found]) -> Path:
        upper, work = self.build.worker.layers.make_upper(None, self.build.scratch_directory())
        self.build.worker.bound(upper, work)
        self._fill(found, upper, work, [], (0, 0) if not self.chown else owner_of(None, self.chown))
        return upper

    async def apply_to(self, run: StageRun) -> None:
        """Its turn has come, in the stage as it is now."""
        self.run = run
        await self.apply()

    async def abandon(self) -> None:
        """Stop it; its turn won't come."""
        if self.begun is not None:
            self.begun.cancel()
            await asyncio.gather(self.begun, return_exceptions=True)
        self.opened.close()

    # -- what is asked for ------------------------------------------------------------------------------

    def _check_count(self, count: int) -> None:
        if not count and not self.exclude:
            shown = ", ".join(self.word(text) for text in self.one.sources)
            where = self.from_ or "the context (or what the ignore file leaves of it)"
            raise BuildFailed(
                f"{self.one.name} failed: no source files were specified",
                hint=f"Nothing in {where} matches {shown}.",
            )
        if count > 1 and not self.destination.endswith("/"):
            raise BuildFailed(
                f"When using {self.one.name} with more than one source file, "
                "the destination must be a directory and end with a /",
                hint=f"did you mean {self.destination}/?",
            )

    # -- what an equal context told before --------------------------------------------------------------

    def _memo_key(self) -> str:
        """Everything but the context itself that decides what is found in it."""
        one = self.one
        words = [[self.word(text) for text in texts] for texts in (one.sources, one.exclude)]
        return json.dumps([one.name, words, one.parents, one.unpack, self.build.context.taken_out])

    def _remembered(self) -> Copied | None:
        return self.build.context.known.copies.get(self._memo_key())

    def _comment(self, label: str) -> str:
        chown = f"--chown={self.chown} " if self.chown else ""
        return f"{self.one.name} {chown}{label} in {self.destination} "

    def _created_by(self, comment: str) -> str:
        return imageconfig.nop_close(self.run.image.config, comment)

    async def _known(self, chain: str) -> bool:
        """A short cut for --from: the same source layers give the same content, without reading any file."""
        self.alias = self._alias(chain)
        hit = None if self.build.builds_anew(self.run) else self.build.worker.cache.lookup(self.alias.key())
        if hit is None:
            return False
        self.build.tell("cached", self.run.vertex)
        self.build.results[self.alias.key()] = hit
        await self.build.add_layer(self.run, self._created_by(hit.description), hit)
        return True

    def _alias(self, chain: str) -> Inputs:
        return self.build.inputs("COPY --from", self._below(), {**self._values(), "source": chain})

    # -- what goes in -----------------------------------------------------------------------------------

    def _below(self) -> str:
        return "" if self._stands_alone() else self.run.image.chain or ""

    def _values(self) -> dict[str, object]:
        return {
            "instruction": self.one.name,
            "sources": [self.word(text) for text in self.one.sources],
            "destination": self._target(),
            "owner": self.chown,
            "mode": self.chmod,
            "flags": [self.one.link, self.one.parents, self.one.unpack, list(self.one.exclude)],
        }

    def _described(self, found: list[Found]) -> Copied:
        """What was found, as the cache and the history (``file:…``) want it."""
        digests = [one.digest() if isinstance(one, Source) else one.digest for one in found]
        files: dict[str, str] = {}
        for one, digest in zip(found, digests, strict=True):
            if isinstance(one, Source):
                top = one.asked.rstrip("/")
                files |= {f"{top}/{item.path}" if item.path else top: item.digest[:16] for item in one.items}
            else:
                files[one.name] = digest[:16]
        if len(found) == 1:
            kind = "dir" if isinstance(found[0], Source) and found[0].is_dir else "file"
            return Copied(1, files, digests[0], f"{kind}:{digests[0]}")
        content = hashlib.sha256(",".join(digests).encode()).hexdigest()
        return Copied(len(found), files, content, f"multi:{content}")

    def _inputs(self, copied: Copied) -> Inputs:
        values = self._values()
        del values["sources"]
        inputs = self.build.inputs(self.one.name, self._below(), values)
        return replace(inputs, files=copied.files, content=copied.content)

    def _target(self) -> str:
        """The destination as an absolute path; a trailing slash (also for ``.``) says it is a directory."""
        text = self.destination
        path = imageconfig.join_workdir(self.run.image.config.get("WorkingDir") or "/", text)
        is_directory = text.endswith("/") or posixpath.basename(text) in (".", "..")
        return path + "/" if is_directory and path != "/" else path

    async def _fetch(self) -> dict[int, Found]:
        """Downloads, checkouts and here-documents, by the place of their source."""
        found: dict[int, Found] = {}
        for place, doc in self.one.heredocs:
            text = self.word_in_heredoc(doc.text) if doc.expand else doc.text
            data = text.encode("utf-8", "surrogateescape")
            found[place] = Blob(doc.name, hashlib.sha256(data).hexdigest(), data)
        if not self.one.is_add:
            return found
        for place, text in enumerate(self.one.sources):
            source = self.word(text)
            if place in found:
                continue
            if fetch.is_git(source):
                found[place] = await self._checkout(source)
            elif fetch.is_url(source):
                found[place] = await self._download(source)
        return found

    def word_in_heredoc(self, text: str) -> str:
        """Expand the variables of a here-document; its quotes are text."""
        return Lexer(self.build.file.escape).text(text, self.run.scope.variables(self.run.env))

    async def _download(self, url: str) -> Found:
        path = self.build.scratch_directory() / "download"
        try:
            got = await self.build.worker.fetch(url, path, fetch.http_login(url, self.build.options.secrets))
        except SampanError as error:
            raise BuildFailed(f"{self.one.name} failed: {error.message}", hint=error.hint) from error
        if self.checksum and self.checksum != f"sha256:{got.digest}":
            raise BuildFailed(f"digest mismatch sha256:{got.digest}: {self.checksum}")
        if self.one.unpack:
            return Archive(got.name, got.digest, path=path)
        if self._target().endswith("/") and not got.name:
            raise BuildFailed(f"cannot determine filename from url: {url}")
        return Blob(got.name, got.digest, path=path, modified=got.modified, mode=0o600)

    async def _checkout(self, text: str) -> Found:
        source = fetch.parse_git(text)
        worker = self.build.worker
        if worker.has_agent("default"):
            async with worker.agent_socket("default", 0, 0, 0o600) as path:
                known = fetch.known_hosts(self.build.options.secrets, self.build.scratch_directory())
                keys = fetch.agent_keys(path, known)
                return await in_thread(partial(self._checked_out, source, text, keys))
        if source.over_ssh:
            raise InvalidParameter(
                f"ADD of {text}: no SSH agent is forwarded, and the host's keys aren't the Dockerfile's",
                hint="Lend one with sampan build --ssh default, or use an https:// address, with the secret "
                "GIT_AUTH_TOKEN where it needs a login.",
            )
        return await in_thread(partial(self._checked_out, source, text, {}))

    def _checked_out(
        self, source: fetch.GitSource, text: str, ssh: dict[str, str], stop: threading.Event
    ) -> Found:
        directory = self.build.scratch_directory() / "git"
        keep, settings = self.one.keep_git_dir, fetch.git_login(source, self.build.options.secrets)
        top, _commit = fetch.checkout(source, directory, self.checksum, keep, stop, settings, ssh)
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.opened.callback(os.close, fd)
        return scan(Root(fd, text), ".", self.exclude)

    # -- local sources ----------------------------------------------------------------------------------

    def _root(self) -> Root:
        """Where the sources lie, open as long as the step goes on."""
        if self.lowers is None:
            return self.build.context.root()
        if not self.lowers:
            raise BuildFailed(f"COPY failed: {self.from_} has no files")
        return self.opened.enter_context(roots.opened(self.lowers, self.from_))

    def _gather(self, fetched: dict[int, Found]) -> list[Found]:
        root = self._root() if len(fetched) < len(self.one.sources) else None
        found: list[Found] = []
        for place, text in enumerate(self.one.sources):
            if place in fetched:
                found.append(fetched[place])
                continue
            assert root is not None
            asked = self.word(text)
            self._check_inside(asked)
            pivot, asked = self._split_pivot(asked)
            for path in expand_glob(root, asked):
                one = self._local(root, path, pivot)
                if one is not None:
                    found.append(one)
        return found

    def _check_inside(self, asked: str) -> None:
        if self.lowers is None and posixpath.normpath(asked).split("/")[0] == "..":
            shown = f"forbidden path outside the build context: {asked} ()"
            raise BuildFailed(
                f"{self.one.name} failed: {shown}",
                hint="Only what lies below the directory given to the build command can be copied.",
            )

    def _split_pivot(self, asked: str) -> tuple[str, str]:
        """With --parents: the part before ``/./``, whose directories aren't kept, and the whole path."""
        if not self.one.parents or "/./" not in asked:
            return "", asked
        before, _, after = asked.partition("/./")
        return relative(before), f"{before}/{after}"

    def _local(self, root: Root, path: str, pivot: str) -> Found | None:
        below = relative(path)
        if pivot and pivot != ".":
            below = posixpath.relpath(below, pivot)
        seen_as = below if self.one.parents and below != "." else ""
        try:
            source = scan(root, path, self.exclude, seen_as)
        except NotFound as error:
            raise self._missing(path, error) from None
        if self._is_excluded(source, seen_as):
            return None
        if self.one.parents:
            kept = below if source.is_dir else posixpath.dirname(below)
            source.parents = "" if kept == "." else kept
        if (
            self.one.is_add
            and self.one.unpack is not False
            and not source.is_dir
            and self._is_archive(source)
        ):
            return Archive(source.asked, source.digest(), source)
        return source

    def _is_excluded(self, source: Source, seen_as: str) -> bool:
        """Whether ``--exclude`` means the source itself: a directory never, but for ``--parents``; a file by its
        name or by its path in the context.
        """
        if self.exclude is None:
            return False
        if source.is_dir or self.one.parents:
            return bool(seen_as) and self.exclude.excludes(seen_as) and len(source.items) == 1
        return any(map(self.exclude.excludes, (source.asked, posixpath.basename(source.asked))))

    def _missing(self, path: str, error: SampanError) -> BuildFailed:
        if self.lowers is None:
            reason = "file not found in build context or excluded by .dockerignore: "
            hint = self.build.context.explain_missing(relative(path))
        else:
            reason, hint = "", f"It was looked for in {self.from_}."
        return BuildFailed(f"{self.one.name} failed: {reason}{error.message}", hint=hint)

    def _is_archive(self, source: Source) -> bool:
        if not stat.S_ISREG(source.items[0].status.st_mode):
            return False
        with open_source(source) as file:
            return is_archive(file.read)

    # -- making -----------------------------------------------------------------------------------------

    def _make(self, found: list[Found]) -> Made:
        chain = self.run.image.chain
        if self.upper is not None:
            self.build.worker.layers.match_root(self.upper, chain)
            return self.build.adopt(chain, self.upper, self.build.worker.layers.lowers(chain))
        upper, work, lowers = self.build.upper(chain)
        self._fill(found, upper, work, lowers, self._owner(lowers))
        return self.build.adopt(chain, upper, lowers)

    def _fill(
        self, found: list[Found], upper: Path, work: Path, lowers: list[Path], owner: tuple[int, int]
    ) -> None:
        rootfs = RootFs([] if self.one.link else lowers, upper, work)
        try:
            # What comes from the context is root's; files of a stage or an image keep their owners.
            owners = owner if self.chown or not self.from_ else None
            copier = Copier(rootfs, owners, self.mode, link=not self.build.worker.bounded)
            for one in found:
                if isinstance(one, Source):
                    copier.copy(one, self._target())
                elif isinstance(one, Blob):
                    self._write(rootfs, one, owner)
                else:
                    self._unpack(rootfs, one)
            copier.finish()
        finally:
            rootfs.close()

    def _owner(self, lowers: list[Path]) -> tuple[int, int]:
        if not self.chown:
            return 0, 0
        if not lowers:
            return owner_of(None, self.chown)
        with roots.opened(lowers, "the stage") as root:
            return owner_of(root.fd, self.chown)

    def _write(self, rootfs: RootFs, blob: Blob, owner: tuple[int, int]) -> None:
        target = self._target()
        there = rootfs.status(target)
        if target.endswith("/") or (there is not None and stat.S_ISDIR(there.st_mode)):
            target = posixpath.join(target, blob.name)
        mode = self.mode(blob.mode, False) if self.mode else blob.mode
        if blob.path is None:
            write_file(rootfs, target, [blob.data], owner, mode)
            return
        with open(blob.path, "rb") as file:
            pieces = iter(lambda: file.read(1 << 20), b"")
            write_file(rootfs, target, pieces, owner, mode, blob.modified)

    def _unpack(self, rootfs: RootFs, archive: Archive) -> None:
        """Unpack with the owners that the archive names: ``--chown`` isn't for its members, as in Docker.

        A member's ``..`` above the destination is the destination, as there.
        """
        fd = rootfs.make_directories(self._target())
        try:
            options = Options(keep_root=True, clamp=True)
            with open_archive(archive) as file, Extractor(fd, options) as extractor:
                extractor.unpack(TarReader(compress.pieces(file.read)))
        except SampanError as error:
            raise BuildFailed(f"ADD failed: {archive.name}: {error.message}") from error
        finally:
            os.close(fd)

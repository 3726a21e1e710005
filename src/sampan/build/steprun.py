"""RUN: a process over the stage's files, with its mounts, and what it changed as a layer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import secrets
import stat
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.build import imageconfig, roots
from sampan.build import instructions as ins
from sampan.build.cache import Inputs
from sampan.build.copytree import Copier
from sampan.build.failure import BuildFailed
from sampan.build.mountflag import parse_mount_flag
from sampan.build.parser import heredoc_head
from sampan.build.rootfs import RootFs
from sampan.build.trees import Source, relative, scan
from sampan.build.worker import BuildMount, RunRequest
from sampan.errors import InvalidParameter, NotFound
from sampan.kernel import paths

if TYPE_CHECKING:
    from sampan.build.executor import Build, Made, StageRun

_SCRIPTS = "/dev/pipes"


class RunStep:
    """One RUN of one stage; ``apply()`` once."""

    def __init__(self, build: Build, run: StageRun, one: ins.Run) -> None:
        self.build = build
        self.run = run
        self.one = one
        expand = run.scope.expander(run.env)
        self.mounts = _placed([parse_mount_flag(text, one.span, expand.word) for text in one.mounts])
        self.network = expand.word(one.network)
        self.env = run.env
        self.args = run.scope.run_args(self.env)
        self.words = self._words()

    def _words(self) -> list[str]:
        config, command = self.run.image.config, self.one.command
        docs = self.one.heredocs
        if not docs:
            return imageconfig.command_line(config, command)
        text = command.words[0]
        if heredoc_head(text) is not None and len(docs) == 1:
            return [*imageconfig.shell_of(config), docs[0].text]
        full = text + "".join(f"\n{doc.content}{doc.name}" for doc in docs)
        return [*imageconfig.shell_of(config), full]

    async def apply(self) -> None:
        """Take the result from the cache or execute. Raises BuildFailed with the exit code."""
        self._check()
        config = self.run.image.config
        created_by = imageconfig.run_history(config, self.words, self.args)
        inputs = await self._inputs(config)
        await self.build.layered(self.run, inputs, created_by, created_by, self._make)

    def _check(self) -> None:
        if self.one.security == "insecure":
            raise InvalidParameter(
                "security.insecure is not allowed",
                hint="RUN --security=insecure would give the step the host; this engine never grants it.",
            )
        if self.network and self.network not in ("default", "none", "host"):
            raise InvalidParameter(f"invalid network mode: {self.network}")
        directory = self.run.image.config.get("WorkingDir") or "/"
        for mount in self.mounts:
            if mount.target and imageconfig.join_workdir(directory, mount.target) == "/":
                raise InvalidParameter('invalid mount target "/"')
            if mount.type == "ssh" and mount.required and not self.build.worker.has_agent(mount.id):
                raise NotFound(
                    f'no SSH key "{mount.id}" forwarded from the client',
                    hint=f"Lend it with sampan build --ssh {mount.id}, or leave out required=true.",
                )
            if mount.type == "secret" and mount.required and mount.id not in self.build.options.secrets:
                raise NotFound(
                    f"secret {mount.id}: not found",
                    hint=f"Give it with sampan build --secret id={mount.id},src=FILE, or leave out required=true.",
                )

    async def _inputs(self, config: imageconfig.Config) -> Inputs:
        from sampan.build.executor import opaque_values

        variables = opaque_values(self.env | self.args)
        values: dict[str, object] = {
            "command": self.words,
            "directory": config.get("WorkingDir") or "",
            "user": config.get("User") or "",
        }
        if self.network:
            values["network"] = self.network
        files: dict[str, str] = {}
        if self.mounts:
            values["mounts"] = [await self._mount_identity(mount, files) for mount in self.mounts]
        inputs = self.build.inputs("RUN", self.run.image.chain or "", values)
        return replace(inputs, variables=variables, files=files)

    async def _mount_identity(self, mount: ins.MountSpec, files: dict[str, str]) -> list[str]:
        """What of a mount decides the result: a bind's content, anything else's place only."""
        identity = [mount.type, mount.target, mount.id, str(mount.env or "")]
        if mount.type != "bind":
            return identity
        if mount.from_:
            image = await self.build.from_image(mount.from_, self.run)
            return [*identity, mount.source, image.chain or ""]
        source = await asyncio.to_thread(self._scan_context, mount.source)
        files.update({f"{mount.source}/{item.path}": item.digest[:16] for item in source.items})
        return [*identity, source.digest()]

    def _scan_context(self, path: str) -> Source:
        return scan(self.build.context.root(), path)

    # -- executing --------------------------------------------------------------------------------------

    async def _make(self) -> Made:
        chain = self.run.image.chain
        upper, work, lowers = await asyncio.to_thread(self._upper, chain)
        async with AsyncExitStack() as stack:
            self.stack = stack
            ready = self.scripts()
            for mount in self.mounts:
                ready += await self._prepare(mount)
            request = self._request(lowers, upper, work, ready)
            stubs = await asyncio.to_thread(_missing, lowers, upper, [m.target for m in ready])
            self.build.tell("running", self.run.vertex, request.container_id)
            code = await self.build.worker.run(request, self._output)
            await asyncio.to_thread(_remove_stubs, upper, stubs)
        if code:
            shown = " ".join(self.words)
            raise BuildFailed(f"The command '{shown}' returned a non-zero code: {code}", detail_code=code)
        return await asyncio.to_thread(self.build.adopt, chain, upper, lowers)

    def _upper(self, chain: str | None) -> tuple[Path, Path, list[Path]]:
        """As of any step, with the volumes' directories in it: Docker would mount there, and so make them."""
        upper, work, lowers = self.build.upper(chain)
        volumes = sorted(self.run.image.config.get("Volumes") or ())
        if volumes and _missing(lowers, upper, volumes):
            with RootFs(lowers, upper, work) as rootfs:
                for path in volumes:
                    with contextlib.suppress(NotADirectoryError):  # something of the image's own is there
                        os.close(rootfs.make_directories(path))
        return upper, work, lowers

    def _output(self, stream: int, data: bytes) -> None:
        self.build.tell("log", self.run.vertex, data=data, stream=stream)

    def _request(self, lowers: list[Path], upper: Path, work: Path, ready: list[BuildMount]) -> RunRequest:
        config = self.run.image.config
        network = self.network if self.network not in ("", "default") else self.build.options.network
        words = [f"{_SCRIPTS}/{self.one.heredocs[0].name}"] if self._has_script() else self.words
        return RunRequest(
            lowers=lowers,
            upper=upper,
            work=work,
            args=words,
            env=[f"{name}={value}" for name, value in self._environment().items()],
            user=config.get("User") or "",
            cwd=config.get("WorkingDir") or "/",
            network=network,
            host=self.build.options.host,
            mounts=ready,
            container_id=secrets.token_hex(32),
            image=self.run.image.id,
        )

    def _environment(self) -> dict[str, str]:
        found = self.env | self.args | self.run.scope.hidden_args(self.env)
        for mount in self.mounts:
            secret = self.build.options.secrets.get(mount.id) if mount.type == "secret" else None
            if secret is not None and mount.env is not None:
                found[mount.env or mount.id] = secret.decode("utf-8", "surrogateescape")
        agents = [mount.target for mount in self.mounts if mount.type == "ssh"]
        return {"SSH_AUTH_SOCK": agents[0], **found} if agents else found

    def _has_script(self) -> bool:
        """Whether the RUN is one here-document with a ``#!`` line: then it is executed as a file."""
        docs = self.one.heredocs
        alone = len(docs) == 1 and heredoc_head(self.one.command.words[0]) is not None
        return alone and docs[0].text.startswith("#!")

    # -- mounts -----------------------------------------------------------------------------------------

    async def _prepare(self, mount: ins.MountSpec) -> list[BuildMount]:
        target = imageconfig.join_workdir(self.run.image.config.get("WorkingDir") or "/", mount.target)
        if mount.type == "tmpfs":
            return [BuildMount("tmpfs", target, size=mount.size)]
        if mount.type == "secret":
            return self._secret(mount, target if mount.target else f"/run/secrets/{mount.id}")
        if mount.type == "cache":
            return [await self._cache(mount, target)]
        if mount.type == "bind":
            return [await self._bind(mount, target)]
        return await self._agent(mount, target)

    def _secret(self, mount: ins.MountSpec, target: str) -> list[BuildMount]:
        data = self.build.options.secrets.get(mount.id)
        if data is None or (mount.env is not None and not mount.target):
            return []
        path = self.build.worker.secret_file(data)
        self.stack.callback(path.unlink, missing_ok=True)
        os.chown(path, mount.uid or 0, mount.gid or 0)
        os.chmod(path, mount.mode if mount.mode is not None else 0o400)
        return [BuildMount("bind", target, str(path), readonly=True)]

    async def _agent(self, mount: ins.MountSpec, target: str) -> list[BuildMount]:
        worker = self.build.worker
        if not worker.has_agent(mount.id):
            return []
        mode = mount.mode if mount.mode is not None else 0o600
        made = worker.agent_socket(mount.id, mount.uid or 0, mount.gid or 0, mode)
        return [BuildMount("bind", target, str(await self.stack.enter_async_context(made)))]

    async def _cache(self, mount: ins.MountSpec, target: str) -> BuildMount:
        namespace = self.build.options.args.get("BUILDKIT_CACHE_MOUNT_NS") or ""
        identity = f"{namespace}\0{mount.id or target}"
        path = await self.stack.enter_async_context(self.build.worker.cache_mount(identity, mount.sharing))
        if not os.listdir(path):
            os.chmod(path, mount.mode if mount.mode is not None else 0o755)
            os.chown(path, mount.uid or 0, mount.gid or 0)
            if mount.from_:
                await self._seed(mount, path)
        return BuildMount("bind", target, str(path), readonly=mount.readonly or False)

    async def _seed(self, mount: ins.MountSpec, path: Path) -> None:
        """Fill a new cache with what ``from=`` names."""
        image = await self.build.from_image(mount.from_, self.run)
        lowers = self.build.worker.layers.lowers(image.chain)
        await asyncio.to_thread(_copy_out, lowers, mount, path)

    async def _bind(self, mount: ins.MountSpec, target: str) -> BuildMount:
        if mount.from_:
            image = await self.build.from_image(mount.from_, self.run)
            lowers = self.build.worker.layers.lowers(image.chain)
            sources = await asyncio.to_thread(_stacked, lowers, mount)
        else:
            sources = [await asyncio.to_thread(self._context_path, mount.source)]
        if mount.readonly is not False:
            if len(sources) == 1:
                return BuildMount("bind", target, str(sources[0]), readonly=True)
            return BuildMount("overlay", target, readonly=True, lowers=tuple(map(str, sources)))
        if not sources[0].is_dir():
            return BuildMount("bind", target, str(self._copy_of(sources[0])))
        directory = self.build.scratch_directory()
        for name in ("upper", "work"):
            (directory / name).mkdir()
        self.build.worker.bound(directory / "upper", directory / "work")
        os.chmod(directory / "upper", stat.S_IMODE(sources[0].stat().st_mode))
        above = (str(directory / "upper"), str(directory / "work"))
        return BuildMount("overlay", target, lowers=tuple(map(str, sources)), upper=above)

    def _copy_of(self, file: Path) -> Path:
        copy = self.build.scratch_directory() / "file"
        copy.write_bytes(file.read_bytes())
        copy.chmod(stat.S_IMODE(file.stat().st_mode))
        return copy

    def _context_path(self, source: str) -> Path:
        """The host path of a context path whose links are resolved inside the context."""
        context = self.build.context
        try:
            fd = paths.open_in_root(context.on_disk(), relative(source), os.O_PATH)
        except OSError:
            hint = context.explain_missing(source)
            raise NotFound(
                f'failed to stat mount source "{source}": no such file or directory', hint=hint
            ) from None
        try:
            return Path(os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)

    def scripts(self) -> list[BuildMount]:
        """The mount that holds a ``#!`` here-document."""
        if not self._has_script():
            return []
        doc = self.one.heredocs[0]
        directory = self.build.scratch_directory()
        os.chmod(directory, 0o755)
        path = directory / posixpath.basename(doc.name)
        path.write_bytes(doc.text.encode("utf-8", "surrogateescape"))
        path.chmod(0o755)
        return [BuildMount("bind", _SCRIPTS, str(directory), readonly=True)]


def _placed(mounts: list[ins.MountSpec]) -> list[ins.MountSpec]:
    """With the places of SSH sockets that weren't told one, numbered as BuildKit does."""
    number, found = 0, []
    for mount in mounts:
        if mount.type == "ssh":
            mount = replace(mount, target=mount.target or f"/run/buildkit/ssh_agent.{number}")
            number += 1
        found.append(mount)
    return found


def _stacked(lowers: list[Path], mount: ins.MountSpec) -> list[Path]:
    path = roots.real_path(lowers, relative(mount.source), mount.from_)
    found = roots.stack(lowers, path)
    if not found:
        raise NotFound(f'failed to stat mount source "{mount.source}": no such file or directory')
    return found


def _copy_out(lowers: list[Path], mount: ins.MountSpec, path: Path) -> None:
    with roots.opened(lowers, mount.from_) as root:
        source = scan(root, mount.source)
        copier = Copier(RootFs([], path, path), None)
        copier.copy(source, "/")
        copier.finish()


def _missing(lowers: list[Path], upper: Path, targets: list[str]) -> list[str]:
    """The paths (parents too) that are made only to be mounted on."""
    found: list[str] = []
    if not targets:
        return found
    with roots.opened(lowers or [upper], "the stage") as root:
        for target in targets:
            path = target
            while path != "/":
                try:
                    os.close(paths.open_in_root(root.fd, path, os.O_PATH))
                    break
                except OSError:
                    found.append(path.lstrip("/"))
                path = posixpath.dirname(path)
    return sorted(set(found), key=len, reverse=True)


def _remove_stubs(upper: Path, stubs: list[str]) -> None:
    """Remove mount points that were made for this RUN and hold nothing."""
    top = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in stubs:
            directory, _, name = path.rpartition("/")
            try:
                fd = paths.openat2(
                    top, directory or ".", os.O_PATH | os.O_DIRECTORY, resolve=paths.RESOLVE_NO_SYMLINKS
                )
            except OSError:
                continue
            try:
                _remove_stub(fd, name)
            finally:
                os.close(fd)
    finally:
        os.close(top)


def _remove_stub(fd: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=fd)
        elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=fd)
    except OSError:
        # Not empty: the command left something there, which belongs to the layer.
        return

"""The build context: a folder as a tar stream without what ``.dockerignore`` leaves out, stdin, or a URL."""

from __future__ import annotations

import os

from sampan.cli.errors import CLIError
from sampan.client import tarstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.build.ignore import Ignore

URLS = ("http://", "https://", "git://", "git@", "github.com/", "ssh://")
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
IGNORE_FILE = ".dockerignore"


class Context:
    """What is sent: ``body`` (None for a URL), the Dockerfile's name in it, ``remote``."""

    def __init__(self, body: Iterator[bytes] | None, dockerfile: str, remote: str = "") -> None:
        self.body = body
        self.dockerfile = dockerfile
        self.remote = remote


def prepare(source: str, dockerfile: str) -> Context:
    """Find out what to send. Raises CLIError with Docker's words before anything is sent."""
    if source == "-":
        return _of_stdin(dockerfile)
    if source.startswith(URLS) and not os.path.isdir(source):
        if dockerfile == "-":
            raise CLIError("unable to prepare context: a Dockerfile from stdin needs a local context")
        return Context(None, dockerfile, source)
    if not os.path.exists(source):
        raise CLIError(f'unable to prepare context: path "{source}" not found', hint=_lost_space(source))
    if not os.path.isdir(source):
        raise CLIError(
            f"unable to prepare context: context must be a directory: {os.path.abspath(source)}",
            hint=f"For another Dockerfile use -f {source} with the folder as the context.",
        )
    return _of_folder(os.path.realpath(source), dockerfile)


def _lost_space(source: str) -> str:
    if source.endswith(".") and ":" in source:
        return f"A blank is missing before the last point: {source[:-1]} ."
    return ""


def _of_stdin(dockerfile: str) -> Context:
    if dockerfile == "-":
        raise CLIError("invalid argument: can't use stdin for both build context and dockerfile")
    first = os.read(0, 1 << 16)
    while len(first) < 512:
        more = os.read(0, 1 << 16)
        if not more:
            break
        first += more
    if first.startswith(_ARCHIVES) or first[257:262] == b"ustar":
        return Context(_rest(first), dockerfile)
    content = b"".join(_rest(first))
    name = ".dockerfile"
    return Context(iter([*_one_file(name, content), tarstream.END]), name)


def _rest(first: bytes) -> Iterator[bytes]:
    yield first
    while piece := os.read(0, 1 << 18):
        yield piece


def _one_file(name: str, content: bytes) -> list[bytes]:
    return [tarstream.header(name, b"0", mode=0o600, size=len(content)), tarstream.padded(content)]


def _of_folder(root: str, dockerfile: str) -> Context:
    extra: bytes | None = None
    if dockerfile == "-":
        extra = b"".join(_rest(b""))
        name = _hidden_name(root)
    else:
        path = dockerfile or os.path.join(root, "Dockerfile")
        if not dockerfile and not os.path.lexists(path) and os.path.lexists(os.path.join(root, "dockerfile")):
            path = os.path.join(root, "dockerfile")
        real = os.path.realpath(path)
        if not os.path.exists(real):
            shown = os.path.abspath(path)
            raise CLIError(
                "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
                f"lstat {shown}: no such file or directory",
                hint="" if dockerfile else "Name another Dockerfile with -f.",
            )
        inside = os.path.relpath(os.path.abspath(path), root)
        if os.path.abspath(path).startswith(root + os.sep) or os.path.dirname(os.path.abspath(path)) == root:
            name = inside
        elif real.startswith(root + os.sep):
            name = os.path.relpath(real, root)
        else:
            with open(real, "rb") as file:
                extra = file.read()
            name = _hidden_name(root)
    ignore = _ignore_file(root, "" if extra is not None else name)
    return Context(tarstream.joined(_pack(root, ignore, name, extra)), name)


def _hidden_name(root: str) -> str:
    """A name that the context doesn't have, for a Dockerfile from elsewhere."""
    name = f".dockerfile.{os.getpid():x}{os.urandom(6).hex()}"
    assert not os.path.lexists(os.path.join(root, name))
    return name


def _ignore_file(root: str, dockerfile: str) -> Ignore | None:
    """``<Dockerfile>.dockerignore`` if there is one, else ``.dockerignore``."""
    for name in (f"{dockerfile}{IGNORE_FILE}" if dockerfile else "", IGNORE_FILE):
        path = os.path.join(root, name)
        if name and os.path.isfile(path):
            from sampan.build.ignore import Ignore

            with open(path, "rb") as file:
                return Ignore.parse(file.read(), name)
    return None


def _pack(root: str, ignore: Ignore | None, dockerfile: str, extra: bytes | None) -> Iterator[bytes]:
    tree = tarstream.Tree(owners=False)
    # The engine needs these even when the ignore file leaves them out of what COPY sees.
    kept = {IGNORE_FILE, *([] if extra is not None else [dockerfile, f"{dockerfile}{IGNORE_FILE}"])}
    for path, name in _walk(root, "", ignore, kept):
        yield from tree.entry(path, name)
    if extra is not None:
        yield from _one_file(dockerfile, extra)
    yield tarstream.END


def _walk(folder: str, prefix: str, ignore: Ignore | None, kept: set[str]) -> Iterator[tuple[str, str]]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CLIError(f"can't stat '{folder}': {(error.strerror or '').lower()}") from None
    for entry in names:
        path, name = f"{folder}/{entry}", prefix + entry
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        out = ignore is not None and name not in kept and ignore.excludes(name)
        if not out or (is_folder and any(one.startswith(name + "/") for one in kept)):
            yield path, name
        if is_folder and not (out and ignore is not None and _skips(ignore, name, kept)):
            yield from _walk(path, name + "/", ignore, kept)


def _skips(ignore: Ignore, name: str, kept: set[str]) -> bool:
    return ignore.prunes(name) and not any(one.startswith(name + "/") for one in kept)

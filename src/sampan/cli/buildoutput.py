"""``build --output``: the result's files, sent by the engine as an archive, into a folder, a file or stdout."""

from __future__ import annotations

import os

from sampan.cli import terminal
from sampan.cli.command import write_all
from sampan.cli.errors import CLIError, FlagError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

KNOWN = ("local", "tar", "image", "docker")


class Output:
    """Where the files go: ``kind`` local, tar or image; ``target`` a path, "-" for stdout."""

    def __init__(self, kind: str, target: str) -> None:
        self.kind = kind
        self.target = target

    @property
    def files(self) -> bool:
        """Whether files are wanted, not an image in the engine."""
        return self.kind in ("local", "tar")

    @property
    def to_stdout(self) -> bool:
        """Whether stdout is the archive's."""
        return self.kind == "tar" and self.target == "-"


def parse(text: str) -> Output:
    """``FOLDER``, ``-``, or ``type=local|tar|image,dest=PATH``. Raises FlagError and CLIError."""
    if "=" not in text:
        return _checked(Output("tar" if text == "-" else "local", text))
    fields = dict(part.partition("=")[::2] for part in text.split(",") if part)
    kind = fields.pop("type", "")
    target = fields.pop("dest", "")
    if kind not in KNOWN:
        raise FlagError(
            f'invalid argument "{text}" for "-o, --output" flag: type is required, one of {", ".join(KNOWN)}',
            hint="An image archive is made by sampan save.",
        )
    if fields:
        raise FlagError(
            f'invalid argument "{text}" for "-o, --output" flag: unknown field {sorted(fields)[0]}'
        )
    if kind in ("image", "docker"):
        if target:
            raise FlagError("an image goes into the engine; for a file use sampan save -o")
        return Output("image", "")
    if kind == "local" and not target:
        raise FlagError("dest is required for a local output: the folder that takes the files")
    return _checked(Output(kind, target or "-"))


def _checked(output: Output) -> Output:
    if output.to_stdout and terminal.is_terminal(1):
        raise CLIError("dest file is required for a tar output. refusing to write to a terminal")
    if output.kind == "local" and os.path.lexists(output.target) and not os.path.isdir(output.target):
        raise CLIError(f"destination directory {output.target} is a file")
    if output.kind == "tar" and os.path.isdir(output.target):
        raise CLIError(f"destination file {output.target} is a directory")
    return output


class Receiver:
    """Takes the archive's pieces out of a build's stream and passes the rest on."""

    def __init__(self, stream: Iterator[dict[str, Any]]) -> None:
        self._stream = stream
        self._first: bytes | None = None

    def progress(self) -> Iterator[dict[str, Any]]:
        """What comes before the first piece."""
        for item in self._stream:
            if item.get("id") == "sampan.output":
                self._first = _data(item)
                return
            yield item

    def write(self, output: Output) -> None:
        """Write what comes then. Raises CLIError when nothing does, or an error."""
        if self._first is None:
            raise CLIError(
                "the engine sent no files",
                hint="The image is empty, or the engine knows --output only through BuildKit.",
            )
        if output.kind == "local":
            from sampan.cli import unpack

            os.makedirs(output.target, exist_ok=True)
            unpack.unpack(self._pieces(), os.path.realpath(output.target), ("", ""), owners=False)
        elif output.to_stdout:
            for piece in self._pieces():
                write_all(1, piece)
        else:
            _replace(output.target, self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        assert self._first is not None
        yield self._first
        for item in self._stream:
            if item.get("error"):
                raise CLIError(str(item["error"]))
            if item.get("id") == "sampan.output":
                yield _data(item)


def _data(item: dict[str, Any]) -> bytes:
    import binascii

    return binascii.a2b_base64(item["aux"]["Data"])


def _replace(path: str, pieces: Iterable[bytes]) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.writelines(pieces)
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise

"""Archives between the engine and files or pipes."""

from __future__ import annotations

import os
from contextlib import contextmanager

from sampan.cli import terminal
from sampan.cli.command import write_all
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.client.engine import Client
    from sampan.client.http import Response

PIECE = 1 << 18


@contextmanager
def reading(path: str) -> Iterator[Iterator[bytes]]:
    """The bytes of a file, or of stdin for ``-``, in pieces. Raises CLIError."""
    if path == "-":
        yield _pieces(0)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CLIError(f"open {path}: {(error.strerror or '').lower()}") from None
    try:
        yield _pieces(descriptor)
    finally:
        os.close(descriptor)


def _pieces(descriptor: int) -> Iterator[bytes]:
    while piece := os.read(descriptor, PIECE):
        yield piece


def check_output(path: str) -> None:
    """Raises CLIError before the engine is asked, when the archive could not be written."""
    if not path:
        if terminal.is_terminal(1):
            raise CLIError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise CLIError(f'invalid output path: directory "{folder}" does not exist')
    if os.path.isdir(path):
        raise CLIError(f'invalid output path: "{path}" is a directory')


def write(client: Client, response: Response, path: str) -> None:
    """Write an answer's body to a file (through a temporary one beside it) or to stdout."""
    if not path:
        for piece in response.chunks():
            write_all(1, piece)
        client.release(response)
        return
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or device
        with open(path, "wb") as file:
            file.writelines(response.chunks())
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.writelines(response.chunks())
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    client.release(response)

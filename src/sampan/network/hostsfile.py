"""Changing single lines of a running container's /etc/hosts, in place: a bind mount shows the same inode.

What the container's own programs wrote there stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def add(path: Path, addresses: Iterable[str], label: str) -> None:
    """Append a line for each address, unless it is there. A missing file is no error."""
    wanted = [f"{address}\t{label}" for address in addresses]
    _change(path, lambda lines: [*lines, *(line for line in wanted if line not in lines)])


def remove(path: Path, addresses: Iterable[str], label: str) -> None:
    """Remove the lines that give these addresses this label. A missing file is no error."""
    gone = {f"{address}\t{label}" for address in addresses}
    _change(path, lambda lines: [line for line in lines if line not in gone])


def move(path: Path, names: Sequence[str], address: str) -> None:
    """Give the line of a link (its names as they were written) another address. A missing file is no error."""
    words = list(names)
    line = f"{address}\t{' '.join(words)}"
    _change(path, lambda lines: [line if old.split()[1:] == words else old for old in lines])


def _change(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "r+", errors="surrogateescape") as file:
        before = file.read().splitlines()
        after = edit(before)
        if after != before:
            file.seek(0)
            file.write("".join(f"{line}\n" for line in after))
            file.truncate()

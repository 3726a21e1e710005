"""Manifest lists in the making: one directory a list below ``manifests`` in the configuration's folder.

A file an image: its name, its entry in the index, its manifest.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
from dataclasses import dataclass

import msgspec

from sampan.cli.errors import CLIError
from sampan.images.manifest import Descriptor
from sampan.images.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.config import Config


@dataclass
class Member:
    """An image of a list."""

    name: Reference
    entry: Descriptor
    raw: bytes


class _File(msgspec.Struct):
    name: str
    entry: Descriptor
    raw: str


class Lists:
    """The lists of one user."""

    def __init__(self, config: Config) -> None:
        self._root = os.path.join(os.path.dirname(config.path), "manifests")

    def _folder(self, name: Reference) -> str:
        return os.path.join(self._root, _escaped(name))

    def exists(self, name: Reference) -> bool:
        """Whether there is a list of that name."""
        return os.path.isdir(self._folder(name))

    def members(self, name: Reference) -> list[Member]:
        """The images of a list, in the order in which they were added. Raises CLIError when there is none."""
        if not self.exists(name):
            raise CLIError(
                f"No such manifest: {name.familiar}",
                hint=f"Make it: sampan manifest create {name.familiar} IMAGE...",
            )
        folder = self._folder(name)
        paths = [os.path.join(folder, file) for file in os.listdir(folder) if file.endswith(".json")]
        return [_read(path) for path in sorted(paths, key=os.path.getmtime)]

    def put(self, name: Reference, member: Member) -> None:
        """Add an image or change what is said of it."""
        folder = self._folder(name)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, f"{_escaped(member.name)}.json")
        times = os.stat(path) if os.path.exists(path) else None
        content = _File(member.name.canonical, member.entry, base64.b64encode(member.raw).decode())
        with open(f"{path}.new", "wb") as file:
            file.write(msgspec.json.encode(content))
        os.replace(f"{path}.new", path)
        if times is not None:  # keeps its place
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def remove(self, name: Reference) -> None:
        """Forget a list. Raises CLIError when there is none."""
        if not self.exists(name):
            raise CLIError(f"No such manifest: {name.familiar}")
        shutil.rmtree(self._folder(name))
        with contextlib.suppress(OSError):
            os.rmdir(self._root)


def _escaped(name: Reference) -> str:
    return name.canonical.replace("/", "_").replace(":", "-").replace("@", "-")


def _read(path: str) -> Member:
    try:
        with open(path, "rb") as file:
            found = msgspec.json.decode(file.read(), type=_File)
        return Member(Reference.parse(found.name), found.entry, base64.b64decode(found.raw))
    except (msgspec.DecodeError, ValueError) as error:
        raise CLIError(
            f"{path} can't be read: {error}", hint="Remove it and create the list again."
        ) from None

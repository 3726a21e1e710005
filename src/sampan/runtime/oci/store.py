"""The state of containers between commands: a directory each below ``--root``, ``state.json`` in it.

Written by temporary name and rename. What runs is asked of the kernel each time, never remembered: a process
is the same if its start time is.
"""

from __future__ import annotations

import os
import time

from sampan import jsontext
from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.runtime.oci.cgroup import Group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATE = "state.json"
CONFIG = "config.json"
SOCKET = "start.sock"
_ID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_GONE = frozenset("ZXx")


class Container:
    """A container as its state directory has it."""

    def __init__(self, directory: str, fields: dict[str, Any]) -> None:
        self.directory = directory
        self.fields = fields
        self.id: str = fields["id"]
        self.pid: int = fields["pid"]
        self.bundle: str = fields["bundle"]

    @property
    def group(self) -> Group:
        """Its control groups."""
        return Group(self.fields["cgroups"], self.fields["cgroups_made"])

    def save(self, **changes: Any) -> None:
        """Change fields and write them."""
        self.fields |= changes
        self.pid = self.fields["pid"]
        path = os.path.join(self.directory, STATE)
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, jsontext.dumps(self.fields).encode())
        finally:
            os.close(fd)
        os.rename(f"{path}.new", path)

    def alive(self) -> bool:
        """Whether its first process exists and hasn't ended."""
        return self.pid > 0 and _is_same(self.pid, self.fields["pid_start"])

    def status(self) -> str:
        """``creating``, ``created``, ``running``, ``paused`` or ``stopped``."""
        if not self.alive():
            return "creating" if not self.pid and self._being_made() else "stopped"
        if os.path.exists(os.path.join(self.directory, SOCKET)):
            return "created"
        return "paused" if self.fields["cgroups"] and self.group.frozen() else "running"

    def _being_made(self) -> bool:
        return _is_same(self.fields["maker"], self.fields["maker_start"])

    def config(self) -> dict[str, Any]:
        """The configuration as it was when the container was created."""
        with open(os.path.join(self.directory, CONFIG), "rb") as file:
            found: dict[str, Any] = jsontext.loads(file.read())
        return found

    def state(self, status: str | None = None) -> dict[str, Any]:
        """What ``state`` prints and hooks get (runtime.md, State), with runc's further fields."""
        known = status or self.status()
        return {
            "ociVersion": self.fields["ociVersion"],
            "id": self.id,
            "pid": 0 if known == "stopped" else self.pid,
            "status": known,
            "bundle": self.bundle,
            "rootfs": self.fields["rootfs"],
            "created": self.fields["created"],
            "annotations": self.fields["annotations"],
            "owner": self.fields["owner"],
        }

    def remove(self) -> None:
        """Remove the state directory."""
        try:
            for name in os.listdir(self.directory):
                os.unlink(os.path.join(self.directory, name))
            os.rmdir(self.directory)
        except FileNotFoundError:
            return  # another command was quicker


def _is_same(pid: int, started: str) -> bool:
    return bool(started) and start_time(pid) == started


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot; "" when there is none, or a dead one. proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0].decode() in _GONE else fields[19].decode()


def check_id(identifier: str) -> str:
    """The id, if it can be one. InvalidParameter in runc's words."""
    if not identifier:
        raise InvalidParameter("container id cannot be empty")
    if not set(identifier) <= _ID or identifier in (".", ".."):
        raise InvalidParameter(f"invalid container ID format: {identifier}")
    return identifier


def create(root: str, identifier: str, **fields: Any) -> Container:
    """Make the state directory. Conflict if the id is taken."""
    directory = os.path.join(root, check_id(identifier))
    os.makedirs(root, 0o711, exist_ok=True)
    try:
        os.mkdir(directory, 0o711)
    except FileExistsError:
        raise Conflict(f"container with given ID already exists: {identifier}") from None
    own = os.getpid()
    base = {
        "id": identifier,
        "pid": 0,
        "pid_start": "",
        "maker": own,
        "maker_start": start_time(own),
        "cgroups": {},
        "cgroups_made": [],
        "created": _now(),
        "owner": "",
    }
    container = Container(directory, base | fields)
    container.save()
    return container


def _now() -> str:
    moment = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 10**9)) + f".{moment % 10**9:09}Z"


def load(root: str, identifier: str) -> Container:
    """The container of that id. NotFound in runc's words."""
    directory = os.path.join(root, check_id(identifier))
    try:
        with open(os.path.join(directory, STATE), "rb") as file:
            return Container(directory, jsontext.loads(file.read()))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("container does not exist") from None


def load_all(root: str) -> list[Container]:
    """All containers below ``root``, by id."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        try:
            found.append(load(root, name))
        except (NotFound, InvalidParameter):
            continue  # removed meanwhile, or not ours
    return found

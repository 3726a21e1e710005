"""The control groups of a container started by the command line: made, limited, frozen, removed; v1 and v2.

Import-light: a command that lives for milliseconds loads it. kernel.org: admin-guide/cgroup-v1/*.rst,
admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import time

from sampan.errors import Conflict, SystemFailure, Unsupported
from sampan.runtime.oci import resources
from sampan.runtime.steps import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sampan.runtime.oci.resources import DeviceRule, Resources

_SYSTEM = "/sys/fs/cgroup"
_PATIENCE = 5.0  # seconds for processes to stand still or end
_OPTIONS = frozenset(("rw", "ro", "xattr", "clone_children", "release_agent", "noprefix", "cpuset_v2_mode"))
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)

# What every container may use, whatever its rules say (config-linux.md, Default Devices), and making nodes.
_DEFAULT_DEVICES = (
    *("c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm"),
    *("c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"),
)


def hierarchies() -> dict[str, str]:
    """Controllers of v1 with their mount points; ``{"unified": …}`` on a machine with v2 only."""
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            point = left.split(" ")[4]
            if kind == "cgroup":
                for name in options.strip().split(","):
                    if name not in _OPTIONS:
                        found.setdefault(name.removeprefix("name="), point)
            elif kind == "cgroup2" and point == _SYSTEM:
                return {"unified": point}
    return found


def read(path: str, default: str = "") -> str:
    """A control file's text, ``default`` when there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return default


def table(text: str) -> dict[str, int]:
    """``key value`` lines."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return {key: int(value) for key, _, value in pairs if value.isdecimal()}


def clean_path(path: str, container: str) -> str:
    """``cgroupsPath`` below the mount points; without one a group named like the container.

    Raises Unsupported for systemd's form. ``..`` can't lead out.
    """
    if not path.startswith("/") and path.count(":") == 2:
        raise Unsupported(
            f"linux.cgroupsPath: {path!r} is systemd's form, and systemd cgroups aren't supported",
            hint="Let the caller manage cgroups itself (podman --cgroup-manager=cgroupfs).",
        )
    return os.path.normpath("/" + (path or container).lstrip("/"))


class Group:
    """The groups of one container: a directory a controller, or one for all on v2.

    ``made`` are the directories that this class made, parents first.
    """

    def __init__(self, directories: dict[str, str], made: Iterable[str] = ()) -> None:
        self.directories = directories
        self.made = list(made)

    @classmethod
    def create(cls, path: str) -> Group:
        """Make the groups at ``path`` of every hierarchy. Conflict when processes are in there. OSError."""
        points = hierarchies()
        group = cls({kind: point + path for kind, point in points.items()})
        try:
            for kind, directory in group.directories.items():
                group._make(kind, directory, points[kind])
            group._check_fit()
        except BaseException:
            group.remove_made()
            raise
        return group

    @property
    def v2(self) -> bool:
        """Whether it is one group of cgroup v2."""
        return "unified" in self.directories

    def _unique(self) -> list[str]:
        return list(dict.fromkeys(self.directories.values()))

    def _make(self, kind: str, directory: str, root: str) -> None:
        missing = []
        step = directory
        while step != root and not os.path.isdir(step):
            missing.append(step)
            step = os.path.dirname(step)
        if kind == "unified":
            self._enable(root, directory, all_of_them=not missing)
        for step in reversed(missing):
            try:
                os.mkdir(step, 0o755)
                self.made.append(step)
            except FileExistsError:
                pass  # another container with the same parent was quicker
            if kind == "cpuset":
                _inherit_cpuset(step, root)
            if kind == "unified" and step != directory:
                _enable_controllers(step)

    @staticmethod
    def _enable(root: str, directory: str, *, all_of_them: bool) -> None:
        """v2: what a group may limit is switched on in its ancestors."""
        step = root
        _enable_controllers(step)
        for part in directory[len(root) :].strip("/").split("/")[:-1]:
            step = f"{step}/{part}"
            if all_of_them or os.path.isdir(step):
                _enable_controllers(step)

    def _check_fit(self) -> None:
        """A group with processes or a frozen one isn't fit for a new container (config-linux.md)."""
        for directory in self._unique():
            if read(f"{directory}/cgroup.procs").strip():
                raise Conflict(
                    f"container's cgroup is not empty: {directory}",
                    hint="Another container uses the same linux.cgroupsPath.",
                )
        if self.directories and self.frozen():
            raise Conflict("container's cgroup unexpectedly frozen")

    def join_files(self) -> list[str]:
        """Files that a single-threaded process writes "0" to in order to enter.

        v1's ``tasks`` is quicker: it doesn't stop the forks of the machine meanwhile.
        """
        name = "cgroup.procs" if self.v2 else "tasks"
        return [f"{directory}/{name}" for directory in self._unique()]

    # -- limits -----------------------------------------------------------------------------------------

    def limit(self, wanted: Resources) -> None:
        """Write the limits but for pids. SystemFailure naming file and value when the kernel refuses."""
        for kind, name, value in resources.v2(wanted) if self.v2 else resources.v1(wanted):
            directory = self.directories.get("unified" if self.v2 else kind)
            self._write(directory, kind, name, value)

    def limit_pids(self, wanted: Resources) -> None:
        """The limit of processes; once the container's own is there, since 0 lets nobody in."""
        if wanted.pids is not None:
            directory = self.directories.get("unified" if self.v2 else "pids")
            value = "max" if wanted.pids < 0 else str(max(1, wanted.pids))
            self._write(directory, "pids", "pids.max", value)

    @staticmethod
    def _write(directory: str | None, kind: str, names: str, values: str) -> None:
        """The first of ``names`` (``a|b``) that exists gets its value (``1|2``, or the only one)."""
        if directory is None:
            raise SystemFailure(f"cgroup controller {kind} isn't available, so {names} can't be set")
        found = values.split("|")
        for index, name in enumerate(names.split("|")):
            if os.path.exists(f"{directory}/{name}"):
                return _write_limit(directory, name, found[min(index, len(found) - 1)])
        if values in ("-1", "max", "0"):
            return None  # without the controller (swap accounting, say) there is no limit anyway
        raise SystemFailure(f"{directory}: the kernel has no {names}, so {values} can't be set")

    def restrict_devices(self, rules: Iterable[DeviceRule]) -> None:
        """Deny all devices, then apply ``rules`` in their order, then allow the standard devices. OSError."""
        if self.v2:
            _filter_devices(self.directories["unified"], list(rules))
            return
        directory = self.directories.get("devices")
        if directory is None:
            raise SystemFailure("cgroup controller devices isn't available, so devices can't be restricted")
        write_file(f"{directory}/devices.deny", b"a")
        for rule in rules:
            write_file(f"{directory}/devices.{'allow' if rule.allow else 'deny'}", rule.words().encode())
        for words in _DEFAULT_DEVICES:
            write_file(f"{directory}/devices.allow", words.encode())

    # -- processes --------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """All processes in the group and below it."""
        top = self.directories.get("unified") or next(iter(self.directories.values()), "")
        found: set[int] = set()
        for directory, _, _ in os.walk(top) if top else ():
            found.update(int(line) for line in read(f"{directory}/cgroup.procs").split())
        return sorted(found)

    def signal(self, number: int) -> None:
        """Send a signal to all; KILL again and again until nobody forks away from it."""
        deadline = time.monotonic() + _PATIENCE
        while found := self.pids():
            for pid in found:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            if number != 9 or time.monotonic() > deadline:
                return
            time.sleep(0.002)

    def freeze(self) -> None:
        """Stop all processes where they are; returns when they stand still. OSError."""
        if self.v2:
            group = self.directories["unified"]
            write_file(f"{group}/cgroup.freeze", b"1")
            self._wait(lambda: table(read(f"{group}/cgroup.events")).get("frozen") == 1)
            return
        write_file(f"{self._freezer()}/freezer.state", b"FROZEN")
        self._wait(self.frozen)

    def thaw(self) -> None:
        """Let them go on."""
        if self.v2:
            write_file(f"{self.directories['unified']}/cgroup.freeze", b"0")
        else:
            write_file(f"{self._freezer()}/freezer.state", b"THAWED")

    def frozen(self) -> bool:
        """Whether the group is frozen."""
        if self.v2:
            return read(f"{self.directories['unified']}/cgroup.freeze").strip() == "1"
        directory = self.directories.get("freezer")
        return directory is not None and read(f"{directory}/freezer.state").strip() == "FROZEN"

    def _freezer(self) -> str:
        if "freezer" not in self.directories:
            raise SystemFailure("cgroup controller freezer isn't available, so nothing can be paused")
        return self.directories["freezer"]

    def _wait(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not reached():
            if time.monotonic() > deadline:
                self.thaw()
                raise TimeoutError(errno.ETIMEDOUT, "the processes could not be frozen")
            time.sleep(0.001)

    # -- end --------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Kill what is left and remove the groups, and parents that were made for them and are empty."""
        if self.directories and self.frozen():
            self.thaw()
        self.signal(9)
        for directory in self._unique():
            self._remove(directory)
        self.remove_made()

    def _remove(self, directory: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not _remove_tree(directory):
            self.signal(9)
            if time.monotonic() > deadline:
                raise SystemFailure(f"{directory}: a process in it doesn't end")
            time.sleep(0.002)

    def remove_made(self) -> None:
        """Remove what was made and is empty."""
        for directory in reversed(self.made):
            try:
                os.rmdir(directory)
            except OSError:
                continue  # gone, or another container is in there by now


def is_denied(error: OSError) -> bool:
    """Whether groups can't be made for want of rights: then a rootless container does without."""
    return error.errno in _DENIED


def _enable_controllers(group: str) -> None:
    """Hand all controllers on to the groups below; some can't be (real-time processes, inner processes)."""
    for name in read(f"{group}/cgroup.controllers").split():
        try:
            write_file(f"{group}/cgroup.subtree_control", f"+{name}".encode())
        except OSError:
            continue  # a limit that needs it will say so


def _inherit_cpuset(group: str, root: str) -> None:
    """An empty set lets nobody in; a new group starts with none, its parent's may not be written yet."""
    parent = os.path.dirname(group)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if parent != root and not read(f"{parent}/{name}").strip():
            _inherit_cpuset(parent, root)
        write_file(f"{group}/{name}", read(f"{parent}/{name}").strip().encode())


def _write_limit(directory: str, name: str, value: str) -> None:
    try:
        write_file(f"{directory}/{name}", value.encode())
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise SystemFailure(f"error setting cgroup config: {directory}/{name} = {value}: {reason}") from error


def _filter_devices(directory: str, rules: list[DeviceRule]) -> None:
    """v2 has no files for devices: an eBPF program on the group decides."""
    from sampan.kernel import bpf

    found = [bpf.DeviceRule(False)]
    found += [bpf.DeviceRule(rule.allow, rule.kind, rule.major, rule.minor, rule.access) for rule in rules]
    for words in _DEFAULT_DEVICES:
        kind, numbers, access = words.split(" ")
        major, minor = (None if number == "*" else int(number) for number in numbers.split(":"))
        found.append(bpf.DeviceRule(True, kind, major, minor, access))
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        bpf.attach_device_filter(fd, bpf.device_program(found))
    finally:
        os.close(fd)


def _remove_tree(directory: str) -> bool:
    """Remove a group with those below it; False while something holds it."""
    for step, _, _ in os.walk(directory, topdown=False):
        try:
            os.rmdir(step)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
    return True

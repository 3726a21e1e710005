"""The groups of one container, and what is done with them while it lives."""

from __future__ import annotations

import errno
import os
import time

from sampan.errors import SystemFailure
from sampan.runtime.cgroups import tree
from sampan.runtime.cgroups.files import UNIFIED, number, read, table, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sampan.runtime.cgroups.limits import Limits

_PATIENCE = 5.0  # seconds for processes to stand still or end
_KILL = 9


class Group:
    """The groups of one container: a directory a controller, or one for all on v2.

    ``made`` are the directories that were made for it, parents first.
    """

    def __init__(self, directories: dict[str, str], made: Iterable[str] = ()) -> None:
        self.directories = directories
        self.made = list(made)

    @property
    def v2(self) -> bool:
        """Whether it is one group of cgroup v2."""
        return UNIFIED in self.directories

    def unique(self) -> list[str]:
        """The directories; controllers may share one."""
        return list(dict.fromkeys(self.directories.values()))

    def make(self, points: dict[str, str], *, anew: bool = False) -> None:
        """Make the groups below the mount ``points``; ``anew`` replaces empty ones that are there. OSError."""
        kinds = {directory: kind for kind, directory in self.directories.items()}
        if "cpuset" in self.directories:  # it may share a directory, and must be cared for
            kinds[self.directories["cpuset"]] = "cpuset"
        for directory, kind in kinds.items():
            if not tree.make(kind, directory, points[kind], self.made) and anew:
                tree.remove_empty(directory)
                tree.make(kind, directory, points[kind], self.made)

    def write_limits(self, wanted: Limits) -> None:
        """Write limits. LimitMissing when the kernel has no such, LimitRefused (both OSError)."""
        from sampan.runtime.cgroups import limits

        settings = limits.v2(wanted) if self.v2 else limits.v1(wanted, sum_first=self._sum_first(wanted))
        for setting in settings:
            setting.write(self.directories.get(UNIFIED if self.v2 else setting.controller))

    def _sum_first(self, wanted: Limits) -> bool:
        """v1: memory may never exceed memory and swap together: the sum is raised first and lowered last."""
        if not wanted.memory or not wanted.swap:
            return False
        present = number(f"{self.directories.get('memory', '')}/memory.limit_in_bytes") or 0
        return wanted.swap == -1 or wanted.memory > present

    # -- processes --------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """All processes in the group and below it."""
        top = self.directories.get(UNIFIED) or next(iter(self.directories.values()), "")
        return tree.pids(top) if top else []

    def signal(self, number: int) -> None:
        """Send a signal to all; KILL again and again until nobody forks away from it."""
        deadline = time.monotonic() + _PATIENCE
        while _signal(self.pids(), number):
            if number != _KILL or time.monotonic() > deadline:
                return
            time.sleep(0.002)

    def freeze(self) -> None:
        """Stop all processes where they are; returns when they stand still. OSError, SystemFailure."""
        if self.v2:
            group = self.directories[UNIFIED]
            write(f"{group}/cgroup.freeze", "1")
            self._wait(lambda: table(read(f"{group}/cgroup.events")).get("frozen") == 1)
            return
        write(f"{self._freezer()}/freezer.state", "FROZEN")
        self._wait(self.frozen)

    def thaw(self) -> None:
        """Let them go on. OSError, SystemFailure."""
        if self.v2:
            write(f"{self.directories[UNIFIED]}/cgroup.freeze", "0")
        else:
            write(f"{self._freezer()}/freezer.state", "THAWED")

    def frozen(self) -> bool:
        """Whether the group is frozen."""
        if self.v2:
            return read(f"{self.directories[UNIFIED]}/cgroup.freeze").strip() == "1"
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
        """Kill what is left and remove the groups; gone already is fine. OSError when a process doesn't end."""
        deadline = time.monotonic() + _PATIENCE
        for directory in self.unique():
            while not tree.remove(directory):
                if self.frozen():
                    self._thaw_last()
                _signal(tree.pids(directory), _KILL)
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, f"{directory}: a process in it doesn't end")
                time.sleep(0.002)

    def _thaw_last(self) -> None:
        try:
            self.thaw()
        except OSError:
            return  # removed meanwhile

    def remove_made(self) -> None:
        """Remove what was made, also above, and is empty."""
        for directory in reversed(self.made):
            tree.remove_empty(directory)


def _signal(pids: list[int], number: int) -> bool:
    """Send a signal; whether there was anybody."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return bool(pids)

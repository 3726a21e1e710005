"""The control groups of a container started by the command line: where they are, and words for what fails."""

from __future__ import annotations

import errno
import os

from sampan.errors import Conflict, SystemFailure, Unsupported
from sampan.runtime.cgroups import files, group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.kernel.bpf import DeviceRule
    from sampan.runtime.cgroups.limits import Limits
    from sampan.runtime.oci.resources import Resources

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


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


class Group(group.Group):
    """The groups of one container: a directory a controller, or one for all on v2."""

    @classmethod
    def create(cls, path: str) -> Group:
        """Make the groups at ``path`` of every hierarchy. Conflict when processes are in there. OSError."""
        points = files.hierarchies()
        found = cls({kind: point + path for kind, point in points.items()})
        try:
            found.make(points)
            found._check_fit()
        except BaseException:
            found.remove_made()
            raise
        return found

    def _check_fit(self) -> None:
        """A group with processes or a frozen one isn't fit for a new container (config-linux.md)."""
        for directory in self.unique():
            if files.read(f"{directory}/cgroup.procs").strip():
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
        return [f"{directory}/{name}" for directory in self.unique()]

    def limit(self, wanted: Resources) -> None:
        """Write the limits but for pids. SystemFailure naming file and value when the kernel refuses."""
        wanted.check(v2=self.v2)
        self._write(wanted.limits)

    def limit_pids(self, wanted: Resources) -> None:
        """The limit of processes; once the container's own is there, since 0 lets nobody in."""
        from sampan.runtime.cgroups.limits import Limits

        if wanted.pids is not None:
            limits = Limits()
            limits.pids = wanted.pids or 1
            self._write(limits)

    def _write(self, wanted: Limits) -> None:
        from sampan.runtime.cgroups.limits import LimitMissing, LimitRefused

        try:
            self.write_limits(wanted)
        except LimitMissing as error:
            if error.directory is None:
                text = f"cgroup controller {error.controller} isn't available, so {error.names} can't be set"
            else:
                text = f"{error.directory}: the kernel has no {error.names}, so {error.values} can't be set"
            raise SystemFailure(text) from error
        except LimitRefused as error:
            reason = os.strerror(error.errno or 0).lower()
            text = f"error setting cgroup config: {error.path} = {error.value}: {reason}"
            raise SystemFailure(text) from error

    def restrict_devices(self, rules: Sequence[DeviceRule]) -> None:
        """Deny all devices, then apply ``rules`` in their order, then allow the standard devices. OSError."""
        from sampan.runtime.cgroups import devicerules

        everything = [devicerules.NOTHING, *rules, *devicerules.STANDARD]
        devicerules.restrict(self.directories, everything)

    def destroy(self) -> None:
        """Kill what is left and remove the groups, and parents that were made for them and are empty."""
        try:
            super().destroy()
        except OSError as error:
            raise SystemFailure(error.strerror or str(error)) from error
        self.remove_made()


def is_denied(error: OSError) -> bool:
    """Whether groups can't be made for want of rights: then a rootless container does without."""
    return error.errno in _DENIED

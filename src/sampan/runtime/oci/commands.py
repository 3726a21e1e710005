"""The commands by name: their options, words and the functions that carry them out, each in its own module."""

from __future__ import annotations

from sampan.runtime.oci.flags import Flag

GLOBAL = (
    Flag("root", "text", "directory for the containers' state (default /run/sampan-runtime)"),
    Flag("log", "text", "file to write messages to (default: stderr)"),
    Flag("log-format", "text", "text (default) or json"),
    Flag("debug", "switch", "more messages"),
    Flag("systemd-cgroup", "switch", "refused: cgroups are managed by their files"),
    Flag("rootless", "text", "do without cgroup rights: true, false, auto (default: unless root)"),
    Flag("criu", "text", "taken for runc's sake; checkpoint and restore are refused"),
    Flag("version v", "switch", "print the version"),
)
_CREATE = (
    Flag("bundle b", "text", "the bundle's directory (default: the present one)"),
    Flag("console-socket", "text", "unix socket that gets the terminal's master"),
    Flag("pid-file", "text", "file to write the process's pid to"),
    Flag("no-pivot", "switch", "chroot instead of pivot_root (roots in an initramfs)"),
    Flag("no-new-keyring", "switch", "keep the caller's session keyring"),
    Flag("preserve-fds", "number", "pass N more descriptors, from 3 on"),
)
_FORCE = Flag("force f", "switch", "kill it first; no error if it doesn't exist")
_ALL = Flag("all a", "switch", "to all processes of the container")
_FORMAT = Flag("format f", "text", "table (default) or json")


class Command:
    """A verb: options, the words after them, what it does, and ``module:function``."""

    __slots__ = ("about", "flags", "target", "usage")

    def __init__(self, usage: str, about: str, target: str, *flags: Flag) -> None:
        self.usage = usage
        self.about = about
        self.target = target
        self.flags = flags


COMMANDS = {
    "create": Command("ID", "create a container", "running:create", *_CREATE),
    "start": Command("ID", "run a created container's program", "running:start"),
    "run": Command(
        "ID",
        "create, start, wait, delete",
        "running:run",
        *_CREATE,
        Flag("detach d", "switch", "don't wait"),
        Flag("keep", "switch", "don't delete it at the end"),
        Flag("no-subreaper", "switch", "leave orphans to the system's reaper"),
    ),
    "exec": Command(
        "ID COMMAND [ARG...]  |  --process FILE ID",
        "run a further process in a container",
        "running:execute",
        Flag("console-socket", "text", "unix socket that gets the terminal's master"),
        Flag("cwd", "text", "working directory"),
        Flag("env e", "list", "NAME=VALUE"),
        Flag("tty t", "switch", "with a terminal"),
        Flag("user u", "text", "UID[:GID]"),
        Flag("additional-gids g", "list", "further groups"),
        Flag("process p", "text", "file with a process object"),
        Flag("detach d", "switch", "don't wait"),
        Flag("pid-file", "text", "file to write the process's pid to"),
        Flag("process-label", "text", "refused: SELinux"),
        Flag("apparmor", "text", "AppArmor profile"),
        Flag("no-new-privs", "switch", "no more privileges through execve"),
        Flag("cap c", "list", "capability to add"),
        Flag("preserve-fds", "number", "pass N more descriptors, from 3 on"),
        Flag("cgroup", "list", "[CONTROLLERS:]PATH below the container's cgroup"),
        Flag("ignore-paused", "switch", "even if it is paused"),
    ),
    "state": Command("ID", "print a container's state", "showing:state"),
    "list": Command("", "list containers", "showing:listing", _FORMAT, Flag("quiet q", "switch", "ids only")),
    "ps": Command("ID [PS OPTIONS]", "list a container's processes", "showing:processes", _FORMAT),
    "events": Command(
        "ID",
        "print figures, and out-of-memory events",
        "events:events",
        Flag("interval", "text", "between figures (default 5s)"),
        Flag("stats", "switch", "print them once"),
    ),
    "kill": Command("ID [SIGNAL]", "send a signal (default TERM)", "stopping:kill", _ALL),
    "delete": Command("ID", "remove a container", "stopping:delete", _FORCE),
    "pause": Command("ID", "freeze all processes", "stopping:pause"),
    "resume": Command("ID", "let them go on", "stopping:resume"),
    "update": Command(
        "ID",
        "change limits",
        "updating:update",
        Flag("resources r", "text", "file with a resources object, - for stdin"),
        *(
            Flag(name, "text" if name.startswith("cpuset") else "number", words)
            for name, words in (
                ("blkio-weight", "10 to 1000"),
                ("cpu-period", "microseconds"),
                ("cpu-quota", "microseconds in a period"),
                ("cpu-burst", "microseconds beyond the quota"),
                ("cpu-share", "relative weight"),
                ("cpu-rt-period", "microseconds"),
                ("cpu-rt-runtime", "microseconds"),
                ("cpuset-cpus", "CPUs, such as 0-2"),
                ("cpuset-mems", "memory nodes"),
                ("memory", "bytes"),
                ("memory-reservation", "bytes"),
                ("memory-swap", "bytes of memory and swap, -1: unlimited"),
                ("pids-limit", "processes, -1: unlimited"),
                ("cpu-idle", "1: only otherwise idle time"),
            )
        ),
        Flag("l3-cache-schema", "text", "refused: Intel RDT"),
        Flag("mem-bw-schema", "text", "refused: Intel RDT"),
    ),
    "features": Command("", "print what this runtime can do", "features:features"),
    "spec": Command(
        "",
        "write a first config.json",
        "specfile:write",
        Flag("bundle b", "text", "directory to write it to"),
        Flag("rootless", "switch", "for a container of the present user"),
    ),
    "checkpoint": Command("ID", "refused", "stopping:refuse_checkpoint"),
    "restore": Command("ID", "refused", "stopping:refuse_restore"),
}

"""The zygote: a small single-threaded Python that forks a monitor for every container and exec.

Started by the supervisor with ``python -I -S``; it imports all that monitors need and nothing afterwards.
Forking the engine itself would cost seven times as much and is unsafe with its threads.

Before it serves it makes a mount namespace of its own (slave of the host's, so that later host mounts are
seen and no mount of a container gets out), and executes itself again from read-only bind mounts of the
interpreter and its libraries: what a container finds behind ``/proc/self/exe`` of a process that has not
executed yet must not be writable (CVE-2019-5736). The binds are detached afterwards; only running
processes refer to them.
"""

from __future__ import annotations

import _socket
import gc
import os
import sys

from sampan.kernel import mounts, namespaces, process, signals
from sampan.runtime import monitor, rehearsal, title, wire

_SHIELDED = "shielded"
_POOL, _POOL_HEAD = 1 << 14, 48


def command(channel: int) -> list[str]:
    """Arguments that start a zygote which serves the inherited packet socket ``channel``."""
    base = getattr(sys, "_base_executable", "") or sys.executable
    interpreter = os.path.realpath(base)
    package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    boot = (
        f"import sys; sys.path.insert(0, {package_root!r})\n"
        f"from sampan.runtime.zygote import main; main(sys.argv)"
    )
    return [interpreter, "-I", "-S", "-OO", "-X", "utf8", "-c", boot, str(channel), title.ROOM]


def main(arguments: list[str]) -> None:
    """Serve the packet socket whose number is ``arguments[1]`` until the engine closes it."""
    channel = int(arguments[1])
    if _SHIELDED not in arguments:
        host_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        _shield()
        for fd in (channel, host_mounts):
            os.set_inheritable(fd, True)
        base = sys.orig_argv[: -len(arguments) + 1]
        os.execv(base[0], [*base, str(channel), _SHIELDED, str(host_mounts), title.ROOM])
    host_mounts = int(arguments[3])
    for fd in (channel, host_mounts):
        os.set_inheritable(fd, False)
    _unveil()
    _lock_imports()
    shown = title.Title()
    rehearsal.rehearse(shown)
    shown.show(b"sampan-zygote", b"sampan-zygote")
    kept = _fill_gaps()  # noqa: F841 - to the end of the process
    gc.disable()
    gc.freeze()
    _reset_signals()
    process.set_subreaper()  # of what is orphaned in the host's pid namespace; ignoring SIGCHLD reaps it
    _serve(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, channel), shown, host_mounts)


def _mapped_files() -> list[str]:
    """The interpreter, its libraries and loaded extension modules: all executable mappings of files."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        lines = [line.split(None, 5) for line in maps]
    files = {line[5].rstrip("\n") for line in lines if len(line) == 6 and "x" in line[1]}
    return sorted(name for name in files if name.startswith("/") and os.path.isfile(name))


def _shield() -> None:
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
    for name in _mapped_files():
        target = mounts.open_tree(-1, name)
        tree = mounts.open_tree(-1, name, mounts.OPEN_TREE_CLONE)
        mounts.set_attributes(tree, add=mounts.MOUNT_ATTR_RDONLY)
        mounts.attach(tree, target)
        os.close(tree)
        os.close(target)


def _unveil() -> None:
    """Take the read-only binds out of the mount table; the running program keeps referring to them."""
    for name in _mapped_files():
        try:
            mounts.umount(name, mounts.MNT_DETACH)
        except OSError:
            continue  # loaded after the binds were made: not one of them


def _reset_signals() -> None:
    """Nothing that the engine's parent ignored may reach containers; an ignored signal outlives execve."""
    for number in signals.valid_signals() - {signals.SIGKILL, signals.SIGSTOP, signals.SIGPIPE}:
        signals.signal(number, signals.SIG_DFL)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())
    signals.signal(signals.SIGCHLD, signals.SIG_IGN)  # monitors are reaped by the kernel
    signals.signal(signals.SIGINT, signals.SIG_IGN)


def _lock_imports() -> None:
    """No import may reach a file any more: after a change of root that would be the image's file."""
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder.__name__ != "PathFinder"]  # type: ignore[attr-defined]


def _fill_gaps() -> list[object]:
    """Objects that take up what is free in Python's pools between those that are in use.

    A monitor then makes its own objects side by side in new pools, instead of one here and one there, each
    in a page that it would no longer share with the zygote. A pool has 16 KiB; a new one's first object is
    the one behind its head of 48 bytes (Objects/obmalloc.c).
    """
    kept: list[object] = []
    for size in range(16, 513, 16):
        for number in range(_POOL // size):
            filler = _object_of(size, number)
            if id(filler) % _POOL == _POOL_HEAD:
                break  # it goes, and its pool is free again
            kept.append(filler)
    return kept


def _object_of(size: int, number: int) -> object:
    if size == 16:
        return object()
    return number + 0.5 if size == 32 else bytes(size - 33)


def _serve(channel: _socket.socket, shown: title.Title, host_mounts: int) -> None:
    while True:
        request, fds = wire.receive(channel)
        if not request:
            return
        try:
            child = os.fork()
        except OSError as error:
            _refuse(fds, error)
            continue
        if child == 0:
            channel.close()
            monitor.run(request, fds, shown, host_mounts)
        for fd in fds:
            os.close(fd)


def _refuse(fds: list[int], error: OSError) -> None:
    """Tell the requester through its own control socket (the first descriptor) that fork failed."""
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fds[0])
    for fd in fds[1:]:
        os.close(fd)
    try:
        wire.send(control, ("failed", "fork", error.errno, "", ""))
    except OSError:
        return  # the engine is gone
    finally:
        control.close()

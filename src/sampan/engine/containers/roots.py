"""A container's root as files to read and write from outside, whether it runs or not; nothing on the host.

A thread of its own leaves the host's mount namespace and puts together there what the container's processes
see: the layers, then its volumes and binds, without /proc, /sys and /dev. Other threads work through the
descriptor of that root while the thread waits; when it ends, the kernel takes all of it away.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sampan import errors
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.kernel import mounts, namespaces, paths

_CLONE_FS = 0x200
_ENGINE_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")

T = TypeVar("T")


class View:
    """The root of a container, open until ``close``."""

    def __init__(self, build: Callable[[], int]) -> None:
        """``build`` runs in the thread, after it has a mount namespace of its own; it returns the root."""
        self._build = build
        self._ready = threading.Event()
        self._release = threading.Event()
        self._fd = -1
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="root view", daemon=True)
        self._thread.start()
        self._ready.wait()
        problem = self._outcome()
        if problem is not None:
            self._thread.join()
            raise problem

    def _outcome(self) -> BaseException | None:
        """What the thread ran into (it writes the attribute behind the type checker's back)."""
        return self._problem

    def _run(self) -> None:
        try:
            self._fd = self._build()
        except BaseException as problem:
            self._problem = problem
            self._ready.set()
            return
        self._ready.set()
        self._release.wait()
        os.close(self._fd)

    def fileno(self) -> int:
        """The descriptor of the root directory."""
        return self._fd

    def close(self) -> None:
        """Take everything down; calling it again does nothing."""
        self._release.set()
        self._thread.join()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_layers(containers: Containers, container: Container) -> View:
    """The container's layers only: what ``docker export`` packs."""
    return View(lambda: _assemble(containers, container, []))


def open_root(containers: Containers, container: Container) -> View:
    """The container's root with its volumes, binds and the files that the engine mounts in."""
    points = [(point.destination, point.source) for point in container.mounts if point.type != "tmpfs"]
    state = containers.state_dir(container.id)
    points += [(path, str(state / Path(path).name)) for path in _ENGINE_FILES]
    return View(lambda: _assemble(containers, container, points))


def _assemble(containers: Containers, container: Container, points: list[tuple[str, str]]) -> int:
    """Build the root in this thread's own mount namespace; its descriptor."""
    namespaces.unshare(_CLONE_FS)
    tree = _running_tree(container) if container.running else _stopped_tree(containers, container)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        with _descriptor("/", os.O_PATH) as top:
            # On "/" of the copied namespace: only lookups from the new mount's own descriptor see it.
            mounts.attach(tree, top)
        for destination, source in sorted(points):  # an outer one doesn't cover an inner one
            if not container.running and destination not in _ENGINE_FILES:
                _make_place(tree, destination, source)
            _bind(tree, destination, source)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _running_tree(container: Container) -> int:
    """A detached copy of the root mount of a running container, without what is mounted below it."""
    pidfd = os.pidfd_open(container.state.pid)
    with _descriptor("/proc/self/ns/mnt", os.O_RDONLY) as home:
        try:
            namespaces.setns(pidfd, namespaces.CLONE_NEWNS)
        except OSError as problem:
            raise errors.Conflict(f"container {container.id} is not running") from problem
        finally:
            os.close(pidfd)
        try:
            # Entering the namespace made its root this thread's root.
            return mounts.open_tree(-1, "/", mounts.OPEN_TREE_CLONE)
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNS)


def _stopped_tree(containers: Containers, container: Container) -> int:
    state = containers.state_dir(container.id)
    lowers = [str(path) for path in containers.lowers(container)]
    return mounts.overlay(lowers, str(state / "upper"), str(state / "work"))


@contextmanager
def _descriptor(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _make_place(root: int, destination: str, source: str) -> None:
    """Where the image has nothing to mount on: a start would make it, and a copy may come before any start."""
    make = paths.make_directories if Path(source).is_dir() else paths.make_file
    if Path(source).exists():
        with contextlib.suppress(OSError):
            os.close(make(root, destination))


def _bind(root: int, destination: str, source: str) -> None:
    """Bind ``source`` on ``destination`` inside ``root``; what isn't there (any more) is left out."""
    if not Path(source).exists():
        return
    try:
        target = paths.open_in_root(root, destination, os.O_PATH)
    except OSError:
        return
    try:
        copy = mounts.open_tree(-1, source, mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE)
        try:
            mounts.attach(copy, target)
        finally:
            os.close(copy)
    except (NotADirectoryError, FileNotFoundError):
        pass
    finally:
        os.close(target)

"""The engine's side of running processes: the zygote, and a :class:`Process` for every monitor.

Nothing here forks the engine. A launch is one packet to the zygote (a control socket, the plan in a memfd,
the attach clients' sockets); from then on the monitor answers on the control socket. Everything survives the
engine: :meth:`Supervisor.adopt` finds a monitor again by its socket.

A launch plan is a dict of plain values (marshal), carried out by :mod:`sampan.runtime.launch` to the letter:

``kind`` "container" or "exec"; ``id``
``join`` cgroup directories of the process
``unshare`` CLONE_NEW* flags; ``setns`` [[path, flag], …]; for an exec ``nsflags`` of its target
``rootfs`` ["overlay", [lower directories, topmost first], upper, work] or ["dir", path]; ``readonly``;
``propagation`` of "/" as MS_* flags
``mounts`` in order, targets resolved inside the root: ["fs", type, source, target, MS_* flags, options] or
["bind", source, target, MS_* flags (MS_REC: of the whole tree), recursive, propagation, "file"|"dir"|"" what
to make when the target is missing] or ["from", mount namespace's file, source there, target]
``devices`` [[path, "c"|"b"|"p", major, minor, mode, uid, gid], …]; ``symlinks`` [[target, link], …];
``masked``, ``readonly_paths``: paths, missing ones are skipped
``hostname``, ``domainname``, ``sysctl`` {name: value}, ``rlimits`` [[number, soft, hard], …],
``oom_score_adj``, ``umask``
``caps`` {"bounding", "effective", "permitted", "inheritable", "ambient": bit masks}; ``no_new_privs``;
``seccomp`` BPF program or None; ``apparmor`` profile or None
``user`` {"name": "user[:group]", "groups": […]} or {"uid", "gid", "groups"}; ``default_home``
``cwd``, ``make_cwd``, ``args``, ``env`` ["NAME=value", …]
``tty``, ``console_size`` [rows, columns], ``stdin``, ``stdin_once``, ``init``
``log`` {"driver", "path", "max_size", "max_file", "compress", "attrs"} or None
``hooks`` [[[path, args, env, timeout], …], state as JSON without its pid]: run before the root is entered
``oom`` [[file, key], …]: counters that tell of an out-of-memory kill
``stop_signal``, ``stop_timeout`` (seconds): what a monitor does at SIGTERM, when the machine goes down
``bound``: an exec that is killed when its engine goes, for which it runs
``state_dir`` for the exit record, ``run_dir`` for the monitor's socket
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sampan.errors import Conflict, SystemFailure
from sampan.runtime import directly, elf, entering, execs, handover, silence, wire
from sampan.runtime.processes import AttachEnd, Exit, MonitorLost, NotDirectly, Process
from sampan.runtime.zygotes import Zygote, Zygotes

__all__ = ["AttachEnd", "Exit", "MonitorLost", "Process", "Supervisor"]

_ZYGOTE_TRIES = 3


class Supervisor:
    """Launches processes through its zygote, which it replaces when it dies."""

    def __init__(self) -> None:
        self._zygotes = Zygotes()
        self._processes: set[Process] = set()

    async def start(self) -> None:
        """Start the zygote (about 50 ms until it serves; requests may be sent at once)."""
        self._zygotes.present()

    async def close(self) -> None:
        """End the zygote and let go of the monitors; containers run on."""
        for process in list(self._processes):
            process.forget()
        await self._zygotes.close()

    async def launch(self, plan: dict[str, Any], attach: Sequence[AttachEnd] = ()) -> Process:
        """Make a container's process: on return its namespaces exist and it waits for ``proceed()``.

        ``plan`` is described at the top; ``attach`` are clients that miss no byte.
        Raises StartFailure.
        """
        process = await self._request(plan, attach, -1)
        try:
            await process.created()
        except asyncio.CancelledError:
            await process.abort()
            raise
        return process

    async def exec(
        self,
        target: Process,
        plan: dict[str, Any],
        attach: Sequence[AttachEnd] = (),
        program: bytes | None = None,
    ) -> Process:
        """Run another program in the container of ``target``; executed on return. Raises StartFailure.

        ``program`` is what :mod:`sampan.runtime.directly` makes of the plan, "nsflags" included: then the
        container's monitor starts it, in a third of the time.
        """
        plan = {**plan, "kind": "exec"}
        plan.setdefault("nsflags", entering.namespaces_of(target.pid))
        if program is not None and target.serves_execs and target.pidfd >= 0:
            try:
                process = await self._exec_below(target, plan, program, attach)
            except (NotDirectly, MonitorLost):
                pass
            except BaseException:
                _close_ends(attach)
                raise
            else:
                _close_ends(attach)
                return process
        if target.pidfd < 0:  # perhaps it has ended only now
            _close_ends(attach)
            raise Conflict("the container is not running")
        held = os.dup(target.pidfd)  # the number is somebody else's when it ends while we wait for the zygote
        try:
            process = await self._request(plan, attach, held)
        finally:
            os.close(held)
        await process.proceed()
        return process

    async def _exec_below(
        self, target: Process, plan: dict[str, Any], program: bytes, attach: Sequence[AttachEnd]
    ) -> Process:
        """Have ``target``'s monitor start ``program``. NotDirectly: nothing has happened."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = self._keep(Process("exec", ours))
        wants = [(end.stdin, end.stdout, end.stderr) for end in attach]
        part = {key: plan[key] for key in execs.PLAN_KEYS if key in plan}
        file = elf.sealed("sampan-exec", program)
        fds = [theirs.fileno(), file, *[end.sock.fileno() for end in attach]]
        try:
            with theirs:
                group = directly.birth_group(plan)
                target.send(("exec", part, wants, entering.pid_namespace(plan), group), fds)
        except OSError as error:
            process.forget()
            raise NotDirectly("the container's monitor takes no exec") from error
        finally:
            os.close(file)
        process.guest, process.monitor_pid = True, target.monitor_pid
        await process.executed()
        return process

    def connect(self, run_dir: Path) -> Process | None:
        """The process of the monitor that serves ``run_dir``, None when there is none any more.

        Nothing is known of it before :meth:`Process.answers` returns.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{directory}/{handover.SOCKET}")
            finally:
                os.close(directory)
        except OSError:
            sock.close()
            return None
        return self._keep(Process("container", sock))

    async def adopt(self, run_dir: Path) -> Process | None:
        """As :meth:`connect`, and the monitor has told about the process."""
        process = self.connect(run_dir)
        return process if process is not None and await process.answers() else None

    @property
    def zygote_pid(self) -> int:
        """Process id of the present zygote, 0 when there is none."""
        return self._zygotes.pid

    def _keep(self, process: Process) -> Process:
        self._processes.add(process)
        process._closed.add_done_callback(lambda _: self._processes.discard(process))
        return process

    async def _request(self, plan: dict[str, Any], attach: Sequence[AttachEnd], target: int) -> Process:
        """Ask the zygote for a monitor; a new zygote is asked when this one died before it said anything."""
        plan_fd = wire.pack_plan(plan)
        try:
            for _ in range(_ZYGOTE_TRIES):
                asked, process = await self._send_request(plan, plan_fd, attach, target)
                try:
                    known = {other.monitor_pid for other in self._processes}
                    if not await self._zygotes.answer(asked, process._hello, known):
                        process.forget()
                        raise silence.too_long(f"the launcher process ({asked.process.pid})")
                except MonitorLost:
                    await self._zygotes.replace(asked)
                    continue
                except asyncio.CancelledError:
                    process.forget()  # its monitor ends by that, for nobody says go
                    raise
                return process
        finally:
            os.close(plan_fd)
            _close_ends(attach)
        raise SystemFailure("the launcher process ended unexpectedly", hint="See the engine's log.")

    async def _send_request(
        self, plan: dict[str, Any], plan_fd: int, attach: Sequence[AttachEnd], target: int
    ) -> tuple[Zygote, Process]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wants = [(end.stdin, end.stdout, end.stderr) for end in attach]
        groups = plan.get("join", ())
        group = groups[0] if len(groups) == 1 else ""
        request = ("launch", wants, target >= 0, entering.pid_namespace(plan), group)
        fds = [theirs.fileno(), plan_fd, *([target] if target >= 0 else [])]
        fds += [end.sock.fileno() for end in attach]
        try:
            with theirs:
                asked = await self._zygotes.send(request, fds)
        except BaseException:
            ours.close()
            raise
        return asked, self._keep(Process(plan["kind"], ours))


def _close_ends(attach: Sequence[AttachEnd]) -> None:
    for end in attach:
        end.sock.close()

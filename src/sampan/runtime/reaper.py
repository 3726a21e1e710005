"""``--init``: a pid 1 that forwards signals to its only child, reaps orphans, ends as the child did."""

from __future__ import annotations

import os

from sampan.kernel import process, signals
from sampan.runtime import init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

_STANDARD_INPUT, _STANDARD_ERROR = 0, 2
_OWN = {signals.SIGKILL, signals.SIGSTOP, signals.SIGCHLD, signals.SIGTTIN, signals.SIGTTOU}
# Faults of this process itself are not for the child.
_FAULTS = {signals.SIGSEGV, signals.SIGBUS, signals.SIGFPE, signals.SIGILL, signals.SIGABRT, signals.SIGTRAP}


def prepare_child(tty: bool) -> None:
    """In the child: a process group of its own, in the terminal's foreground."""
    os.setpgid(0, 0)
    if tty:
        signals.signal(signals.SIGTTOU, signals.SIG_IGN)
        os.tcsetpgrp(_STANDARD_INPUT, os.getpid())
        signals.signal(signals.SIGTTOU, signals.SIG_DFL)


def serve(child: int, arguments: list[bytes], environment: Mapping[str, str]) -> NoReturn:
    """Forward and reap until ``child`` ends; exit with its code, 128 + n after signal n.

    As :mod:`sampan.runtime.init` where that can be executed, otherwise as this interpreter.
    """
    if os.getpid() != 1:
        process.set_subreaper()
    forwarded = set(signals.valid_signals()) - _OWN - _FAULTS
    watched = forwarded | {signals.SIGCHLD}
    signals.signal(signals.SIGXFSZ, signals.SIG_IGN)  # a limit of zero bytes is an error like others here
    try:
        program = init.make(watched)
        signals.pthread_sigmask(signals.SIG_BLOCK, watched)
        init.become(program, child, arguments, environment)
    except OSError:
        # Another machine, or the container's rules allow no memfd or no execveat: go on as this.
        signals.pthread_sigmask(signals.SIG_BLOCK, watched)
    _leave_input()
    process.close_between(_STANDARD_ERROR + 1, 0xFFFFFFFF)  # with the channel, which says that it has started
    while True:
        code = _reap(child)
        if code is not None:
            os._exit(code)
        number = signals.sigwait(watched)
        if number != signals.SIGCHLD:
            _forward(child, number)


def _leave_input() -> None:
    null = os.open("/dev/null", os.O_RDWR) if os.path.exists("/dev/null") else -1
    if null >= 0:
        os.dup2(null, _STANDARD_INPUT)
        os.close(null)


def _forward(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except OSError:
        return  # ended meanwhile, or changed its user: as for tini


def _reap(child: int) -> int | None:
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code

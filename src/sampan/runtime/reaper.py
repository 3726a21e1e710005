"""``--init``: a pid 1 that forwards signals to its only child and reaps orphans, then ends as the child did."""

from __future__ import annotations

import _signal
import os

from sampan.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_STANDARD_INPUT = 0
_OWN = {_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, _signal.SIGTTIN, _signal.SIGTTOU}
# Faults of this process itself are not for the child.
_FAULTS = {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGABRT, _signal.SIGTRAP}


def prepare_child(tty: bool) -> None:
    """In the child: a process group of its own, in the terminal's foreground."""
    os.setpgid(0, 0)
    if tty:
        _signal.signal(_signal.SIGTTOU, _signal.SIG_IGN)
        os.tcsetpgrp(_STANDARD_INPUT, os.getpid())
        _signal.signal(_signal.SIGTTOU, _signal.SIG_DFL)


def serve(child: int) -> NoReturn:
    """Forward and reap until ``child`` ends; exit with its code, 128 + n after signal n."""
    if os.getpid() != 1:
        process.set_subreaper()
    null = os.open("/dev/null", os.O_RDWR) if os.path.exists("/dev/null") else -1
    if null >= 0:
        os.dup2(null, _STANDARD_INPUT)
        os.close(null)
    forwarded = set(_signal.valid_signals()) - _OWN - _FAULTS
    watched = forwarded | {_signal.SIGCHLD}
    _signal.pthread_sigmask(_signal.SIG_BLOCK, watched)
    while True:
        code = _reap(child)
        if code is not None:
            os._exit(code)
        number = _signal.sigwait(watched)
        if number != _signal.SIGCHLD:
            _forward(child, number)


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

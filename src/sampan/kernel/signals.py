"""The signal module without its enums: what :mod:`signal` wraps, for processes that count their memory.

signal(7); the names are those of the standard library's :mod:`signal`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

SIG_BLOCK = _signal.SIG_BLOCK
SIG_DFL = _signal.SIG_DFL
SIG_IGN = _signal.SIG_IGN
SIG_SETMASK = _signal.SIG_SETMASK
SIGABRT = _signal.SIGABRT
SIGBUS = _signal.SIGBUS
SIGCHLD = _signal.SIGCHLD
SIGFPE = _signal.SIGFPE
SIGHUP = _signal.SIGHUP
SIGILL = _signal.SIGILL
SIGINT = _signal.SIGINT
SIGKILL = _signal.SIGKILL
SIGPIPE = _signal.SIGPIPE
SIGSEGV = _signal.SIGSEGV
SIGSTOP = _signal.SIGSTOP
SIGTERM = _signal.SIGTERM
SIGTRAP = _signal.SIGTRAP
SIGTTIN = _signal.SIGTTIN
SIGTTOU = _signal.SIGTTOU
SIGXFSZ = _signal.SIGXFSZ

pidfd_send_signal = _signal.pidfd_send_signal
pthread_sigmask = _signal.pthread_sigmask
set_wakeup_fd = _signal.set_wakeup_fd
signal = _signal.signal
sigwait = _signal.sigwait
valid_signals = _signal.valid_signals

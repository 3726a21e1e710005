"""Waiting for a container's process on behalf of a person: signals go through, the terminal is served."""

from __future__ import annotations

import os
import select

from sampan.kernel import process, signals
from sampan.runtime.oci import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIGILL = 4
_SIGWINCH = 28
_SIGURG = 23
_SIGTSTP = 20
_CHUNK = 32 * 1024
# Not passed on: the kernel's own business, what stops this process, and what is handled here.
_STOPPING = (signals.SIGSTOP, signals.SIGTTIN, signals.SIGTTOU, _SIGTSTP)
_OWN = frozenset((signals.SIGCHLD, signals.SIGKILL, _SIGURG, *_STOPPING))
_FAULTS = (
    *(signals.SIGSEGV, signals.SIGBUS, signals.SIGFPE, _SIGILL),
    *(signals.SIGTRAP, signals.SIGABRT, signals.SIGPIPE),
)


class Foreground:
    """Made before the process starts, so that no signal is missed; :meth:`wait` then serves until it ends."""

    def __init__(self, *, subreaper: bool) -> None:
        if subreaper:
            process.set_subreaper()
        self._wakeup, self._signalled = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signals.set_wakeup_fd(self._signalled)
        for number in signals.valid_signals() - (_OWN - {signals.SIGCHLD}) - set(_FAULTS):
            signals.signal(number, _nothing)

    def wait(self, pid: int, master: int = -1) -> int:
        """Exit code of ``pid``, 128 + n for a signal; ``master`` is its terminal, connected to ours."""
        pidfd = os.pidfd_open(pid)
        terminal = _Terminal(master) if master >= 0 else None
        try:
            return self._serve(pid, pidfd, terminal)
        finally:
            if terminal:
                terminal.restore()
            os.close(pidfd)

    def _serve(self, pid: int, pidfd: int, terminal: _Terminal | None) -> int:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if terminal:
            terminal.register(poll)
        code = self._reap(pid)
        while code is None:
            for fd, _ in poll.poll():
                if fd == self._wakeup:
                    self._pass_on(pidfd, terminal)
                elif terminal:
                    terminal.move(fd, poll)
            code = self._reap(pid)
        if terminal:
            terminal.drain()
        return code

    def _pass_on(self, pidfd: int, terminal: _Terminal | None) -> None:
        for number in os.read(self._wakeup, 512):
            if number == _SIGWINCH and terminal:
                terminal.resize()
            elif number not in _OWN:
                try:
                    signals.pidfd_send_signal(pidfd, number)
                except ProcessLookupError:
                    return

    @staticmethod
    def _reap(pid: int) -> int | None:
        """Reap all that has ended; the exit code of ``pid`` if it was among them."""
        code = None
        while True:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if not found:
                return code
            if found == pid:
                ended = os.waitstatus_to_exitcode(status)
                code = ended if ended >= 0 else 128 - ended


def _nothing(number: int, frame: Any) -> None:
    """The wakeup descriptor says it all."""


class _Terminal:
    """Our terminal in raw mode on one side, the container's master on the other."""

    def __init__(self, master: int) -> None:
        self.master = master
        os.set_blocking(master, False)
        self._pending = b""
        self._input = 0
        self._saved: list[Any] | None = None
        if os.isatty(0):
            import termios

            self._saved = termios.tcgetattr(0)
            _make_raw(termios, self._saved)
            self.resize()

    def register(self, poll: select.poll) -> None:
        poll.register(self.master, select.POLLIN)
        poll.register(self._input, select.POLLIN)

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        console.copy_size(self.master)

    def move(self, fd: int, poll: select.poll) -> None:
        """Carry what is there from ``fd`` to the other side."""
        if fd == self.master:
            if not self._carry_output():
                poll.unregister(self.master)
            if not self._pending:
                return
        elif not self._pending:
            try:
                self._pending = os.read(self._input, _CHUNK)
            except OSError:
                self._pending = b""
            if not self._pending:
                poll.unregister(self._input)
                return
        self._push(poll)

    def _carry_output(self) -> bool:
        try:
            data = os.read(self.master, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # EIO: nobody has the other side open
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        return bool(data)

    def _push(self, poll: select.poll) -> None:
        """What was typed goes in as far as there is room; the rest when there is again."""
        try:
            self._pending = self._pending[os.write(self.master, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._pending = b""
        wanted = select.POLLIN | (select.POLLOUT if self._pending else 0)
        try:
            poll.modify(self.master, wanted)
        except FileNotFoundError:
            return

    def drain(self) -> None:
        """The last output."""
        try:
            while True:
                data = os.read(self.master, _CHUNK)
                if not data:
                    return
                os.write(1, data)
        except OSError:
            return

    def restore(self) -> None:
        """Our terminal as it was."""
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)


def _make_raw(termios: Any, saved: list[Any]) -> None:
    """cfmakeraw(3)."""
    mode = [*saved[:6], list(saved[6])]
    mode[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
        | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    mode[1] &= ~termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSADRAIN, mode)

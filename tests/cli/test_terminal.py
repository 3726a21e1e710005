"""What needs a real terminal: -it, sizes, detaching, Ctrl-C; and signals without one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

from tests.cli.conftest import Engine, sampan_command


class Terminal:
    """A program on a pseudo-terminal of ours."""

    def __init__(self, engine: Engine, *words: str, rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.size(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            sampan_command(*words),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=engine.env,
            start_new_session=True,
        )
        self.seen = b""

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def expect(self, text: bytes, timeout: float = 40, asking: bytes = b"") -> None:
        """Read until ``text`` comes; type ``asking`` twice a second until then."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            self.type(asking)
            assert time.monotonic() < deadline, f"{text!r} was not seen in {self.seen!r}"
            self.read(0.5)

    def read(self, seconds: float) -> bool:
        """Read what comes within that time; whether something came."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.seen += os.read(self.master, 4096)
        return True

    def attached(self, timeout: float = 40) -> None:
        """Wait until what is typed goes to the container as it is."""
        deadline = time.monotonic() + timeout
        while termios.tcgetattr(self.slave)[3] & termios.ICANON:
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.01)

    def end(self, timeout: float = 40) -> int:
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running: {self.seen!r}"
            self.read(0.05)
        while self.read(0):  # its last words
            continue
        assert termios.tcgetattr(self.slave) == self.before, "the terminal was left in raw mode"
        os.close(self.slave)
        os.close(self.master)
        return self.process.returncode


def test_shell_on_a_terminal(clean: Engine) -> None:
    terminal = Terminal(clean, "run", "-it", "--rm", "--network", "none", "busybox:cli", "sh")
    terminal.expect(b"# ")
    terminal.type(b"stty size; tty\n")
    terminal.expect(b"24 80")
    terminal.size(40, 120)
    os.kill(terminal.process.pid, signal.SIGWINCH)
    terminal.expect(b"40 120", asking=b"stty size\n")
    terminal.type(b"exit 5\n")
    assert terminal.end() == 5


def test_ctrl_c_reaches_the_process(clean: Engine) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep .1; done"
    terminal = Terminal(clean, "run", "-it", "--rm", "--network", "none", "busybox:cli", "sh", "-c", script)
    terminal.expect(b"ready")
    terminal.type(b"\x03")
    terminal.expect(b"caught")
    assert terminal.end() == 9


def test_detach_and_attach_again(clean: Engine) -> None:
    terminal = Terminal(clean, "run", "-it", "--name", "det", "--network", "none", "busybox:cli", "sh")
    terminal.expect(b"# ")
    terminal.type(b"\x10\x11")
    assert terminal.end() == 0
    assert clean.sampan("inspect", "-f", "{{.State.Running}}", "det").stdout == b"true\n"
    again = Terminal(clean, "attach", "--detach-keys", "ctrl-x,x", "det")
    again.attached()
    again.type(b"echo ba''ck\n")
    again.expect(b"back")
    again.type(b"\x18x")
    again.expect(b"read escape sequence")
    assert again.end() == 1
    last = Terminal(clean, "attach", "det")
    last.attached()
    last.type(b"exit 6\n")
    assert last.end() == 6


def test_exec_on_a_terminal(clean: Engine) -> None:
    clean.run_detached("--name", "ex", "busybox:cli", "sleep", "100")
    terminal = Terminal(clean, "exec", "-it", "ex", "sh")
    terminal.expect(b"# ")
    terminal.type(b"exit 4\n")
    assert terminal.end() == 4
    terminal = Terminal(clean, "exec", "-it", "ex", "sh")
    terminal.expect(b"# ")
    terminal.type(b"\x10\x11")
    assert terminal.end() == 1
    assert b"read escape sequence" in terminal.seen


def test_ctrl_c_without_stdin_is_passed_on_despite_a_terminal(clean: Engine) -> None:
    script = "trap 'exit 7' INT; echo ready; while :; do sleep .1; done"
    terminal = Terminal(clean, "run", "--rm", "-t", "--network", "none", "busybox:cli", "sh", "-c", script)
    terminal.expect(b"ready")
    terminal.process.send_signal(signal.SIGINT)  # ours is no controlling terminal
    assert terminal.end() == 7


def test_signals_are_passed_on(clean: Engine) -> None:
    script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep .1; done"
    words = ("run", "--rm", "--network", "none", "busybox:cli", "sh", "-c", script)
    process = subprocess.Popen(sampan_command(*words), stdout=subprocess.PIPE, env=clean.env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == b"term\n"
    assert process.wait(60) == 3


def test_stdin_is_passed_on_whole(clean: Engine) -> None:
    data = os.urandom(1 << 16) * 128  # 8 MiB
    done = clean.sampan(
        "run", "-i", "--rm", "--network", "none", "busybox:cli", "sh", "-c", "md5sum; sleep .2", input=data
    )
    import hashlib

    assert done.returncode == 0
    assert done.stdout.split()[0].decode() == hashlib.md5(data).hexdigest()


def test_output_ends_before_the_process(clean: Engine) -> None:
    script = "exec >&- 2>&-; sleep 1; exit 12"
    done = clean.sampan("run", "--rm", "--network", "none", "busybox:cli", "sh", "-c", script)
    assert done.returncode == 12


def test_a_reader_that_goes_away_ends_us(clean: Engine) -> None:
    clean.run_detached("--name", "yes", "busybox:cli", "sh", "-c", "yes | head -n 200000; sleep 100")
    read, write = os.pipe()
    process = subprocess.Popen(sampan_command("logs", "-f", "yes"), stdout=write, env=clean.env)
    os.close(write)
    os.read(read, 10)
    os.close(read)
    assert process.wait(60) == -signal.SIGPIPE


def test_start_attached(clean: Engine) -> None:
    clean.sampan("create", "-i", "--name", "st", "--network", "none", "busybox:cli", "cat")
    done = clean.sampan("start", "-ai", "st", input=b"through start\n")
    assert (done.returncode, done.stdout) == (0, b"through start\n")

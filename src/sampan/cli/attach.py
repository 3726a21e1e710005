"""Attaching to a container: what ``run``, ``start -a`` and ``attach`` have in common."""

from __future__ import annotations

from sampan import jsontext
from sampan.cli import signals, terminal
from sampan.cli.errors import CLIError
from sampan.cli.session import Session
from sampan.client.engine import path_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.command import CLI
    from sampan.client.http import Response

NOT_A_TTY = "the input device is not a TTY"


class Attachment:
    """One container's streams on our terminal, from attach to exit code."""

    def __init__(self, cli: CLI, name: str, *, tty: bool, stdin: bool, keys: str, proxy: bool) -> None:
        self._cli = cli
        self._path = path_of("containers", name)
        self._tty = tty
        self._stdin = stdin
        self._keys_text = keys or cli.config.text("detachKeys")
        self._keys = terminal.detach_keys(self._keys_text)
        self._proxy = proxy
        self._waiting: Response | None = None
        self._status: int | None = None
        self.detached = False

    def open(self, *, stdout: bool, stderr: bool) -> None:
        """Attach. Raises APIError."""
        query: dict[str, Any] = {"stream": True, "stdin": self._stdin, "stdout": stdout, "stderr": stderr}
        if self._keys_text:
            query["detachKeys"] = self._keys_text
        self._stream = self._cli.client.upgrade(f"{self._path}/attach", query)

    def watch(self, condition: str) -> None:
        """Ask for the exit code before the container starts, so that no exit is missed."""
        self._waiting = self._cli.client.open("POST", f"{self._path}/wait", {"condition": condition})

    def serve(self, start: Callable[[], None] | None = None) -> None:
        """Start the container, if it is not running yet, and move bytes until its output has ended."""
        numbers = signals.PROXIED if self._proxy else ()
        with signals.Catcher((*numbers, signals.SIGWINCH) if self._tty else numbers) as catcher:
            session = Session(
                self._stream,
                tty=self._tty,
                stdin=self._stdin,
                keys=self._keys,
                on_signal=self._signal,
                catcher=catcher,
            )
            if not self._stdin:
                self._stream.close_write()  # at once, as docker's client does
            if start is not None:
                start()
            with terminal.Raw(0) if self._tty and self._stdin else _Nothing():
                if self._tty:
                    self.resize()
                if self._waiting is None:
                    session.run()
                else:
                    session.run(self._ended, self._waiting.connection.stream.fileno())
        self.detached = session.detached
        self._stream.close()

    def close(self) -> None:
        """Give up: the container didn't start."""
        self._stream.close()
        if self._waiting is not None:
            self._waiting.close()

    def _ended(self) -> bool:
        self.exit_code()
        return True

    def exit_code(self) -> int:
        """The container's exit code; waits for it. Raises CLIError when the engine can't tell."""
        if self._status is None:
            assert self._waiting is not None
            text = self._waiting.read()
            self._cli.client.release(self._waiting)
            self._status = _status_of(text)
        return self._status

    def resize(self) -> None:
        """Tell the engine our terminal's size; a container that has just ended doesn't care."""
        rows, columns = terminal.size(1)
        if not rows and not columns:
            return
        client = self._cli.new_client()
        try:
            client.call("POST", f"{self._path}/resize", {"h": rows, "w": columns})
        except SampanError:
            pass
        finally:
            client.close()

    def _signal(self, number: int) -> None:
        if number == signals.SIGWINCH:
            self.resize()
            return
        client = self._cli.new_client()
        try:
            client.call("POST", f"{self._path}/kill", {"signal": signals.name_of(number)})
        except SampanError:
            pass  # it has ended meanwhile
        finally:
            client.close()


def _status_of(text: bytes) -> int:
    try:
        answer = jsontext.loads(text)
    except ValueError:
        raise CLIError("the engine ended before it told the exit code", exit_code=125) from None
    if error := (answer.get("Error") or {}).get("Message"):
        raise CLIError(f"Error waiting for container: {error}", exit_code=125)
    return int(answer["StatusCode"])


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def check_tty(*, attach: bool, stdin: bool, tty: bool) -> None:
    """Raises CLIError when a terminal is asked for and stdin is none."""
    if attach and stdin and tty and not terminal.is_terminal(0):
        raise CLIError(NOT_A_TTY, hint="Without a terminal use -i alone (or -t alone).")

"""Where the command line reports: ``--log`` in logrus's text or JSON form, which callers parse, and stderr."""

from __future__ import annotations

import os
import time

from sampan import jsontext


class Log:
    """Levelled messages to a file, or to stderr when there is none."""

    def __init__(self, path: str, form: str, *, debug: bool) -> None:
        self._json = form == "json"
        self._debug = debug
        self.to_file = bool(path)
        self._fd = 2
        if path:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def debug(self, text: str) -> None:
        """Only with ``--debug``."""
        if self._debug:
            self._write("debug", text)

    def warning(self, text: str) -> None:
        """Something was left out, and the command goes on."""
        self._write("warning", text)

    def error(self, text: str) -> None:
        """Why the command failed; on stderr as well if the log is a file."""
        self._write("error", text)
        if self.to_file:
            _write_all(2, f"{text}\n".encode())

    def _write(self, level: str, text: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = jsontext.dumps({"level": level, "msg": text, "time": moment})
        else:
            line = f'time="{moment}" level={level} msg={jsontext.plain_quote(text)}'
        _write_all(self._fd, f"{line}\n".encode("utf-8", "replace"))


def _write_all(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return  # nobody reads it

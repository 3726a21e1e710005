"""The user's terminal: raw mode, size, the keys that detach."""

from __future__ import annotations

import os

from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}
_DEFAULT_BYTES = b"\x10\x11"


def is_terminal(descriptor: int) -> bool:
    """Whether a descriptor is a terminal (a closed one isn't)."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def size(descriptor: int = 1) -> tuple[int, int]:
    """Rows and columns, (0, 0) where there is no terminal."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return (0, 0)
    return (rows, columns)


class Raw:
    """Raw mode while a ``with`` block runs: every key goes to the container, nothing is echoed here."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def __enter__(self) -> Raw:
        """Switch; a descriptor that is no terminal is left alone."""
        import termios

        if not is_terminal(self._descriptor):
            return self
        self._saved = termios.tcgetattr(self._descriptor)
        mode = termios.tcgetattr(self._descriptor)
        mode[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6] = list(mode[6])
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._descriptor, termios.TCSANOW, mode)
        return self

    def __exit__(self, *_: object) -> None:
        """Switch back."""
        import termios

        if self._saved is not None:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)
            self._saved = None


def detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as bytes. Raises CLIError with Docker's words."""
    if not text:
        return _DEFAULT_BYTES
    found = bytearray()
    for key in text.split(","):
        if len(key.encode()) == 1:
            found += key.encode()
            continue
        letter = key[5:] if key.startswith("ctrl-") else ""
        if len(letter) == 1 and "a" <= letter <= "z":
            found.append(ord(letter) - ord("a") + 1)
        elif letter in _CONTROL:
            found.append(_CONTROL[letter])
        else:
            raise CLIError(
                f"invalid detach keys ({text}): Unknown character: '{key}'",
                hint="Keys are single characters or ctrl- with a-z, @, [, \\, ], ^ or _, joined by commas.",
            )
    return bytes(found)


class DetachFilter:
    """Finds the detach keys in what is typed. Keys that turn out to be others are passed on late."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether to detach now."""
        if not self._keys:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            self._matched = 1 if byte == self._keys[0] else 0
            if not self._matched:
                out.append(byte)
        return bytes(out), False

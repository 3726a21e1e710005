"""Signal names and numbers as Docker takes them: TERM, SIGTERM, sigterm, 15, SIGRTMIN+3."""

from __future__ import annotations

import re
import signal

from sampan import errors

RTMIN, RTMAX = 34, 64  # what a program sees; Python's own numbers may be shifted by the C library
_REALTIME = re.compile(r"RT(MIN|MAX)([+-]\d+)?\Z")
_ALIASES = {"CLD": signal.SIGCHLD, "POLL": signal.SIGIO, "IOT": signal.SIGABRT, "STKFLT": 16}
_NAMES: dict[str, int] = {
    **{s.name.removeprefix("SIG"): int(s) for s in signal.Signals if not s.name.startswith("SIGRT")},
    **{name: int(number) for name, number in _ALIASES.items()},
}


def parse(text: str) -> int:
    """The number of a signal given by name or number; InvalidParameter "invalid signal: x"."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        number = int(text)
        if number == 0:
            raise errors.InvalidParameter(f"invalid signal: {text}")
        return number
    name = text.upper().removeprefix("SIG")
    if name in _NAMES:
        return _NAMES[name]
    match = _REALTIME.match(name)
    if match:
        number = (RTMIN if match.group(1) == "MIN" else RTMAX) + int(match.group(2) or 0)
        if RTMIN <= number <= RTMAX:
            return number
    raise errors.InvalidParameter(
        f"invalid signal: {text}", hint="Give a name such as SIGTERM or a number from 1 to 64."
    )


def supported(number: int) -> bool:
    """Whether Linux has a signal of that number which programs may send."""
    return 1 <= number <= RTMAX and number not in (32, 33)


def check_supported(number: int) -> None:
    """InvalidParameter in Docker's words for a number that Linux has no signal for."""
    if not supported(number):
        raise errors.InvalidParameter(f"the linux daemon does not support signal {number}")

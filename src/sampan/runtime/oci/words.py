"""A step and an errno of the first process as an error in runc's words, on which callers match."""

from __future__ import annotations

import errno
import os

from sampan.errors import StartFailure

_PREFIX = "unable to start container process: "


def failure(step: str, number: int, detail: object, text: str) -> StartFailure:
    """The error for ``("failed", step, number, detail, text)``."""
    code = {errno.ENOENT: 127, errno.ENOTDIR: 127}.get(number, 126)
    if step == "program":
        return StartFailure(_PREFIX + text, exit_code=code)
    words = os.strerror(number).lower() if number else text
    if step == "exec":
        return StartFailure(f"{_PREFIX}exec {detail}: {words}", exit_code=code)
    if step == "hook":
        return StartFailure(_PREFIX + text)
    if step == "chdir":
        return StartFailure(f'{_PREFIX}chdir to cwd ("{detail}") set in config.json failed: {words}')
    if step == "mount" and isinstance(detail, tuple):
        source, target = detail
        words += f" ({text})" if text and number and text not in detail else ""
        return StartFailure(f'{_PREFIX}error mounting "{source}" to rootfs at "{target}": {words}')
    if number and text and text != str(detail):
        words += f" ({text})"
    return StartFailure(f"{_PREFIX}{step} {detail}".strip() + f": {words}")


def died(status: int, kind: str) -> StartFailure:
    """It ended before it could say why: killed, by the memory limit perhaps."""
    what = f"signal {-status}" if status < 0 else f"exit status {status}"
    return StartFailure(
        f"{_PREFIX}the {kind}'s process ended while it was set up ({what})",
        hint="A memory limit below about 20 MB is too small to start in." if status == -9 else "",
    )

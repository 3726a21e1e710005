"""The daemon's own log: plain lines on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}


class _Text(logging.Formatter):
    """``2026-11-24T09:00:00.123Z warn sampan.engine: …``: no colours, one line, then any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_stamp(record.created)} {_word(record.levelno)} {record.name}: {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    """One JSON object a line, with the keys of dockerd's ``--log-format=json``."""

    def format(self, record: logging.LogRecord) -> str:
        found = {
            "level": _word(record.levelno),
            "msg": record.getMessage(),
            "module": record.name,
            "time": _stamp(record.created),
        }
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False)


def _stamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03}Z"


def _word(level: int) -> str:
    return next((word for word, number in _LEVELS.items() if level <= number), "fatal")


def set_up(level: str, form: str) -> None:
    """Send everything of ``level`` and above to standard error in that form ("text" or "json")."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Change the level alone (after SIGHUP)."""
    logging.getLogger().setLevel(_LEVELS[level])
    logging.getLogger("asyncio").setLevel(max(_LEVELS[level], logging.WARNING))

"""Every error that sampan raises on purpose: what happened, to which object, and what to do.

The tree is the one place where an error meets its HTTP status (Engine API) and its exit code (command
line). A module adds context with ``raise X(...) from cause``; nothing below this file is imported, so
every package can use it.
"""

from __future__ import annotations


class SampanError(Exception):
    """Base of all. ``message`` is for people and for clients that match on words; ``hint`` says what to do."""

    status = 500
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message and, on a second line, the hint: what an API client shows its user."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def said(failure: OSError) -> str:
    """What the kernel said, as Go programs write it: ``open /x: no such file or directory``."""
    words = failure.strerror or str(failure)
    return (f"open {failure.filename}: " if failure.filename else "") + words[:1].lower() + words[1:]


class InvalidParameter(SampanError):
    """The request or input is malformed (400)."""

    status = 400


class Unauthorized(SampanError):
    """Credentials are missing or wrong (401)."""

    status = 401


class Forbidden(SampanError):
    """The request is understood and refused for good (403)."""

    status = 403


class NotFound(SampanError):
    """The named object doesn't exist (404)."""

    status = 404


class Conflict(SampanError):
    """The object's state or name forbids the operation now (409)."""

    status = 409


class NotModified(SampanError):
    """The object already is in the wanted state (304, no body)."""

    status = 304


class Unsupported(SampanError):
    """Asked for something that this engine doesn't do yet (501). Never answer 200 instead."""

    status = 501


class Unavailable(SampanError):
    """The service can't answer in its present mode (503)."""

    status = 503


class SystemFailure(SampanError):
    """The kernel, disk or another program refused (500)."""


class StartFailure(SampanError):
    """A container's first process could not be started. ``exit_code`` is 125, 126 or 127 as Docker has it."""

    def __init__(self, message: str, *, exit_code: int = 125, hint: str = "", status: int = 500) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.status = status

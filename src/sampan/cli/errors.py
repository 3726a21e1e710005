"""Errors of the command line and how they become text on stderr and an exit code."""

from __future__ import annotations

from sampan.errors import SampanError


class CLIError(SampanError):
    """A refusal of the command line itself, printed as it is. ``exit_code`` 1, or as given."""

    def __init__(self, message: str, *, exit_code: int = 1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class FlagError(CLIError):
    """An unknown flag or a bad value for one: exit code 125, as Docker's."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, exit_code=125, hint=hint)


class ArgumentError(CLIError):
    """The wrong number of arguments."""


class OutputClosed(Exception):
    """Whoever read our output has gone (a pipe to ``head``)."""


def text_of(error: SampanError) -> str:
    """What the user sees: Docker's words (with its lead for an engine's answer), then our hint."""
    from sampan.client.errors import APIError

    lead = "Error response from daemon: " if isinstance(error, APIError) else ""
    return lead + str(error)


def join(errors: list[SampanError]) -> CLIError:
    """Several objects' errors as one, a line each."""
    return CLIError("\n".join(text_of(error) for error in errors))

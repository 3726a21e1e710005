"""Failures of a build, with the line they come from and what dockerd's clients look for."""

from __future__ import annotations

from sampan.build.diagnostics import Span, frame
from sampan.build.instructions import Dockerfile
from sampan.build.mistakes import in_doing
from sampan.errors import SampanError


class BuildFailed(SampanError):
    """A step failed. ``detail_code`` is the exit code of a RUN, None for anything else."""

    def __init__(self, message: str, *, hint: str = "", detail_code: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.detail_code = detail_code


def located(error: SampanError, file: Dockerfile, span: Span) -> BuildFailed:
    """``error`` as the failure of the instruction at ``span``: its own words, then the code frame."""
    if isinstance(error, BuildFailed) and error.hint.startswith(f"{file.name}:"):
        return error
    code = error.detail_code if isinstance(error, BuildFailed) else None
    shown = frame(file.name, file.lines, span, error.message if code is None else "")
    advice = error.hint or in_doing(error.message, file, span.first)
    hint = f"{shown}\n{advice}" if advice else shown
    return BuildFailed(error.message, hint=hint, detail_code=code)

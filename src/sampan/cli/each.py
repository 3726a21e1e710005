"""Doing the same to several objects: each one's name is printed, errors don't stop the others."""

from __future__ import annotations

from sampan.cli.errors import CLIError, text_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.cli.command import CLI


def each(cli: CLI, names: Sequence[str], action: Callable[[str], str | None]) -> int:
    """Call ``action`` for every name and print what it returns (None: the name, "": nothing).

    Several run at once when there are several, so that ``stop`` of ten containers takes as long as one;
    names are printed in the order given. Raises CLIError with all errors at the end.
    """
    results = [_tried(action, names[0])] if len(names) == 1 else _parallel(action, names)
    errors = []
    for name, result in zip(names, results, strict=True):
        if isinstance(result, SampanError):
            errors.append(text_of(result))
        elif result != "":
            cli.print(name if result is None else result)
    if errors:
        raise CLIError("\n".join(errors))
    return 0


def one_by_one(cli: CLI, names: Sequence[str], action: Callable[[str], str | None]) -> int:
    """The same in order, one after the other: where the engine or our connection wants it so."""
    errors = []
    for name in names:
        result = _tried(action, name)
        if isinstance(result, SampanError):
            errors.append(text_of(result))
        elif result != "":
            cli.print(name if result is None else result)
    if errors:
        raise CLIError("\n".join(errors))
    return 0


def _tried(action: Callable[[str], str | None], name: str) -> str | SampanError | None:
    try:
        return action(name)
    except SampanError as error:
        return error


def _parallel(action: Callable[[str], str | None], names: Sequence[str]) -> list[str | SampanError | None]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(50, len(names))) as pool:
        return list(pool.map(lambda name: _tried(action, name), names))

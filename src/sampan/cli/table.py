"""Listings: a table, a template for each row, JSON, or ids only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from sampan.cli.command import CLI


class Row:
    """One line of a listing for templates: fields by name, values computed on demand.

    A subclass has a table ``FIELDS`` of name to function of the row; ``METHODS`` (those that take
    arguments, or that ``json`` leaves out) are attributes.
    """

    FIELDS: Mapping[str, Callable[[Any], Any]] = {}

    def __init__(self, data: Any, *, full: bool = False) -> None:
        self.data = data
        self.full = full

    def __getattr__(self, name: str) -> Any:
        function = type(self).FIELDS.get(name)
        if function is None:
            raise AttributeError(name)
        return function(self)

    def fields(self) -> dict[str, Any]:
        """All fields, for ``json``."""
        return {name: function(self) for name, function in type(self).FIELDS.items()}


def columns(rows: Sequence[Sequence[str]], least: int = 10, gap: int = 3) -> str:
    """Lines of aligned cells: each column at least ``least`` wide, ``gap`` blanks after, the last bare."""
    widths: list[int] = []
    for row in rows:
        for at, cell in enumerate(row[:-1]):
            if at == len(widths):
                widths.append(least)
            widths[at] = max(widths[at], len(cell) + gap)
    lines = []
    for row in rows:
        *cells, last = row
        lines.append("".join(cell.ljust(widths[at]) for at, cell in enumerate(cells)) + last)
    return "\n".join(lines) + "\n" if lines else ""


def show(
    cli: CLI,
    rows: Iterable[Row],
    *,
    titles: Mapping[str, str],
    default: Sequence[str],
    form: str = "",
    quiet: str = "",
    config_key: str = "",
    stream: bool = False,
) -> None:
    """Print a listing. ``default`` names the columns, ``quiet`` the field of ``-q``, ``form`` --format."""
    if quiet and not form:
        for row in rows:
            cli.print(str(getattr(row, quiet)))
        return
    if not form and config_key:
        form = cli.config.text(config_key)
    if not form or form == "table":
        cells = [[titles[name] for name in default]]
        cells += [[str(getattr(row, name)) for name in default] for row in rows]
        cli.write(columns(cells))
        return
    if form == "raw" or form.startswith("raw "):
        form = "".join(f"{name.lower()}: {{{{.{name}}}}}\\n" for name in default)
    _templated(cli, rows, titles, form)


def unescape(form: str) -> str:
    """``\\t`` and ``\\n`` as typed in a shell."""
    return form.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r")


def _templated(cli: CLI, rows: Iterable[Row], titles: Mapping[str, str], form: str) -> None:
    from sampan.cli.template import Template

    is_table = form.startswith("table ") or form == "table"
    body = unescape(form.removeprefix("table ").strip() if is_table else form)
    template = Template("{{json .}}" if body == "json" and not is_table else body)
    if not is_table:
        for row in rows:
            cli.print(template.run(row))
        return
    lines = [template.run(Titles(titles)), *(template.run(row) for row in rows)]
    cli.write(columns([line.split("\t") for line in lines]))


class Titles:
    """The header line of a ``table`` template: each field is its column's title."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        self._titles = titles

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._titles:
            raise AttributeError(name)
        return _Title(self._titles[name])

    def fields(self) -> dict[str, str]:
        """For ``json`` in a header."""
        return dict(self._titles)


class _Title(str):
    """A title that may also be called, as ``.Label "x"`` is."""

    __slots__ = ()

    def __call__(self, *names: str) -> str:
        """``{{.Label "com.example.x"}}`` heads its column with the label's last part."""
        if not names:
            return str(self)
        last = names[0].rpartition(".")[2]
        return last.replace("-", " ").replace("_", " ")

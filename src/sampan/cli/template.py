"""Go's text/template, as far as ``--format`` needs it.

Parsing gives a tree of small nodes, running it appends text to a list. Data are plain JSON values, objects
with attributes (table rows) and callables (their methods). See https://pkg.go.dev/text/template.
"""

from __future__ import annotations

from sampan.cli.template_lexer import TemplateError, split, tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from sampan.cli.template_lexer import Token


class _Missing:
    """What a missing map key gives: printed as ``<no value>``, false in conditions."""

    def __bool__(self) -> bool:
        return False


__all__ = ["MISSING", "Template", "TemplateError", "render"]
MISSING = _Missing()


def render(text: str, data: Any, *, strict: bool = False) -> str:
    """Parse and run once. ``strict`` makes a missing key an error, as ``inspect`` has it."""
    return Template(text).run(data, strict=strict)


class Template:
    """A parsed template."""

    def __init__(self, text: str) -> None:
        parser = _Parser(split(text))
        self._nodes = parser.block()
        if parser.stopped_at:
            raise TemplateError(f":1: unexpected {{{{{parser.stopped_at}}}}}")

    def run(self, data: Any, *, strict: bool = False) -> str:
        """Apply to data. Raises TemplateError."""
        from sampan.cli import template_functions

        scope = Scope(data, template_functions.FUNCTIONS, strict=strict)
        out: list[str] = []
        for node in self._nodes:
            node.run(scope, data, out)
        return "".join(out)


class Scope:
    """Variables and functions while a template runs."""

    def __init__(self, root: Any, functions: dict[str, Any], *, strict: bool) -> None:
        self.variables: dict[str, Any] = {"$": root}
        self.functions = functions
        self.strict = strict


class Text:
    """Literal text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, scope: Scope, dot: Any, out: list[str]) -> None:
        """Print it."""
        out.append(self.text)


class Output:
    """``{{pipeline}}``."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    def run(self, scope: Scope, dot: Any, out: list[str]) -> None:
        """Print the pipeline's value, unless it only sets a variable."""
        from sampan.cli.template_functions import to_text

        value = self.pipe.value(scope, dot)
        if not self.pipe.names:
            out.append("<no value>" if value is MISSING or value is None else to_text(value))


class Branch:
    """``if``, ``with``, ``range`` with their ``else``."""

    def __init__(self, kind: str, pipe: Pipe, body: list[Any], other: list[Any]) -> None:
        self.kind, self.pipe, self.body, self.other = kind, pipe, body, other

    def run(self, scope: Scope, dot: Any, out: list[str]) -> None:
        """Choose and run."""
        saved = dict(scope.variables)
        if self.kind == "range":
            self._range(scope, dot, out)
        else:
            value = self.pipe.value(scope, dot)
            inner = value if self.kind == "with" else dot
            if truth(value):
                run_all(self.body, scope, inner, out)
            else:
                run_all(self.other, scope, dot, out)
        scope.variables = saved

    def _range(self, scope: Scope, dot: Any, out: list[str]) -> None:
        value = self.pipe.value(scope, dot)
        items = list(_items(value))
        names = self.pipe.names
        for key, item in items:
            if names:
                scope.variables[names[-1]] = item
            if len(names) == 2:
                scope.variables[names[0]] = key
            try:
                run_all(self.body, scope, item, out)
            except LoopControl as control:
                if control.kind == "break":
                    break
        if not items:
            run_all(self.other, scope, dot, out)


class LoopControl(Exception):
    """``{{break}}`` and ``{{continue}}``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Control:
    """``{{break}}``, ``{{continue}}``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self, scope: Scope, dot: Any, out: list[str]) -> None:
        """Leave the loop's body."""
        raise LoopControl(self.kind)


def run_all(nodes: Sequence[Any], scope: Scope, dot: Any, out: list[str]) -> None:
    """Run nodes in order."""
    for node in nodes:
        node.run(scope, dot, out)


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    if value is None or value is MISSING:
        return []
    raise TemplateError(f":1: range can't iterate over {value}")


def truth(value: Any) -> bool:
    """Go's idea of true: neither zero nor empty."""
    return bool(value)


class Pipe:
    """``$x := a | b | c``: each command gets the value before it as its last argument."""

    def __init__(self, names: list[str], commands: list[list[Any]]) -> None:
        self.names = names
        self.commands = commands

    def value(self, scope: Scope, dot: Any) -> Any:
        """Evaluate, and set the variable if there is one."""
        value: Any = MISSING
        for at, command in enumerate(self.commands):
            value = _call(command, scope, dot, (value,) if at else ())
        if len(self.names) == 1:
            scope.variables[self.names[0]] = value
        return value


def _call(command: list[Any], scope: Scope, dot: Any, extra: tuple[Any, ...]) -> Any:
    head = command[0]
    if isinstance(head, Function):
        return head.call(command[1:], scope, dot, extra)
    arguments = [argument.value(scope, dot) for argument in command[1:]]
    value = head.value(scope, dot, call=not (arguments or extra))
    if arguments or extra:
        if not callable(value):
            raise TemplateError(f":1: can't give argument to non-function {head.shown}")
        return value(*arguments, *extra)
    return value


class Function:
    """A named function."""

    def __init__(self, name: str) -> None:
        self.shown = name

    def value(self, scope: Scope, dot: Any, *, call: bool = True) -> Any:
        """A function in an argument's place is called without arguments."""
        return self.call([], scope, dot, ())

    def call(self, arguments: list[Any], scope: Scope, dot: Any, extra: tuple[Any, ...]) -> Any:
        """Call it; ``and`` and ``or`` evaluate only what they need."""
        name = self.shown
        if name in ("and", "or"):
            return _short_circuit(name, arguments, scope, dot, extra)
        function = scope.functions[name]
        values = [argument.value(scope, dot) for argument in arguments]
        try:
            return function(*values, *extra)
        except TemplateError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise TemplateError(f':1: executing "" at <{name}>: error calling {name}: {error}') from None


def _short_circuit(name: str, arguments: list[Any], scope: Scope, dot: Any, extra: tuple[Any, ...]) -> Any:
    value: Any = MISSING
    for argument in arguments:
        value = argument.value(scope, dot)
        if truth(value) == (name == "or"):
            return value
    return extra[-1] if extra else value


class Constant:
    """A string, number, boolean or nil."""

    def __init__(self, constant: Any) -> None:
        self.constant = constant
        self.shown = str(constant)

    def value(self, scope: Scope, dot: Any, *, call: bool = True) -> Any:
        """Itself."""
        return self.constant


class Group:
    """A pipeline in parentheses, perhaps with fields after it: ``(index .X 0).Name``."""

    def __init__(self, pipe: Pipe, fields: list[str]) -> None:
        self.pipe, self.fields = pipe, fields
        self.shown = "(…)"

    def value(self, scope: Scope, dot: Any, *, call: bool = True) -> Any:
        """The pipeline's value, then the fields of it."""
        return walk(self.pipe.value(scope, dot), self.fields, scope, call=call)


class Path:
    """``.A.B``, ``$x.A``, ``.``."""

    def __init__(self, variable: str, fields: list[str]) -> None:
        self.variable, self.fields = variable, fields
        self.shown = variable + "".join(f".{field}" for field in fields) or "."

    def value(self, scope: Scope, dot: Any, *, call: bool = True) -> Any:
        """Follow the fields."""
        start = scope.variables[self.variable] if self.variable else dot
        return walk(start, self.fields, scope, call=call)


def walk(value: Any, fields: list[str], scope: Scope, *, call: bool) -> Any:
    """Follow fields from a value; a method without arguments is called."""
    for at, field in enumerate(fields):
        value = _field(value, field, scope)
        if callable(value) and (call or at + 1 < len(fields)):
            value = value()
    return value


def _field(value: Any, field: str, scope: Scope) -> Any:
    if isinstance(value, dict):
        if field in value:
            return value[field]
        # JSON names differ from Go's in case only (Id and ID), and people write either.
        for key in value:
            if key.lower() == field.lower():
                return value[key]
        if scope.strict:
            raise TemplateError(f':1:2: executing "" at <.{field}>: map has no entry for key "{field}"')
        return MISSING
    if value is None or value is MISSING:
        if scope.strict:
            raise TemplateError(f':1:2: executing "" at <.{field}>: nil data; no entry for key "{field}"')
        return MISSING
    found = getattr(value, field, None) if field[:1].isupper() else None
    if found is None:
        raise TemplateError(
            f':1:2: executing "" at <.{field}>: can\'t evaluate field {field} in type {kind(value)}'
        )
    return found


def kind(value: Any) -> str:
    """Go's name for a value's type, for error messages."""
    names = {str: "string", int: "int", bool: "bool", float: "float64", list: "[]interface {}"}
    return names.get(type(value), type(value).__name__)


class _Parser:
    """Recursive descent over the pieces of a template."""

    def __init__(self, pieces: list[Token]) -> None:
        self._pieces = pieces
        self._at = 0
        self.stopped_at = ""
        self._variables = {"$"}

    def block(self) -> list[Any]:
        """Nodes up to ``end`` or ``else`` (which ``stopped_at`` then names) or the text's end."""
        nodes: list[Any] = []
        while self._at < len(self._pieces):
            kind, text = self._pieces[self._at]
            self._at += 1
            if kind == "text":
                nodes.append(Text(text))
                continue
            word = text.split(None, 1)[0] if text.split() else ""
            if word in ("end", "else"):
                self.stopped_at = text
                return nodes
            if not text.startswith("/*"):
                nodes.append(self._action(word, text))
        self.stopped_at = ""
        return nodes

    def _action(self, word: str, text: str) -> Any:
        if not text:
            raise TemplateError(":1: missing value for command")
        if word in ("if", "with", "range"):
            return self._branch(word, text[len(word) :])
        if text in ("break", "continue"):
            return Control(text)
        if word in ("define", "template", "block"):
            raise TemplateError(f":1: {{{{{word}}}}} is not supported in a format")
        return Output(self.pipe(text))

    def _branch(self, kind: str, condition: str) -> Branch:
        pipe = self.pipe(condition)
        body = self.block()
        other: list[Any] = []
        if self.stopped_at.startswith("else"):
            rest = self.stopped_at[4:].strip()
            if rest:
                word = rest.split(None, 1)[0]
                return Branch(kind, pipe, body, [self._branch(word, rest[len(word) :])])
            other = self.block()
        if self.stopped_at != "end":
            raise TemplateError(":1: unexpected EOF")
        self.stopped_at = ""
        return Branch(kind, pipe, body, other)

    def pipe(self, text: str) -> Pipe:
        """Parse a whole action as a pipeline."""
        words = tokens(text)
        pipe, at = self._pipe(words, 0)
        if at < len(words):
            raise TemplateError(f':1: unexpected "{words[at][1]}" in command')
        return pipe

    def _pipe(self, words: list[Token], at: int) -> tuple[Pipe, int]:
        names, at = self._assignment(words, at)
        commands: list[list[Any]] = [[]]
        while at < len(words) and words[at][0] != ")":
            kind = words[at][0]
            if kind == "|":
                if not commands[-1]:
                    raise TemplateError(":1: missing value for command")
                commands.append([])
                at += 1
            elif kind == "blank":
                at += 1
            else:
                operand, at = self._operand(words, at)
                commands[-1].append(operand)
        if not commands[-1]:
            raise TemplateError(":1: missing value for command")
        return Pipe(names, commands), at

    def _assignment(self, words: list[Token], at: int) -> tuple[list[str], int]:
        for index in range(at, len(words)):
            if words[index][0] == "assign":
                names = [text for kind, text in words[at:index] if kind == "word"]
                if not names or not all(name.startswith("$") for name in names):
                    raise TemplateError(':1: unexpected ":=" in command')
                self._variables.update(names)
                return names, index + 1
            if words[index][0] not in ("word", "blank", ","):
                break
        return [], at

    def _operand(self, words: list[Token], at: int) -> tuple[Any, int]:
        kind, text = words[at]
        if kind == "(":
            pipe, at = self._pipe(words, at + 1)
            if at >= len(words):
                raise TemplateError(":1: unclosed left paren")
            at += 1
            fields: list[str] = []
            if at < len(words) and words[at][0] == "word" and words[at][1].startswith("."):
                fields = words[at][1][1:].split(".")
                at += 1
            return Group(pipe, fields), at
        if kind == "string":
            return Constant(text), at + 1
        if kind == "char":
            return Constant(ord(text)), at + 1
        if kind != "word":
            raise TemplateError(f':1: unexpected "{text}" in operand')
        return self._word(text), at + 1

    def _word(self, text: str) -> Any:
        if text in ("true", "false", "nil"):
            return Constant({"true": True, "false": False, "nil": None}[text])
        if text[0] == ".":
            return Path("", [field for field in text.split(".") if field])
        if text[0] == "$":
            name, *fields = text.split(".")
            if name not in self._variables:
                raise TemplateError(f':1: undefined variable "{name}"')
            return Path(name, fields)
        if text[0].isdigit() or (text[0] in "+-" and text[1:2].isdigit()):
            return Constant(_number(text))
        from sampan.cli.template_functions import FUNCTIONS

        if text in FUNCTIONS or text in ("and", "or"):
            return Function(text)
        raise TemplateError(f':1: function "{text}" not defined')


def _number(text: str) -> Any:
    try:
        return int(text, 0)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise TemplateError(f':1: bad number syntax: "{text}"') from None

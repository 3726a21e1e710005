"""Cutting a template into text and actions, and an action into words."""

from __future__ import annotations

from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Token = tuple[str, str]


class TemplateError(CLIError):
    """The template is malformed or asks for what isn't there."""

    def __init__(self, message: str) -> None:
        super().__init__(f"template parsing error: template: {message}")


def split(text: str) -> list[Token]:
    """Text and actions in turn, blanks trimmed where ``{{-`` and ``-}}`` ask for it."""
    pieces: list[Token] = []
    at = 0
    trim = False
    while True:
        start = text.find("{{", at)
        literal = text[at:] if start < 0 else text[at:start]
        if trim:
            literal = literal.lstrip()
        if start < 0:
            pieces.append(("text", literal))
            return pieces
        end = _action_end(text, start + 2)
        action = text[start + 2 : end]
        if action.startswith("-") and action[1:2].isspace():
            literal, action = literal.rstrip(), action[1:]
        trim = action.endswith("-") and action[-2:-1].isspace()
        if trim:
            action = action[:-1]
        pieces += [("text", literal), ("action", action.strip())]
        at = end + 2


def _action_end(text: str, at: int) -> int:
    quote = ""
    if text[at:].lstrip("- ").startswith("/*"):
        end = text.find("*/", at)
        at = end + 2 if end >= 0 else len(text)
    while at < len(text):
        letter = text[at]
        if quote:
            if letter == "\\" and quote == '"':
                at += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"`'":
            quote = letter
        elif text.startswith("}}", at):
            return at
        at += 1
    raise TemplateError(":1: unclosed action")


_PUNCTUATION = "()|,"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'", "0": "\0"}


def tokens(action: str) -> list[Token]:
    """The words of an action: (kind, text)."""
    found: list[Token] = []
    at = 0
    while at < len(action):
        letter = action[at]
        if letter.isspace():
            at += 1
            found.append(("blank", " "))
        elif action.startswith(":=", at):
            found.append(("assign", ":="))
            at += 2
        elif letter == "=":
            found.append(("assign", "="))
            at += 1
        elif letter in _PUNCTUATION:
            found.append((letter, letter))
            at += 1
        elif letter in "\"`'":
            value, at = _string(action, at)
            found.append(("string" if letter != "'" else "char", value))
        else:
            end = at + 1
            while end < len(action) and not action[end].isspace() and action[end] not in '()|,=:"`':
                end += 1
            found.append(("word", action[at:end]))
            at = end
    return found


def _string(action: str, at: int) -> tuple[str, int]:
    quote = action[at]
    at += 1
    out = []
    while at < len(action) and action[at] != quote:
        letter = action[at]
        if letter == "\\" and quote != "`":
            at += 1
            letter = _ESCAPES.get(action[at : at + 1], action[at : at + 1])
        out.append(letter)
        at += 1
    if at >= len(action):
        raise TemplateError(":1: unterminated quoted string")
    return "".join(out), at + 1

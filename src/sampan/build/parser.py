"""The line structure of a Dockerfile: directives, comments, continuations, flags, here-documents.

What an instruction means is decided in ``grammar.py``; here a file becomes a list of `Node`. The rules are
those of the Dockerfile reference ("Format", "Parser directives", "Here-Documents") together with what the
line parser that dockerd uses does in the corners.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from sampan.build.diagnostics import DockerfileError, Span
from sampan.build.words import Lexer
from sampan.errors import InvalidParameter

MAX_SIZE = 8 << 20
"""Bytes. A Dockerfile above this is refused: nobody writes one, and the parser keeps it in memory."""

_DIRECTIVE = re.compile(r"^#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_HEREDOC = re.compile(r"^(\d*)<<(-?)([^<]*)$", re.DOTALL)
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_KNOWN_DIRECTIVES = ("escape", "syntax", "check")
_HEREDOC_KEYWORDS = ("ADD", "COPY", "RUN")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: ``<<NAME`` (``expand`` when the name is unquoted, ``chomp`` for ``<<-``)."""

    name: str
    content: str
    expand: bool
    chomp: bool
    descriptor: int = 0

    @property
    def text(self) -> str:
        """The content, leading tabs of each line removed when ``<<-`` asked for it."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


@dataclass(slots=True)
class Node:
    """One instruction before its meaning is known.

    ``original`` is the logical line: continuations joined, comments within dropped. ``rest`` is what
    follows keyword and flags. ``comments`` are the comment lines directly above (without ``#``).
    """

    keyword: str
    original: str
    flags: list[str]
    rest: str
    span: Span
    heredocs: list[Heredoc] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    empty_continuation: bool = False
    indent: int = 0

    @property
    def name(self) -> str:
        """The keyword in capitals."""
        return self.keyword.upper()

    def json_list(self) -> list[str] | None:
        """The arguments when they are a JSON array of strings, else None.

        Raises DockerfileError for an array that holds anything but strings.
        """
        return parse_json_list(self.rest, self.span)


@dataclass(slots=True)
class Parsed:
    """A Dockerfile as nodes, with its directives (lower-case keys) and its raw lines for code frames."""

    name: str
    lines: list[str]
    nodes: list[Node]
    directives: dict[str, str]
    directive_lines: dict[str, int]

    @property
    def escape(self) -> str:
        """The escape character, a backslash unless a directive says otherwise."""
        return self.directives.get("escape", "\\")


def parse(data: bytes, name: str = "Dockerfile") -> Parsed:
    """Parse ``data``, the Dockerfile called ``name`` in messages.

    Raises DockerfileError, located in the file.
    """
    if len(data) > MAX_SIZE:
        raise InvalidParameter(f"the Dockerfile ({name}) is larger than {MAX_SIZE >> 20} MiB")
    if not data:
        raise InvalidParameter(
            f"the Dockerfile ({name}) cannot be empty", hint="It needs at least a FROM line."
        )
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        hint = "It is UTF-16; save it as UTF-8." if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        raise InvalidParameter(
            f"the Dockerfile ({name}) is no text: there is a NUL byte in line {line}", hint=hint
        )
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    reader = _Reader(lines)
    try:
        nodes = reader.read()
    except DockerfileError as error:
        raise error.located(name, lines) from None
    return Parsed(name, lines, nodes, reader.directives, reader.directive_lines)


class _Reader:
    """Reads physical lines into nodes; one use."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        self.directives: dict[str, str] = {}
        self.directive_lines: dict[str, int] = {}
        self.looking_for_directives = True
        self.set_escape("\\")

    def set_escape(self, escape: str) -> None:
        self.escape = escape
        quoted = re.escape(escape)
        self.continuation = re.compile(rf"(?:^|(?<=[^{quoted}])){quoted}[ \t]*$")

    def read(self) -> list[Node]:
        nodes: list[Node] = []
        comments: list[str] = []
        while self.at < len(self.lines):
            line = self.lines[self.at].rstrip("\r")
            bare = line.lstrip(" \t\v\f\r")
            if self.directive(bare):
                self.at += 1
            elif bare.startswith("#"):
                comments.append(bare[1:].strip())
                self.at += 1
            elif not bare:
                comments = []
                self.at += 1
            else:
                nodes.append(self.node(bare, comments))
                comments = []
        if not nodes:
            raise DockerfileError(
                "file with no instructions", advice="It needs at least a FROM line.", syntax=True
            )
        return nodes

    def directive(self, line: str) -> bool:
        """Take the line as a parser directive (whether it is one), or stop looking for them for good."""
        if not self.looking_for_directives:
            return False
        match = _DIRECTIVE.match(line)
        key = match[1].lower() if match else ""
        if match is None or key not in _KNOWN_DIRECTIVES:
            self.looking_for_directives = False
            return False
        span = Span(self.at + 1, self.at + 1)
        if key in self.directives:
            raise DockerfileError(f"only one {key} parser directive can be used", span, syntax=True)
        if key == "escape":
            if match[2] not in ("\\", "`"):
                reason = f"invalid escape token '{match[2]}' does not match ` or \\"
                raise DockerfileError(reason, span, syntax=True)
            self.set_escape(match[2])
        self.directives[key] = match[2]
        self.directive_lines[key] = self.at + 1
        return True

    def node(self, first: str, comments: list[str]) -> Node:
        start = self.at
        logical, empty = self.join(first)
        keyword, flags, rest = split_command(logical)
        span = Span(start + 1, self.at)
        line = self.lines[start]
        indent = len(line) - len(line.lstrip(" \t\v\f\r"))
        node = Node(keyword, logical.strip(), flags, rest, span, [], comments, empty, indent)
        if "<<" in logical and may_hold_heredoc(node):
            node.heredocs = [self.heredoc(head, start) for head in heredoc_heads(logical)]
            node.span = Span(start + 1, self.at)
        return node

    def join(self, line: str) -> tuple[str, bool]:
        """The logical line that begins with ``line``; whether an empty line stood within it."""
        parts: list[str] = []
        empty = False
        self.at += 1
        while True:
            text, more = self.continued(line)
            parts.append(text)
            if not more:
                break
            following, skipped = self.next_continued()
            empty = empty or skipped
            if following is None:
                break
            line = following
        return "".join(parts), empty

    def next_continued(self) -> tuple[str | None, bool]:
        """The next physical line of a continuation, comments and empty lines passed over."""
        empty = False
        while self.at < len(self.lines):
            line = self.lines[self.at].rstrip("\r")
            self.at += 1
            bare = line.strip(" \t\v\f\r")
            if bare.startswith("#"):
                continue
            if not bare:
                empty = True
                continue
            return line, empty
        return None, empty

    def continued(self, line: str) -> tuple[str, bool]:
        match = self.continuation.search(line)
        return (line[: match.start()], True) if match else (line, False)

    def heredoc(self, head: Heredoc, start: int) -> Heredoc:
        content: list[str] = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            terminator = line.rstrip("\r")
            if (terminator.lstrip("\t") if head.chomp else terminator) == head.name:
                return Heredoc(head.name, "".join(content), head.expand, head.chomp, head.descriptor)
            content.append(line + "\n")
        raise _unterminated(head, self.lines, start)


def _unterminated(head: Heredoc, lines: list[str], start: int) -> DockerfileError:
    advice = f"It ends with {head.name} alone on a line."
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if line.strip() == head.name:
            advice += (
                f" Line {number} has blanks beside it{'' if head.chomp else '; <<- allows tabs before it'}."
            )
    column = lines[start].find("<<")
    span = Span(start + 1, start + 1, column, 2) if column >= 0 else Span(start + 1, start + 1)
    return DockerfileError("unterminated heredoc", span, advice=advice, syntax=True)


def split_command(line: str) -> tuple[str, list[str], str]:
    """``line`` as keyword, flags (``--name[=value]``, unquoted), and the rest without outer blanks."""
    parts = _BLANKS.split(line.strip(), maxsplit=1)
    if len(parts) == 1:
        return parts[0], [], ""
    flags, rest = split_flags(parts[1])
    return parts[0], flags, rest.strip()


def split_flags(text: str) -> tuple[list[str], str]:
    """The leading ``--flags`` of ``text`` and what follows them. A bare ``--`` ends the flags."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return flags, text[at:]
        word, at = _flag_word(text, at)
        if word == "--":
            return flags, text[at:]
        flags.append(word)


def _flag_word(text: str, at: int) -> tuple[str, int]:
    """The word of ``text`` at ``at``, unquoted and unescaped, and where it ends."""
    word: list[str] = []
    quote = ""
    while at < len(text):
        ch = text[at]
        if not quote and ch.isspace():
            break
        if quote and ch == quote:
            quote = ""
        elif not quote and ch in "'\"":
            quote = ch
        elif ch == "\\":
            at += 1
            word.append(text[at : at + 1])
        else:
            word.append(ch)
        at += 1
    return "".join(word), at


def parse_json_list(text: str, span: Span | None = None) -> list[str] | None:
    """``text`` as a JSON array of strings (the exec form), or None when it is the shell form.

    As dockerd has it, text after the closing bracket is ignored, and an array that holds something else
    than strings is an error (DockerfileError), not the shell form.
    """
    text = text.lstrip()
    if not text.startswith("["):
        return None
    try:
        value, _ = json.JSONDecoder(strict=True).raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise DockerfileError(
            "when using JSON array syntax, arrays must be comprised of strings only", span, syntax=True
        )
    return [str(item) for item in value]


def may_hold_heredoc(node: Node) -> bool:
    """Whether ``node`` (or the trigger of an ONBUILD) is of a kind that takes here-documents."""
    name, rest = node.name, node.rest
    if name == "ONBUILD":
        keyword, _, rest = split_command(rest)
        name = keyword.upper()
    return name in _HEREDOC_KEYWORDS and not rest.startswith("[")


def heredoc_heads(line: str) -> list[Heredoc]:
    """The here-documents that ``line`` announces, in order, without their contents."""
    lexer = Lexer("\\", raw_quotes=True, raw_escapes=True, keep_unset=True)
    try:
        words = lexer.words(line, {})
    except InvalidParameter:
        return []
    return [head for word in words if (head := heredoc_head(word)) is not None]


def heredoc_head(word: str) -> Heredoc | None:
    """The here-document that ``word`` (``[n]<<[-]NAME``) announces, or None when it announces none."""
    match = _HEREDOC.match(word)
    if match is None or not match[3]:
        return None
    try:
        plain = Lexer("\\", keep_unset=True).words(match[3], {})
        raw = Lexer("\\", raw_quotes=True, raw_escapes=True, keep_unset=True).words(match[3], {})
    except InvalidParameter:
        return None
    if len(plain) != 1 or len(raw) != 1:
        return None
    descriptor = int(match[1]) if match[1] and len(match[1]) < 6 else 0
    return Heredoc(plain[0], "", plain == raw, match[2] == "-", descriptor)

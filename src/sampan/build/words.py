"""Words of a Dockerfile line: quotes, escapes, and ``$variables`` with the shell's modifiers.

The reference's section "Environment replacement" names the modifiers; the corners (what a backslash does
inside double quotes, when a word splits) are those of the lexer that dockerd uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from sampan.build.glob import Glob
from sampan.errors import InvalidParameter

_SPECIAL = "@*#?-$!0"
MAX_DEPTH = 64
"""How deep ``${a:-${b:-…}}`` may nest."""


class Lexer:
    """Expands and splits words.

    ``escape`` is the file's escape character. ``raw_quotes`` and ``raw_escapes`` leave those characters in
    the result; ``keep_unset`` leaves a variable that isn't set as it was written.
    ``undefined`` is called with the name of each variable that was used without being set.
    """

    def __init__(
        self,
        escape: str = "\\",
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        keep_unset: bool = False,
        undefined: Callable[[str], None] | None = None,
    ) -> None:
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.raw_escapes = raw_escapes
        self.keep_unset = keep_unset
        self.undefined = undefined

    def word(self, text: str, env: Mapping[str, str]) -> str:
        """``text`` with variables of ``env`` replaced, quotes and escapes off; one word whatever it holds.

        Raises InvalidParameter for an unfinished quote or brace or an unknown modifier.
        """
        return self._run(text, env)[0]

    def words(self, text: str, env: Mapping[str, str]) -> list[str]:
        """As `word`, then split at blanks that aren't quoted (those of unquoted variables' values count)."""
        return self._run(text, env)[1]

    def text(self, text: str, env: Mapping[str, str]) -> str:
        """A here-document's ``text`` with variables replaced: quotes are text, escapes count before ``$``."""
        return _Scanner(text, self, env).document()

    def _run(self, text: str, env: Mapping[str, str]) -> tuple[str, list[str]]:
        scanner = _Scanner(text, self, env)
        try:
            return scanner.until("", self.raw_escapes)
        except InvalidParameter as error:
            shown = json.dumps(text, ensure_ascii=False)
            raise InvalidParameter(f"failed to process {shown}: {error.message}", hint=error.hint) from None


class _Words:
    """Collects characters into words; quoted ones never split and make even an empty word count."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.current: list[str] = []
        self.quoted = False

    def add(self, ch: str) -> None:
        if ch.isspace():
            self.finish()
        else:
            self.current.append(ch)

    def add_text(self, text: str) -> None:
        for ch in text:
            self.add(ch)

    def add_raw(self, text: str) -> None:
        self.current.append(text)
        self.quoted = True

    def finish(self) -> None:
        word = "".join(self.current)
        if word or self.quoted:
            self.done.append(word)
        self.current = []
        self.quoted = False


class _Scanner:
    """One pass over one text."""

    def __init__(self, text: str, lexer: Lexer, env: Mapping[str, str]) -> None:
        self.text = text
        self.at = 0
        self.lexer = lexer
        self.env = env
        self.depth = 0

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def next(self) -> str:
        ch = self.peek()
        self.at += 1
        return ch

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Everything up to the unquoted character ``stop`` ("": the end), as one word and as words."""
        result: list[str] = []
        words = _Words()
        while ch := self.peek():
            if ch == stop:
                self.at += 1
                words.finish()
                return "".join(result), words.done
            if ch in "'\"":
                piece = self.single() if ch == "'" else self.double(raw_escapes)
                words.add_raw(piece)
            elif ch == "$":
                piece = self.dollar()
                words.add_text(piece)
            else:
                piece = self.plain(raw_escapes, words)
            result.append(piece)
        if stop:
            raise InvalidParameter(f"unexpected end of statement while looking for matching {stop}")
        words.finish()
        return "".join(result), words.done

    def document(self) -> str:
        """The whole text as the inside of a here-document."""
        out: list[str] = []
        while ch := self.peek():
            if ch == "$":
                out.append(self.dollar())
                continue
            self.at += 1
            if ch == self.lexer.escape and self.peek() in ("$", ch):
                ch = self.next()
            out.append(ch)
        return "".join(out)

    def plain(self, raw_escapes: bool, words: _Words) -> str:
        ch = self.next()
        if ch != self.lexer.escape:
            words.add(ch)
            return ch
        kept = ch if raw_escapes or self.lexer.raw_escapes else ""
        if kept:
            words.add_raw(kept)
        ch = self.next()
        if not ch:
            return kept
        words.add_raw(ch)
        return kept + ch

    def single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise InvalidParameter("unexpected end of statement while looking for matching single-quote")
        inner = self.text[self.at + 1 : end]
        self.at = end + 1
        return f"'{inner}'" if self.lexer.raw_quotes else inner

    def double(self, raw_escapes: bool) -> str:
        self.at += 1
        out: list[str] = []
        while True:
            ch = self.peek()
            if not ch:
                raise InvalidParameter("unexpected end of statement while looking for matching double-quote")
            if ch == '"':
                self.at += 1
                inner = "".join(out)
                return f'"{inner}"' if self.lexer.raw_quotes else inner
            if ch == "$":
                out.append(self.dollar())
                continue
            self.at += 1
            if ch == self.lexer.escape:
                out.append(self.escaped_in_quotes(ch, raw_escapes))
            else:
                out.append(ch)

    def escaped_in_quotes(self, escape: str, raw_escapes: bool) -> str:
        """Inside double quotes an escape counts only before a quote, a dollar or itself."""
        following = self.peek()
        if not following:
            return ""
        if following in ('"', "$", escape):
            self.at += 1
            return escape + following if raw_escapes or self.lexer.raw_escapes else following
        return escape

    def dollar(self) -> str:
        self.at += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            value = self.lookup(name)
            if value is None:
                return f"${name}" if self.lexer.keep_unset else ""
            return value
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InvalidParameter("substitutions are nested too deeply")
        try:
            return self.braces()
        finally:
            self.depth -= 1

    def braces(self) -> str:
        self.at += 1
        first = self.peek()
        if not first:
            raise InvalidParameter("syntax error: missing '}'")
        if first in "{}:":
            raise InvalidParameter("syntax error: bad substitution")
        name = self.name()
        operator = self.next()
        if operator == "}":
            value = self.lookup(name)
            return (f"${{{name}}}" if self.lexer.keep_unset else "") if value is None else value
        if operator == "/":
            return self.replace(name)
        null_is_unset = operator == ":"
        if null_is_unset:
            operator = self.next()
        if not operator:
            raise InvalidParameter("syntax error: missing '}'")
        if operator not in "+-?#%" or (null_is_unset and operator in "#%"):
            shown = ":" * null_is_unset + operator
            raise InvalidParameter(f"unsupported modifier ({shown}) in substitution")
        return self.modified(name, operator, null_is_unset)

    def modified(self, name: str, operator: str, null_is_unset: bool) -> str:
        word = self.braced_word("}", operator in "#%")
        value = self.env.get(name)
        unset = value is None or (null_is_unset and not value)
        if operator == "?":
            if not unset:
                return value or ""
            reason = word or f"is not allowed to be {'unset' if value is None else 'empty'}"
            raise InvalidParameter(f"{name}: {reason}")
        if self.lexer.keep_unset and value is None:
            return f"${{{name}{':' * null_is_unset}{operator}{word}}}"
        if operator == "-":
            return word if unset else value or ""
        if operator == "+":
            return "" if unset else word
        greedy = word.startswith(operator)
        glob = Glob(word[1:] if greedy else word, slash=False)
        trimmed = glob.trim_prefix if operator == "#" else glob.trim_suffix
        return trimmed(value or "", greedy)

    def replace(self, name: str) -> str:
        every = self.peek() == "/"
        if every:
            self.at += 1
        pattern = self.braced_word("/", True)
        replacement = self.braced_word("}", True)
        value = self.lookup(name)
        if value is None:
            mark = "//" if every else "/"
            return f"${{{name}{mark}{pattern}/{replacement}}}" if self.lexer.keep_unset else ""
        return Glob(pattern, slash=False).replace(value, replacement, every)

    def braced_word(self, stop: str, raw_escapes: bool) -> str:
        try:
            return self.until(stop, raw_escapes)[0]
        except InvalidParameter as error:
            if not self.peek() and "quote" not in error.message:
                raise InvalidParameter("syntax error: missing '}'") from None
            raise

    def lookup(self, name: str) -> str | None:
        value = self.env.get(name)
        if value is None and self.lexer.undefined is not None:
            self.lexer.undefined(name)
        return value

    def name(self) -> str:
        """A variable's name at this place: letters, digits and ``_``; or one special sign; or digits only."""
        start = self.at
        first = self.peek()
        if first.isdigit():
            while self.peek().isdigit():
                self.at += 1
        elif first and first in _SPECIAL:
            self.at += 1
        else:
            while (ch := self.peek()) and (ch.isalnum() or ch == "_"):
                self.at += 1
        return self.text[start : self.at]

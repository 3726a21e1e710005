"""Regular expressions as Go has them (RE2's syntax): what Docker takes is taken, and none takes long.

An expression becomes a program of a few instructions; a text goes through it once, with all ways of matching
followed at the same time (Thompson's construction). What a letter makes of a set of places in the program is
remembered, so most letters cost one look into a dict. Only whether there is a match is told, so captures and greed
make no difference.

Syntax: https://pkg.go.dev/regexp/syntax, but for Unicode classes (``\\p{Greek}``), which are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sampan.errors import InvalidParameter

MOST_INSTRUCTIONS = 5000
_MOST_REPEATS = 1000
_MOST_NESTED = 100
_REMEMBERED = 10_000
"""Letters after states."""

_REPETITION = re.compile(r"(?:[*+?]|\{(0|[1-9][0-9]*)(,?)(0|[1-9][0-9]*)?\})\??")
_GROUP = re.compile(r"\((?:\?(?:P?<(?P<name>\w+)>|(?P<on>[imsU]*)(?P<off>-[imsU]+)?(?P<end>[:)])))?")
_QUOTED = re.compile(r"\\Q(.*?)(?:\\E|\Z)", re.DOTALL)
_PLACE = re.compile(r"[\^$]|\\[AzbB]")
_PERL = re.compile(r"\\([dsw])", re.IGNORECASE)
_POSIX = re.compile(r"\[:(\^?)(\w*):\]")
_LETTER = re.compile(
    r"\\(?:x\{(?P<long>[0-9a-fA-F]{1,6})\}|x(?P<hex>[0-9a-fA-F]{2})|(?P<octal>0[0-7]{0,2}|[1-7][0-7]{1,2})"
    r"|(?P<control>[afnrtv])|(?P<sign>[^0-9A-Za-z\x80-\U0010ffff]))|(?P<plain>[^\\])",
    re.DOTALL,
)
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CLASSES = {
    "d": "[0-9]",
    "s": "[\\t\\n\\f\\r ]",
    "w": "[0-9A-Za-z_]",
    "alnum": "[0-9A-Za-z]",
    "alpha": "[A-Za-z]",
    "ascii": "[\\x00-\\x7f]",
    "blank": "[\\t ]",
    "cntrl": "[\\x00-\\x1f\\x7f]",
    "digit": "[0-9]",
    "graph": "[!-~]",
    "lower": "[a-z]",
    "print": "[ -~]",
    "punct": "[!-/:-@\\[-`{-~]",
    "space": "[\\t-\\r ]",
    "upper": "[A-Z]",
    "word": "[0-9A-Za-z_]",
    "xdigit": "[0-9A-Fa-f]",
}


class RegexpError(ValueError):
    """An expression that Go refuses, in its words."""

    def __init__(self, reason: str, part: str) -> None:
        super().__init__(f"error parsing regexp: {reason}: `{part}`")


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of an expression. ``kind``: letter (``text``: a Python expression that matches one), place (``text``:
    which one), sequence, choice, or repeat, of ``parts``. ``copies``: how often a letter of it is written out.
    """

    kind: str
    text: str = ""
    parts: tuple[_Node, ...] = ()
    least: int = 0
    most: int | None = None
    copies: int = 1


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.flags: frozenset[str] = frozenset()
        self.depth = 0
        self.names: set[str] = set()

    def whole(self) -> _Node:
        node = self._choice()
        if self.at < len(self.text):
            raise RegexpError("unexpected )", self.text)
        return node

    def _take(self, what: re.Pattern[str]) -> re.Match[str] | None:
        found = what.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found

    def _sees(self, what: str) -> bool:
        return self.text.startswith(what, self.at)

    def _choice(self) -> _Node:
        branches = [self._sequence()]
        while self._sees("|"):
            self.at += 1
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else _gathered("choice", branches)

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        repeated = -1
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            begin = self.at
            repetition = self._take(_REPETITION)
            if repetition is None:
                repeated = -1
                parts += self._atoms()
                continue
            if not parts:
                raise RegexpError("missing argument to repetition operator", repetition[0])
            if repeated >= 0:
                raise RegexpError("invalid nested repetition operator", self.text[repeated : self.at])
            repeated = begin
            parts[-1] = _repeated(parts[-1], repetition)
        return parts[0] if len(parts) == 1 else _gathered("sequence", parts)

    def _atoms(self) -> list[_Node]:
        if self._sees("("):
            return self._group()
        if quoted := self._take(_QUOTED):
            return [self._letter(re.escape(letter)) for letter in quoted[1]]
        if place := self._take(_PLACE):
            several = "m" in self.flags
            names = {
                "^": "line begins" if several else "text begins",
                "$": "line ends" if several else "text ends",
            }
            names |= {"\\A": "text begins", "\\z": "text ends", "\\b": "border", "\\B": "no border"}
            return [_Node("place", names[place[0]])]
        if self._sees("["):
            return [self._letter(self._class())]
        if self._sees("."):
            self.at += 1
            return [_Node("letter", r"[\s\S]" if "s" in self.flags else r"[^\n]")]
        return [self._letter(self._perl() or re.escape(self._character()))]

    def _letter(self, expression: str) -> _Node:
        return _Node("letter", f"(?i:{expression})" if "i" in self.flags else expression)

    def _group(self) -> list[_Node]:
        begin, flags = self.at, self.flags
        head = self._take(_GROUP)
        if head is None or (head[0] == "(" and self._sees("?")):
            raise RegexpError("invalid or unsupported Perl syntax", self.text[begin : begin + 3])
        if head["name"] in self.names:
            raise RegexpError("duplicate capture name", head["name"])
        self.names |= {head["name"]} - {None}
        self.flags = (flags | set(head["on"] or "")) - set(head["off"] or "")
        if head["end"] == ")":
            return []
        self.depth += 1
        if self.depth > _MOST_NESTED:
            raise InvalidParameter(f"regular expression nests more than {_MOST_NESTED} times")
        node = self._choice()
        self.depth -= 1
        if not self._sees(")"):
            raise RegexpError("missing closing )", self.text)
        self.at += 1
        self.flags = flags
        return [node]

    def _perl(self) -> str:
        """``\\d`` and the like as a Python class, "" when none is here."""
        found = self._take(_PERL)
        return _class(found[1].lower(), found[1].isupper()) if found else ""

    def _character(self) -> str:
        begin = self.at
        found = self._take(_LETTER)
        if found is None:
            if self.text[begin : begin + 2].lower() == "\\p":
                raise InvalidParameter(
                    f"regular expression {self.text!r} has a Unicode class, which are not supported"
                )
            if self.text[begin:] == "\\":
                raise RegexpError("trailing backslash at end of expression", "")
            raise RegexpError("invalid escape sequence", self.text[begin : begin + 2])
        code = int(found["long"] or found["hex"] or "0", 16) or int(found["octal"] or "0", 8)
        if code > 0x10FFFF:
            raise RegexpError("invalid escape sequence", found[0])
        return found["plain"] or found["sign"] or _CONTROL.get(found["control"] or "", chr(code))

    def _class(self) -> str:
        """What stands in brackets, as a Python expression."""
        begin = self.at
        self.at += 1
        negated = self._sees("^")
        self.at += negated
        members: list[str] = []
        while not members or not self._sees("]"):
            if self.at >= len(self.text):
                raise RegexpError("missing closing ]", self.text[begin:])
            members.append(self._posix() or self._perl() or self._range(begin))
        self.at += 1
        union = "|".join(members)
        return rf"(?:(?!{union})[\s\S])" if negated else f"(?:{union})"

    def _posix(self) -> str:
        found = self._take(_POSIX)
        if found is None:
            return ""
        if len(found[2]) == 1 or found[2] not in _CLASSES:
            raise RegexpError("invalid character class range", found[0])
        return _class(found[2], bool(found[1]))

    def _range(self, begin: int) -> str:
        start = self.at
        low = high = self._character()
        if self._sees("-") and not self._sees("-]"):
            self.at += 1
            if self.at >= len(self.text):
                raise RegexpError("missing closing ]", self.text[begin:])
            high = self._character()
        if high < low:
            raise RegexpError("invalid character class range", self.text[start : self.at])
        return f"[{re.escape(low)}-{re.escape(high)}]"


def _class(name: str, negated: bool) -> str:
    return "[^" + _CLASSES[name][1:] if negated else _CLASSES[name]


def _gathered(kind: str, parts: list[_Node]) -> _Node:
    if kind == "choice" and all(one.kind == "letter" for one in parts):
        return _Node("letter", "|".join(f"(?:{one.text})" for one in parts))
    return _Node(kind, parts=tuple(parts), copies=max((one.copies for one in parts), default=1))


def _repeated(part: _Node, sign: re.Match[str]) -> _Node:
    least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(sign[0][0], (-1, None))
    if least < 0:
        # More digits than the limit has are too many in any case.
        least, upper = int(sign[1][:5]), int((sign[3] or "0")[:5])
        most = upper if sign[3] else None if sign[2] else least
    copies = part.copies * max(least, most or 0, 1)
    if copies > _MOST_REPEATS or (most is not None and most < least):
        raise RegexpError("invalid repeat count", sign[0])
    return _Node("repeat", parts=(part,), least=least, most=most, copies=copies)


@dataclass(slots=True)
class _Instruction:
    """``kind``: letter, place (both as in a node), split, or found."""

    kind: str
    letter: re.Pattern[str] | None = None
    place: str = ""
    following: tuple[int, ...] = ()


@dataclass(slots=True)
class _State:
    """Places in the program after a letter (``before``: "" at the text's begin), and what the next letter makes of
    them: another state, True for a match before it, False when none can come any more.
    """

    at: frozenset[int]
    before: str
    next: dict[str, _State | bool] = field(default_factory=dict)


class Regexp:
    """A compiled expression. Raises RegexpError for what is none in Go, InvalidParameter for what is too large
    (`MOST_INSTRUCTIONS`), nests too deeply (100 times) or has Unicode classes.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._program = [_Instruction("found")]
        self._begin = self._emit(_Parser(text).whole(), 0)
        self._looks_back = any(one.place in ("border", "no border", "line begins") for one in self._program)
        self._anchored = self._program[self._begin].place == "text begins"
        self._states: dict[tuple[frozenset[int], str], _State] = {}
        self._known = 0
        self._first = _State(frozenset((self._begin,)), "")

    def search(self, text: str) -> bool:
        """Whether the expression matches anywhere in ``text``."""
        state = self._first
        for letter in text:
            following = state.next.get(letter)
            if following is None:
                following = self._step(state, letter)
            if following is True or following is False:
                return following
            state = following
        return (state.next.get("") or self._step(state, "")) is True

    def _add(self, one: _Instruction) -> int:
        if len(self._program) >= MOST_INSTRUCTIONS:
            raise InvalidParameter("regular expression too large", hint=f"It has {MOST_INSTRUCTIONS} parts.")
        self._program.append(one)
        return len(self._program) - 1

    def _emit(self, node: _Node, after: int) -> int:
        """Instructions for ``node``, the last one first, ``after`` them all; gives the first of them."""
        if node.kind == "letter":
            return self._add(_Instruction("letter", re.compile(node.text), following=(after,)))
        if node.kind == "place":
            return self._add(_Instruction("place", place=node.text, following=(after,)))
        if node.kind == "choice":
            branches = tuple(self._emit(part, after) for part in node.parts)
            return self._add(_Instruction("split", following=branches))
        if node.kind == "repeat":
            return self._emit_repeat(node, after)
        for part in reversed(node.parts):
            after = self._emit(part, after)
        return after

    def _emit_repeat(self, node: _Node, after: int) -> int:
        (part,), end, least = node.parts, after, node.least
        if node.most is None:
            loop = self._add(_Instruction("split"))
            first = self._emit(part, loop)
            self._program[loop].following = (first, end)
            after, least = (first, least - 1) if least else (loop, 0)
        for _ in range((node.most or 0) - least):
            after = self._add(_Instruction("split", following=(self._emit(part, after), end)))
        for _ in range(least):
            after = self._emit(part, after)
        return after

    def _step(self, state: _State, letter: str) -> _State | bool:
        """What ``letter`` ("": the text's end) makes of a state; remembered."""
        if self._known >= _REMEMBERED:
            self._known = 0
            for one in (self._first, *self._states.values()):
                one.next.clear()
            self._states.clear()
        self._known += 1
        following = state.next[letter] = self._after(state, letter)
        return following

    def _after(self, state: _State, letter: str) -> _State | bool:
        waiting, seen, reached = list(state.at), set(state.at), set()
        while waiting:
            one = self._program[waiting.pop()]
            if one.kind == "found":
                return True
            if one.letter is not None:
                if letter and one.letter.fullmatch(letter):
                    reached.add(one.following[0])
            elif one.kind == "split" or _holds(one.place, state.before, letter):
                fresh = [to for to in one.following if to not in seen]
                seen.update(fresh)
                waiting += fresh
        if not self._anchored:
            reached.add(self._begin)
        return self._state(frozenset(reached), letter) if reached and letter else False

    def _state(self, at: frozenset[int], letter: str) -> _State:
        # What a letter was counts only where a place asks for it.
        before = ("_" if _is_word(letter) else letter if letter == "\n" else " ") if self._looks_back else " "
        return self._states.setdefault((at, before), _State(at, before))


def _holds(place: str, before: str, after: str) -> bool:
    """Whether a place is between these letters ("" for the text's ends)."""
    if place in ("border", "no border"):
        return (_is_word(before) != _is_word(after)) == (place == "border")
    if place.endswith("begins"):
        return not before or (place == "line begins" and before == "\n")
    return not after or (place == "line ends" and after == "\n")


def _is_word(letter: str) -> bool:
    return letter == "_" or (letter.isascii() and letter.isalnum())

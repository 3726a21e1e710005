"""What is wrong with a piece of JSON, in the words of Go's ``encoding/json``: clients show and match them.

Only consulted when parsing has failed, so it walks byte by byte and favours exactness over speed.
"""

from __future__ import annotations

import re

TRAILING = "unexpected content after JSON"
_MAX_DEPTH = 10000

_BLANK = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_LITERALS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}
_DIGITS = re.compile(rb"[0-9]+")
_HEX = frozenset(b"0123456789abcdefABCDEF")


class _Fault(Exception):
    """A syntax error; the text is Go's."""


def explain(data: bytes) -> str:
    """The error that Go's decoder reports for ``data``; "" when it is well formed.

    ``TRAILING`` when a whole value is followed by something else.
    """
    try:
        end = _Scanner(data).value()
    except _Fault as fault:
        return str(fault)
    return TRAILING if _BLANK.fullmatch(data, end) is None else ""


def _quote(byte: int) -> str:
    if byte == 0x27:
        return r"'\''"
    special = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 0x5C: r"\\"}
    if byte in special:
        return f"'{special[byte]}'"
    text = chr(byte)
    if text.isprintable():
        return f"'{text}'"
    return f"'\\x{byte:02x}'" if byte < 0x80 else f"'\\u{byte:04x}'"


class _Scanner:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def _peek(self) -> int:
        if self.at >= len(self.data):
            raise _Fault("unexpected EOF")
        return self.data[self.at]

    def _blanks(self) -> None:
        found = _BLANK.match(self.data, self.at)
        self.at = found.end() if found else self.at

    def _fault(self, context: str) -> _Fault:
        return _Fault(f"invalid character {_quote(self._peek())} {context}")

    def value(self) -> int:
        """Scan one whole value, without recursion; the offset behind it."""
        self._blanks()
        if self.at >= len(self.data):
            raise _Fault("EOF")
        open_brackets: list[int] = []
        self._begin(open_brackets)
        while open_brackets:
            self._blanks()
            if open_brackets[-1] == ord("{"):
                self._in_object(open_brackets)
            else:
                self._in_array(open_brackets)
        return self.at

    def _begin(self, open_brackets: list[int]) -> None:
        """A value begins here: a scalar is consumed whole, of a container the bracket and its first part."""
        self._blanks()
        byte = self._peek()
        if byte in b"{[":
            self.at += 1
            open_brackets.append(byte)
            if len(open_brackets) > _MAX_DEPTH:
                raise _Fault("exceeded max depth")
            self._open(byte, open_brackets)
        elif byte == ord('"'):
            self._string()
        elif byte in _LITERALS:
            self._literal(_LITERALS[byte])
        elif byte == ord("-") or byte in b"0123456789":
            self._number()
        else:
            raise self._fault("looking for beginning of value")

    def _open(self, bracket: int, open_brackets: list[int]) -> None:
        self._blanks()
        if self._peek() == (ord("}") if bracket == ord("{") else ord("]")):
            self.at += 1
            open_brackets.pop()
        elif bracket == ord("{"):
            self._key()
            self._begin(open_brackets)
        else:
            self._begin(open_brackets)

    def _key(self) -> None:
        self._blanks()
        if self._peek() != ord('"'):
            raise self._fault("looking for beginning of object key string")
        self._string()
        self._blanks()
        if self._peek() != ord(":"):
            raise self._fault("after object key")
        self.at += 1

    def _in_object(self, open_brackets: list[int]) -> None:
        byte = self._peek()
        if byte == ord("}"):
            self.at += 1
            open_brackets.pop()
        elif byte == ord(","):
            self.at += 1
            self._key()
            self._begin(open_brackets)
        else:
            raise self._fault("after object key:value pair")

    def _in_array(self, open_brackets: list[int]) -> None:
        byte = self._peek()
        if byte == ord("]"):
            self.at += 1
            open_brackets.pop()
        elif byte == ord(","):
            self.at += 1
            self._begin(open_brackets)
        else:
            raise self._fault("after array element")

    def _string(self) -> None:
        self.at += 1
        while True:
            found = _PLAIN.match(self.data, self.at)
            self.at = found.end() if found else self.at
            byte = self._peek()
            if byte == ord('"'):
                self.at += 1
                return
            if byte != ord("\\"):
                raise self._fault("in string literal")
            self.at += 1
            self._escape()

    def _escape(self) -> None:
        byte = self._peek()
        if byte not in b'bfnrt\\/"u':
            raise self._fault("in string escape code")
        self.at += 1
        for _ in range(4 if byte == ord("u") else 0):
            if self._peek() not in _HEX:
                raise self._fault("in \\u hexadecimal character escape")
            self.at += 1

    def _literal(self, word: bytes) -> None:
        for expected in word:
            if self._peek() != expected:
                raise self._fault(f"in literal {word.decode()} (expecting {_quote(expected)})")
            self.at += 1

    def _number(self) -> None:
        if self._peek() == ord("-"):
            self.at += 1
        if self._peek() == ord("0"):
            self.at += 1
        else:
            self._digits("in numeric literal")
        if self.data[self.at : self.at + 1] == b".":
            self.at += 1
            self._digits("after decimal point in numeric literal")
        if self.data[self.at : self.at + 1] in (b"e", b"E"):
            self.at += 1
            if self._peek() in b"+-":
                self.at += 1
            self._digits("in exponent of numeric literal")

    def _digits(self, context: str) -> None:
        self._peek()
        found = _DIGITS.match(self.data, self.at)
        if found is None:
            raise self._fault(context)
        self.at = found.end()

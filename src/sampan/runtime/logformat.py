"""Log records of driver json-file: Docker's lines, written in batches.

One record is ``{"log":"text\\n","stream":"stdout","attrs":{…},"time":"RFC 3339 with nanoseconds"}`` and a
newline. A record whose text lacks the final newline is part of a longer line (over 16 KiB, or flushed while
the line was unfinished). Import-light: monitors load this.
"""

from __future__ import annotations

import time

LONGEST = 16 * 1024  # bytes of text in one record, as Docker has it
HEAD = b'{"log":"'

_STREAMS = {1: b"stdout", 2: b"stderr"}
# As dockerd's own encoder of logs has it: a tab is \u0009, what HTML may take for markup is escaped too.
_FIRST = ((b"\\", b"\\\\"), (b"\0", b"\\u0000"))
_THEN = (
    (b'"', b'\\"'),
    (b"\r", b"\\r"),
    *((bytes((code,)), b"\\u%04x" % code) for code in (*range(1, 10), 11, 12, *range(14, 32), *b"<>&")),
)
_SEPARATORS = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))
# Attributes go through Go's own encoder.
_ATTRIBUTES_THEN = ((b"\t", b"\\t"), (b"\n", b"\\n"), *_THEN)


def timestamp(nanoseconds: int) -> bytes:
    """RFC 3339 in UTC with nanoseconds, trailing zeros cut, as Go's RFC3339Nano."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    return text.encode() + b"Z"


def escape(text: bytes, escapes: tuple[tuple[bytes, bytes], ...] = _THEN) -> bytes:
    """``text`` as the inside of a JSON string, newlines kept; each byte that is no UTF-8 becomes U+FFFD."""
    if text.isascii():
        return _replaced(text, _FIRST + escapes)
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return _replaced_broken(text, escapes)
    return _replaced(text, _FIRST + escapes + _SEPARATORS)


def _replaced_broken(text: bytes, escapes: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """:func:`escape` for what is no UTF-8; in an order in which every step has little to go through."""
    # The codec's mark for a byte that is no UTF-8 is "?": the question marks are NUL meanwhile.
    characters = _replaced(text, _FIRST).replace(b"?", b"\0").decode("utf-8", "surrogateescape")
    separators = _SEPARATORS if "\u2028" in characters or "\u2029" in characters else ()
    text = _replaced(characters.encode("utf-8", "replace"), escapes + separators)
    return text.replace(b"?", b"\\ufffd").replace(b"\0", b"?")


def _replaced(text: bytes, escapes: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for raw, escaped in escapes:
        if raw in text:  # much faster than any single pass over all bytes
            text = text.replace(raw, escaped)
    return text


def json_attributes(attributes: dict[str, str]) -> bytes:
    """The ``"attrs"`` member with its trailing comma, or nothing."""
    if not attributes:
        return b""
    members = []
    for key, value in sorted(attributes.items()):
        pair = [escape(part.encode("utf-8", "replace"), _ATTRIBUTES_THEN) for part in (key, value)]
        members.append(b'"%b":"%b"' % tuple(pair))
    return b'"attrs":{' + b",".join(members) + b"},"


def json_records(text: bytes, stream: int, attributes: bytes, stamp: bytes) -> list[bytes | memoryview]:
    """Records of all lines of ``text``, in pieces to be written one after the other (writev(2)).

    What follows the last newline becomes a partial record. ``attributes`` as :func:`json_attributes` gives
    them, ``stamp`` from :func:`timestamp`. The text is copied only once: a quarter of the time of joining.
    """
    end = b'","stream":"%b",%b"time":"%b"}\n' % (_STREAMS[stream], attributes, stamp)
    body = escape(text).replace(b"\n", b"\\n" + end + HEAD)
    if text.endswith(b"\n"):
        return [HEAD, memoryview(body)[: -len(HEAD)]]
    return [HEAD, body, end]


def fitting(records: bytes, room: int) -> int:
    """Bytes of whole records at the beginning that fit into ``room``; those of the first if it is negative."""
    return (records.find(b"\n") if room < 0 else records.rfind(b"\n", 0, room)) + 1


def pieces(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut ``data`` into texts for :func:`json_records`, no record over LONGEST, and the unfinished rest.

    Text in which every line is short stays in one piece. A longer line is cut at LONGEST, not within a
    UTF-8 character.
    """
    result = []
    begin = position = 0
    total = len(data)
    while total - position > 0:
        window = min(position + LONGEST, total)
        newline = data.rfind(b"\n", position, window)
        if newline >= 0:
            position = newline + 1
            continue
        if total - position < LONGEST:
            break
        if begin < position:
            result.append(data[begin:position])
        cut = _character_boundary(data, position + LONGEST)
        result.append(data[position:cut])
        begin = position = cut
    if begin < position:
        result.append(data[begin:position])
    return result, data[position:]


def _character_boundary(data: bytes, cut: int) -> int:
    """``cut``, or up to three bytes before it where a UTF-8 character begins that would be split."""
    for back in range(1, 4):
        byte = data[cut - back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return cut - back if length > back else cut
        if byte < 0x80:
            break
    return cut

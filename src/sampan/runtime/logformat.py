"""Log record formats: Docker's json-file lines, written in batches.

One record is ``{"log":"text\\n","stream":"stdout","attrs":{…},"time":"RFC 3339 with nanoseconds"}`` and a
newline. A record whose text lacks the final newline is part of a longer line (over 16 KiB, or flushed while
the line was unfinished). Import-light: monitors load this.
"""

from __future__ import annotations

import time

LONGEST = 16 * 1024  # bytes of text in one record, as Docker has it

_STREAMS = {1: b"stdout", 2: b"stderr"}
_CONTROLS = bytes(code for code in range(32) if code != 10)
# Of the controls these are common in terminal output and cheap to replace one by one.
_COMMON = ((b"\t", b"\\t"), (b"\r", b"\\r"), (b"\x1b", b"\\u001b"))


def timestamp(nanoseconds: int) -> bytes:
    """RFC 3339 in UTC with nanoseconds, trailing zeros cut, as Go's RFC3339Nano."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    return text.encode() + b"Z"


def escape(text: bytes) -> bytes:
    """``text`` as the inside of a JSON string, newlines kept; bytes that are no UTF-8 become U+FFFD."""
    if not text.isascii():
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            text = text.decode("utf-8", "replace").encode("utf-8")
    if b"\\" in text:
        text = text.replace(b"\\", b"\\\\")
    if b'"' in text:
        text = text.replace(b'"', b'\\"')
    if len(text.translate(None, _CONTROLS)) != len(text):
        for raw, escaped in _COMMON:
            text = text.replace(raw, escaped)
        for code in _CONTROLS:
            if code in text:
                text = text.replace(bytes((code,)), b"\\u%04x" % code)
    return text


def json_attributes(attributes: dict[str, str]) -> bytes:
    """The ``"attrs"`` member with its trailing comma, or nothing."""
    if not attributes:
        return b""
    members = []
    for key, value in sorted(attributes.items()):
        pair = [escape(part.encode("utf-8", "replace")).replace(b"\n", b"\\n") for part in (key, value)]
        members.append(b'"%b":"%b"' % tuple(pair))
    return b'"attrs":{' + b",".join(members) + b"},"


def json_records(text: bytes, stream: int, attributes: bytes, stamp: bytes) -> bytes:
    """Records of all lines of ``text``; what follows the last newline becomes a partial record.

    ``attributes`` as :func:`json_attributes` gives them, ``stamp`` from :func:`timestamp`.
    """
    end = b'","stream":"%b",%b"time":"%b"}\n' % (_STREAMS[stream], attributes, stamp)
    complete = text.endswith(b"\n")
    body = escape(text[:-1] if complete else text)
    body = body.replace(b"\n", b"\\n" + end + b'{"log":"')
    return b'{"log":"' + body + (b"\\n" if complete else b"") + end


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

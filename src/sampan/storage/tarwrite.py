"""Writing tar members: ustar where the values fit, else pax records in sorted order.

Equal input gives equal bytes: no names of users, no time of writing, whole seconds unless asked otherwise.
"""

from __future__ import annotations

from sampan.storage import tar
from sampan.storage.tar import BLOCK, Entry

END = bytes(2 * BLOCK)
_OCTAL7, _OCTAL11 = 0o7777777, 0o77777777777


def padding(size: int) -> bytes:
    """The zeros that fill ``size`` bytes of payload up to whole blocks."""
    return bytes(-size % BLOCK)


def header(entry: Entry, *, fractions: bool = False) -> bytes:
    """The header blocks of ``entry``; a directory's name gets its slash. ``fractions`` keeps nanoseconds."""
    name = entry.name + b"/" if entry.type == tar.DIRECTORY and not entry.name.endswith(b"/") else entry.name
    records = {
        f"SCHILY.xattr.{key}".encode("utf-8", "surrogateescape"): value for key, value in entry.xattrs.items()
    }
    split = _split(name)
    if split is None:
        records[b"path"] = name
        split = (b"", name[:100])
    if len(entry.linkname) > 100 or not entry.linkname.isascii():
        records[b"linkpath"] = entry.linkname
    seconds, rest = divmod(entry.mtime_ns, 1_000_000_000)
    if (fractions and rest) or not 0 <= seconds <= _OCTAL11:
        records[b"mtime"] = _time(entry.mtime_ns if fractions else seconds * 1_000_000_000)
    for key, value, limit in (
        (b"uid", entry.uid, _OCTAL7),
        (b"gid", entry.gid, _OCTAL7),
        (b"size", entry.size, _OCTAL11),
    ):
        if value > limit:
            records[key] = b"%d" % value
    block = _block(entry, split, entry.type, seconds, entry.size)
    return _pax(name, records) + block if records else block


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name fields, None when ustar can't hold the name."""
    if not name.isascii():
        return None
    if len(name) <= 100:
        return b"", name
    # The slash between the two fields isn't stored; neither part may be empty.
    cut = name.rfind(b"/", 0, min(len(name) - 1, 156))
    if cut <= 0 or len(name) - cut - 1 > 100:
        return None
    return name[:cut], name[cut + 1 :]


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return sign + (b"%d" % seconds + (b".%09d" % rest).rstrip(b"0") if rest else b"%d" % seconds)


def _octal(value: int, width: int) -> bytes:
    """``width - 1`` digits and a NUL; what doesn't fit stands in a pax record and is 0 here."""
    limit = 8 ** (width - 1)
    return b"%0*o\0" % (width - 1, value if 0 <= value < limit else 0)


def _block(entry: Entry, split: tuple[bytes, bytes], kind: bytes, seconds: int, size: int) -> bytes:
    device = kind in (tar.CHAR, tar.BLOCKDEV)
    block = b"".join(
        (
            split[1].ljust(100, b"\0"),
            _octal(entry.mode, 8),
            _octal(entry.uid, 8),
            _octal(entry.gid, 8),
            _octal(size, 12),
            _octal(seconds, 12),
            b"        ",
            kind,
            entry.linkname[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            _octal(entry.major if device else 0, 8),
            _octal(entry.minor if device else 0, 8),
            split[0].ljust(155, b"\0"),
            bytes(12),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax(name: bytes, records: dict[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    base = name.rstrip(b"/").rpartition(b"/")[2]
    label = b"PaxHeaders.0/" + bytes(byte if byte < 128 else 0x5F for byte in base)[:80]
    carrier = Entry(label, b"x")
    carrier.mode = 0o644
    return _block(carrier, (b"", label), b"x", 0, len(data)) + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)

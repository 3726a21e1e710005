"""Reading the rules of iptables-legacy, which nftables doesn't show: getsockopt(2) of <linux/netfilter/x_tables.h>.

Read only, and no table comes into being by the look: the kernel makes one for whoever asks for it, so that only
those are asked for that /proc/net/ip_tables_names has.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import zlib
from dataclasses import dataclass, field

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_ENTRIES_HEAD = 40
_NAME = 32
_TARGET_HEAD = 32
_RETURN = -5
_VERDICTS = {-1: "drop", -2: "accept", -4: "queue", _RETURN: "return"}
_HOOKS = {1: "INPUT", 2: "FORWARD", 3: "OUTPUT"}
_INVALID = 1
_MATCHES_STATE = 1
_TRIES = 3
_COUNTERS = 16  # struct xt_counters, at the end of an entry's head


@dataclass(frozen=True, slots=True)
class _Family:
    """How a family's entries are laid out: struct ipt_entry and struct ip6t_entry."""

    names: str
    domain: int
    level: int
    interfaces: int
    offsets: int
    size: int


_FAMILIES = {
    "ip": _Family("ip_tables_names", socket.AF_INET, socket.SOL_IP, 16, 88, 112),
    "ip6": _Family("ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, 64, 140, 168),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``verdict`` is accept, drop, queue, return, "" (goes on), the chain it jumps to, or a target
    (REJECT, LOG …). ``plain``: no condition at all; ``invalid``: only for packets of no known connection.
    """

    verdict: str
    jump: bool = False
    inside: str = ""
    outside: str = ""
    plain: bool = False
    invalid: bool = False


@dataclass(slots=True)
class Chain:
    """A chain and its rules; ``policy`` is "" for those that others jump to."""

    name: str
    policy: str = ""
    rules: list[Rule] = field(default_factory=list)


def present(family: str, table: str) -> bool:
    """Whether the calling thread's network namespace has a legacy table; ``family`` is ip or ip6."""
    with contextlib.suppress(OSError), open(f"/proc/thread-self/net/{_FAMILIES[family].names}") as names:
        return table in names.read().split()
    return False


def read(family: str, table: str = "filter") -> list[Chain]:
    """The chains of a legacy table of the calling thread's namespace; none without it. OSError (CAP_NET_ADMIN)."""
    if not present(family, table):
        return []
    form = _FAMILIES[family]
    info, raw = _entries(form, table)
    return parse(form, raw, info[2:7], info[7:12])


def fingerprint(family: str, table: str = "filter") -> int:
    """A number that is another one when a legacy table has other rules, whatever they have counted. OSError.

    0 without the table.
    """
    if not present(family, table):
        return 0
    form = _FAMILIES[family]
    info, raw = _entries(form, table)
    view, number = memoryview(raw), zlib.crc32(repr(info[2:12]).encode())
    for offset, following in _bounds(form, raw):
        number = zlib.crc32(view[offset : offset + form.size - _COUNTERS], number)
        number = zlib.crc32(view[offset + form.size : following], number)
    return number or 1


def _entries(form: _Family, table: str) -> tuple[tuple[int, ...], bytes]:
    """What the kernel says of a table (struct ipt_getinfo), and its entries."""
    with socket.socket(form.domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for attempt in range(_TRIES):
            info = _INFO.unpack(_getsockopt(sock, form.level, _GET_INFO, table, _INFO.size))
            size = info[-1]
            asked = table.encode().ljust(_NAME, b"\0") + struct.pack("=I", size)
            try:
                raw = _getsockopt(sock, form.level, _GET_ENTRIES, asked, _ENTRIES_HEAD + size)
            except BlockingIOError:  # changed between the two questions
                if attempt + 1 == _TRIES:
                    raise
                continue
            return info, raw[_ENTRIES_HEAD:]
    raise AssertionError  # the last try has returned or raised


def _getsockopt(sock: socket.socket, level: int, option: int, asked: str | bytes, size: int) -> bytes:
    """As getsockopt(2) where the question stands in the buffer, which Python's own can't say."""
    question = asked.encode() if isinstance(asked, str) else asked
    buffer = ctypes.create_string_buffer(question.ljust(size, b"\0"), size)
    length = ctypes.c_uint(size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "reading the rules of iptables-legacy")
    return buffer.raw


def parse(form: _Family, raw: bytes, entries: tuple[int, ...], policies: tuple[int, ...]) -> list[Chain]:
    """The chains in a table's bytes. ``entries``, ``policies``: the offsets where hooks' chains begin and end."""
    starts = {entries[hook]: Chain(name) for hook, name in _HOOKS.items() if entries[hook] < len(raw)}
    ends = {policies[hook]: starts[entries[hook]] for hook in _HOOKS if entries[hook] in starts}
    bounds = _bounds(form, raw)
    for offset, following in bounds:
        target = offset + struct.unpack_from("=H", raw, offset + form.offsets)[0]
        if _text(raw, target + 2, 29) == "ERROR" and following < len(raw):
            starts[following] = Chain(_text(raw, target + _TARGET_HEAD, 30))
    chains: list[Chain] = []
    for offset, following in bounds:
        if offset in starts:
            chains.append(starts[offset])
        target = offset + struct.unpack_from("=H", raw, offset + form.offsets)[0]
        if not chains or _text(raw, target + 2, 29) == "ERROR":
            continue
        rule = _rule(form, raw, offset, target, following, starts)
        if offset in ends:
            ends[offset].policy = rule.verdict
        else:
            chains[-1].rules.append(rule)
    return chains


def _bounds(form: _Family, raw: bytes) -> list[tuple[int, int]]:
    found, offset = [], 0
    while offset + form.size <= len(raw):
        (step,) = struct.unpack_from("=H", raw, offset + form.offsets + 2)
        if step < form.size:
            break
        found.append((offset, offset + step))
        offset += step
    return found


def _rule(
    form: _Family, raw: bytes, offset: int, target: int, following: int, starts: dict[int, Chain]
) -> Rule:
    conditions = raw[offset : offset + form.offsets - 4]
    matches = raw[offset + form.size : target]
    interfaces = offset + form.interfaces
    verdict, jump = _text(raw, target + 2, 29), False
    if not verdict:
        (number,) = struct.unpack_from("=i", raw, target + _TARGET_HEAD)
        verdict = _VERDICTS.get(number, "")
        if number >= 0 and number != following and number in starts:
            verdict, jump = starts[number].name, True
    return Rule(
        verdict,
        jump,
        _text(raw, interfaces, 16),
        _text(raw, interfaces + 16, 16),
        plain=not any(conditions) and all(name == "comment" for name, _data in _matches(matches)),
        invalid=any(_only_invalid(name, data) for name, data in _matches(matches)),
    )


def _matches(raw: bytes) -> list[tuple[str, bytes]]:
    found, offset = [], 0
    while offset + _TARGET_HEAD <= len(raw):
        (size,) = struct.unpack_from("=H", raw, offset)
        if size < _TARGET_HEAD:
            break
        found.append((_text(raw, offset + 2, 29), raw[offset + _TARGET_HEAD : offset + size]))
        offset += size
    return found


def _only_invalid(name: str, data: bytes) -> bool:
    """Whether a match (xt_state_info, xt_conntrack_mtinfo3) is for the state INVALID and no other."""
    if name == "state" and len(data) >= 4:
        return bool(struct.unpack_from("=I", data)[0] == _INVALID)
    if name == "conntrack" and len(data) >= 152:
        wanted, inverted, states = struct.unpack_from("=3H", data, 146)
        return bool(wanted & _MATCHES_STATE and not inverted & _MATCHES_STATE and states == _INVALID)
    return False


def _text(raw: bytes, offset: int, size: int) -> str:
    return raw[offset : offset + size].partition(b"\0")[0].decode(errors="replace")

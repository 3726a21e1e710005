"""Netlink sockets and messages, netlink(7): build, send in one batch, read the answers.

A batch is one ``sendmsg``: the kernel works through its messages in order and acknowledges each. It isn't a
transaction: a message that fails doesn't undo the ones before it. What the families say (rtnetlink(7),
ctnetlink, nftables events) stands in the modules beside this one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_NLM_F_DUMP_INTR = 0x10

_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NETLINK_CAP_ACK = 10
_NETLINK_NO_ENOBUFS = 5

_HEAD = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_DUMP_TRIES = 5


class Message(NamedTuple):
    """One message to send: its type (RTM_NEWLINK …), NLM_F_* flags and everything behind the header.

    ``optional``: that the kernel refuses it is no error.
    """

    kind: int
    flags: int
    body: bytes
    optional: bool = False


class Reply(NamedTuple):
    """One message received."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class NetlinkError(OSError):
    """The kernel refused a message of a batch. ``index``: its place there; ``detail``: the kernel's words."""

    def __init__(self, number: int, detail: str, index: int) -> None:
        super().__init__(number, f"{os.strerror(number)}{f': {detail}' if detail else ''}")
        self.detail = detail
        self.index = index


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute (nlattr), padded to four bytes."""
    length = _ATTR.size + len(payload)
    return _ATTR.pack(length, kind) + payload + b"\0" * (-length % 4)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a name, NUL-terminated."""
    return attribute(kind, os.fsencode(value) + b"\0")


def number(kind: int, value: int, form: str = "I") -> bytes:
    """An attribute that holds an integer in the machine's order; ``form`` as in struct (I, H, B, i)."""
    return attribute(kind, struct.pack(f"={form}", value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, payload) pairs in ``data``; flags are taken off the types, a broken tail is ignored."""
    position = 0
    while position + _ATTR.size <= len(data):
        length, kind = _ATTR.unpack_from(data, position)
        if length < _ATTR.size or position + length > len(data):
            return
        yield kind & _NLA_TYPE_MASK, data[position + _ATTR.size : position + length]
        position += (length + 3) & ~3


class Netlink:
    """A netlink socket in the network namespace of the thread that makes it; usable from any thread after.

    Not locked: one user at a time. ``groups`` are multicast group numbers to listen to.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE, groups: tuple[int, ...] = ()) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._socket.bind((0, 0))
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, 1, group)
            if groups:
                # A burst that doesn't fit is no error: whoever listens looks at the whole state anyway.
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[0]
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, *messages: Message) -> list[bytes]:
        """Send all in one batch, wait for every acknowledgement; the bodies of answers that came besides.

        Raises NetlinkError for the first message that was refused (the others were tried all the same).
        """
        first = self._sequence + 1
        self._socket.send(b"".join(self._encode(message, NLM_F_ACK) for message in messages))
        waiting = len(messages)
        answers: list[bytes] = []
        failure: NetlinkError | None = None
        while waiting:
            for reply in self._receive():
                if reply.sequence < first:
                    continue
                if reply.kind != _NLMSG_ERROR:
                    answers.append(reply.body)
                    continue
                waiting -= 1
                index = reply.sequence - first
                if failure is None and not messages[index].optional:
                    failure = _failure(reply, index)
        if failure is not None:
            raise failure
        return answers

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All objects of a kind: the bodies of the answers. Repeated when the table changed meanwhile."""
        for _ in range(_DUMP_TRIES):
            bodies, interrupted = self._dump_once(kind, body)
            if not interrupted:
                break
        return bodies

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._socket.send(self._encode(Message(kind, NLM_F_DUMP, body), 0))
        bodies: list[bytes] = []
        sequence, interrupted = self._sequence, False
        while True:
            for reply in self._receive():
                if reply.sequence != sequence:
                    continue
                interrupted = interrupted or bool(reply.flags & _NLM_F_DUMP_INTR)
                if reply.kind == _NLMSG_DONE:
                    return bodies, interrupted
                if reply.kind == _NLMSG_ERROR:
                    failure = _failure(reply, 0)
                    if failure is not None:
                        raise failure
                    return bodies, interrupted
                bodies.append(reply.body)

    def events(self) -> list[Reply]:
        """The multicast messages that wait; never blocks."""
        try:
            return list(_parse(self._socket.recv(1 << 17, socket.MSG_DONTWAIT)))
        except OSError as failure:
            if failure.errno in (errno.EAGAIN, errno.ENOBUFS):
                return []
            raise

    def _encode(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        length = _HEAD.size + len(message.body)
        head = _HEAD.pack(length, message.kind, message.flags | flags | NLM_F_REQUEST, self._sequence, 0)
        return head + message.body + b"\0" * (-length % 4)

    def _receive(self) -> Iterator[Reply]:
        return _parse(self._socket.recv(1 << 17))


def _parse(data: bytes) -> Iterator[Reply]:
    position = 0
    while position + _HEAD.size <= len(data):
        length, kind, flags, sequence, _port = _HEAD.unpack_from(data, position)
        if length < _HEAD.size:
            return
        yield Reply(kind, flags, sequence, data[position + _HEAD.size : position + length])
        position += (length + 3) & ~3


def _failure(reply: Reply, index: int) -> NetlinkError | None:
    code = -struct.unpack_from("=i", reply.body)[0]
    if code == 0:
        return None
    detail = ""
    if reply.flags & _NLM_F_ACK_TLVS:
        echoed = _HEAD.size if reply.flags & _NLM_F_CAPPED else struct.unpack_from("=I", reply.body, 4)[0]
        for kind, payload in attributes(reply.body[4 + ((echoed + 3) & ~3) :]):
            if kind == _NLMSGERR_ATTR_MSG:
                detail = payload.rstrip(b"\0").decode(errors="replace")
    return NetlinkError(code, detail, index)

"""Published ports: what was asked for, which host port it becomes, and the sockets that hold it.

A port is held by bound sockets, as for any program of the host: a conflict is an error when the container
starts, never a rule that silently loses. TCP sockets listen at once: what holds the port
also answers.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sampan.errors import InvalidParameter, SystemFailure

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": 132}
ANY = {4: "0.0.0.0", 6: "::"}
_BACKLOG = 4096
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One binding asked for. ``host_ip`` "" means every address; ``first`` 0 means any free port."""

    port: int
    protocol: str
    host_ip: str = ""
    first: int = 0
    last: int = 0

    def hosts(self, versions: Sequence[int]) -> list[str]:
        """The host's addresses to bind, of these IP versions."""
        if self.host_ip:
            return [self.host_ip] if (6 if ":" in self.host_ip else 4) in versions else []
        return [ANY[version] for version in versions]


@dataclass(frozen=True, slots=True)
class Published:
    """One binding as it is. ``host_ip`` is an address, 0.0.0.0 or ``::``."""

    port: int
    protocol: str
    host_ip: str
    host_port: int

    @property
    def key(self) -> str:
        """The key in Docker's PortMap."""
        return f"{self.port}/{self.protocol}"


def parse_port(text: str) -> tuple[int, str]:
    """``80/tcp`` (or ``80``, tcp) as (port, protocol). InvalidParameter with the words of dockerd."""
    number, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid port '{text}': unknown protocol {protocol!r}")
    if not number.isascii() or not number.isdigit():
        raise InvalidParameter(f"invalid port '{number}': invalid syntax")
    if int(number) > 65535:
        raise InvalidParameter(f"invalid port '{number}': value out of range")
    return int(number), protocol


def parse_host_port(text: str) -> tuple[int, int]:
    """``8080``, ``8000-8010`` or "" as (first, last); (0, 0) is any free port. InvalidParameter else."""
    if text in ("", "0"):
        return 0, 0
    found = _RANGE.fullmatch(text)
    if not found:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    first, last = int(found[1]), int(found[2] or found[1])
    if not 0 < first <= last <= 65535:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return first, last


def _host_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise InvalidParameter(f"invalid IP address in port mapping: {text}") from None


def plan(
    bindings: Mapping[str, Sequence[Mapping[str, str]] | None],
    exposed: Iterable[str] = (),
    *,
    publish_all: bool = False,
    default_ip: str = "",
) -> list[Wanted]:
    """What HostConfig.PortBindings, ExposedPorts and PublishAllPorts ask for, sorted by container port.

    ``default_ip`` stands in for an empty HostIp. InvalidParameter for what isn't a port or an address.
    """
    result: list[Wanted] = []
    for key, wanted in bindings.items():
        port, protocol = parse_port(key)
        for binding in wanted or [{}]:
            first, last = parse_host_port(binding.get("HostPort") or "")
            address = _host_address(binding.get("HostIp") or "") or default_ip
            result.append(Wanted(port, protocol, address, first, last))
    if publish_all:
        known = {(item.port, item.protocol) for item in result}
        for key in exposed:
            port, protocol = parse_port(key)
            if (port, protocol) not in known:
                result.append(Wanted(port, protocol, default_ip))
    return sorted(result, key=lambda item: (item.port, item.protocol, item.host_ip, item.first))


def port_map(published: Iterable[Published]) -> dict[str, list[dict[str, str]]]:
    """NetworkSettings.Ports of published ports."""
    result: dict[str, list[dict[str, str]]] = {}
    for item in published:
        result.setdefault(item.key, []).append({"HostIp": item.host_ip, "HostPort": str(item.host_port)})
    return result


@dataclass(slots=True)
class Reserved:
    """A port of the host and the socket that holds it; closing the socket gives the port up."""

    published: Published
    socket: socket.socket


class Reservations:
    """All ports that the engine's containers hold. Not locked: for the event loop."""

    def __init__(self, random_range: tuple[int, int] | None = None) -> None:
        self._range = random_range or local_port_range()
        self._next = self._range[0]
        # Who holds a port, by protocol and IP version, on which addresses.
        self._owned: dict[tuple[int, str, bool], dict[str, str]] = {}

    def reserve(
        self, wanted: Iterable[Wanted], owner: str, versions: Sequence[int] = (4, 6)
    ) -> list[Reserved]:
        """Bind all or none. SystemFailure (500) with dockerd's words for a port that is taken.

        Only addresses of these IP versions are bound.
        """
        able = [version for version in versions if version == 4 or has_ipv6()]
        with contextlib.ExitStack() as undo:
            result: list[Reserved] = []
            undo.callback(lambda: self.release(result))
            for item in wanted:
                hosts = item.hosts(versions if item.host_ip else able)
                if hosts:
                    result += self._reserve(item, owner, hosts)
            undo.pop_all()
        return result

    def adopt(self, published: Iterable[Published], owner: str) -> None:
        """Note ports that another process already holds for us (after a restart of the engine)."""
        for item in published:
            self._owned.setdefault(_place(item), {})[item.host_ip] = owner

    def release(self, reserved: Iterable[Reserved]) -> None:
        """Give ports up and close their sockets; a second time does nothing."""
        for item in reserved:
            item.socket.close()
            self.disown([item.published])

    def disown(self, published: Iterable[Published]) -> None:
        """Forget ports whose sockets are held elsewhere."""
        for item in published:
            holders = self._owned.get(_place(item), {})
            holders.pop(item.host_ip, None)
            if not holders:
                self._owned.pop(_place(item), None)

    def _reserve(self, wanted: Wanted, owner: str, hosts: Sequence[str]) -> list[Reserved]:
        failure: SystemFailure | None = None
        for port in self._candidates(wanted):
            try:
                return self._bind_all(wanted, port, owner, hosts)
            except SystemFailure as refused:
                failure = failure or refused
                if not isinstance(refused, _Taken):
                    break
        if failure is not None:
            raise failure
        raise SystemFailure("all ports are allocated", hint="Widen net.ipv4.ip_local_port_range.")

    def _candidates(self, wanted: Wanted) -> Iterator[int]:
        if wanted.first:
            yield from range(wanted.first, wanted.last + 1)
            return
        first, last = self._range
        start = self._next
        for port in [*range(start, last + 1), *range(first, start)]:
            self._next = port + 1 if port < last else first
            yield port

    def _bind_all(self, wanted: Wanted, port: int, owner: str, hosts: Sequence[str]) -> list[Reserved]:
        with contextlib.ExitStack() as undo:
            result: list[Reserved] = []
            undo.callback(lambda: self.release(result))
            for host in hosts:
                published = Published(wanted.port, wanted.protocol, host, port)
                self._check_own(published, owner)
                result.append(Reserved(published, bind(published)))
                self.adopt([published], owner)
            undo.pop_all()
        return result

    def _check_own(self, item: Published, asker: str) -> None:
        for host, owner in self._owned.get(_place(item), {}).items():
            who = "This container publishes it twice: leave one out"
            if owner != asker:
                who = f"Container {owner[:12]} has it: stop that one"
            if host == item.host_ip or ANY[6 if ":" in host else 4] in (host, item.host_ip):
                raise _Taken(
                    f"Bind for {_show(item.host_ip)}:{item.host_port} failed: port is already allocated",
                    hint=f"{who}, or publish another host port.",
                )


def _place(item: Published) -> tuple[int, str, bool]:
    return item.host_port, item.protocol, ":" in item.host_ip


class _Taken(SystemFailure):
    """A port that somebody holds: for a range, the next one is tried."""


def bind(item: Published) -> socket.socket:
    """The socket that holds a port. SystemFailure with dockerd's words when the kernel refuses."""
    family = socket.AF_INET6 if ":" in item.host_ip else socket.AF_INET
    kind = socket.SOCK_DGRAM if item.protocol == "udp" else socket.SOCK_STREAM
    what = f"{_show(item.host_ip)}:{item.host_port}/{item.protocol}"
    try:
        result = socket.socket(
            family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, PROTOCOLS[item.protocol]
        )
    except OSError as failure:
        raise SystemFailure(
            f"failed to bind host port {what}: {_go_words(failure)}", hint=_bind_hint(failure, item)
        ) from failure
    try:
        if family == socket.AF_INET6:
            result.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        result.bind((item.host_ip, item.host_port))
        if kind == socket.SOCK_STREAM:
            result.listen(_BACKLOG)
    except OSError as failure:
        result.close()
        raise _Taken(
            f"failed to bind host port {what}: {_go_words(failure)}",
            hint=_bind_hint(failure, item),
        ) from failure
    return result


def _bind_hint(failure: OSError, item: Published) -> str:
    if failure.errno == errno.EADDRNOTAVAIL:
        return f"{item.host_ip} is no address of this machine; ip addr lists those it has."
    if failure.errno == errno.EADDRINUSE:
        return f"See who has it: ss -lp 'sport = {item.host_port}'; or publish another host port."
    if failure.errno == errno.EMFILE:
        return (
            "Each port takes a descriptor: start the engine with more (ulimit -n, LimitNOFILE= of its unit)."
        )
    return ""


def _show(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _go_words(failure: OSError) -> str:
    words = os.strerror(failure.errno or 0)
    return words[:1].lower() + words[1:]


def has_ipv6() -> bool:
    """Whether this host speaks IPv6 at all."""
    try:
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6") as file:
            return file.read().strip() == "0"
    except OSError:
        return False


def local_port_range() -> tuple[int, int]:
    """Where the kernel takes ephemeral ports from, and Docker random host ports."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            first, last = file.read().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 32768, 60999

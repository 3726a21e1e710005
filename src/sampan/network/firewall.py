"""The engine's nftables table: what it holds, and changing it in transactions.

One table of family inet per engine, named after its default bridge. Its rules never change with networks and
containers: facts are elements of sets and maps, so a network or a published port costs one element each, and
the whole table can be made anew from what the engine knows at any time (after ``nft flush ruleset``). What
it says stands in :mod:`sampan.network.tabletext`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.kernel.nft import Nft, NftError
from sampan.network.ports import ANY, PROTOCOLS
from sampan.network.tabletext import FAMILY, short_cut_text, table_text, tell_text

log = logging.getLogger(__name__)
PREFIX = "sampan_"


def table_name(engine: str) -> str:
    """The name of an engine's table; engines are told apart by their default bridges, see engine.networks."""
    return PREFIX + re.sub(r"[^A-Za-z0-9_]", "_", engine)


@dataclass(frozen=True, slots=True)
class Segment:
    """One bridge network as the firewall sees it. Subnets are CIDR texts."""

    bridge: str
    subnets: tuple[str, ...]
    masquerade: bool = True
    internal: bool = False
    icc: bool = True
    # Addresses that replace masquerading, by IP version (host_ipv4, host_ipv6).
    snat: tuple[str, ...] = ()
    # IP versions in which every port is reachable from outside ("nat-unprotected"), and those without address
    # translation, in which published ports are reachable at the container's own address ("routed").
    open: tuple[int, ...] = ()
    routed: tuple[int, ...] = ()
    # Interfaces of the host from which published ports are reached at the container's own address, too.
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A published port: what arrives at host_ip:host_port goes to target:target_port."""

    protocol: str
    host_ip: str
    host_port: int
    target: str
    target_port: int


Elements = dict[str, list[str]]


def _version(text: str) -> int:
    return 6 if ":" in text else 4


def segment_elements(segment: Segment) -> Elements:
    """The elements that stand for a network, by set."""
    bridge = f'"{segment.bridge}"'
    result: Elements = {"bridges": [bridge]}
    if segment.icc:
        result["same"] = [f"{bridge} . {bridge}"]
    if segment.internal:
        result["internal"] = [bridge]
    if segment.trusted:
        result["trusted"] = [f'"{interface}" . {bridge}' for interface in segment.trusted]
    for version in segment.open:
        result.setdefault(f"open{version}", []).append(bridge)
    for version in segment.routed:
        result.setdefault(f"routed{version}", []).append(bridge)
    for subnet in segment.subnets:
        version = _version(subnet)
        result.setdefault(f"own{version}", []).append(f"{subnet} . {bridge}")
        if segment.internal or not segment.masquerade or version in segment.routed:
            continue
        address = next((item for item in segment.snat if _version(item) == version), "")
        if address:
            result.setdefault(f"snat{version}", []).append(f"{subnet} : {address}")
        else:
            result.setdefault(f"masq{version}", []).append(subnet)
    return result


def forwarded_element(item: Forwarded) -> tuple[str, str] | None:
    """The map and the element of a published port; None where only the listener can serve it.

    That is so where the families differ, and for ::1: IPv6 routes nothing from loopback elsewhere.
    """
    version = _version(item.host_ip)
    if _version(item.target) != version or item.host_ip == "::1":
        return None
    value = f"{item.target} . {item.target_port}"
    protocol = PROTOCOLS[item.protocol]  # nft knows names only where there is an /etc/protocols
    if item.host_ip == ANY[version]:
        return f"any{version}", f"{protocol} . {item.host_port} : {value}"
    return f"to{version}", f"{item.host_ip} . {protocol} . {item.host_port} : {value}"


def held_elements(items: Iterable[Forwarded]) -> Elements:
    """What is closed to some: host ports to internal networks, those on 127.0.0.0/8 to whoever isn't the host."""
    near: dict[str, None] = {}
    held: dict[str, None] = {}
    for item in items:
        port = f"{PROTOCOLS[item.protocol]} . {item.host_port}"
        if item.host_ip.startswith("127."):
            near[f"{item.host_ip} . {port}"] = None
        elif item.host_ip != "::1":
            held[port] = None
    return {"near": list(near), "held": list(held)}


def _commands(verb: str, table: str, elements: Elements) -> str:
    return "".join(
        f"{verb} element {FAMILY} {table} {name} {{ {', '.join(items)} }}\n"
        for name, items in elements.items()
        if items
    )


def _join(parts: Iterable[Elements]) -> Elements:
    result: Elements = {}
    for part in parts:
        for name, items in part.items():
            result.setdefault(name, []).extend(items)
    return result


def _key(element: Mapping[str, Any]) -> str:
    return " . ".join(str(part) for part in element["val"]["concat"])


def _kept(element: Mapping[str, Any]) -> str:
    """An element as nft's JSON has it, to be added again."""
    counter = element.get("counter")
    count = f" counter packets {counter['packets']} bytes {counter['bytes']}" if counter else ""
    return f"{_key(element)}{count} timeout {element['timeout']}s expires {max(1, element['expires'])}s"


@dataclass(slots=True)
class Firewall:
    """The table of one engine and what it is meant to hold. For the event loop; calls take 0.1 to 2 ms."""

    table: str
    nft: Nft
    short_cut: bool = True
    # Whether there is to be a table at all (--iptables); without one only the listeners publish ports.
    enabled: bool = True
    mark: str = ""
    _segments: dict[str, Segment] = field(default_factory=dict)
    _forwarded: dict[Forwarded, None] = field(default_factory=dict)
    _owned: dict[str, Elements] = field(default_factory=dict)
    present: bool = False
    _log_group: int = 0

    def reset(self) -> None:
        """Make the table anew from what it is meant to hold. NftError when nftables refuses."""
        if not self.enabled:
            return
        text = f"add table {FAMILY} {self.table}\ndelete table {FAMILY} {self.table}\n"
        text += table_text(self.table, self.mark) + short_cut_text(self.table, self.short_cut)
        elements = _join(
            [
                *(segment_elements(item) for item in self._segments.values()),
                *self._owned.values(),
                self._forwarded_elements(self._forwarded),
                held_elements(self._forwarded),
            ]
        )
        self.nft.run(text + _commands("add", self.table, elements) + self._learned())
        self.present = True
        self._have_told()

    def set_log_group(self, group: int) -> None:
        """Have refused connections told to a group of nfnetlink_log from now on."""
        self._log_group = group
        self._have_told()

    def _have_told(self) -> None:
        if self._log_group and self.present:
            try:
                self.nft.run(tell_text(self.table, self._log_group))
            except NftError as failure:  # a kernel without nft_log: they are still counted
                log.warning("refused connections can't be logged: %s", failure)

    def _learned(self) -> str:
        """Commands that keep what names have opened and what was refused, for the rest of its time."""
        return "".join(
            f"add element {FAMILY} {self.table} {name} {{ {_kept(element)} }}\n"
            for name, element in self._learned_elements()
        )

    def _learned_elements(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in ("pin4", "pin6", "pinport4", "pinport6", "refused4", "refused6"):
            with contextlib.suppress(NftError):
                for item in self.nft.query(f"list set {FAMILY} {self.table} {name}"):
                    for element in item.get("set", {}).get("elem", []):
                        yield name, element["elem"]

    def forget(self) -> None:
        """Mean to hold nothing."""
        for known in (self._segments, self._forwarded, self._owned):
            known.clear()

    def exists(self) -> bool:
        """Whether the table is in the kernel (another program may have flushed it)."""
        if not self.enabled:
            return True
        try:
            self.nft.run(f"list chain {FAMILY} {self.table} forward")
        except NftError:
            return False
        return True

    def remove(self) -> None:
        """Take the table out of the kernel; a missing one is no error."""
        with contextlib.suppress(NftError):
            self.nft.run(f"delete table {FAMILY} {self.table}")
        self.present = False

    @staticmethod
    def _forwarded_elements(items: Iterable[Forwarded]) -> Elements:
        result: Elements = {}
        for item in items:
            element = forwarded_element(item)
            if element is not None:
                result.setdefault(element[0], []).append(element[1])
        return result

    def add_segment(self, segment: Segment) -> None:
        """Know a network; one of the same bridge is replaced."""
        old = self._segments.get(segment.bridge)
        if old == segment:
            return
        if old is not None:
            self.remove_segment(segment.bridge)
        self._segments[segment.bridge] = segment
        self._change("add", segment_elements(segment))

    def remove_segment(self, bridge: str) -> None:
        """Forget a network; an unknown one is no error."""
        segment = self._segments.pop(bridge, None)
        if segment is not None:
            self._change("delete", segment_elements(segment))

    def publish(self, items: Iterable[Forwarded]) -> None:
        """Lead published ports to their containers, in one transaction."""
        new = [item for item in items if item not in self._forwarded]
        self._forwarded.update(dict.fromkeys(new))
        self._change("add", _join([self._forwarded_elements(new), held_elements(new)]))

    def withdraw(self, items: Iterable[Forwarded]) -> None:
        """Take published ports away; unknown ones are no error."""
        old = [item for item in items if item in self._forwarded]
        for item in old:
            del self._forwarded[item]
        # A port may be held on several addresses.
        left = {name: frozenset(items) for name, items in held_elements(self._forwarded).items()}
        gone = {
            name: [one for one in items if one not in left[name]]
            for name, items in held_elements(old).items()
        }
        self._change("delete", _join([self._forwarded_elements(old), gone]))

    def set_owned(self, owner: str, elements: Elements) -> None:
        """What somebody has of his own in the sets (egress control of a container, a link); {} ends it."""
        old = self._owned.pop(owner, None)
        if old == elements and elements:
            self._owned[owner] = elements
            return
        if old:
            self._change("delete", old)
        if elements:
            self._owned[owner] = elements
            try:
                self._change("add", elements)
            except NftError:
                del self._owned[owner]  # what is refused shall not stand in others' way
                raise

    def forget_learned(self, addresses: Container[str]) -> None:
        """Forget what names have opened for these containers' addresses, and what was refused to them."""
        commands = ""
        for name, element in self._learned_elements():
            if element["val"]["concat"][0] in addresses:
                head = f"element {FAMILY} {self.table} {name} {{ {_key(element)} }}\n"
                commands += f"add {head}delete {head}"  # it may have ended by itself: then nothing is refused
        if commands:
            self.nft.run(commands)

    def set_short_cut(self, on: bool) -> None:
        """Lay the short cut to published ports or take it away, for new connections."""
        if on != self.short_cut:
            self.short_cut = on
            if self.present:
                self._run(short_cut_text(self.table, on))

    @property
    def bridges(self) -> tuple[str, ...]:
        """The bridges of all known networks that may send out."""
        return tuple(name for name, segment in self._segments.items() if not segment.internal)

    def _change(self, verb: str, elements: Elements) -> None:
        commands = _commands(verb, self.table, elements)
        if commands and self.present:
            self._run(commands)

    def _run(self, commands: str) -> None:
        try:
            self.nft.run(commands)
        except NftError:
            # The table was flushed, or holds what it shouldn't: what we mean to have is the truth.
            self.reset()

"""Parents of macvlan and ipvlan networks: checked, and made where Docker makes them."""

from __future__ import annotations

import os

from sampan.errors import SystemFailure
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Message, Netlink


def ensure_parent(route: Netlink, driver: str, parent: str, network_id: str) -> tuple[str, bool]:
    """The parent link of a network and whether we made it.

    Without ``parent`` a dummy ``dm-<id>`` leads nowhere; ``eth0.10`` is made as a vlan of eth0. SystemFailure
    (500) with dockerd's words when that can't be.
    """
    if parent == "lo":
        raise SystemFailure(f"loopback interface is not a valid {driver} parent link")
    name = parent or f"dm-{network_id[:12]}"
    if rt.find_link(route, name) is not None:
        return name, False
    if not parent:
        _send(route, rt.add_dummy(name))
        return name, True
    lower, dot, tag = parent.rpartition(".")
    if not dot or not tag.isdigit() or not 0 < int(tag) < 4095:
        raise SystemFailure(
            f"invalid subinterface vlan name {parent}, example formatting is eth0.10",
            hint=f"There is no interface {parent}: see ip link.",
        )
    found = rt.find_link(route, lower)
    if found is None:
        raise SystemFailure(f"failed to find master interface {lower} on the Docker host")
    _send(route, rt.add_vlan(parent, found.index, int(tag)))
    return parent, True


def _send(route: Netlink, message: Message) -> None:
    try:
        route.send(message)
    except OSError as failure:
        words = os.strerror(failure.errno or 0).lower()
        raise SystemFailure(words, hint="The kernel lacks the driver: is its module there?") from failure


def remove_parent(route: Netlink, name: str) -> None:
    """Remove a parent that we made; a missing one is no error."""
    found = rt.find_link(route, name)
    if found is not None:
        route.send(rt.delete_link(found.index))

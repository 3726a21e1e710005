"""What containers under egress control reach, and what is told of the rest."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time

import pytest

from sampan.engine.networks import CreateNetwork
from tests.network.lab import DNS, ECHO, SHUT, Lab, aask, in_lab, lookup, soon

pytestmark = pytest.mark.usefixtures("machine")


@in_lab()
async def test_egress_control(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "open")
    outside.app(ECHO, "tcp", "0.0.0.0", "81", "shut")
    outside.app(DNS, "10.201.7.2")
    label = {"sampan.egress": "allow=10.201.7.2:80,good.example:81"}
    container, box = await lab.run(config={"labels": label}, dns=["10.201.7.2"])
    _other, free = await lab.run()
    assert (await aask(free, "tcp", "10.201.7.2", 81)).startswith("shut")
    assert (await aask(box, "tcp", "10.201.7.2", 80)).startswith("open")
    assert "ConnectionRefused" in await aask(box, "tcp", "10.201.7.2", 81), "not a matter of waiting"
    assert (await aask(box, "tcp", "10.201.6.1", 22, seconds=SHUT)).startswith("ERROR"), (
        "the host is outside, too"
    )
    assert await lookup(box, "bad.example") == "REFUSED"
    assert await lookup(box, "good.example") == "NOERROR 10.201.7.2"
    assert (await aask(box, "tcp", "10.201.7.2", 81)).startswith("shut"), "pinned by the answer"
    shown = await lab.networks.egress(container.name)
    assert shown["Allowed"] == ["10.201.7.2/32:80", "good.example:81"]
    assert {(item["Address"], item["Port"]) for item in shown["Refused"]} >= {("10.201.7.2", 81)}
    assert shown["RefusedNames"] == {"bad.example": 1}
    assert (await aask(free, "tcp", "10.201.6.2", 9)).endswith("refused"), "who asks it is answered"


@in_lab()
async def test_rules_may_overlap_and_have_ranges_of_ports(lab: Lab) -> None:
    outside = lab.neighbour()
    for port in (80, 81, 82, 83):
        outside.app(ECHO, "tcp", "0.0.0.0", str(port), "open")
    outside.app(DNS, "10.201.7.2")
    rules = "10.0.0.0/8:80,10.201.0.0/16:80-81,10.201.7.2:81-82,10.201.7.0/24:80"
    await lab.networks.create(
        CreateNetwork(name="one", options={"sampan.egress": "10.0.0.0/8:81,10.9.0.0/16"})
    )
    labels = {"sampan.egress": f"{rules},10.9.0.0/17,10.9.8.7"}
    _c, box = await lab.run("one", config={"labels": labels})
    for port, opens in ((80, True), (81, True), (82, True), (83, False)):
        assert (await aask(box, "tcp", "10.201.7.2", port)).startswith("open") is opens, port
    _c, box = await lab.run(config={"labels": {"sampan.egress": "good.example:81-82"}}, dns=["10.201.7.2"])
    assert await lookup(box, "Good.Example.") == "NOERROR 10.201.7.2"
    for port, opens in ((80, False), (81, True), (82, True), (83, False)):
        assert (await aask(box, "tcp", "10.201.7.2", port)).startswith("open") is opens, port


@in_lab()
async def test_refused_connections_are_logged(lab: Lab) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("sampan.engine.networks.refusals").addHandler(handler)
    lab.neighbour()
    container, box = await lab.run(config={"labels": {"sampan.egress": "none"}}, name="shut")
    seen: list[dict[str, str]] = []

    def told(**wanted: str) -> bool:
        seen[:] = [one for kind, what, _id, one in lab.events.seen if (kind, what) == ("container", "refuse")]
        return any(wanted.items() <= one.items() for one in seen)

    for port in (81, 81, 82):
        assert (await aask(box, "tcp", "10.201.7.2", port, seconds=SHUT)).startswith("ERROR")
    assert await soon(lambda: told(destination="10.201.7.2", port="82", protocol="tcp", name="shut"))
    assert [one["port"] for one in seen] == ["81", "82"], "a destination is told once a minute"
    assert f"container shut ({container.id[:12]}): egress to 10.201.7.2:81/tcp refused" in lines
    assert await lookup(box, "bad.example") == await lookup(box, "bad.example") == "REFUSED"
    assert await soon(lambda: told(destination="bad.example", name="shut"))
    began = time.monotonic()
    box.python(SCAN)
    assert await soon(lambda: told() and len(seen) > 15)
    await asyncio.sleep(0.2)
    allowed = 3 + 20 + 15 + 10 * (time.monotonic() - began)
    assert not told(port="0") and len(seen) < allowed, "a scan doesn't flood the log"
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert await soon(lambda: "mend bridge" in lab.events.names())
    assert (await aask(box, "tcp", "10.201.7.2", 83, seconds=SHUT)).startswith("ERROR")
    assert await soon(lambda: told(port="83")), "the rules made anew tell, too"


SCAN = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1000, 1500):
    try:
        s.sendto(b"x", ("10.201.7.2", port))
    except OSError:
        pass
"""

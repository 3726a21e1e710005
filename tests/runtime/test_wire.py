"""What the ends of a packet socket tell each other last."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from sampan.runtime import wire
from sampan.runtime.supervisor import Exit, MonitorLost, Process


def test_what_a_peer_said_before_it_went_is_heard_though_it_left_ours_unread() -> None:
    ours, theirs = wire.pair()
    reader, writer = os.pipe()
    wire.send(theirs, ("failed", 1), (reader,))
    wire.send(theirs, ("exit", 2))
    wire.send(ours, ("sync", 0))
    theirs.close()
    message, fds = wire.receive(ours)
    assert message == ("failed", 1) and len(fds) == 1
    assert wire.receive(ours) == (("exit", 2), [])
    assert wire.receive(ours) == ((), [])
    ours.close()
    for fd in (reader, writer, *fds):
        os.close(fd)


def test_the_log_of_a_monitor_that_has_gone_is_complete() -> None:
    async def work() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = Process("container", ours)
        theirs.close()  # the engine has not heard of it yet
        await asyncio.wait_for(process.sync_log(), 20)
        process.forget()

    asyncio.run(work())


@pytest.mark.parametrize("said", [True, False])
def test_a_monitor_that_ends_while_it_is_asked_for_its_log_has_told_the_exit(said: bool) -> None:
    """``docker run`` of what ends at once, by docker-py: it asks for the log while the monitor ends."""

    async def work() -> Exit:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = Process("container", ours)
        with theirs:
            if said:
                wire.send(theirs, ("exit", 3, False, 5))
            asking = asyncio.ensure_future(process.sync_log())
            await asyncio.sleep(0)
        await asyncio.wait_for(asking, 20)
        return await asyncio.wait_for(process.wait(), 20)

    if said:
        assert asyncio.run(work()) == Exit(3, False, 5)
    else:
        with pytest.raises(MonitorLost):
            asyncio.run(work())

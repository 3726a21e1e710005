"""``system dial-stdio``: stdin and stdout become a connection to the engine, for ssh:// on the other side."""

from __future__ import annotations

import os
import select

from sampan.cli.command import CLI, Command, write_all
from sampan.client import transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.client.http import Stream

SIZE = 65536


def dial(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Copy both ways; the end of stdin is passed on, the engine's end ends us."""
    relay(transport.dial(cli.endpoint()))
    return 0


def relay(stream: Stream) -> None:
    """Serve until the engine closes. Neither direction waits for the other."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    poll.register(0, select.POLLIN)
    unsent = b""
    while True:
        ready = dict(poll.poll(0 if stream.pending() else None))
        if stream.pending() or ready.get(stream.fileno(), 0) & ~select.POLLOUT:
            data = stream.recv(SIZE)
            if not data:
                return
            write_all(1, data)
        if ready.get(0):
            # Not asked again before this is sent: a hang-up can't be masked, and comes before the last bytes.
            poll.unregister(0)
            unsent = os.read(0, SIZE)
            if not unsent:
                stream.close_write()
                continue
        elif not unsent:
            continue
        unsent = unsent[stream.send_some(unsent) :]
        poll.modify(stream.fileno(), select.POLLIN | (select.POLLOUT if unsent else 0))
        if not unsent:
            poll.register(0, select.POLLIN)


DIAL = Command(dial, "", "Connect stdin and stdout to the engine (for ssh:// clients)", (0, 0))

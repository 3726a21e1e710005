"""Docker's multiplexed streams: an 8-byte header (stream, 0, 0, 0, length big-endian) before each piece."""

from __future__ import annotations

from struct import Struct

from sampan.client.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)


_HEADER = Struct(">BxxxL").unpack_from


class Demultiplexer:
    """Turns the bytes of a multiplexed stream into (stream, data), in pieces as small as they arrive."""

    def __init__(self) -> None:
        self._rest = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes in, yield what is complete; frames of one stream that follow each other come joined.

        Raises ProtocolError when the bytes are no frames.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        stream, left = self._stream, self._left
        run: list[bytes] = []
        while True:
            if left:
                piece = data[at : at + left]
                run.append(piece)
                at += len(piece)
                left -= len(piece)
            if left or end - at < 8:
                break
            following, left = _HEADER(data, at)
            at += 8
            if following != stream:
                if run:
                    yield stream, b"".join(run)
                    run = []
                if following > SYSTEM_ERROR:
                    raise ProtocolError(f"Unrecognized input header: {following}")
                stream = following
        self._stream, self._left, self._rest = stream, left, data[at:]
        if joined := b"".join(run):
            yield stream, joined

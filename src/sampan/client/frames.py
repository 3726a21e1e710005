"""Docker's multiplexed streams: an 8-byte header (stream, 0, 0, 0, length big-endian) before each piece."""

from __future__ import annotations

from sampan.client.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)


class Demultiplexer:
    """Turns the bytes of a multiplexed stream into (stream, data), in pieces as small as they arrive."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes in, yield what is complete. Raises ProtocolError when they are no frames."""
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                missing = 8 - len(self._header)
                self._header += data[at : at + missing]
                at += missing
                if len(self._header) < 8:
                    return
                self._begin()
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            yield self._stream, piece

    def _begin(self) -> None:
        header, self._header = self._header, b""
        self._stream = header[0]
        self._left = int.from_bytes(header[4:], "big")
        if self._stream > SYSTEM_ERROR:
            raise ProtocolError(f"Unrecognized input header: {self._stream}")

"""``image send``: an image from engine to engine; only what the other side lacks goes over the line."""

from __future__ import annotations

from sampan.cli import connect, progress, units
from sampan.cli.command import CLI, Command
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.cli.flags import Options
    from sampan.client.engine import Client
    from sampan.client.http import Response


def send(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Ask the other engine for its layers, send the archive without them, say how much went."""
    from sampan.client.engine import Client

    image, place = arguments
    layers = cli.client.call("GET", path_of("images", image) + "/json")["RootFS"]["Layers"] or []
    there = Client(connect.named(place, cli.settings, cli.config), headers=cli.config.headers())
    try:
        present = _present(there, layers)
        response = cli.client.open("GET", path_of("images", image) + "/get", {"without": layers[:present]})
        counter = _Counter(response)
        stream = there.stream(
            "POST",
            "/images/load",
            {"quiet": True},
            body=counter.pieces(),
            headers={"Content-Type": "application/x-tar"},
        )
        progress.show(stream, 1)
        cli.client.release(response)
    finally:
        there.close()
    if not options.flag("quiet"):
        size = units.size(counter.sent)
        cli.print(f"{len(layers) - present} of {len(layers)} layers sent ({size}), {present} were there")
    return 0


class _Counter:
    """An answer's body, and how many bytes of it have gone on."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self.sent = 0

    def pieces(self) -> Iterator[bytes]:
        """The body, counted on the way."""
        for piece in self._response.chunks():
            self.sent += len(piece)
            yield piece


def _present(there: Client, layers: list[str]) -> int:
    """How many of the undermost layers some image of the other engine has, too.

    A layer counts with those below it only: engines keep layers as parts of chains (chainID).
    """
    found = 0
    for image in there.call("GET", "/images/json", {"all": True}):
        theirs = there.call("GET", path_of("images", image["Id"]) + "/json")["RootFS"]["Layers"] or []
        same = 0
        while same < min(len(theirs), len(layers)) and theirs[same] == layers[same]:
            same += 1
        found = max(found, same)
        if found == len(layers):
            break
    return found


SEND = Command(
    send,
    "[OPTIONS] IMAGE ENGINE",
    "Send an image to another engine, without a registry",
    (2, 2),
    (("quiet", "q", "bool", False, "Don't say how much was sent"),),
)

"""A build's events as they are, for clients that draw the graph themselves (``POST /build?graph=1``)."""

from __future__ import annotations

import base64
import time
from typing import Any

from sampan.build.progress import Event, Vertex

Object = dict[str, Any]


class GraphWords:
    """Turns events into ``sampan.graph`` (once, the vertices) and ``sampan.event`` objects.

    An event has ``Kind``, ``Vertex`` (number) and ``Time`` (seconds since 1970), and of ``Text``, ``Data``
    (base64), ``Stream`` and ``Reasons`` what it has.
    """

    def __init__(self, vertices: list[Vertex]) -> None:
        self._vertices: list[Vertex] | None = vertices

    def feed(self, event: Event) -> list[Object]:
        """The objects to send."""
        told: Object = {"Kind": event.kind, "Vertex": event.vertex, "Time": time.time()}
        if event.text:
            told["Text"] = event.text
        if event.data:
            told["Data"], told["Stream"] = base64.b64encode(event.data).decode(), event.stream
        if event.reasons:
            told["Reasons"] = list(event.reasons)
        return [*self._graph(), {"id": "sampan.event", "aux": told}]

    def _graph(self) -> list[Object]:
        vertices, self._vertices = self._vertices, None
        if vertices is None:
            return []
        listed = [
            {"Number": one.number, "Name": one.name, "Stage": one.stage, "Inputs": list(one.inputs)}
            for one in vertices
        ]
        return [{"id": "sampan.graph", "aux": {"Vertices": listed}}]

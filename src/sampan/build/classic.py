"""The classic builder's wording of a build: ``Step 2/7 : …``, ``---> Using cache``, in the order of the file.

Stages run at the same time; their output doesn't mix here. What belongs to the step whose turn it is goes
out at once, what runs ahead waits.
"""

from __future__ import annotations

import codecs
from typing import Any

from sampan.build.progress import Event, Vertex

Object = dict[str, Any]


class Classic:
    """Turns events into the JSON objects of ``POST /build``."""

    def __init__(self, vertices: list[Vertex], *, why: bool = False) -> None:
        self.vertices = vertices
        self.why = why
        self.current = 0
        self.waiting: dict[int, list[Object]] = {}
        self.done: set[int] = set()
        self.containers: dict[int, str] = {}
        self.decoders: dict[tuple[int, int], codecs.IncrementalDecoder] = {}

    def feed(self, event: Event) -> list[Object]:
        """The objects that can be sent now."""
        objects = self._objects(event)
        if event.vertex != self.current:
            self.waiting.setdefault(event.vertex, []).extend(objects)
            if event.kind == "done":
                self.done.add(event.vertex)
            if event.kind == "failed":
                return self._failed(event.vertex)
            return []
        if event.kind == "done":
            self.done.add(event.vertex)
            objects += self._advance()
        return objects

    def _advance(self) -> list[Object]:
        out: list[Object] = []
        while self.current in self.done:
            self.current += 1
            out += self.waiting.pop(self.current, [])
        return out

    def _failed(self, vertex: int) -> list[Object]:
        """A step ahead of the others failed: show it, with what it had to say."""
        return self.waiting.pop(vertex, [])

    def _objects(self, event: Event) -> list[Object]:
        if event.kind == "start":
            vertex = self.vertices[event.vertex]
            text = f"Step {vertex.number + 1}/{len(self.vertices)} : {vertex.name}"
            return [{"stream": text}, {"stream": "\n"}]
        if event.kind == "log":
            return self._log(event)
        if event.kind == "running":
            self.containers[event.vertex] = event.text[:12]
            return [{"stream": f" ---> Running in {event.text[:12]}\n"}]
        if event.kind == "done":
            return self._done(event)
        if event.kind == "cached":
            return [{"stream": " ---> Using cache\n"}, *self._why(event, "cached")]
        if event.kind == "why":
            return self._why(event, "built")
        return [{"stream": f"{event.text}\n"}] if event.kind == "note" else []

    def _why(self, event: Event, result: str) -> list[Object]:
        if not self.why:
            return []
        vertex = self.vertices[event.vertex]
        told = {
            "Step": vertex.number + 1,
            "Name": vertex.name,
            "Result": result,
            "Reasons": list(event.reasons),
        }
        return [{"id": "sampan.why", "aux": told}]

    def _log(self, event: Event) -> list[Object]:
        key = (event.vertex, event.stream)
        decoder = self.decoders.get(key)
        if decoder is None:
            decoder = self.decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(event.data)
        if not text:
            return []
        return [{"stream": text if event.stream == 1 else f"\x1b[91m{text}\x1b[0m"}]

    def _done(self, event: Event) -> list[Object]:
        vertex = self.vertices[event.vertex]
        if vertex.stage < 0:
            return []
        objects: list[Object] = []
        container = self.containers.pop(event.vertex, "")
        if container:
            objects.append({"stream": f" ---> Removed intermediate container {container}\n"})
        objects.append({"stream": f" ---> {short(event.text)}\n"})
        following = vertex.number + 1
        last = following == len(self.vertices) or self.vertices[following].stage != vertex.stage
        if last and event.text:
            objects.append({"aux": {"ID": event.text}})
        return objects


def short(image_id: str) -> str:
    """The first twelve digits of an id, as Docker shows it."""
    return image_id.removeprefix("sha256:")[:12]

"""What happens in a build, as events of a graph; a door (the classic endpoint, another protocol) words them.

A vertex is one instruction of one stage. Events of one vertex come in order; those of different stages mix,
since stages run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["start", "note", "running", "log", "cached", "done", "failed", "why"]


@dataclass(frozen=True, slots=True)
class Vertex:
    """One node: its number in the order of the file, its text, its stage, and the numbers of its inputs."""

    number: int
    name: str
    stage: int
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a vertex.

    ``text`` is a note's line, the image id of ``done`` (of FROM and each instruction) or the id of the
    container that a RUN runs in; ``data`` the bytes of a log on ``stream`` (1 or 2).
    """

    kind: Kind
    vertex: int
    text: str = ""
    data: bytes = b""
    stream: int = 1
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Reporter:
    """Where the executor tells what happens; ``emit`` is called in the event loop's thread."""

    emit: Callable[[Event], None]
    vertices: list[Vertex] = field(default_factory=list)

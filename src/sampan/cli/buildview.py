"""A build on a terminal: the graph's steps with their times, drawn again ten times a second.

Fed with the ``sampan.graph`` and ``sampan.event`` records of the engine (docs/build.md). Finished steps
scroll away upwards when there are more than the window holds; of a running one the last lines are shown.
"""

from __future__ import annotations

import codecs
import re
import threading
import time
import unicodedata

from sampan.cli import terminal, units
from sampan.cli.command import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

INTERVAL = 0.1
SHOWN_LINES = 6
"""Lines of a running step's output that are shown."""
KEPT_LINES = 30
"""Lines that are shown when it has failed."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_DIM, _BLUE, _RED, _OFF = "\x1b[2m", "\x1b[34m", "\x1b[31m", "\x1b[0m"


class Step:
    """One vertex: what it is called, how far it is, its last lines of output with their times."""

    def __init__(self, name: str, stage: int) -> None:
        self.name = name
        self.stage = stage
        self.label = ""
        self.state = ""
        self.begun = 0.0
        self.ended = 0.0
        self.lines: list[tuple[float, str]] = []
        self.reasons: list[str] = []
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._rest: dict[int, str] = {}

    def output(self, stream: int, data: bytes, when: float) -> None:
        """Take what it printed; carriage returns and escapes are for a terminal of its own."""
        if stream not in self._decoders:
            self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._rest.get(stream, "") + self._decoders[stream].decode(data)
        *whole, rest = text.split("\n")
        self._rest[stream] = rest[-4096:]
        for line in whole:
            self.note(line, when)

    def note(self, line: str, when: float) -> None:
        """One line of output."""
        self.lines.append((when, plain(line.rstrip("\r").rsplit("\r", 1)[-1])))
        del self.lines[:-KEPT_LINES]

    def finish(self, when: float) -> None:
        """The last line may have no end."""
        for stream, rest in self._rest.items():
            if rest:
                self.note(rest, when)
                self._rest[stream] = ""


class View:
    """The display; a context manager. ``descriptor`` is the terminal; ``clock`` gives seconds."""

    def __init__(self, descriptor: int, *, why: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.steps: list[Step] = []
        self.why = why
        self._descriptor = descriptor
        self._clock = clock
        self._begun = clock()
        self._sent = -1
        self._drawn = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, daemon=True)

    def __enter__(self) -> View:
        """Begin to draw."""
        self._write("\x1b[?25l")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Draw the end, give the cursor back."""
        self._over.set()
        self._thread.join()
        if self.steps:
            self._draw(final=True)
        elif self._drawn:
            self._write(f"\x1b[{self._drawn}A\r\x1b[J")
        self._write("\x1b[?25h")

    # -- what happens -----------------------------------------------------------------------------------

    def sent(self, count: int) -> None:
        """So many bytes of the context have gone."""
        self._sent = count

    def take(self, record: dict[str, Any]) -> None:
        """One record of the engine."""
        with self._lock:
            if "Vertices" in record:
                self._graph(record["Vertices"])
            elif "Vertex" in record:
                self._event(record)

    def _graph(self, vertices: list[dict[str, Any]]) -> None:
        self.steps = [Step(plain(str(one["Name"])), int(one["Stage"])) for one in vertices]
        stages: dict[int, list[Step]] = {}
        for step in self.steps:
            if step.stage >= 0:
                stages.setdefault(step.stage, []).append(step)
        for number, steps in stages.items():
            found = re.search(r"(?i)\sas\s+(\S+)\s*$", steps[0].name)
            name = found[1] if found else f"stage-{number}"
            for place, step in enumerate(steps, 1):
                step.label = (
                    f"[{name} {place}/{len(steps)}] " if len(stages) > 1 else f"[{place}/{len(steps)}] "
                )

    def _event(self, record: dict[str, Any]) -> None:
        import binascii

        step = self.steps[int(record["Vertex"])]
        kind, when = record["Kind"], float(record["Time"])
        if kind == "start":
            step.state, step.begun = "running", when
        elif kind == "log":
            step.output(int(record.get("Stream", 1)), binascii.a2b_base64(record.get("Data", "")), when)
        elif kind == "note":
            step.note(str(record.get("Text", "")), when)
        elif kind == "why":
            step.reasons = [str(reason) for reason in record.get("Reasons", [])]
        elif kind == "cached":
            step.state = "cached"
        elif kind in ("done", "failed"):
            step.finish(when)
            step.ended = when
            step.state = kind if kind == "failed" or step.state != "cached" else "cached"

    def failed_lines(self) -> list[str]:
        """What the failed step printed last, for after the display; [] when none failed."""
        for step in self.steps:
            if step.state == "failed" and step.lines:
                rule = "------"
                lines = [f"{when - step.begun:.3f} {text}" for when, text in step.lines]
                return [rule, f" > {step.label}{step.name}:", *lines, rule]
        return []

    # -- drawing ----------------------------------------------------------------------------------------

    def _draw_on(self) -> None:
        while not self._over.wait(INTERVAL):
            self._draw(final=False)

    def _draw(self, *, final: bool) -> None:
        rows, columns = terminal.size(self._descriptor)
        with self._lock:
            lines = self.lines(columns or 80, 0 if final else rows, final=final)
        text = f"\x1b[{self._drawn}A" if self._drawn else ""
        text += "".join(f"\r\x1b[K{line}\n" for line in lines) + "\x1b[J"
        self._drawn = len(lines)
        self._write(text)

    def lines(self, columns: int, rows: int, *, final: bool) -> list[str]:
        """The display as lines no wider than ``columns``, fewer than ``rows`` (0: as many as there are)."""
        now = self._clock()
        done = sum(step.state in ("done", "cached") for step in self.steps)
        finished = final and done == len(self.steps)
        head = f"[+] Building {now - self._begun:.1f}s ({done}/{len(self.steps)}){' FINISHED' * finished}"
        found = [cut(head, columns)]
        if not self.steps and self._sent >= 0:
            found.append(cut(f" => sending the context: {units.size(self._sent)}", columns))
        begun = sorted((step for step in self.steps if step.state), key=lambda one: one.begun)
        blocks = [self._step(step, now, columns, final) for step in begun]
        if rows:
            blocks = _fitting(begun, blocks, rows - 2)
        return found + [line for block in blocks for line in block]

    def _step(self, step: Step, now: float, columns: int, final: bool) -> list[str]:
        took = f" {(step.ended or now) - step.begun:.1f}s"
        mark = {"cached": "CACHED ", "failed": "ERROR "}.get(step.state, "")
        text = cut(f" => {mark}{step.label}{step.name}", columns - len(took))
        colour = {"failed": _RED, "done": _BLUE, "cached": _BLUE}.get(step.state, "")
        found = [f"{colour}{text}{' ' * (columns - len(took) - width(text))}{took}{_OFF if colour else ''}"]
        if self.why:
            found += [cut(f" => => because {reason}", columns) for reason in step.reasons]
        if step.state == "running" and not final:
            for when, line in step.lines[-SHOWN_LINES:]:
                found.append(f"{_DIM}{cut(f' => => # {when - step.begun:.1f} {line}', columns)}{_OFF}")
        return found

    def _write(self, text: str) -> None:
        write_all(self._descriptor, text.encode("utf-8", "replace"))


def _fitting(steps: list[Step], blocks: list[list[str]], rows: int) -> list[list[str]]:
    """The blocks that fit in ``rows``: running steps first (only their heads if need be), then the latest."""
    kept: dict[int, list[str]] = {}
    order = sorted(
        range(len(steps)), key=lambda place: (steps[place].state == "running", place), reverse=True
    )
    for place in order:
        left = rows - sum(len(block) for block in kept.values())
        if left > 0:
            kept[place] = blocks[place][: max(1, min(left, rows // 2))]
    return [kept[place] for place in sorted(kept)]


def plain(text: str) -> str:
    """``text`` without escape sequences and control characters: what a build prints can't draw elsewhere."""
    text = _ESCAPES.sub("", text).expandtabs(8)
    return "".join(ch for ch in text if ch.isprintable())


def width(text: str) -> int:
    """Columns that ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(ch) else 2 if unicodedata.east_asian_width(ch) in "WF" else 1
        for ch in text
    )


def cut(text: str, columns: int) -> str:
    """``text``, shortened to ``columns``."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…" if columns > 0 else ""

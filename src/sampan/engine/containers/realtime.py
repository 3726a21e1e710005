"""Real-time CPU of cgroup v1: a group's share comes out of those above it. Kernel: sched-rt-group.rst."""

from __future__ import annotations

import os
from pathlib import Path

_FILE = "cpu.rt_runtime_us"


def make_room(directory: str, root: str, runtime: int) -> None:
    """Give the groups between ``root`` and ``directory`` what they need for ``runtime`` µs more. OSError."""
    above = []
    step = os.path.dirname(directory)
    while len(step) > len(root):
        above.append(step)
        step = os.path.dirname(step)
    for group in reversed(above):
        others = (child for child in os.scandir(group) if child.is_dir() and child.path != directory)
        taken = sum(int(Path(child.path, _FILE).read_text()) for child in others if child.path not in above)
        Path(group, _FILE).write_text(str(taken + runtime))

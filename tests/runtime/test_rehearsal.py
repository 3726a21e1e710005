"""The zygote's rehearsal leaves nothing behind and makes monitors small."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sampan
from tests.runtime.running import start, supervised

_MOST = 920  # KiB that are an idle monitor's own; about 800 with Python 3.11

_SCRIPT = """
import os, sys, time
sys.path.insert(0, {path!r})
from sampan.kernel import signals
from sampan.runtime import rehearsal, title
before = sorted(os.listdir("/proc/self/fd"))
began = time.monotonic()
rehearsal.rehearse(title.Title())
print(time.monotonic() - began, sorted(os.listdir("/proc/self/fd")) == before, signals.set_wakeup_fd(-1))
"""


def test_nothing_is_left_of_a_rehearsal() -> None:
    script = _SCRIPT.format(path=str(Path(sampan.__file__).parent.parent))
    command = [sys.executable, "-I", "-S", "-c", script, " " * 400]
    seconds, same_descriptors, wakeup = subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=lambda: signal.alarm(100)
    ).stdout.split()
    assert float(seconds) < 20
    assert same_descriptors == "True"
    assert wakeup == "-1"


@pytest.mark.root
def test_an_idle_monitor_is_small() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            process = await start(supervisor, box.plan(["sleep", "60"]))
            try:
                await asyncio.sleep(0.2)
                lines = Path(f"/proc/{process.monitor_pid}/smaps_rollup").read_text().splitlines()
                assert (
                    sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) < _MOST
                )
            finally:
                await process.abort()

    asyncio.run(go())

"""The zygote's rehearsal leaves nothing behind and makes monitors small."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import sampan

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
        command, capture_output=True, text=True, check=True, preexec_fn=lambda: signal.alarm(20)
    ).stdout.split()
    assert float(seconds) < 2
    assert same_descriptors == "True"
    assert wakeup == "-1"

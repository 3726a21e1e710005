"""dockerode, the client of Node.js (``npm install dockerode``; ``NODE_PATH`` says where it is)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Daemon

NODE = shutil.which("node")
pytestmark = pytest.mark.root


def test_what_programs_do(sampand: Daemon, busybox: str, unique: str) -> None:
    if not NODE or subprocess.run([NODE, "-e", "require('dockerode')"], capture_output=True).returncode:
        pytest.skip("dockerode is not installed")
    script = Path(__file__).with_name("dockerode.js")
    done = subprocess.run([NODE, script, sampand.socket, unique], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr

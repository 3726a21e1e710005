"""The tests of cgroup v2 in a virtual machine that has nothing else (slow: pytest -m vm)."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "vm-test"


@pytest.mark.vm
@pytest.mark.timeout(1700)
def test_cgroup_v2() -> None:
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

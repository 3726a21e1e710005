"""The program of docs/embedding.md, as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from sampan.storage.rootlock import RootLock
from tests.engine.boxes import Roots

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


def run(roots: Roots) -> subprocess.CompletedProcess[str]:
    """Run the page's program on these roots."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    command = [sys.executable, "-c", found[1], str(roots.base)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_pages_program_runs_and_leaves_nothing() -> None:
    roots = Roots()
    try:
        done = run(roots)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"{n} I am {n}" for n in range(20)]
        assert list((roots.data / "containers").iterdir()) == []
        assert str(roots.base) not in Path("/proc/mounts").read_text()
    finally:
        roots.remove()


def test_a_root_in_use_is_refused() -> None:
    roots = Roots()
    held = RootLock(roots.data)
    try:
        done = run(roots)
        assert done.returncode == 1
        assert "is in use by another daemon (pid" in done.stderr
    finally:
        held.close()
        roots.remove()

"""The program of docs/embedding.md, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sampan import errors
from sampan.engine.config import EngineConfig
from sampan.engine.engine import Engine
from sampan.engine.networks import CreateNetwork
from sampan.engine.networks.defaults import own_table
from sampan.storage.rootlock import RootLock
from tests.engine.boxes import Roots, run_async

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


def run(roots: Roots) -> subprocess.CompletedProcess[str]:
    """Run the page's program on these roots."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    command = [sys.executable, "-c", found[1], str(roots.base)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


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


def test_engines_without_a_default_network_leave_each_others_networks_alone(tmp_path: Path) -> None:
    async def work() -> None:
        configs = [
            EngineConfig(data_root=tmp_path / name / "data", exec_root=tmp_path / name / "run", bridge="none")
            for name in "ab"
        ]
        first = await Engine.open(configs[0])
        try:
            network = await first.networks.create(CreateNetwork(name="mine"))
            second = await Engine.open(configs[1])
            await second.close()
            assert Path(f"/sys/class/net/{network.device}").exists()
            assert own_table(configs[0]) in tables()
            assert own_table(configs[1]) not in tables()
            await first.networks.remove("mine")
        finally:
            await first.close()
        assert own_table(configs[0]) not in tables()

    run_async(work)


def test_a_bridge_has_one_engine(tmp_path: Path) -> None:
    async def work() -> None:
        configs = [
            EngineConfig(
                data_root=tmp_path / name / "data",
                exec_root=tmp_path / name / "run",
                bridge="smpe2",
                bip="10.201.7.1/24",
            )
            for name in "ab"
        ]
        first = await Engine.open(configs[0])
        try:
            with pytest.raises(errors.SystemFailure, match=f"in use by another engine .pid {os.getpid()}"):
                await Engine.open(configs[1])
            assert Path("/sys/class/net/smpe2").exists()
            assert own_table(configs[0]) in tables()
        finally:
            await first.close()
        again = await Engine.open(configs[1])
        await again.close()
        assert not Path("/sys/class/net/smpe2").exists()

    run_async(work)


def tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout

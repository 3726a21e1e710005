"""``manifest`` and ``image inspect --remote`` against Debian's registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_registries import serving
from tests.cli.conftest import sampan_command
from tests.conftest import Daemon, current_cli


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path) as address:
        yield address


class CLI:
    """The command line with a configuration folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._environment = {"DOCKER_CONFIG": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder)}

    def __call__(self, *words: str, program: list[str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [*program, *words] if program else sampan_command(*words)
        return subprocess.run(command, capture_output=True, text=True, env=self._environment, timeout=60)


@pytest.fixture
def pushed(sampand: Daemon, busybox: str, registry: str) -> Iterator[list[str]]:
    """Two images in one repository, a third in another."""
    names = [f"{registry}/team/tool:a", f"{registry}/team/tool:b", f"{registry}/other/tool:c"]
    for number, name in enumerate(names):
        sampand.docker("build", "-q", "-t", name, "-", input=f"FROM {busybox}\nLABEL number={number}\n")
        sampand.docker("push", name)
    yield names
    sampand.docker("rmi", *names)


def test_a_list_of_two_platforms(sampand: Daemon, pushed: list[str], registry: str, tmp_path: Path) -> None:
    cli, name = CLI(tmp_path), f"{registry}/team/tool:all"
    assert cli("manifest", "create", name, pushed[0], pushed[2]).stdout == f"Created manifest list {name}\n"
    again = cli("manifest", "create", name, pushed[1])
    assert again.returncode == 1 and "no --amend flag" in again.stderr
    assert cli("manifest", "create", "--amend", name, pushed[1]).returncode == 0
    annotated = cli(
        "manifest", "annotate", name, pushed[2], "--arch", "arm", "--variant", "v7", "--os-features", "x"
    )
    assert (annotated.returncode, annotated.stderr) == (0, "")
    local = json.loads(cli("manifest", "inspect", name).stdout)
    assert [one["platform"]["architecture"] for one in local["manifests"]][1] == "arm"
    digest = cli("manifest", "push", "--purge", name).stdout.strip()
    assert digest.startswith("sha256:") and list((tmp_path / "manifests").glob("*")) == []
    remote = json.loads(cli("manifest", "inspect", "-v", f"{registry}/team/tool@{digest}").stdout)
    assert remote["Descriptor"]["digest"] == digest and remote["Manifest"] == local
    # the stock client and the engine understand it
    if (docker := shutil.which("docker")) is not None and current_cli():
        seen = cli("manifest", "inspect", "--insecure", name, program=[docker])
        assert json.loads(seen.stdout)["manifests"] == local["manifests"], seen.stderr
    assert "Downloaded" in sampand.docker("pull", name).stdout
    sampand.docker("rmi", name)


def test_nothing_is_begun_with_an_image_that_is_not_there(
    pushed: list[str], registry: str, tmp_path: Path
) -> None:
    cli, name = CLI(tmp_path), f"{registry}/team/tool:all"
    done = cli("manifest", "create", name, pushed[0], f"{registry}/team/tool:nosuch")
    assert done.returncode == 1 and "not found" in done.stderr
    for words in (["push", name], ["rm", name], ["annotate", name, pushed[0]]):
        done = cli("manifest", *words)
        assert done.returncode == 1 and "No such manifest" in done.stderr, words


def test_inspect_without_pulling(sampand: Daemon, pushed: list[str], registry: str, tmp_path: Path) -> None:
    cli = CLI(tmp_path)
    [found] = json.loads(cli("image", "inspect", "--remote", pushed[1]).stdout)
    local: dict[str, Any] = json.loads(sampand.docker("image", "inspect", pushed[1]).stdout)[0]
    for key in ("Id", "RootFS", "Architecture", "Os", "RepoDigests"):
        assert found[key] == local[key], key
    assert found["Config"]["Labels"] == {"number": "1"}
    missing = cli("image", "inspect", "--remote", f"{registry}/team/tool:nosuch")
    assert missing.returncode == 1 and "not found" in missing.stderr

"""What a default container can't do, and options that are refused instead of dropped."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import BIN, Daemon


def test_the_control_groups_are_read_only(sampand: Daemon, busybox: str) -> None:
    done = sampand.docker("run", "--rm", busybox, "touch", "/sys/fs/cgroup/x", check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert sampand.docker("run", "--rm", busybox, "ls", "/sys/fs/cgroup").stdout


def test_an_image_is_of_one_platform(sampand: Daemon, busybox: str, tmp_path: Path) -> None:
    architecture = sampand.docker("version", "--format", "{{.Server.Arch}}").stdout.strip()
    other = "arm64" if architecture != "arm64" else "amd64"

    def save(machine: str) -> subprocess.CompletedProcess[str]:
        out = str(tmp_path / machine)
        return sampand.docker(
            "save", "--platform", f"linux/{machine}", "-o", out, busybox, check=False, cli=str(BIN / "sampan")
        )

    assert save(architecture).returncode == 0
    refused = save(other)
    assert (
        refused.returncode == 1
        and f"does not provide the specified platform (linux/{other})" in refused.stderr
    )


def test_variables_of_an_exec_replace_the_containers_in_their_places(sampand: Daemon, busybox: str) -> None:
    # By HTTP: docker's client sends what several -e name in any order.
    wanted = {"Image": busybox, "Cmd": ["sleep", "100"], "Env": ["A=1", "B=2", "C=3"]}
    sampand.json("POST", "/containers/create?name=vars", {**wanted, "HostConfig": {"NetworkMode": "none"}})
    try:
        sampand.docker("start", "vars")
        done = sampand.docker(
            "exec", "-e", "B=new", "-e", "D=4", "-e", "C", "vars", "env"
        ).stdout.splitlines()
        assert [line for line in done if line[:2] in ("A=", "B=", "C=", "D=")] == ["A=1", "B=new", "D=4"]
    finally:
        sampand.docker("rm", "-f", "vars")

"""``image send``: from engine to engine, over unix sockets and over ssh."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import sampan_command
from tests.conftest import Daemon, import_busybox
from tests.dockerd import running_dockerd
from tests.sshd import running_sshd


def send(here: Daemon, image: str, place: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        sampan_command("image", "send", image, place),
        capture_output=True, text=True, env={**here.env, **environment}, timeout=100,
    )  # fmt: skip


@pytest.fixture
def image(sampand: Daemon, busybox: str) -> Iterator[str]:
    name = "sent:1"
    dockerfile = (
        f"FROM {busybox}\nRUN head -c 100000 /dev/urandom > /one\nRUN head -c 3000000 /dev/urandom > /two\n"
    )
    sampand.docker("build", "-q", "-t", name, "-", input=dockerfile)
    yield name
    sampand.docker("rmi", name)


def identity(daemon: Daemon, name: str) -> str:
    return daemon.docker("image", "inspect", "-f", "{{.Id}}", name).stdout.strip()


def test_only_what_is_missing_goes(sampand: Daemon, new_sampand: Any, image: str) -> None:
    there = new_sampand()
    first = send(sampand, image, there.host)
    assert (first.returncode, first.stderr) == (0, "")
    assert "Loaded image: sent:1" in first.stdout and "3 of 3 layers sent" in first.stdout
    assert identity(there, image) == identity(sampand, image)
    sampand.docker("build", "-q", "-t", "sent:2", "-", input=f"FROM {image}\nRUN echo small > /three\n")
    second = send(sampand, "sent:2", there.host).stdout
    assert "1 of 4 layers sent" in second and "3 were there" in second
    assert "kB)" in second
    assert there.docker("run", "--rm", "--network", "none", "sent:2", "cat", "/three").stdout == "small\n"
    assert "0 of 4 layers sent" in send(sampand, "sent:2", there.host).stdout
    sampand.docker("rmi", "sent:2")


def test_wrong_ways(sampand: Daemon, image: str, tmp_path: Path) -> None:
    missing = send(sampand, "nosuch:1", sampand.host)
    assert missing.returncode == 1 and "No such image: nosuch:1" in missing.stderr
    gone = send(sampand, image, f"unix://{tmp_path}/none")
    assert gone.returncode == 1 and "none" in gone.stderr
    context = send(sampand, image, "nocontext")
    assert context.returncode == 1 and "nocontext" in context.stderr


@pytest.mark.dockerd
def test_dockerd_takes_it_too(sampand: Daemon, image: str, tmp_path: Path) -> None:
    with running_dockerd(tmp_path) as host:
        assert "3 of 3 layers sent" in send(sampand, image, host).stdout
        sampand.docker("build", "-q", "-t", "sent:2", "-", input=f"FROM {image}\nRUN echo small > /three\n")
        second = send(sampand, "sent:2", host)
        assert "1 of 4 layers sent" in second.stdout, second.stderr
        sampand.docker("rmi", "sent:2")


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """An sshd of our own on loopback: its address for root, and the environment in which ssh trusts it."""
    with running_sshd(tmp_path, "sampan") as found:
        yield found


def test_over_ssh(sampand: Daemon, new_sampand: Any, image: str, ssh: tuple[str, dict[str, str]]) -> None:
    address, environment = ssh
    there = new_sampand()
    done = send(sampand, image, f"{address}{there.socket}", **environment)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert identity(there, image) == identity(sampand, image)
    import_busybox(there, "other:1")
    listed = subprocess.run(
        sampan_command("-H", f"{address}{there.socket}", "images", "-q"),
        capture_output=True, text=True, env={**sampand.env, **environment}, timeout=60,
    )  # fmt: skip
    assert len(listed.stdout.split()) == 2, listed

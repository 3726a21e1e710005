"""Containers of thousands of variables, labels and words: they work, or the kernel's refusal is clear and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.engine.steps import run

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("busybox")]

START = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create "
    "failed: unable to start container process: error during container init: "
)


def refused(daemon: Daemon, **body: Any) -> tuple[int, str, int]:
    """Status and message of a start, and the exit code that it leaves; the container can be removed."""
    request = {"Image": "busybox", "Cmd": ["true"], **body, "HostConfig": {"NetworkMode": "none"}}
    made = daemon.json("POST", "/containers/create?name=large", request)["Id"]
    status, _, data = daemon.api("POST", f"/containers/{made}/start")
    state = daemon.json("GET", f"/containers/{made}/json")["State"]
    assert (state["Status"], state["Running"], state["Pid"]) == ("created", False, 0)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/docker/{made}"))
    daemon.json("DELETE", f"/containers/{made}")
    assert daemon.api("GET", f"/containers/{made}/json")[0] == 404
    return status, json.loads(data)["message"].split("\n")[0].removeprefix(START), state["ExitCode"]


def test_many_variables_and_words(sampand: Daemon) -> None:
    env = [f"V{number}={'x' * 20}{number}" for number in range(20_000)]
    assert run(sampand, "env | grep -c '^V'", Env=env) == (0, "20000\n")
    assert run(sampand, "echo ${#A}", Env=["A=" + "x" * 130_000]) == (0, "130000\n")


@pytest.mark.parametrize(
    ("body", "program"),
    [
        ({"Env": [f"V{number}={'x' * 1000}" for number in range(5000)]}, "/bin/true"),
        ({"Env": ["A=" + "x" * 200_000]}, "/bin/true"),
        ({"Cmd": ["echo", "x" * 131_072]}, "/bin/echo"),
        ({"Cmd": ["echo"] + ["a"] * 400_000}, "/bin/echo"),
    ],
)
def test_more_than_the_kernel_takes(sampand: Daemon, body: dict[str, Any], program: str) -> None:
    assert refused(sampand, **body) == (400, f"exec {program}: argument list too long", 126)


def test_a_program_name_longer_than_any_message(sampand: Daemon) -> None:
    status, message, code = refused(sampand, Entrypoint=["/" + "x" * 200_000])
    assert (status, code) == (400, 126) and message.startswith('exec: "/xxx') and len(message) < 10_000


def test_many_labels(sampand: Daemon) -> None:
    labels = {f"label{number}": f"value{number}" for number in range(10_000)}
    body = {"Image": "busybox", "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
    made = sampand.json("POST", "/containers/create", body)["Id"]
    try:
        shown = sampand.json("GET", f"/containers/{made}/json")["Config"]["Labels"]
        assert shown == labels
        found = sampand.docker("ps", "-aq", "--no-trunc", "--filter", "label=label9999=value9999").stdout
        assert found.split() == [made]
        assert not sampand.docker("ps", "-aq", "--filter", "label=label9999=other").stdout
    finally:
        sampand.json("DELETE", f"/containers/{made}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"Image":"busybox","HostConfig":{"Memory":' + b"9" * 5000 + b"}}", "is out of range"),
        (b'{"Image":"busybox","HostConfig":{"Memory":1e400}}', "invalid JSON: number 1e400 is out of range"),
        (b'{"Image":"busybox","Labels":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001, "exceeded max depth"),
        (b"[" * 1_000_000, "exceeded max depth"),
        (b'{"Image":"busybox","Cmd":["' + b"x" * 20_000_000 + b'"]}', "request body too large"),
    ],
)
def test_absurd_json(sampand: Daemon, raw: bytes, message: str) -> None:
    status, _, data = sampand.api(
        "POST", "/containers/create", body=raw, headers={"Content-Type": "application/json"}
    )
    assert status == 400 and message in json.loads(data)["message"]


def test_half_a_character_is_replaced(sampand: Daemon) -> None:
    raw = b'{"Image":"busybox","Cmd":["echo","\\ud800"],"HostConfig":{"NetworkMode":"none"}}'
    _, _, data = sampand.api(
        "POST", "/containers/create", body=raw, headers={"Content-Type": "application/json"}
    )
    made = json.loads(data)["Id"]
    assert sampand.json("GET", f"/containers/{made}/json")["Args"] == ["\ufffd"]
    sampand.json("DELETE", f"/containers/{made}")

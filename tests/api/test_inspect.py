"""What inspect shows, where clients stumble over details: beside dockerd's own answers (traces, and a dockerd 20.10)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root


@pytest.fixture
def create(sampand: Daemon, busybox: str) -> Iterator[Any]:
    made: list[str] = []

    def make(**config: Any) -> str:
        body = {"Image": busybox, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}, **config}
        made.append(sampand.json("POST", "/containers/create", body)["Id"])
        return made[-1]

    yield make
    for one in made:
        sampand.api("DELETE", f"/containers/{one}?force=1&v=1")


@pytest.mark.parametrize(
    ("given", "kept"), [("/a/b/../c", "/a/c"), ("//a//b/", "/a/b"), ("/../x/.", "/x"), ("/", "/")]
)
def test_working_directories_are_cleaned(sampand: Daemon, create: Any, given: str, kept: str) -> None:
    one = create(WorkingDir=given, Cmd=["sh", "-c", "pwd"])
    assert sampand.json("GET", f"/containers/{one}/json")["Config"]["WorkingDir"] == kept
    sampand.json("POST", f"/containers/{one}/start")
    assert sampand.json("POST", f"/containers/{one}/wait")["StatusCode"] == 0
    assert sampand.api("GET", f"/containers/{one}/logs?stdout=1")[2].endswith(f"{kept}\n".encode())


def test_health_is_known_from_the_first_start(sampand: Daemon, create: Any) -> None:
    one = create(Healthcheck={"Test": ["CMD", "true"], "Interval": 10**12})
    assert "Health" not in sampand.json("GET", f"/containers/{one}/json")["State"]
    sampand.json("POST", f"/containers/{one}/start")
    health = sampand.json("GET", f"/containers/{one}/json")["State"]["Health"]
    assert health == {"Status": "starting", "FailingStreak": 0, "Log": []}


OLD = {
    "Hostname",
    "Domainname",
    "Image",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
}
EMPTY = {"Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir", "Cmd"}


@pytest.mark.parametrize(
    ("version", "members"),
    [("1.40", OLD | EMPTY), ("1.49", OLD | EMPTY), ("1.51", EMPTY), ("1.52", {"Env", "Cmd"})],
)
def test_an_images_config_by_version(sampand: Daemon, busybox: str, version: str, members: set[str]) -> None:
    shown = sampand.json("GET", f"/v{version}/images/{busybox}/json")
    assert set(shown["Config"]) == members
    assert ("ContainerConfig" in shown) == (version == "1.40")


def test_events_of_images_have_their_labels(sampand: Daemon, create: Any) -> None:
    began = time.time()
    one = create(Labels={"kind": "labelled"})
    sampand.json("POST", f"/commit?container={one}&repo=labelled&tag=1", {})
    sampand.api("GET", "/images/labelled:1/get")
    sampand.json("POST", "/images/labelled:1/tag?repo=labelled&tag=2")
    for tag in (1, 2):
        sampand.json("DELETE", f"/images/labelled:{tag}")
    filters = quote(json.dumps({"type": ["image"], "label": ["kind=labelled"]}))
    lines = sampand.api("GET", f"/events?since={began}&until={time.time()}&filters={filters}")[2].splitlines()
    actions = [json.loads(line)["Action"] for line in lines]
    assert actions == ["tag", "save", "tag", "untag", "untag", "delete"]

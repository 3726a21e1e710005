"""docker-compose v1, as Debian has it: a project from up to down."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Daemon

COMPOSE = shutil.which("docker-compose")
pytestmark = [pytest.mark.root, pytest.mark.skipif(not COMPOSE, reason="docker-compose v1 is not installed")]

PROJECT = """\
version: "2.4"
services:
  store:
    image: busybox
    command: sh -c "echo stored > /data/index.html; exec httpd -f -p 80 -h /data"
    init: true
    volumes: [shared:/data]
    networks: {back: {aliases: [depot]}}
    healthcheck: {test: wget -qO- http://127.0.0.1/index.html, interval: 200ms, timeout: 2s, retries: 20}
  web:
    build: {context: web, args: {WORD: built}}
    init: true
    depends_on: {store: {condition: service_healthy}}
    environment: {COLOUR: blue}
    ports: ["127.0.0.1::80"]
    networks: [front, back]
    labels: {purpose: test}
    stop_grace_period: 2s
  worker:
    image: busybox
    command: sh -c "trap 'exit 0' TERM; echo worker ready; sleep 1000 & wait"
    mem_limit: 32m
    networks: [back]
    tmpfs: /scratch
networks:
  front: {}
  back: {ipam: {config: [{subnet: 10.214.88.0/24}]}}
volumes:
  shared: {}
"""
DOCKERFILE = """\
FROM busybox
ARG WORD=nothing
RUN mkdir /www && echo $WORD > /www/index.html
CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
"""


class Project:
    """A compose project in a directory of its own."""

    def __init__(self, directory: Path, daemon: Daemon, name: str) -> None:
        self.directory, self.name = directory, name
        self.env = {**daemon.env, "COMPOSE_PROJECT_NAME": name, "COMPOSE_HTTP_TIMEOUT": "60"}
        (directory / "docker-compose.yml").write_text(PROJECT)
        (directory / "web").mkdir()
        (directory / "web" / "Dockerfile").write_text(DOCKERFILE)

    def compose(self, *words: str, check: bool = True, input: str = "") -> subprocess.CompletedProcess[str]:
        assert COMPOSE is not None
        done = subprocess.run(
            [COMPOSE, "--no-ansi", *words], cwd=self.directory, env=self.env, input=input, text=True,
            capture_output=True, timeout=90,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def container(self, service: str, number: int = 1) -> str:
        return f"{self.name}_{service}_{number}"


@pytest.fixture
def project(sampand: Daemon, busybox: str, unique: str, tmp_path: Path) -> Iterator[Project]:
    found = Project(tmp_path, sampand, unique)
    yield found
    found.compose("down", "-v", "--rmi", "local", "--remove-orphans", "-t", "1", check=False)


def inspect(daemon: Daemon, name: str) -> Any:
    return daemon.json("GET", f"/containers/{name}/json")


def labelled(daemon: Daemon, *labels: str) -> list[Any]:
    filters = quote(json.dumps({"label": labels}))
    found: list[Any] = daemon.json("GET", f"/containers/json?all=1&filters={filters}")
    return found


def workers(daemon: Daemon, project: str) -> list[Any]:
    return labelled(daemon, f"com.docker.compose.project={project}", "com.docker.compose.service=worker")


def test_a_project_from_up_to_down(sampand: Daemon, project: Project, unique: str) -> None:
    up = project.compose("up", "-d")
    assert "Creating" in up.stderr
    rows = project.compose("ps").stdout
    assert re.search(rf"{unique}_store_1 .*Up \(healthy\)", rows) and rows.count(" Up ") == 3

    # what the services see of each other
    web = inspect(sampand, project.container("web"))
    assert web["Config"]["Labels"]["com.docker.compose.service"] == "web"
    port = project.compose("port", "web", "80").stdout.strip()
    assert urllib.request.urlopen(f"http://{port}/", timeout=10).read() == b"built\n"
    names = f"store depot {project.container('store')}"
    asked = f"for name in {names}; do wget -qO- http://$name/index.html; done"
    assert project.compose("exec", "-T", "worker", "sh", "-c", asked).stdout == "stored\n" * 3
    done = project.compose("exec", "-T", "web", "sh", "-c", "echo $COLOUR; exit 6", check=False)
    assert (done.stdout, done.returncode) == ("blue\n", 6)
    assert project.compose("exec", "-T", "worker", "cat", input="through\n").stdout == "through\n"

    assert "worker ready" in project.compose("logs", "worker").stdout
    assert project.compose("top", "worker").stdout.count("sh -c trap") == 1

    # nothing has changed: nothing is made anew
    before = inspect(sampand, project.container("web"))["Id"]
    assert "up-to-date" in project.compose("up", "-d").stderr
    assert inspect(sampand, project.container("web"))["Id"] == before

    # something has: only that
    text = (project.directory / "docker-compose.yml").read_text()
    (project.directory / "docker-compose.yml").write_text(text.replace("COLOUR: blue", "COLOUR: red"))
    project.compose("up", "-d")
    assert inspect(sampand, project.container("web"))["Id"] != before
    assert project.compose("exec", "-T", "web", "sh", "-c", "echo $COLOUR").stdout == "red\n"

    project.compose("up", "-d", "--scale", "worker=3", "--no-recreate")
    assert len(workers(sampand, unique)) == 3
    project.compose("up", "-d", "--scale", "worker=1", "--no-recreate")
    assert len(workers(sampand, unique)) == 1

    started = inspect(sampand, project.container("worker"))["State"]["StartedAt"]
    project.compose("restart", "-t", "3", "worker")
    assert inspect(sampand, project.container("worker"))["State"]["StartedAt"] > started
    project.compose("pause", "worker")
    assert inspect(sampand, project.container("worker"))["State"]["Paused"]
    project.compose("unpause", "worker")
    project.compose("stop", "-t", "5", "worker")
    assert inspect(sampand, project.container("worker"))["State"]["ExitCode"] == 0
    project.compose("start", "worker")
    project.compose("kill", "-s", "SIGKILL", "worker")
    project.compose("rm", "-f", "worker")
    assert workers(sampand, unique) == []

    down = project.compose("down", "-v", "-t", "2", "--rmi", "local")
    assert "Removing network" in down.stderr and "Removing volume" in down.stderr
    assert labelled(sampand, f"com.docker.compose.project={unique}") == []
    assert unique not in json.dumps(sampand.json("GET", "/networks"))
    assert unique not in json.dumps(sampand.json("GET", "/volumes"))
    assert unique not in json.dumps(sampand.json("GET", "/images/json"))


def test_run_of_a_single_service(project: Project) -> None:
    done = project.compose(
        "run", "--rm", "-T", "-e", "X=1", "worker", "sh", "-c", "echo $X; exit 3", check=False
    )
    assert (done.stdout, done.returncode) == ("1\n", 3)
    done = project.compose("run", "--rm", "-T", "web", "cat", "/www/index.html")
    assert done.stdout.endswith("\nbuilt\n")  # built, and store was started for it
    assert "store" in project.compose("ps").stdout


def test_volumes_of_the_image_go_over_into_a_new_container(sampand: Daemon, project: Project) -> None:
    (project.directory / "web" / "Dockerfile").write_text(
        'FROM busybox\nVOLUME /keep\nCMD ["sleep", "1000"]\n'
    )
    text = "version: '2.4'\nservices:\n  web: {build: web, init: true, environment: {COLOUR: blue}}\n"
    (project.directory / "docker-compose.yml").write_text(text)
    project.compose("up", "-d")
    before = inspect(sampand, project.container("web"))["Id"]
    project.compose("exec", "-T", "web", "sh", "-c", "echo kept > /keep/file")
    (project.directory / "docker-compose.yml").write_text(text.replace("blue", "red"))
    project.compose("up", "-d", "-t", "1")
    assert inspect(sampand, project.container("web"))["Id"] != before
    assert project.compose("exec", "-T", "web", "cat", "/keep/file").stdout == "kept\n"


def test_up_in_the_foreground(project: Project) -> None:
    text = (
        "version: '2.4'\nservices:\n  one: {image: busybox, command: sh -c 'echo first; sleep 0.5; exit 4'}\n"
    )
    text += "  two: {image: busybox, init: true, command: sleep 1000}\n"
    (project.directory / "docker-compose.yml").write_text(text)
    done = project.compose("up", "--exit-code-from", "one", check=False)
    assert done.returncode == 4, done.stderr
    assert re.search(r"one_1 +\| first", done.stdout)
    assert "exited with code 4" in done.stdout
    assert " Up " not in project.compose("ps").stdout


def test_logs_followed_and_events(sampand: Daemon, project: Project) -> None:
    assert COMPOSE is not None
    project.compose("up", "-d", "worker")
    words = [COMPOSE, "--no-ansi", "logs", "-f", "worker"]
    out = open(project.directory / "followed", "w+")
    events = open(project.directory / "events", "w+")
    follower = subprocess.Popen(words, cwd=project.directory, env=project.env, stdout=out, stderr=out)
    listener = subprocess.Popen(
        [COMPOSE, "events"],
        cwd=project.directory,
        env={**project.env, "PYTHONUNBUFFERED": "1"},
        stdout=events,
    )
    try:
        worker = project.container("worker")
        deadline = time.monotonic() + 40
        while "container unpause" not in Path(events.name).read_text():  # until it listens
            assert time.monotonic() < deadline
            for step in ("pause", "unpause"):
                sampand.json("POST", f"/containers/{worker}/{step}")
            time.sleep(0.2)
        project.compose("stop", "-t", "3", "worker")
        assert follower.wait(40) == 0
        while "container stop" not in Path(events.name).read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        for process in (follower, listener):
            process.kill()
            process.wait()
    assert "worker ready" in Path(out.name).read_text()
    found = Path(events.name).read_text()
    assert "container kill" in found and "container die" in found and "container stop" in found


def test_errors_are_shown(project: Project) -> None:
    file = project.directory / "docker-compose.yml"
    file.write_text("version: '2.4'\nservices:\n  bad: {image: busybox, command: nosuchprogram}\n")
    done = project.compose("up", "-d", check=False)
    assert done.returncode == 1 and "nosuchprogram" in done.stderr
    file.write_text("version: '2.4'\nservices:\n  bad: {image: 'localhost:1/nosuch:1'}\n")
    done = project.compose("up", "-d", check=False)
    assert done.returncode == 1 and "connection refused" in done.stderr

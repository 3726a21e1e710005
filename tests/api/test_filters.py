"""Filters of the lists and of prune: what dockerd selects and refuses (tried beside a dockerd where no trace has it)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def things(sampand: Daemon, busybox: str) -> Iterator[Daemon]:
    """Two containers, one of which has ended, a third from an image made from the first one's; a volume."""

    def make(name: str, **config: Any) -> None:
        body = {"Image": busybox, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}, **config}
        sampand.json("POST", f"/containers/create?name={name}", body)

    make("filter-one", Labels={"filter": "1", "empty": ""})
    make("filter-two", Cmd=["sh", "-c", "exit 3"])
    for name in ("one", "two"):
        sampand.json("POST", f"/containers/filter-{name}/start")
    sampand.json("POST", "/containers/filter-two/wait")
    sampand.json("POST", "/commit?container=filter-one&repo=filter/child&tag=1", {"Labels": {"filter": "x"}})
    make("filter-three", Image="filter/child:1")
    sampand.json("POST", "/volumes/create", {"Name": "filter-volume", "Labels": {"filter": ""}})
    yield sampand
    for name in ("one", "two", "three"):
        sampand.api("DELETE", f"/containers/filter-{name}?force=1")
    sampand.api("DELETE", "/images/filter/child:1")
    sampand.api("DELETE", "/volumes/filter-volume")


def ask(daemon: Daemon, path: str, filters: Any, method: str = "GET") -> tuple[int, Any]:
    text = filters if isinstance(filters, str) else json.dumps(filters)
    status, _, body = daemon.api(method, f"{path}{'&' if '?' in path else '?'}filters={quote(text)}")
    return status, json.loads(body)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"name": ["^filter-(one|three)$"]}, "one three"),
        ({"name": ["^/filter-one$"]}, "one"),
        ({"label": ["filter"]}, "one three"),
        ({"label": ["filter=1", "empty="]}, "one"),
        ({"label": {"filter=x": True}}, "three"),
        ({"status": ["running", "created"]}, "one three"),
        ({"exited": ["3", "4"]}, "two"),
        ({"before": ["filter-three"]}, "one two"),
        ({"since": ["filter-one"]}, "two three"),
        ({"ancestor": ["filter/child:1"]}, "three"),
        ({"ancestor": ["busybox"]}, "one two three"),
        ({"ancestor": ["nosuch"]}, ""),
        ({"id": [""]}, ""),
        ({"network": ["none"]}, "one two three"),
        ({"is-task": ["false"]}, "one two three"),
        ({"is-task": ["1"]}, ""),
        ({"isolation": ["hyperv"]}, "one two three"),
        ({"health": ["none"], "status": ["running"]}, "one"),
    ],
    ids=repr,
)
def test_containers(things: Daemon, filters: Any, names: str) -> None:
    status, found = ask(things, "/containers/json?all=1", filters)
    assert status == 200, found
    shown = {row["Names"][0].removeprefix("/filter-") for row in found}
    assert shown & {"one", "two", "three"} == set(names.split())


def test_ids_are_prefixes(things: Daemon) -> None:
    identity = things.json("GET", "/containers/filter-one/json")["Id"]
    for part, count in ((identity, 1), (identity[:12], 1), (identity[1:20], 0)):
        assert len(ask(things, "/containers/json", {"id": [part]})[1]) == count, part


def test_only_the_status_implies_all(things: Daemon) -> None:
    assert ask(things, "/containers/json", {"exited": ["3"]})[1] == []
    assert len(ask(things, "/containers/json", {"status": ["exited"], "name": ["filter-"]})[1]) == 1


@pytest.mark.parametrize(
    ("path", "filters", "found"),
    [
        ("/volumes", {"name": ["^filter-volume$"]}, True),
        ("/volumes", {"name": ["^filter$"]}, False),
        ("/volumes", {"name": ["["]}, False),
        ("/volumes", {"label": ["filter="], "dangling": ["true"]}, True),
        ("/volumes", {"dangling": ["0"]}, False),
        ("/images/json", {"reference": ["filter/*"]}, True),
        ("/images/json", {"reference": ["*/child:?"]}, True),
        ("/images/json", {"reference": ["*"]}, False),
        ("/images/json", {"label": ["filter=x"]}, True),
        ("/images/json", {"label": ["filter=x"], "label!": ["filter"]}, False),
        ("/images/json", {"since": ["busybox"]}, True),
        ("/images/json", {"until": ["1h"]}, False),
        ("/networks", {"name": ["^none$"], "type": ["builtin"]}, True),
        ("/networks", {"name": ["none"], "dangling": ["true"]}, False),
    ],
    ids=repr,
)
def test_others(things: Daemon, path: str, filters: Any, found: bool) -> None:
    status, answer = ask(things, path, filters)
    assert status == 200, answer
    names = {"/volumes": "filter-volume", "/images/json": "filter/child:1", "/networks": '"none"'}
    assert (names[path] in json.dumps(answer)) == found


@pytest.mark.parametrize(
    ("request_", "filters", "message"),
    [
        ("GET /containers/json", {"is-task": ["x"]}, "invalid filter 'is-task=[x]'"),
        ("GET /containers/json", {"NAME": ["x"]}, "invalid filter 'NAME'"),
        ("GET /containers/json", {"name": [1]}, "invalid filter"),
        ("GET /containers/json", "[]", "invalid filter"),
        ("GET /networks", {"dangling": ["true", "false"]}, "invalid filter 'dangling=[true false]'"),
        ("GET /images/json", {"reference": ["["]}, "syntax error in pattern"),
        ("GET /images/json", {"until": ["x"]}, 'invalid timestamp "x"'),
        ("POST /images/prune", {"until": ["1h", "2h"]}, "more than one until filter specified"),
        ("POST /images/prune", {"until": [""], "label": ["nosuch"]}, 'invalid timestamp ""'),
        ("POST /containers/prune", {"until": ["1h", "2h"]}, "more than one until filter specified"),
        ("POST /volumes/prune", {"until": ["1h"]}, "invalid filter 'until'"),
        ("POST /networks/prune", {"until": ["x"]}, 'invalid timestamp "x"'),
        ("POST /build/prune", {"until": ["x"]}, "x"),
    ],
    ids=repr,
)
def test_refused(things: Daemon, request_: str, filters: Any, message: str) -> None:
    method, path = request_.split()
    status, answer = ask(things, path, filters, method)
    assert (status, message in answer["message"]) == (400, True), answer

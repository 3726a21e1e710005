"""Devices by CDI specifications, and ``--gpus`` by them: with Docker's command line, on files of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, Daemon, _numbers, current_cli, import_busybox

pytestmark = pytest.mark.root
CLI = None if current_cli() else str(BIN / "sampan")  # Debian's docker CLI knows no names of CDI


def specification(kind: str, devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    listed = [{"name": name, "containerEdits": edits} for name, edits in devices.items()]
    return {"cdiVersion": "0.6.0", "kind": kind, "devices": listed, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("cdi")
    for name in ("first", "second"):
        (top / name).mkdir()
    (top / "given").write_text("from the host\n")
    hook = top / "hook"
    hook.write_text(
        '#!/bin/sh\nstate=$(cat)\nbundle=$(echo "$state" | sed \'s/.*"bundle": "\\([^"]*\\)".*/\\1/\')\n'
        'root=$(sed \'s/.*"root": {"path": "\\([^"]*\\)".*/\\1/\' $bundle/config.json)\n'
        '[ "$1" != fail ] || { echo told why; exit 3; }\necho "$WHO $1 $state" > $root/hooked\n'
    )
    hook.chmod(0o755)
    devices = {
        "one": {
            "env": ["WHAT=one", "PATH=/bin:/opt"],
            "deviceNodes": [
                {"path": "/dev/mine", "hostPath": "/dev/null", "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/loops", "hostPath": "/dev/loop-control", "permissions": "r"},
            ],
            "mounts": [
                {"hostPath": str(top / "given"), "containerPath": "/opt/given", "options": ["ro", "rbind"]},
                {"hostPath": "tmpfs", "containerPath": "/opt/mem", "type": "tmpfs", "options": ["size=64k"]},
            ],
            "additionalGids": [4321],
            "hooks": [
                {"hookName": "createContainer", "path": str(hook), "args": ["hook", "arg"], "env": ["WHO=me"]}
            ],
        },
        "two": {"env": ["WHAT=two"]},
        "late": {"hooks": [{"hookName": "poststop", "path": "/bin/true"}]},
        "failing": {"hooks": [{"hookName": "createContainer", "path": str(hook), "args": ["hook", "fail"]}]},
        "missing": {"deviceNodes": [{"path": "/dev/nosuch"}]},
        "shared": {"env": ["FROM=first"]},
    }
    devices["one"]["mounts"][1]["hostPath"] = "/tmpfs"  # not looked at
    common = {"env": ["COMMON=yes"], "mounts": []}
    documents = {
        "first/null.json": specification("example.com/null", devices, containerEdits=common),
        "second/null.json": specification("example.com/null", {"shared": {"env": ["FROM=second"]}}),
        "first/twice.json": specification("example.com/twice", {"a": {"env": ["A=1"]}}),
        "first/again.json": specification("example.com/twice", {"a": {"env": ["A=2"]}}),
        "first/odd.json": specification("example.com/odd", {"a": {"sort": ["A=2"]}}),
    }
    for name, document in documents.items():
        (top / name).write_text(json.dumps(document))
    (top / "second/broken.json").write_text("{")
    return top


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Daemon]:
    flags = ("--cdi-spec-dir", str(folder / "first"), "--cdi-spec-dir", str(folder / "second"))
    daemon = Daemon(next(_numbers), *flags)
    try:
        import_busybox(daemon.start())
        yield daemon
    finally:
        daemon.close()


def run(daemon: Daemon, *words: str) -> str:
    return daemon.docker("run", "--rm", "--network", "none", *words, cli=CLI).stdout


def failure(daemon: Daemon, requests: list[dict[str, Any]]) -> tuple[int, str]:
    """What a start says; the create before it succeeds."""
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": "none", "DeviceRequests": requests}}
    container = daemon.json("POST", "/containers/create", body)["Id"]
    status, _, answer = daemon.api("POST", f"/containers/{container}/start")
    assert not (daemon.run / "containers" / container).exists()
    shown = daemon.json("GET", f"/containers/{container}/json")["State"]
    assert (shown["Status"], shown["ExitCode"]) == ("created", 128)
    daemon.json("DELETE", f"/containers/{container}")
    return status, json.loads(answer)["message"]


def cdi(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"Driver": "cdi", "DeviceIDs": list(names), **more}]


def test_edits(engine: Daemon) -> None:
    """Nodes with their rules, variables, mounts, groups and hooks; common ones once; later devices win."""
    script = (
        "stat -c '%F %t:%T %a %u:%g' /dev/mine; echo x > /dev/mine; (: < /dev/loops) && echo read;"
        " (: > /dev/loops) 2>/dev/null || echo not written; env | grep -E '^(WHAT|COMMON|PATH)=' | sort;"
        " cat /opt/given; (: > /opt/given) 2>/dev/null || echo not written; df -k /opt/mem | tail -1; id -G;"
        " cat /hooked"
    )
    devices = ("--device", "example.com/null=one", "--device", "example.com/null=two")
    lines = run(engine, *devices, "busybox", "sh", "-c", script).splitlines()
    assert lines[:4] == ["character special file 1:3 640 5:6", "read", "not written", "COMMON=yes"]
    assert lines[4:8] == ["PATH=/bin:/opt", "WHAT=two", "from the host", "not written"]
    assert lines[8].split()[1] == "64" and "4321" in lines[9].split()
    who, argument, state = lines[10].split(" ", 2)
    assert (who, argument) == ("me", "arg")
    assert json.loads(state)["status"] == "creating" and json.loads(state)["pid"] == 1
    assert not {"mine", "loops"} & set(run(engine, "busybox", "ls", "/dev").split())


def test_it_lasts(engine: Daemon) -> None:
    """Inspect shows the request; the devices are looked up at each start, also by another engine."""
    engine.docker(
        *("run", "-d", "--name", "kept", "--network", "none", "--device", "example.com/null=two"),
        *("busybox", "sleep", "100"),
        cli=CLI,
    )
    found = engine.json("GET", "/containers/kept/json")["HostConfig"]
    assert found["DeviceRequests"] == [
        {
            "Driver": "cdi",
            "Count": 0,
            "DeviceIDs": ["example.com/null=two"],
            "Capabilities": None,
            "Options": None,
        }
    ]
    assert not found["Devices"]
    for _ in range(2):
        shown = engine.docker("exec", "kept", "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ").stdout
        assert "WHAT=two\n" in shown and "COMMON=yes\n" in shown
        engine.kill()
        engine.start()
        engine.docker("restart", "-t", "0", "kept")
    engine.docker("rm", "-f", "kept")


def test_specifications(engine: Daemon, folder: Path) -> None:
    """A later directory wins, twice in one is nobody's, a broken file is named and stops no other."""
    words = ("busybox", "sh", "-c", "echo $FROM")
    assert run(engine, "--device", "example.com/null=shared", *words) == "second\n"
    status, message = failure(engine, cdi("example.com/twice=a", "example.com/null=one", "example.com/odd=a"))
    told, hint = message.split("\n")
    assert status == 500
    assert told == (
        "CDI device injection failed: unresolvable CDI devices example.com/twice=a, example.com/odd=a"
    )
    for problem in ("broken.json: ", "example.com/twice=a is defined twice", "odd.json: ", "`sort`"):
        assert problem in hint
    info = engine.json("GET", "/v1.50/info")
    assert info["CDISpecDirs"] == [str(folder / "first"), str(folder / "second")]
    found = [device["ID"] for device in info["DiscoveredDevices"] if device["Source"] == "cdi"]
    assert found == [
        f"example.com/null={name}" for name in sorted(("one", "two", "late", "failing", "missing", "shared"))
    ]
    assert "DiscoveredDevices" not in engine.json("GET", "/v1.49/info")


def test_yaml(engine: Daemon, folder: Path) -> None:
    pytest.importorskip("yaml")
    path = folder / "second" / "made.yaml"
    path.write_text(
        "cdiVersion: '0.5.0'\nkind: example.com/made\ndevices:\n- name: '0'\n  containerEdits:\n"
        "    env:\n    - MADE=by yaml\n    deviceNodes:\n    - path: /dev/made\n      hostPath: /dev/zero\n"
    )
    try:
        words = ("busybox", "sh", "-c", "echo $MADE; stat -c %t:%T /dev/made")
        assert run(engine, "--device", "example.com/made=0", *words) == "by yaml\n1:5\n"
        path.write_text("a: [")
        assert "made.yaml: " in failure(engine, cdi("example.com/made=0"))[1]
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (cdi("example.com/null=late"), "CDI device injection failed: a hook poststop (/bin/true) is not supported"),
        (cdi("example.com/null=failing"), "error running createContainer hook #0"),
        (cdi("example.com/null=missing"), 'failed to stat CDI host device "/dev/nosuch": no such file or directory'),
        (cdi("example.com/null=one", Count=1), "unexpected count in CDI device request"),
        (cdi("example.com/null=one", Options={"a": "b"}), "unexpected options in CDI device request"),
        (cdi("one"), "CDI device injection failed: unresolvable CDI devices one"),
        ([{"Count": -1, "Capabilities": [["gpu"]]}], "failed to discover GPU vendor from CDI: no known GPU vendor found"),
        (
            [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu", "utility"], ["x"]]}],
            'could not select device driver "nvidia" with capabilities: [[gpu utility] [x]]',
        ),
        ([{"Count": 1, "Capabilities": [["tpu"]]}], 'could not select device driver "" with capabilities: [[tpu]]'),
    ],
)  # fmt: skip
def test_refused_at_the_start(engine: Daemon, requests: list[dict[str, Any]], message: str) -> None:
    status, told = failure(engine, requests)
    assert status == 500 and message in told.split("\n")[0]


def test_gpus(engine: Daemon, folder: Path) -> None:
    path = folder / "first" / "nvidia.json"
    gpus = {name: {"env": [f"GPU{name}=1"]} for name in ("0", "1", "uuid")} | {"all": {"env": ["ALL=1"]}}
    path.write_text(json.dumps(specification("nvidia.com/gpu", gpus)))
    words = ("busybox", "sh", "-c", "env | grep -E '^(GPU|ALL)' | sort | tr '\\n' ' '")
    try:
        for asked, given in (
            ("all", "ALL=1 "),
            ("2", "GPU0=1 GPU1=1 "),
            ("device=uuid", "GPUuuid=1 "),
            ('"device=0,uuid","capabilities=compute,utility"', "GPU0=1 GPUuuid=1 "),
            ("driver=nvidia,count=1", "GPU0=1 "),
        ):
            assert run(engine, "--gpus", asked, *words) == given
        amd = [{"Driver": "amd", "Count": 1, "Capabilities": [["gpu"]]}]
        assert 'could not select device driver "amd"' in failure(engine, amd)[1]
        both = [{"Count": 1, "DeviceIDs": ["0"], "Capabilities": [["gpu"]]}]
        assert failure(engine, both)[1] == "cannot set both Count and DeviceIDs on device request"
    finally:
        path.unlink()


def test_switched_off(new_sampand: Any) -> None:
    daemon = new_sampand("--feature", "cdi=false")
    import_busybox(daemon)
    assert daemon.json("GET", "/info")["CDISpecDirs"] == []
    told = failure(daemon, cdi("example.com/null=one"))[1]
    assert told.split("\n")[0] == 'could not select device driver "cdi" with capabilities: []'

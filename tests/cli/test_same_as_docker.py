"""The same words to sampan and to docker's own client, on the same engine: the same output and exit code."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import STOCK, Engine

pytestmark = pytest.mark.skipif(STOCK is None, reason="docker's client is not installed")

LISTINGS = [
    "ps -a",
    "ps -aq --no-trunc",
    "ps -s -a",
    "ps -a --format json",
    "ps -a --format {{.ID}}:{{.Labels}}:{{.Mounts}}:{{.LocalVolumes}}:{{.Networks}}",
    "ps -a --format {{json .Names}} --filter label=cli=1",
    "ps -n 1",
    "ps --filter status=running -q",
    "container ls -l",
    "images",
    "images -q --no-trunc",
    "images --digests",
    "images busybox",
    "image ls --format json",
    "history busybox:cli",
    "history --no-trunc --format json busybox:cli",
    "history -H=false busybox:cli",
    "inspect cli-run",
    "inspect -s cli-run",
    "inspect busybox:cli cli-run -f {{.Id}}",
    "image inspect busybox:cli",
    "container inspect cli-run -f {{json .State}}",
    "inspect nosuch",
    "inspect cli-run nosuch -f {{.Name}}",
    "inspect --type volume cli-run",
    "inspect --type nonsense cli-run",
    "inspect -f {{.Nosuch}} cli-run",
    "logs cli-run",
    "logs -t --tail 1 cli-run",
    "logs --since nonsense cli-run",
    "logs nosuch",
    "diff cli-run",
    "top cli-run",
    "port cli-run",
    "port cli-run 80",
    "volume ls",
    "volume ls --format json",
    "volume inspect cli-volume nosuch",
    "network ls",
    "network ls --format json --no-trunc",
    "network inspect none",
    "network inspect nosuch",
    "system df --format json",
    "events --since 1h --until 0s --filter container=cli-run --filter event=create",
    "version -f {{.Server.Version}}",
    "info -f {{.Containers}}/{{.OSType}}/{{.Architecture}}",
    "wait nosuch",
    "stop nosuch",
    "kill nosuch",
    "start nosuch",
    "rm nosuch",
    "rm -f nosuch",
    "rmi nosuch",
    "rename nosuch x1",
    "exec nosuch true",
    "attach nosuch",
    "update nosuch --cpus 1",
    "tag nosuch x",
    "commit nosuch",
    "commit cli-run Bad:Name",
    "export nosuch -o /tmp/x.tar",
    "cp nosuch:/x .",
    "volume rm nosuch",
    "ps --filter nosuch=1",
    "run --network none busybox:cli nosuch-program",
    "run --rm --network none busybox:cli sh -c 'echo out; exit 7'",
    "run -p nonsense busybox:cli",
    "run -p 99999:80 busybox:cli",
    "run --expose nonsense busybox:cli",
    "run --rm --restart always busybox:cli",
    "run --health-cmd x --no-healthcheck busybox:cli",
    "run --memory-swappiness 200 busybox:cli",
    "run --security-opt nonsense busybox:cli",
    "run --pid nonsense busybox:cli",
    "run --mac-address nonsense busybox:cli",
    "run -d -a stdout busybox:cli",
    "run -it busybox:cli",
    "run --dns nonsense busybox:cli",
    "run --ulimit nosuch=1 busybox:cli",
    "run --ulimit nofile=20:10 busybox:cli",
    "run --mount type=volume busybox:cli",
    "run --mount type=tmpfs,dst=/x,tmpfs-size=nonsense busybox:cli",
    "run --add-host nonsense busybox:cli",
    "run --sysctl nonsense busybox:cli",
    "run --shm-size -1 busybox:cli",
    "run --device-read-bps nonsense busybox:cli",
    "run --device-cgroup-rule nonsense busybox:cli",
    "run --nosuch busybox:cli",
    "run",
    "ps extra",
    "logs",
    "rename one",
    "port a b c",
    "ps -n",
    "ps -n x",
    "ps -Z",
    "stop",
    "exec -e =x cli-run true",
    "exec cli-run sh -c 'echo out; echo err >&2; exit 3'",
    "exec cli-run nosuch-program",
]


@pytest.fixture(scope="module")
def furnished(engine: Engine) -> Engine:
    """A running container, a volume, things to list."""
    engine.sampan("volume", "create", "cli-volume", "--label", "a=b")
    engine.run_detached(
        *("--name", "cli-run", "--label", "cli=1", "-v", "cli-volume:/v", "--stop-timeout", "1"),
        *("busybox:cli", "sh", "-c", "echo one; echo two >&2; echo x > /new; exec sleep 1000"),
    )
    # What is listed stays as it is from now on.
    until(lambda: b"sleep" in engine.sampan("exec", "cli-run", "cat", "/proc/1/comm").stdout)
    until(lambda: len(engine.sampan("logs", "cli-run").stdout + engine.sampan("logs", "cli-run").stderr) == 8)
    return engine


def until(true: Callable[[], bool]) -> None:
    """Wait for it, for half a minute."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _normal(output: bytes) -> str:
    """Differences that are meant: the program's name, our hints, times that pass between two calls."""
    text = output.decode("utf-8", "replace").replace("docker:", "sampan:")
    text = re.sub(r"\bdocker (?=[a-z]+ (--help|\[|CONT)|[a-z]+')", "sampan ", text)
    text = re.sub(r"(\d+|About an?|Less than a) (second|minute)s?( ago)?", "<AGE>", text)
    text = re.sub(
        r"(?m)^(\S+ +\d+ +\d+) +\d+ +\d\d:\d\d ", r"\1 <C> <STIME> ", text
    )  # ps -ef: both can change
    text = re.sub(r"  +", "  ", text)
    text = re.sub(r"(?m)^(Did you mean .*|Without a terminal .*)\n", "", text)
    return re.sub(r"[0-9a-f]{64}", "<ID>", text) if "Error response" in text else text


@pytest.mark.parametrize("line", LISTINGS)
def test_same_output(furnished: Engine, line: str, tmp_path: Path) -> None:
    import shlex

    words = shlex.split(line) if "'" in line else _words(line)
    stock, ours = furnished.stock(*words, cwd=tmp_path), furnished.sampan(*words, cwd=tmp_path)
    if line.startswith("diff"):  # dockerd answers in any order
        assert sorted(ours.stdout.splitlines()) == sorted(stock.stdout.splitlines())
        return
    assert _normal(ours.stdout) == _normal(stock.stdout)
    assert _normal(ours.stderr) == _normal(stock.stderr)
    assert ours.returncode == stock.returncode


def _words(line: str) -> list[str]:
    """Split at blanks outside of ``{{…}}``."""
    return [word for word in re.findall(r"(?:\{\{.*?\}\}|\S)+", line) if word]


def test_cp_follows_dockers_rules(clean: Engine, tmp_path: Path) -> None:
    results = []
    for number, run in enumerate((clean.stock, clean.sampan)):
        folder = tmp_path / str(number)
        (folder / "d/e").mkdir(parents=True)
        (folder / "f").write_text("content")
        (folder / "d/e/g").write_text("1")
        name = f"cp{number}"
        script = "mkdir /real; echo 1 > /real/one; ln -s /real /lnk; ln -s /made /dang; exec sleep 100"
        clean.run_detached("--name", name, "busybox:cli", "sh", "-c", script)
        until(lambda name=name: clean.sampan("exec", name, "readlink", "/dang").stdout != b"")  # type: ignore[misc]
        outcome: list[object] = []
        for line in (
            *(
                "cp C:/etc/passwd .",
                "cp C:/etc ./etcdir",
                "cp C:/etc/. ec",
                "cp C:/bin/sh sh",
                "cp -L C:/bin/sh s2",
            ),
            *("cp f C:/tmp/", "cp f C:/tmp/renamed", "cp d C:/tmp", "cp d/. C:/tmp/dd", "cp d/. C:/newdir"),
            *("cp -a f C:/tmp/archived", "cp f C:/lnk", "cp f C:/dang", "cp C:/lnk got", "cp C:/lnk/ got3"),
            *("cp -L C:/lnk got2", "cp C:/nosuch .", "cp f C:/nosuch/x", "cp nosuch C:/tmp", "cp f f"),
        ):
            done = run(*line.replace("C:", f"{name}:").split(), cwd=folder)
            outcome.append((line, done.returncode))
        inside = clean.sampan("exec", name, "find", "/tmp", "/real", "/newdir", "/made").stdout.split()
        outcome += [sorted(inside), sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))]
        outcome.append(os.readlink(folder / "got"))
        results.append(outcome)
        clean.sampan("rm", "-f", name)
    assert results[1] == results[0]


def test_build_context_is_the_same(clean: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in (
        ("Dockerfile", "FROM busybox:cli\nCOPY . /x\nRUN find /x | sort && cat /x/sub/keep\n"),
        (".dockerignore", "*.o\nsub/*\n!sub/keep\nDockerfile\n"),
        ("a", "a"),
        ("b.o", "b"),
        ("sub/keep", "kept\n"),
        ("sub/gone", "gone"),
    ):
        (tmp_path / name).write_text(text)
    os.symlink("a", tmp_path / "link")
    os.link(tmp_path / "a", tmp_path / "hard")
    stock = clean.stock("build", "--no-cache", "--network", "none", ".", cwd=tmp_path)
    ours = clean.sampan("build", "--no-cache", "--network", "none", ".", cwd=tmp_path)
    shown = [re.sub(rb"[0-9a-f]{12}", b"<ID>", done.stdout).splitlines() for done in (stock, ours)]
    assert stock.returncode == ours.returncode == 0, ours.stderr
    assert shown[0] == shown[1]
    assert b"/x/link" in ours.stdout and b"/x/b.o" not in ours.stdout and b"/x/sub/gone" not in ours.stdout


def test_prune_asks_first(clean: Engine) -> None:
    clean.sampan("create", "--name", "stopped", "--network", "none", "busybox:cli")
    for words in (["container", "prune"], ["system", "prune"], ["image", "prune", "-a"], ["volume", "prune"]):
        stock, ours = clean.stock(*words, input=b"n\n"), clean.sampan(*words, input=b"n\n")
        assert (ours.stdout.strip(), ours.returncode) == (stock.stdout.strip(), stock.returncode)
    assert clean.sampan("inspect", "-f", "{{.Name}}", "stopped").stdout == b"/stopped\n"
    done = clean.sampan("container", "prune", "-f", "--filter", "label=none")
    assert done.stdout == b"Total reclaimed space: 0B\n"
    done = clean.sampan("container", "prune", input=b"y\n")
    assert b"Deleted Containers:" in done.stdout and done.returncode == 0
    assert clean.sampan("inspect", "stopped").returncode == 1


def test_save_load_export_import(clean: Engine, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    assert clean.sampan("save", "-o", str(archive), "busybox:cli").returncode == 0
    piped = clean.sampan("save", "busybox:cli").stdout
    assert len(piped) == archive.stat().st_size
    assert clean.sampan("load", "-i", str(archive)).stdout == b"Loaded image: busybox:cli\n"
    assert clean.sampan("load", "-q", input=piped).stdout == b"Loaded image: busybox:cli\n"
    clean.sampan("create", "--name", "ex", "--network", "none", "busybox:cli")
    content = clean.sampan("export", "ex").stdout
    done = clean.sampan("import", "-c", 'CMD ["echo", "new"]', "-", "again:1", input=content)
    assert done.stdout.startswith(b"sha256:")
    assert clean.sampan("run", "--rm", "--network", "none", "-e", "PATH=/bin", "again:1").stdout == b"new\n"
    assert clean.sampan("rmi", "again:1").returncode == 0


def test_many_at_once(clean: Engine) -> None:
    names = [f"many{number}" for number in range(5)]
    for name in names:
        clean.run_detached("--name", name, "busybox:cli", "sleep", "100")
    done = clean.sampan("stop", "-t", "0", *names, "nosuch")
    assert done.stdout.decode().split() == names
    assert done.returncode == 1 and b"No such container: nosuch" in done.stderr
    done = clean.sampan("rm", *names)
    assert (done.stdout.decode().split(), done.returncode) == (names, 0)

"""``sampan build --ssh``: real agents lent to RUN and to ADD of git repositories, and what must not get through."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, Daemon, import_busybox

from .conftest import tar_of
from .door import Door

pytestmark = pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="openssh-client is not installed")


def key(directory: Path, name: str, *more: str) -> Path:
    path = directory / name
    words = ("-q", "-t", "ed25519", "-N", "", "-C", f"smhe-{name}", *more)
    subprocess.run(["ssh-keygen", *words, "-f", path], check=True)
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent with the key ``tmp_path/one``."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    until(path.exists)
    add = ["ssh-add", "-q", key(tmp_path, "one")]
    subprocess.run(add, env={**os.environ, "SSH_AUTH_SOCK": str(path)}, check=True)
    yield path
    process.terminate()
    process.wait()


def until(condition: Any, patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def base(sampand: Daemon, busybox: str) -> str:
    """``smhe-ssh``: the base image with an ssh-add and what it needs."""
    return make_base(sampand, busybox)


def make_base(daemon: Daemon, busybox: str) -> str:
    files: dict[str, Any] = {}
    listed = subprocess.run(["ldd", "/usr/bin/ssh-add"], capture_output=True, text=True, check=True).stdout
    for word in listed.split():
        if word.startswith("/"):
            files[f"root{word}"] = Path(word).read_bytes()
    files["ssh-add"] = Path("/usr/bin/ssh-add").read_bytes()
    door = Door(daemon, busybox)
    door.build(
        "FROM BASE\nCOPY root /\nCOPY --chmod=755 ssh-add /bin/\nRUN chmod -R 755 /lib*\n",
        files,
        t="smhe-ssh",
    )
    return "smhe-ssh"


class Ours:
    """``sampan build`` of one Dockerfile, with an environment."""

    def __init__(self, daemon: Daemon, folder: Path, agent: Path) -> None:
        self.daemon = daemon
        self.folder = folder
        self.env = {**daemon.env, "SSH_AUTH_SOCK": str(agent)}

    def __call__(self, dockerfile: str, *args: str, code: int = 0, **files: bytes) -> str:
        """What it says, on both streams."""
        top = self.folder / "context"
        top.mkdir(exist_ok=True)
        for name, data in {"Dockerfile": dockerfile.encode(), **files}.items():
            (top / name).write_bytes(data)
        words = [str(BIN / "sampan"), "build", "--no-cache", "--network", "none", *args, str(top)]
        done = subprocess.run(
            words, env=self.env, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def ours(sampand: Daemon, base: str, tmp_path: Path, agent: Path) -> Ours:
    return Ours(sampand, tmp_path, agent)


def left(daemon: Daemon) -> list[Path]:
    """The sockets of agents that are there."""
    top = daemon.run / "build"
    return [path for path in top.iterdir() if stat.S_ISSOCK(path.lstat().st_mode)] if top.is_dir() else []


def test_keys_are_used_and_never_there(ours: Ours, tmp_path: Path) -> None:
    said = ours(
        "FROM smhe-ssh\nCOPY one.pub /\n"
        "RUN --mount=type=ssh echo at $SSH_AUTH_SOCK; ssh-add -l; ssh-add -T /one.pub && echo signed\n"
        "RUN --mount=type=ssh for i in 1 2 3 4 5 6 7 8; do ssh-add -T /one.pub & done; wait; echo together\n"
        "RUN echo now ${SSH_AUTH_SOCK:-none}; ls /run/buildkit 2>&1; true\n",
        "--ssh", "default", "-t", "smhe-used",
        **{"one.pub": (tmp_path / "one.pub").read_bytes()},
    )  # fmt: skip
    assert "at /run/buildkit/ssh_agent.0\n" in said and "smhe-one (ED25519)" in said
    assert "\nsigned\n" in said and "\ntogether\n" in said and "agent refused" not in said
    assert "now none\n" in said and "ls: /run/buildkit: No such file" in said
    assert left(ours.daemon) == []
    history = ours.daemon.docker("history", "--no-trunc", "smhe-used").stdout
    assert "SSH_AUTH_SOCK=" not in history


def test_owner_mode_place_and_ids(ours: Ours, tmp_path: Path) -> None:
    said = ours(
        "FROM smhe-ssh\n"
        "RUN --mount=type=ssh,id=a,target=/x/s,mode=0640,uid=7,gid=8 --mount=type=ssh,id=b "
        "echo $SSH_AUTH_SOCK; stat -c '%a %u %g %F' /x/s; stat -c '%a %u' /run/buildkit/ssh_agent.1; ssh-add -l; "
        "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.1 ssh-add -l\n"
        "RUN --mount=type=ssh ssh-add -l || echo no default\n"
        "USER 7\nRUN --mount=type=ssh,id=a,uid=7 ssh-add -l && echo mine\n"
        "RUN --mount=type=ssh,id=a ssh-add -l || echo not mine\n",
        "--ssh", f"a={ours.env['SSH_AUTH_SOCK']}", "--ssh", f"b={key(tmp_path, 'two')}",
    )  # fmt: skip
    assert "/x/s\n640 7 8 socket\n600 0\n" in said
    assert said.count("smhe-one (ED25519)") == 2 and said.count("smhe-two (ED25519)") == 1
    assert "no default\n" in said and "\nmine\n" in said and "not mine\n" in said
    # The agent that was started for the key file has gone.
    assert (
        str(tmp_path / "two")
        not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    )


def test_a_step_can_only_list_and_sign(ours: Ours, tmp_path: Path) -> None:
    dockerfile = (
        "FROM smhe-ssh\nCOPY --chmod=600 other /other\n"
        "RUN --mount=type=ssh ssh-add -D; ssh-add /other; ssh-add -X </dev/null; ssh-add -l\n"
    )
    said = ours(dockerfile, "--ssh", "default", other=key(tmp_path, "other").read_bytes())
    assert "smhe-one (ED25519)" in said and "smhe-other" not in said and "All identities removed" not in said
    there = subprocess.run(["ssh-add", "-l"], env=ours.env, capture_output=True, text=True).stdout
    assert "smhe-one" in there and "smhe-other" not in there


def test_wrong_ways(ours: Ours, tmp_path: Path) -> None:
    required = "FROM smhe-ssh\nRUN --mount=type=ssh,required ssh-add -l\n"
    assert 'no SSH key "default" forwarded from the client' in ours(required, code=1)
    assert "smhe-one" in ours(required, "--ssh", "default")
    assert 'no SSH key "default"' in ours(required, "--ssh", f"x={ours.env['SSH_AUTH_SOCK']}", code=1)
    assert "/none: no such file" in ours(required, "--ssh", f"default={tmp_path}/none", code=1)
    assert "invalid duplicate ID default" in ours(required, "--ssh", "default", "--ssh", "default", code=125)
    (tmp_path / "nokey").write_text("no key\n")
    assert "failed to load" in ours(required, "--ssh", f"default={tmp_path}/nokey", code=1)
    ours.env["SSH_AUTH_SOCK"] = ""
    assert "make sure SSH_AUTH_SOCK is set" in ours(required, "--ssh", "default", code=1)
    # An agent that isn't there any more is one that a step can't talk to.
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    assert "communication with agent failed" in ours(required, "--ssh", f"default={dead}", code=1)


def test_git_by_ssh(ours: Ours, tmp_path: Path) -> None:
    if not os.path.exists("/usr/sbin/sshd") or shutil.which("git") is None:
        pytest.skip("sshd or git is not installed")
    work = tmp_path / "work"
    work.mkdir()
    (work / "f").write_text("by ssh\n")
    (work / "Dockerfile").write_text("FROM smhe-ssh\nCOPY f /f\nRUN cat /f\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "1"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=work, check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.makedirs("/run/sshd", exist_ok=True)
    server = subprocess.Popen([
        "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", key(tmp_path, "host"),
        "-o", "ListenAddress=127.0.0.1", "-o", f"AuthorizedKeysFile={tmp_path}/one.pub", "-o", "StrictModes=no",
        "-o", f"PidFile={tmp_path}/pid", "-o", "UsePAM=no",
    ], stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        url = f"ssh://root@127.0.0.1:{port}{work}"
        dockerfile = f"FROM smhe-ssh\nADD {url} /r\nRUN cat /r/f\n"
        assert "\nby ssh\n" in ours(dockerfile, "--ssh", "default")
        assert "no SSH agent is forwarded" in ours(dockerfile, code=1)
        lines = {"right": (tmp_path / "host.pub").read_text(), "wrong": (tmp_path / "one.pub").read_text()}
        for name, line in lines.items():
            (tmp_path / name).write_text(f"[127.0.0.1]:{port} {line}")
            known = ("--secret", f"id=GIT_SSH_KNOWN_HOSTS,src={tmp_path}/{name}", "--ssh", "default")
            said = ours(dockerfile, *known, code=int(name == "wrong"))
            assert ("\nby ssh\n" in said) == (name == "right"), said
            assert ("Host key verification failed" in said) == (name == "wrong"), said
        other = f"default={key(tmp_path, 'stranger')}"
        assert "Permission denied" in ours(dockerfile, "--ssh", other, code=1)
        remote = [str(BIN / "sampan"), "build", "--no-cache", "--network", "none", "--ssh", "default", url]
        done = subprocess.run(remote, env=ours.env, capture_output=True, text=True, timeout=100)
        assert "\nby ssh\n" in done.stdout, done.stderr
    finally:
        server.terminate()
        server.wait()
    assert left(ours.daemon) == []


def test_remote_engine_over_tcp(new_sampand: Any, tmp_path: Path, agent: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = new_sampand("-H", f"tcp://127.0.0.1:{port}")
    make_base(daemon, import_busybox(daemon))
    ours = Ours(daemon, tmp_path, agent)
    ours.env["DOCKER_HOST"] = f"tcp://127.0.0.1:{port}"
    assert "smhe-one" in ours("FROM smhe-ssh\nRUN --mount=type=ssh ssh-add -l\n", "--ssh", "default")


def test_killed_engine_leaves_no_socket(new_sampand: Any, tmp_path: Path, agent: Path) -> None:
    daemon = new_sampand()
    make_base(daemon, import_busybox(daemon))
    top = tmp_path / "context"
    top.mkdir()
    (top / "Dockerfile").write_text("FROM smhe-ssh\nRUN --mount=type=ssh ssh-add -l && sleep 100\n")
    words = [str(BIN / "sampan"), "build", "--network", "none", "--ssh", "default", str(top)]
    client = subprocess.Popen(
        words,
        env={**daemon.env, "SSH_AUTH_SOCK": str(agent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: left(daemon))
    time.sleep(0.2)
    daemon.kill()
    assert client.wait(60) != 0
    daemon.start()
    assert left(daemon) == [] and daemon.json("GET", "/containers/json?all=1") == []
    # And a client that is killed takes its agent along, while the engine goes on.
    client = subprocess.Popen(
        words,
        env={**daemon.env, "SSH_AUTH_SOCK": str(agent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: left(daemon))
    client.kill()
    client.wait()
    until(lambda: not left(daemon))


def test_an_agent_for_key_files_leaves_no_process(tmp_path: Path) -> None:
    """Not even a dead one, for the machine's first process may never reap."""
    script = (
        "import ctypes, sys\nfrom sampan.cli.sshagents import Lent\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us\n"
        "lent = Lent(['id=' + sys.argv[1]])\nlent.close()\n"
        "print(open('/proc/thread-self/children').read().split())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(key(tmp_path, "three"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_door_itself(sampand: Daemon, base: str, busybox: str) -> None:
    """The frames as docs/build.md has them, by a client that misbehaves."""
    door = Door(sampand, busybox)
    assert sampand.api("POST", "/build/agents")[0] == 400
    assert "no such agent connection" in door.build("FROM BASE\n", ssh="0" * 32).error
    with socket.socket(socket.AF_UNIX) as lender:
        lender.connect(sampand.socket)
        lender.sendall(
            b"POST /build/agents?id=m HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        head = lender.recv(4096).decode()
        assert head.startswith("HTTP/1.1 101") and "X-Sampan-Agents: " in head
        name = head.partition("X-Sampan-Agents: ")[2].split()[0]
        # Answers that nobody asked for, and then one that is too long: the engine hangs up, the build goes on.
        lender.sendall(struct.pack("!IBI", 7, 2, 3) + b"abc")
        lender.sendall(struct.pack("!IBI", 1, 2, 1 << 30))
        assert lender.recv(10) == b""
    until(lambda: "no such agent" in door.build("FROM BASE\n", ssh=name).error)
    body = tar_of({"Dockerfile": "FROM smhe-ssh\nRUN --mount=type=ssh ssh-add -l 2>&1; echo went on\n"})
    assert "went on" in door.build(body=body).text

"""docker-py: logs, attach, exec, archives."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
import time
from datetime import datetime
from typing import Any

import pytest

from tests.tars import tar_of

docker = pytest.importorskip("docker", reason="docker-py is not installed")
errors = docker.errors
pytestmark = pytest.mark.root


# --- logs and attach --------------------------------------------------------------------------------------


def test_logs(client: Any) -> None:
    container = client.containers.run(
        "busybox", ["sh", "-c", "for i in 1 2 3; do echo line $i; done; echo oops >&2"], detach=True
    )
    container.wait()
    assert container.logs(stderr=False) == b"line 1\nline 2\nline 3\n"
    assert container.logs(stdout=False) == b"oops\n"
    assert container.logs(tail=2) == b"line 3\noops\n"
    stamp = container.logs(timestamps=True, tail=1).split()[0].decode()
    assert datetime.fromisoformat(stamp[:19]).year >= 2026
    assert container.logs(since=int(time.time()) + 100) == b""
    assert container.logs(until=int(time.time()) - 100) == b""
    assert b"".join(container.logs(stream=True, stderr=False)) == b"line 1\nline 2\nline 3\n"
    container.remove()


def test_following_logs(client: Any) -> None:
    script = "i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo $i; until [ -e /$i ]; do sleep 0.05; done; done"
    container = client.containers.run("busybox", ["sh", "-c", script], detach=True)
    arrived = []
    for chunk in container.logs(stream=True, follow=True):
        arrived.append(chunk)
        container.exec_run(["touch", f"/{int(chunk)}"])  # without it the next line would not come
    assert arrived == [b"1\n", b"2\n", b"3\n", b"4\n", b"5\n"]
    container.remove()


def test_closing_a_followed_log_lets_go(client: Any, box: Any) -> None:
    stream = box.logs(stream=True, follow=True)
    threading.Timer(0.5, stream.close).start()
    assert list(stream) == []


def test_attach(client: Any) -> None:
    container = client.containers.run("busybox", "cat", detach=True, stdin_open=True)
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    sock._sock.sendall(b"hello\n")
    frame = b""
    while len(frame) < 14:
        frame += sock._sock.recv(100)
    assert frame == b"\x01\0\0\0\0\0\0\x06hello\n"
    sock._sock.sendall(b"last\n")
    sock._sock.shutdown(socket.SHUT_WR)
    # Without StdinOnce its end of input ends the attach, not the container's input.
    rest = b""
    while data := sock._sock.recv(100):
        rest += data
    assert rest == b"\x01\0\0\0\0\0\0\x05last\n"
    sock.close()
    container.reload()
    assert container.status == "running"
    container.stop(timeout=0)
    container.remove()


def test_attach_streams_and_logs(client: Any) -> None:
    container = client.containers.run(
        "busybox",
        ["sh", "-c", "echo before; until [ -e /go ]; do sleep 0.1; done; sleep 0.5; echo after; echo e >&2"],
        detach=True,
    )
    deadline = time.monotonic() + 30
    while container.logs() != b"before\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    seen = b""
    for piece in container.attach(stream=True, logs=True, stdout=True):
        if not seen:
            container.exec_run("touch /go")
        seen += piece
    assert b"before\n" in seen and b"after\n" in seen
    container.wait()
    container.remove()
    container = client.containers.create("busybox", ["sh", "-c", "echo out; echo err >&2"])
    stream = container.attach(stream=True, demux=True, stdout=True, stderr=True)
    container.start()
    pieces = list(stream)
    assert b"".join(out or b"" for out, _ in pieces) == b"out\n"
    assert b"".join(err or b"" for _, err in pieces) == b"err\n"
    container.remove()


# --- exec -------------------------------------------------------------------------------------------------


def test_exec(box: Any) -> None:
    assert box.exec_run("echo hi") == (0, b"hi\n")
    assert box.exec_run(["sh", "-c", "exit 9"]).exit_code == 9
    code, output = box.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (code, output) == (0, (b"o\n", b"e\n"))
    assert box.exec_run("id -u", user="nobody").output == b"65534\n"
    assert (
        box.exec_run(["sh", "-c", "echo $X; pwd"], environment={"X": "y"}, workdir="/tmp").output
        == b"y\n/tmp\n"
    )
    assert box.exec_run("tty", tty=True).output == b"/dev/pts/0\r\n"
    code, stream = box.exec_run(["sh", "-c", "echo 1; sleep 0.2; echo 2"], stream=True)
    assert code is None and b"".join(stream) == b"1\n2\n"
    assert box.exec_run("sleep 100", detach=True).exit_code is None
    code, output = box.exec_run("nosuch")
    assert code in (126, 127) and b"nosuch" in output
    code, output = box.exec_run("true", workdir="tmp")
    assert code == 126 and b"Cwd must be an absolute path" in output


def test_exec_socket(box: Any) -> None:
    _, sock = box.exec_run("cat", stdin=True, socket=True)
    sock._sock.sendall(b"ping\n")
    data = b""
    while len(data) < 13:
        data += sock._sock.recv(100)
    assert data == b"\x01\0\0\0\0\0\0\x05ping\n"
    sock._sock.shutdown(socket.SHUT_WR)
    assert sock._sock.recv(10) == b""
    sock.close()


def test_low_level_exec(client: Any, box: Any) -> None:
    api = client.api
    made = api.exec_create(box.id, ["sh", "-c", "stty size; exit 4"], tty=True, stdin=True)
    assert not api.exec_inspect(made["Id"])["Running"]
    sock = api.exec_start(made["Id"], tty=True, socket=True)
    data = b"".join(iter(lambda: sock._sock.recv(100), b""))
    assert data.strip().split()[-2:] != []
    found = api.exec_inspect(made["Id"])
    assert found["ExitCode"] == 4 and found["ProcessConfig"]["tty"] is True and found["ContainerID"] == box.id
    made = api.exec_create(box.id, "sleep 100", tty=True)
    api.exec_start(made["Id"], detach=True, tty=True)
    api.exec_resize(made["Id"], height=40, width=100)
    assert api.exec_inspect(made["Id"])["Running"] is True
    with pytest.raises(errors.NotFound):
        api.exec_inspect("nosuch")


# --- files ------------------------------------------------------------------------------------------------


def test_archives(box: Any) -> None:
    assert box.put_archive("/tmp", tar_of({"one": b"1", "two": b"22"})) is True
    stream, stat = box.get_archive("/tmp/two")
    assert stat["name"] == "two" and stat["size"] == 2 and stat["linkTarget"] == ""
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        member = archive.extractfile("two")
        assert member is not None and member.read() == b"22"
    stream, _ = box.get_archive("/tmp", encode_stream=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        assert {"tmp", "tmp/one", "tmp/two"} <= set(archive.getnames())
    with pytest.raises(errors.NotFound):
        box.put_archive("/nosuch", tar_of({"a": b""}))


def test_export_commit_import(client: Any, box: Any, unique: str) -> None:
    box.exec_run("sh -c 'echo made > /made'")
    with tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))) as archive:
        member = archive.extractfile("made")
        assert member is not None and member.read() == b"made\n"
    image = box.commit(unique, "v1", message="m", author="a", changes=["ENV X=1", 'CMD ["cat", "/made"]'])
    assert image.tags == [f"{unique}:v1"]
    assert client.containers.run(f"{unique}:v1", remove=True) == b"made\n"
    assert image.attrs["Author"] == "a" and "X=1" in image.attrs["Config"]["Env"]
    assert image.history()[0]["Comment"] == "m"
    client.images.remove(f"{unique}:v1")

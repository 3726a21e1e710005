"""The OCI runtime command line as containerd and conmon use it: create, state, start, kill, delete, exec, hooks."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.runtime.bundles import RUNTIME, Bundle, needs_root

pytestmark = needs_root


def test_life(bundle: Bundle) -> None:
    bundle.shell("echo begun; sleep 100; true").create("--pid-file", str(bundle.path / "pid"))
    state = bundle.state()
    assert state["status"] == "created"
    assert state["id"] == bundle.id
    assert state["bundle"] == str(bundle.path)
    assert state["pid"] == int((bundle.path / "pid").read_text())
    assert bundle.said() == ""
    bundle.call("start", bundle.id)
    bundle.said("begun")
    assert bundle.state()["status"] == "running"
    assert Path(f"/proc/{state['pid']}/comm").read_text() == "sh\n"
    assert bundle.id in bundle.call("list", "-q").stdout.split()
    assert json.loads(bundle.call("list", "--format", "json").stdout)[0]["status"] == "running"
    assert state["pid"] in json.loads(bundle.call("ps", "--format", "json", bundle.id).stdout)
    assert "begun" in bundle.call("ps", bundle.id).stdout
    bundle.call("kill", bundle.id, "KILL")
    bundle.await_status("stopped")
    assert bundle.state()["pid"] == 0
    assert "container not running" in bundle.fails("kill", bundle.id, "KILL")
    bundle.call("delete", bundle.id)
    assert "container does not exist" in bundle.fails("state", bundle.id)
    assert bundle.left() == []


def test_wrong_order(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "100"]
    bundle.create()
    assert "container with given ID already exists" in bundle.fails("create", bundle.id)
    bundle.call("start", bundle.id)
    assert "cannot start an already running container" in bundle.fails("start", bundle.id)
    assert "that is not stopped: running" in bundle.fails("delete", bundle.id)
    bundle.call("kill", bundle.id, "9")
    bundle.await_status("stopped")
    assert "cannot start a container that has stopped" in bundle.fails("start", bundle.id)
    assert "exec failed: cannot exec in a stopped container" in bundle.fails("exec", bundle.id, "true")
    bundle.call("delete", bundle.id)
    bundle.call("delete", "--force", bundle.id)
    assert "container does not exist" in bundle.fails("delete", bundle.id)
    assert "container does not exist" in bundle.fails("start", bundle.id)


def test_created_container_can_be_killed_and_deleted(bundle: Bundle) -> None:
    bundle.create()
    bundle.call("kill", bundle.id, "SIGKILL")
    bundle.await_status("stopped")
    bundle.call("delete", bundle.id)
    bundle.create()
    bundle.call("delete", bundle.id)
    assert bundle.left() == []


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$; true", 137)])
def test_exit_codes(bundle: Bundle, script: str, code: int) -> None:
    # As pid 1 it is immune to signals from inside.
    bundle.linux["namespaces"] = [entry for entry in bundle.linux["namespaces"] if entry["type"] != "pid"]
    bundle.config["mounts"] = [entry for entry in bundle.config["mounts"] if entry["type"] != "proc"]
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    assert bundle.shell(script).run(check=False).returncode == code


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nosuch"], 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (["/etc"], 'exec: "/etc": is a directory: permission denied'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_programs_that_cannot_run(bundle: Bundle, args: list[str], words: str) -> None:
    bundle.process["args"] = args
    message = json.loads(bundle.fails("--log-format", "json", "create", bundle.id))
    assert message["level"] == "error"
    assert words in message["msg"]
    assert bundle.left() == []


def test_failing_execve_is_told_by_start(bundle: Bundle, oci_rootfs: Path) -> None:
    (oci_rootfs / "script").write_text("#!/nosuch/interpreter\n")
    (oci_rootfs / "script").chmod(0o755)
    bundle.process["args"] = ["/script"]
    bundle.create()
    assert "exec /script: no such file or directory" in bundle.fails("start", bundle.id)
    bundle.await_status("stopped")


def test_log_file(bundle: Bundle) -> None:
    log = bundle.path / "log.json"
    bundle.fails("--log", str(log), "--log-format=json", "state", "nosuch")
    line = json.loads(log.read_text())
    assert (line["level"], line["msg"]) == ("error", "container does not exist")


def test_signals_reach_a_foreground_container(bundle: Bundle) -> None:
    bundle.shell("trap 'echo got it; exit 3' TERM; echo ready; while true; do sleep 0.05; done").write()
    command = [*RUNTIME, "--root", str(bundle.root), "run", bundle.id]
    with subprocess.Popen(command, cwd=bundle.path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdout.readline() == "ready\n"
        running.terminate()
        try:
            assert running.wait(60) == 3
        finally:
            running.kill()
        assert running.stdout.read() == "got it\n"
    assert bundle.left() == []


def test_stdin_and_stdout_are_the_callers(bundle: Bundle) -> None:
    bundle.process["args"] = ["cat"]
    done = bundle.run(stdin=None, input="through and through\n")
    assert done.stdout == "through and through\n"


def test_detached_run(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "100"]
    bundle.write()
    with open(bundle.path / "out", "wb") as out:
        bundle.call("run", "--detach", bundle.id, capture_output=False, stdout=out, stderr=out)
    assert bundle.state()["status"] == "running"


def test_preserved_descriptors(bundle: Bundle) -> None:
    reader, writer = os.pipe()
    bundle.shell("echo through >&3; ls /proc/self/fd | wc -l").write()
    os.dup2(writer, 3, inheritable=True) if writer != 3 else os.set_inheritable(3, True)
    done = bundle.call("run", "--preserve-fds", "1", bundle.id, pass_fds=(3,))
    assert os.read(reader, 100) == b"through\n"
    assert done.stdout.strip() == "5"  # 0, 1, 2, 3 and the directory itself
    os.close(reader)
    assert "isn't open" in bundle.fails("run", "--preserve-fds", "30", bundle.id)


def test_only_standard_descriptors_are_inherited(bundle: Bundle) -> None:
    with open(bundle.path / "secret", "w") as secret:
        done = (
            bundle.shell("ls /proc/self/fd | wc -l")
            .write()
            .call("run", bundle.id, pass_fds=(secret.fileno(),))
        )
    assert done.stdout.strip() == "4"


# -- exec -------------------------------------------------------------------------------------------------------


def test_exec(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "100"]
    bundle.started()
    done = bundle.call(
        "exec", "--cwd", "/tmp", "--env", "A=b", "--user", "1000:1000", bundle.id,
        "sh", "-c", "pwd; echo $A $HOME; id; exit 9", check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["/tmp", "b /home/joe", "uid=1000(joe) gid=1000"]
    assert done.returncode == 9
    done = bundle.call("exec", bundle.id, "nosuch", check=False)
    assert done.returncode == 255
    assert "exec failed: unable to start container process" in done.stderr
    assert "executable file not found in $PATH" in done.stderr
    done = bundle.call("exec", bundle.id, "cat", "/proc/self/status")
    assert "CapEff:\t0000000020000420" in done.stdout


def test_exec_of_a_process_file_detached(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "100"]
    bundle.started()
    file, pid_file = bundle.path / "process.json", bundle.path / "exec.pid"
    file.write_text(json.dumps({**bundle.process, "args": ["sleep", "50"], "cwd": "/tmp"}))
    with open(bundle.path / "exec-out", "wb") as out:
        bundle.call(
            "exec", "--detach", "--pid-file", str(pid_file), "--process", str(file), bundle.id,
            capture_output=False, stdout=out, stderr=out,
        )  # fmt: skip
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0050\x00"
    assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{bundle.state()['pid']}/ns/mnt")
    assert pid in json.loads(bundle.call("ps", "-f", "json", bundle.id).stdout)
    bundle.call("kill", "--all", bundle.id, "KILL")
    bundle.await_status("stopped")


def test_exec_without_rights_of_its_own_has_the_containers(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "100"]
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]
    bundle.started()
    script = "ulimit -n; grep -E 'CapEff|NoNew' /proc/self/status"
    file = bundle.path / "process.json"
    file.write_text(json.dumps({"args": ["sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0}}))
    said = bundle.call("exec", "--process", str(file), bundle.id).stdout.split()
    assert said == ["99", "CapEff:", "0000000020000420", "NoNewPrivs:", "1"]


# -- terminals --------------------------------------------------------------------------------------------------


def _receive_master(path: Path, box: list[tuple[str, int]]) -> threading.Thread:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def serve() -> None:
        connection, _ = server.accept()
        numbers = array.array("i")
        name, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        numbers.frombytes(ancillary[0][2])
        box.append((name.decode(), numbers[0]))
        connection.close()
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def _read_until(fd: int, wanted: bytes) -> bytes:
    text = b""
    deadline = time.monotonic() + 60
    while wanted not in text and time.monotonic() < deadline:
        if select.select([fd], [], [], 0.2)[0]:
            text += os.read(fd, 1000)
    return text


def test_terminal_through_a_console_socket(bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 33, "width": 77}
    bundle.shell("tty; stty size; ls -l /dev/console; read line; echo said $line; sleep 100")
    box: list[tuple[str, int]] = []
    thread = _receive_master(bundle.path / "c", box)
    bundle.create("--console-socket", str(bundle.path / "c"))
    thread.join(60)
    bundle.call("start", bundle.id)
    master = box[0][1]
    text = _read_until(master, b"/dev/console")
    assert b"/dev/pts/0" in text
    assert b"33 77" in text
    os.write(master, b"hello\n")
    assert b"said hello" in _read_until(master, b"said hello")
    box.clear()
    thread = _receive_master(bundle.path / "d", box)
    bundle.call("exec", "--tty", "--detach", "--console-socket", str(bundle.path / "d"), bundle.id, "tty")
    thread.join(60)
    assert b"/dev/pts/1" in _read_until(box[0][1], b"/dev/pts/1")
    os.close(box[0][1])
    os.close(master)


def test_terminal_and_socket_belong_together(bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    assert "without setting console socket" in bundle.fails("create", bundle.id)
    bundle.process["terminal"] = False
    assert "cannot use console socket" in bundle.fails("create", "--console-socket", "/tmp/x", bundle.id)


def test_foreground_terminal(bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.shell("tty; stty size; read line; echo said $line; exit 4").write()
    master, slave = os.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 21, 65, 0, 0))
    command = [*RUNTIME, "--root", str(bundle.root), "run", bundle.id]
    with subprocess.Popen(command, cwd=bundle.path, stdin=slave, stdout=slave, stderr=slave) as running:
        try:
            text = _read_until(master, b"21 65")
            os.write(master, b"hello\r")
            text += _read_until(master, b"said hello")
            code = running.wait(60)
        finally:
            running.kill()
    assert b"/dev/pts/0\r\n21 65" in text
    assert b"said hello" in text
    assert code == 4
    os.close(master)
    os.close(slave)


# -- hooks ------------------------------------------------------------------------------------------------------


def _hook(bundle: Bundle, kind: str, code: int = 0) -> dict[str, object]:
    """A hook that writes its kind, the state that it got, and where it runs."""
    script = (
        f"echo {kind} $(cat | tr -d '\\n') $(readlink /proc/self/ns/mnt) >> {bundle.path}/hooks; exit {code}"
    )
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}


def test_hooks_run_in_order_with_their_state(bundle: Bundle, oci_rootfs: Path) -> None:
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.config["hooks"] = {kind: [_hook(bundle, kind)] for kind in kinds}
    inside = {"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/hook"]}
    bundle.config["hooks"]["startContainer"] = [inside]
    bundle.config["annotations"] = {"com.example.key": "value"}
    bundle.shell("echo program; sleep 100").create()
    lines = (bundle.path / "hooks").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["prestart", "createRuntime", "createContainer"]
    assert bundle.said() == ""
    bundle.call("start", bundle.id)
    bundle.said("program")
    inside_state = json.loads((oci_rootfs / "tmp/hook").read_text())
    assert (inside_state["pid"], inside_state["status"]) == (1, "created")
    bundle.call("delete", "--force", bundle.id)
    lines = (bundle.path / "hooks").read_text().splitlines()
    assert [line.split()[0] for line in lines] == list(kinds)
    states = [json.loads(line[line.index("{") : line.rindex("}") + 1]) for line in lines]
    assert [state["status"] for state in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert {state["id"] for state in states} == {bundle.id}
    assert states[0]["annotations"] == {"com.example.key": "value"}
    assert states[1]["pid"] > 1
    spaces = [line.split()[-1] for line in lines]
    host = os.readlink("/proc/self/ns/mnt")
    assert [space == host for space in spaces] == [True, True, False, True, True]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_undoes_the_container(bundle: Bundle, kind: str) -> None:
    bundle.config["hooks"] = {kind: [_hook(bundle, kind, 5)], "poststop": [_hook(bundle, "poststop")]}
    assert f"error running {kind} hook #0 (/bin/sh): exit status 5" in bundle.fails("create", bundle.id)
    assert bundle.left() == []
    assert "poststop" in (bundle.path / "hooks").read_text()


def test_a_failing_start_hook_stops_the_container(bundle: Bundle) -> None:
    bundle.config["hooks"] = {
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no; exit 6"]}]
    }
    bundle.create()
    assert "error running startContainer hook #0 (/bin/sh): exit status 6, output: no" in bundle.fails(
        "start", bundle.id
    )
    bundle.await_status("stopped")


def test_a_hook_that_takes_too_long(bundle: Bundle) -> None:
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]
    }
    assert "it took longer than 1 s" in bundle.fails("create", bundle.id)


def test_create_killed_half_way_can_be_deleted(bundle: Bundle) -> None:
    """kill -9 while a hook runs: the first process gives up, delete removes the rest."""
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"touch {bundle.path}/here; sleep 60"]}]
    }
    bundle.write()
    command = [*RUNTIME, "--root", str(bundle.root), "create", bundle.id]
    with subprocess.Popen(command, cwd=bundle.path) as creating:
        deadline = time.monotonic() + 60
        while not (bundle.path / "here").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        creating.kill()
    bundle.await_status("stopped")
    bundle.call("delete", bundle.id)
    assert bundle.left() == []

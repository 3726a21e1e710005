"""``docker build`` (the stock client, classic) and ``sampan build``: every option that a user may give."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import json
import os
import pty
import re
import struct
import subprocess
import tarfile
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, STOCK_CLI, Daemon

from .conftest import tar_of

CLIENTS = [*([STOCK_CLI] if STOCK_CLI else []), str(BIN / "sampan")]


class Client:
    """One command line on the session's daemon, in a directory with a small context."""

    def __init__(self, program: str, daemon: Daemon, base: str, folder: Path) -> None:
        self.program = program
        self.daemon = daemon
        self.base = base
        self.folder = folder

    def context(self, dockerfile: str | None, **files: str) -> Path:
        top = self.folder / "context"
        top.mkdir(exist_ok=True)
        if dockerfile is not None:
            (top / "Dockerfile").write_text(dockerfile.replace("BASE", self.base))
        for name, text in files.items():
            (top / name.replace("_", ".")).write_text(text)
        return top

    def __call__(
        self, *args: str, input: str | bytes | None = None, fails: bool = False
    ) -> subprocess.CompletedProcess[str]:
        done = self.daemon.docker(*args, input=input, check=False, cli=self.program)
        assert bool(done.returncode) == fails, (done.args, done.stdout, done.stderr)
        return done

    def build(self, *args: str, input: str | bytes | None = None) -> str:
        """Build quietly; the image's id."""
        return self("build", "-q", "--network", "none", *args, input=input).stdout.strip()

    def config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = self.daemon.json("GET", f"/images/{image}/json")
        return found

    def sh(self, image: str, script: str) -> str:
        return str(self.daemon.docker("run", "--rm", "--network", "none", image, "sh", "-c", script).stdout)


@pytest.fixture(params=CLIENTS, ids=["docker", "sampan"][-len(CLIENTS) :])
def client(request: pytest.FixtureRequest, sampand: Daemon, busybox: str, tmp_path: Path) -> Client:
    return Client(request.param, sampand, busybox, tmp_path)


def test_quiet_id_file_tags_labels(client: Client) -> None:
    top = client.context("FROM BASE\nLABEL own=1\n")
    iid = client.folder / "iid"
    tags = ("-t", "smpg-cli:1", "-t", "smpg-cli:2")
    image = client.build("--iidfile", str(iid), *tags, "--label", "a=b", "--label", "c=$own d", str(top))
    assert image.startswith("sha256:") and len(image) == 71
    assert iid.read_text().strip() == image
    assert client.config("smpg-cli:1")["Id"] == client.config("smpg-cli:2")["Id"] == image
    assert client.config(image)["Config"]["Labels"] == {"own": "1", "a": "b", "c": "$own d"}


def test_output_without_quiet(client: Client) -> None:
    top = client.context("FROM BASE\nRUN echo out; echo err >&2\nCMD x\n")
    said = client("build", "--no-cache", "--network", "none", "-t", "smpg-loud", str(top)).stdout
    for text in (
        "Step 1/3 : FROM",
        "Step 2/3 : RUN",
        "\nout\n",
        "Successfully built",
        "Successfully tagged smpg-loud:latest",
    ):
        assert text in said, said
    again = client("build", "--network", "none", str(top)).stdout
    assert again.count(" ---> Using cache") == 2
    anew = client("build", "--network", "none", "--no-cache", str(top)).stdout
    assert "Using cache" not in anew


def test_arguments_and_target(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    top = client.context(
        "ARG FROM_WHERE=nosuch\nFROM ${FROM_WHERE} AS one\nARG A=1\nARG B\nARG C\nENV GOT=$A-$B-$C\n"
        "FROM one AS two\nENV GOT=two\n"
    )
    monkeypatch.setenv("B", "outer")
    args = ("--build-arg", f"FROM_WHERE={client.base}", "--build-arg", "A=2", "--build-arg", "B")
    image = client.build(*args, "--target", "one", str(top))
    assert "GOT=2-outer-" in client.config(image)["Config"]["Env"]
    wrong = client("build", *args, "--target", "onee", str(top), fails=True)
    assert 'target stage "onee" could not be found' in wrong.stderr and "did you mean one?" in wrong.stderr
    unused = client("build", "--build-arg", f"FROM_WHERE={client.base}", "--build-arg", "NOPE=1", str(top))
    assert "[Warning] One or more build-args [NOPE] were not consumed" in unused.stdout + unused.stderr


def test_limits_of_run(client: Client) -> None:
    top = client.context(
        "FROM BASE\n"
        "RUN ulimit -n > /nofile; df -k /dev/shm | tail -1 | awk '{print $2}' > /shm; grep marker /etc/hosts > /hosts\n"
        "RUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes > /memory 2>/dev/null || "
        "cat /sys/fs/cgroup/memory.max > /memory\n"
        "RUN cat /sys/fs/cgroup/cpu/cpu.shares > /shares 2>/dev/null || true\n"
        "RUN grep Cpus_allowed_list /proc/self/status | cut -f2 > /cpus\n"
        "RUN ls /sys/class/net > /net\n"
    )
    image = client.build(
        *("--ulimit", "nofile=123:456", "--shm-size", "3m", "--add-host", "marker:10.1.2.3"),
        *(
            "--memory",
            "64m",
            "--memory-swap",
            "64m",
            "--cpu-shares",
            "77",
            "--cpuset-cpus",
            "0",
            "--cpu-quota",
            "50000",
        ),
        *("--cpu-period", "100000", str(top)),
    )
    shown = client.sh(image, "cat /nofile /shm /hosts /memory /cpus /net").split()
    assert shown == ["123", "3072", "10.1.2.3", "marker", str(64 << 20), "0", "lo"]
    assert client.sh(image, "cat /shares").strip() in ("77", "")


def test_dockerfile_elsewhere_and_from_stdin(client: Client) -> None:
    top = client.context(None, f="hello")
    outside = client.folder / "Other"
    outside.write_text(f"FROM {client.base}\nCOPY f /f\n")
    assert client.sh(client.build("-f", str(outside), str(top)), "cat /f") == "hello"
    inside = top / "Named"
    inside.write_text(f"FROM {client.base}\nCOPY f /named\n")
    assert client.sh(client.build("-f", str(inside), str(top)), "cat /named") == "hello"
    text = f"FROM {client.base}\nCOPY f /piped\n"
    assert client.sh(client.build("-f", "-", str(top), input=text), "cat /piped") == "hello"
    lone = client.build("-", input=f"FROM {client.base}\nRUN echo lone > /f\n")
    assert client.sh(lone, "cat /f") == "lone\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_context_from_stdin(client: Client, pack: Any) -> None:
    sent = pack(tar_of({"D": f"FROM {client.base}\nCOPY f /f\n", "f": "from a tar"}))
    assert client.sh(client.build("-f", "D", "-", input=sent), "cat /f") == "from a tar"


def test_context_goes_compressed(client: Client) -> None:
    top = client.context("FROM BASE\nCOPY big.txt /f\n", big_txt="x" * 3_000_000)
    done = client("build", "--network", "none", "--compress", "-t", "compressed", str(top))
    assert re.search(r"Sending build context to Docker daemon +[0-9.]+kB", done.stdout + done.stderr), done
    assert client.sh("compressed", "wc -c </f").strip() == "3000000"
    client("rmi", "compressed")


def test_the_time_of_the_environment(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our client takes SOURCE_DATE_EPOCH as buildx does; docker's classic one only by name."""
    top = client.context("FROM BASE\nLABEL a=epoch\n")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1500000000")
    ours = client.program.endswith("sampan")
    image = client.build(*(() if ours else ("--build-arg", "SOURCE_DATE_EPOCH")), str(top))
    assert client.config(image)["Created"].startswith("2017-07-14T02:40:00")
    given = client.build("--build-arg", "SOURCE_DATE_EPOCH=1400000000", str(top))
    assert client.config(given)["Created"].startswith("2014-05-13")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    args = () if ours else ("--build-arg", "SOURCE_DATE_EPOCH")
    assert "invalid SOURCE_DATE_EPOCH: soon" in client("build", *args, str(top), fails=True).stderr
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    client.build(str(top))


def test_ignore_files(client: Client) -> None:
    top = client.context(
        "FROM BASE\nCOPY . /c\n",
        a_txt="a",
        b_md="b",
        keep_md="k",
        _dockerignore="*.md\n!keep.md\nDockerfile\n",
    )
    shown = client.sh(client.build(str(top)), "ls -A /c").split()
    assert shown == [".dockerignore", "a.txt", "keep.md"]
    (top / "Second").write_text(f"FROM {client.base}\nCOPY . /c\n")
    (top / "Second.dockerignore").write_text("*\n!a.txt\n")
    assert client.sh(client.build("-f", str(top / "Second"), str(top)), "ls -A /c").split() == ["a.txt"]
    (top / "Dockerfile").write_text(f"FROM {client.base}\nCOPY b.md /x\n")
    failed = client("build", str(top), fails=True)
    assert "COPY failed: file not found in build context or excluded by .dockerignore" in failed.stderr
    assert ".dockerignore:1 leaves it out: *.md" in failed.stderr


def test_squash_pull_rm_platform(client: Client) -> None:
    top = client.context("FROM BASE\nRUN echo 1 > /1\nRUN echo 2 > /2 && rm /1\n")
    before = client.daemon.json("GET", "/containers/json?all=1")
    image = client.build("--rm=false", "--force-rm", str(top))
    assert len(client.config(image)["RootFS"]["Layers"]) == 3
    left = {one["Id"] for one in client.daemon.json("GET", "/containers/json?all=1")}
    assert left <= {one["Id"] for one in before}
    native = client.config(client.base)["Architecture"]
    assert client.build("--platform", f"linux/{native}", str(top)) == image
    foreign = client("build", "--platform", "linux/s390x", str(top), fails=True)
    assert "can't run here" in foreign.stderr
    pulled = client("build", "--pull", "--no-cache", str(top), fails=True)
    assert "registry" in pulled.stderr or "pull" in pulled.stderr, pulled.stderr


def test_failures(client: Client) -> None:
    top = client.context("FROM BASE\nRUN echo before; exit 7\n")
    failed = client("build", "--network", "none", str(top), fails=True)
    assert failed.returncode == 7 and "before" in failed.stdout
    assert "returned a non-zero code: 7" in failed.stderr and "Dockerfile:2" in failed.stderr
    quiet = client("build", "-q", "--network", "none", str(top), fails=True)
    assert "before" in quiet.stdout + quiet.stderr
    top = client.context("FROM BASE\nCOPY. /app\n")
    failed = client("build", str(top), fails=True)
    assert "unknown instruction: COPY." in failed.stderr and "did you mean `COPY . /app`?" in failed.stderr
    failed = client("build", str(client.folder / "nosuch"), fails=True)
    assert "not found" in failed.stderr or "no such" in failed.stderr


@pytest.fixture
def ours(sampand: Daemon, busybox: str, tmp_path: Path) -> Client:
    return Client(str(BIN / "sampan"), sampand, busybox, tmp_path)


def test_check(ours: Client) -> None:
    top = ours.context("FROM BASE AS Big\nWORKDIR rel\n")
    found = ours("build", "--check", str(top), fails=True)
    assert found.returncode == 1 and "Check complete, 2 warnings have been found!" in found.stdout
    assert (
        "WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/"
        in found.stdout
    )
    assert "Dockerfile:2\n  2 | WORKDIR rel" in found.stdout
    ours.context("FROM BASE\nWORKDIR /abs\n")
    assert ours("build", "--check", str(top)).stdout == "Check complete, no warnings found.\n"


def test_why(ours: Client) -> None:
    top = ours.context("FROM BASE\nARG A=1\nRUN echo $A\nCOPY f /f\n", f="1")
    ours("build", "--network", "none", "-t", "smpg-why-cli", str(top))
    (top / "f").write_text("2")
    said = ours("build", "--network", "none", "-t", "smpg-why-cli", "--why", str(top)).stdout
    assert said.count(" ---> Using cache") == 2 and " ---> Not cached: file f changed\n" in said
    said = ours(
        "build", "--network", "none", "-t", "smpg-why-cli", "--why", "--build-arg", "A=2", str(top)
    ).stdout
    assert " ---> Not cached: variable A changed\n" in said


def test_secrets_of_the_command_line(ours: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    top = ours.context(
        "FROM BASE\nRUN --mount=type=secret,id=file --mount=type=secret,id=var,env=V "
        "cat /run/secrets/file > /1; echo $V | wc -c > /2\n"
    )
    (ours.folder / "s").write_text("from a file")
    monkeypatch.setenv("THE_VARIABLE", "1234567")
    image = ours.build(
        "--secret", f"id=file,src={ours.folder}/s", "--secret", "id=var,env=THE_VARIABLE", str(top)
    )
    assert ours.sh(image, "cat /1 /2") == "from a file8\n"


def test_output(ours: Client) -> None:
    top = ours.context(
        "FROM BASE AS made\nRUN mkdir -p /o/d && echo x > /o/d/f && chmod 640 /o/d/f && ln -s d/f /o/l\n"
        "FROM scratch\nCOPY --from=made /o /\n"
    )
    before = len(ours.daemon.json("GET", "/images/json?all=1"))
    folder, archive = ours.folder / "out", ours.folder / "out.tar"
    ours("build", "--network", "none", "-o", str(folder), str(top))
    assert (folder / "d/f").read_text() == "x\n" and (folder / "d/f").stat().st_mode & 0o777 == 0o640
    assert (folder / "l").readlink() == Path("d/f")
    ours("build", "--network", "none", "-o", f"type=tar,dest={archive}", str(top))
    with tarfile.open(archive) as tar:
        assert {one.name.removeprefix("./").strip("/") for one in tar} - {""} == {"d", "d/f", "l"}
    ours("build", "-q", "--network", "none", "-o", f"type=local,dest={folder}2", str(top))
    assert (ours.folder / "out2" / "d" / "f").read_text() == "x\n"
    piped = subprocess.run(
        [ours.program, "build", "--network", "none", "-o", "-", str(top)],
        env=ours.daemon.env,
        capture_output=True,
    )
    with tarfile.open(fileobj=io.BytesIO(piped.stdout)) as tar:
        assert tar.getmember("d/f").size == 2
    assert b"Step 1/4" in piped.stderr
    assert len(ours.daemon.json("GET", "/images/json?all=1")) == before
    for wrong in ("type=oci,dest=x", "type=local", "type=tar,dest=/", "type=tar,what=x"):
        assert ours("build", "-o", wrong, str(top), fails=True).stderr


def test_stages_built_anew(ours: Client) -> None:
    top = ours.context(
        "FROM BASE AS a\nRUN cat /proc/sys/kernel/random/uuid > /a\nFROM BASE\nRUN date > /b\nCOPY --from=a /a /a\n"
    )
    args = ("--network", "none", str(top))
    ours("build", *args)
    assert ours("build", *args).stdout.count("Using cache") == 3
    assert ours("build", "--no-cache-filter", "a", *args).stdout.count("Using cache") == 1


def test_progress_modes(ours: Client) -> None:
    top = ours.context("FROM BASE\nRUN echo seen; exit 3\n")
    raw = ours("build", "--network", "none", "--progress", "rawjson", str(top), fails=True)
    records = [json.loads(line) for line in raw.stderr.splitlines() if line.startswith("{")]
    assert raw.returncode == 3 and [one["Name"] for one in records[0]["aux"]["Vertices"]][1].startswith("RUN")
    assert ours("build", "--progress", "tty", str(top), fails=True).stderr.startswith("failed to get console")
    assert ours("build", "--progress", "fancy", str(top), fails=True).returncode == 125


def on_terminal(client: Client, *args: str, rows: int = 12, columns: int = 60) -> tuple[int, str]:
    """What a command writes to a terminal, and its exit code."""
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execve(client.program, [client.program, *args], {**client.daemon.env, "TERM": "xterm"})
    written = b""
    with contextlib.suppress(OSError):
        while piece := os.read(fd, 65536):
            written += piece
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def test_live_display(ours: Client) -> None:
    steps = "".join(f"RUN echo {n}\n" for n in range(20))
    top = ours.context(
        f"FROM BASE AS one\n{steps}RUN printf 'a\\033[2Jb\\n'; sleep 2\nFROM BASE\nRUN sleep 2\nCOPY --from=one /etc /e\n"
    )
    code, written = on_terminal(ours, "build", "--network", "none", "--no-cache", "-t", "smpg-live", str(top))
    frames = written.split("\x1b[J")
    assert code == 0 and len(frames) > 4
    assert written.startswith("\x1b[?25l") and "\x1b[?25h" in frames[-1]
    assert "Successfully tagged smpg-live:latest" in frames[-1]
    assert any("[one 22/22] RUN printf" in frame and "=> # " in frame for frame in frames)
    assert any(re.search(r" => \[one \d+/22\] ", f) and " => [stage-1 2/3] RUN sleep" in f for f in frames)
    assert "[+] Building" in frames[-2] and "(25/25) FINISHED" in frames[-2]
    for frame in frames[:-2]:
        assert frame.count("\n") <= 11, frame
    assert "\x1b[2Jb" not in written and "ab" in written
    code, written = on_terminal(ours, "build", "--network", "none", "-t", "smpg-live", str(top))
    assert code == 0 and written.count("CACHED") >= 23
    top = ours.context("FROM BASE\nRUN echo some; echo words >&2; exit 9\n")
    code, written = on_terminal(ours, "build", "--network", "none", str(top))
    end = written.split("\x1b[J")[-1].replace("\r", "")
    assert code == 9 and " > [2/2] RUN echo some" in end and " words\n" in end and "Dockerfile:2" in end
    assert "ERROR [2/2] RUN" in written

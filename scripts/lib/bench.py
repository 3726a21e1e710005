"""scripts/bench: sampan beside dockerd, row by row, in the same run.

Each engine runs in a network namespace of its own (so that neither's firewall rules touch the other's or
the host's), is driven by the same stock client, and does each row in turn: A, B, A, B, so that a noisy
neighbour hits both. Figures are medians; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import netbench
import registrybench

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCKER = shutil.which("docker") or str(BIN / "sampan")
PYTHON_IMAGE = "python:3.6-slim"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def processes() -> dict[int, tuple[int, str]]:
    """All processes: pid → (parent, command line)."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                command = (
                    Path(f"/proc/{entry}/cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode("utf-8", "replace")
                )
                found[int(entry)] = (int(stat.rsplit(")", 1)[1].split()[1]), command)
    return found


def pss(pid: int) -> int:
    """Proportional set size of a process, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Engine:
    """An engine under test, in its own directories and network namespace."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.dir = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir="/var/tmp"))
        self.socket = str(self.dir / "s")
        self.netns = f"bench-{name}-{os.getpid()}"
        self.bridge = f"bn{os.getpid() % 100000}x{number}"
        self.address = f"10.197.{number}.1"
        self.log = open(self.dir / "log", "wb")

    def command(self) -> list[str]:
        common = ["-H", f"unix://{self.socket}", "--data-root", str(self.dir / "data")]
        common += [
            "--exec-root",
            str(self.dir / "run"),
            "--pidfile",
            str(self.dir / "pid"),
            "--bridge",
            self.bridge,
        ]
        if self.name == "sampan":
            return [str(BIN / "sampand"), *common, "--bip", f"{self.address}/24"]
        return ["dockerd", *common]

    def start(self) -> None:
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        self.inside("ip", "link", "set", "lo", "up")
        if self.name == "dockerd":
            self.inside("ip", "link", "add", self.bridge, "type", "bridge")
            self.inside("ip", "addr", "add", f"{self.address}/24", "dev", self.bridge)
            self.inside("ip", "link", "set", self.bridge, "up")
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.netns}", *self.command()], stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.api("GET", "/_ping")[0] == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"{self.name} did not start; see {self.dir}/log")

    def inside(self, *command: str) -> str:
        """Run a command in the engine's network namespace."""
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.netns}", *command],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.remove_all()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        self.log.close()
        for mount in Path("/proc/mounts").read_text().splitlines():
            if str(self.dir) in mount:
                subprocess.run(["umount", "-l", mount.split()[1]], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "0",
            "DOCKER_CONFIG": str(self.dir),
        }

    def docker(self, *args: str, input: bytes | None = None) -> bytes:
        done = subprocess.run([DOCKER, *args], env=self.env, input=input, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{self.name}: docker {' '.join(args)}: {done.stderr.decode()[-800:]}")
        return done.stdout

    def api(
        self, method: str, path: str, body: Any = None, connection: UnixConnection | None = None
    ) -> tuple[int, bytes]:
        c = connection or UnixConnection(self.socket)
        headers = {}
        if body is not None:
            body, headers = json.dumps(body), {"Content-Type": "application/json"}
        c.request(method, "/v1.41" + path if path != "/_ping" else path, body=body, headers=headers)
        response = c.getresponse()
        data = response.read()
        if connection is None:
            c.close()
        return response.status, data

    def remove_all(self) -> None:
        ids = self.docker("ps", "-aq").decode().split()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: self.api("DELETE", f"/containers/{i}?force=1&v=1"), ids))

    def helpers(self) -> list[int]:
        """Every process of the engine that is not the engine itself nor inside a container."""
        root = os.readlink("/proc/self/ns/pid")
        mine = []
        table = processes()
        for pid, (_, command) in table.items():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/pid") != root:
                    continue
                if str(self.dir) in command or self.descends(pid, table):
                    mine.append(pid)
        return mine

    def descends(self, pid: int, table: dict[int, tuple[int, str]]) -> bool:
        while pid > 1 and pid in table:
            if pid == self.process.pid:
                return True
            pid = table[pid][0]
        return False

    def memory(self) -> int:
        return sum(pss(pid) for pid in self.helpers())


@dataclass
class Row:
    name: str
    unit: str
    target: str
    measure: Callable[[Engine], float]
    rounds: int = 5
    better: str = "lower"
    # The one engine it is measured with, "" for both.
    only: str = ""
    results: dict[str, list[float]] = field(default_factory=dict)


ROWS: list[Row] = []


def row(
    name: str, unit: str, target: str, rounds: int = 5, better: str = "lower", only: str = ""
) -> Callable[..., Any]:
    def register(function: Callable[[Engine], float]) -> Callable[[Engine], float]:
        ROWS.append(Row(name, unit, target, function, rounds, better, only))
        return function

    return register


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


@contextlib.contextmanager
def containers(e: Engine, count: int, *command: str, network: str = "bridge") -> Iterator[list[str]]:
    ids = []
    try:
        for _ in range(count):
            ids.append(
                e.docker("run", "-d", "--network", network, "busybox", *(command or ("sleep", "600")))
                .decode()
                .strip()
            )
        yield ids
    finally:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: e.api("DELETE", f"/containers/{i}?force=1"), ids))


@row("run --rm --network none … true", "ms", "≤ 0.20 ×", 15)
def run_none(e: Engine) -> float:
    return timed(lambda: e.docker("run", "--rm", "--network", "none", "busybox", "true"))


@row("run --rm (bridge) … true", "ms", "≤ 0.15 ×", 15)
def run_bridge(e: Engine) -> float:
    return timed(lambda: e.docker("run", "--rm", "busybox", "true"))


@row("run -d", "ms", "≤ 0.25 ×", 9)
def run_detached(e: Engine) -> float:
    ids: list[str] = []
    value = timed(lambda: ids.append(e.docker("run", "-d", "busybox", "sleep", "600").decode().strip()))
    e.docker("rm", "-f", ids[0])
    return value


@row("exec true", "ms", "≤ 0.40 ×", 9)
def exec_true(e: Engine) -> float:
    with containers(e, 1) as (one,):
        return statistics.median(timed(lambda: e.docker("exec", one, "true")) for _ in range(3))


@row("rm -f of a running container", "ms", "≤ 0.30 ×", 9)
def remove_running(e: Engine) -> float:
    one = e.docker("run", "-d", "busybox", "sleep", "600").decode().strip()
    return timed(lambda: e.docker("rm", "-f", one))


@row("start 50, 8 at a time", "ms", "≤ 0.25 ×", 2)
def start_fifty(e: Engine) -> float:
    ids = [e.docker("create", "busybox", "sleep", "600").decode().strip() for _ in range(50)]
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return timed(lambda: list(pool.map(lambda i: e.api("POST", f"/containers/{i}/start"), ids)))
    finally:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: e.api("DELETE", f"/containers/{i}?force=1"), ids))


@row("create, start, wait, remove by API, 2 at a time", "/s", "≥ 18 ×, ≥ 150/s", 2, "higher")
def starts_per_second(e: Engine) -> float:
    count = 20 if e.name == "dockerd" else 200

    def loop(n: int) -> None:
        c = UnixConnection(e.socket)
        for _ in range(n):
            body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
            one = json.loads(e.api("POST", "/containers/create", body, c)[1])["Id"]
            e.api("POST", f"/containers/{one}/start", None, c)
            e.api("POST", f"/containers/{one}/wait", None, c)
            e.api("DELETE", f"/containers/{one}", None, c)
        c.close()

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(loop, [count // 2] * 2))
    return count / (time.perf_counter() - start)


@row("memory of the idle engine", "MB PSS", "≤ 35 MB", 1)
def idle_memory(e: Engine) -> float:
    time.sleep(3)  # idle, not just after the last row's work
    return e.memory() / 1e6


@row("memory of our processes per idle container (of 20)", "MB PSS", "≤ 1.0 MB", 1)
def container_memory(e: Engine) -> float:
    time.sleep(3)
    before = e.memory()
    with containers(e, 20):
        time.sleep(3)
        return (e.memory() - before) / 20 / 1e6


@row("GET /_ping, median of 500", "ms", "≤ 0.15 ms", 3)
def ping(e: Engine) -> float:
    c = UnixConnection(e.socket)
    values = [timed(lambda: e.api("GET", "/_ping", None, c)) for _ in range(500)]
    c.close()
    return statistics.median(values)


@row("GET /containers/json of 50, median of 50", "ms", "≤ 1.0 ×", 1)
def list_fifty(e: Engine) -> float:
    c = UnixConnection(e.socket)
    with containers(e, 50, network="none"):
        return statistics.median(timed(lambda: e.api("GET", "/containers/json", None, c)) for _ in range(50))


def context(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tutorial() -> bytes:
    """The tutorial's context; its wheels come along, for the engines under test have no way out."""
    wheels = Path(os.environ.get("SAMPAN_CACHE", PROJECT / ".cache")) / "bench-wheels"
    if not wheels.exists():
        wheels.mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels), "flask>=1.0.0"], check=True
        )
    dockerfile = (
        f"FROM {PYTHON_IMAGE}\nWORKDIR /app\nCOPY . /app\n"
        "RUN pip install --no-index --find-links wheels -r requirements.txt\n"
        'EXPOSE 5000\nCMD ["python", "app.py"]\n'
    )
    files = {
        "Dockerfile": dockerfile.encode(),
        "requirements.txt": b"flask>=1.0.0\n",
        "app.py": b"print('hello')\n",
    }
    files |= {f"wheels/{w.name}": w.read_bytes() for w in sorted(wheels.glob("*.whl"))}
    return context(files)


def build(e: Engine, tar: bytes, *args: str) -> float:
    return timed(lambda: e.docker("build", "-q", "-t", "bench", *args, "-", input=tar))


@row("tutorial build, no cache", "ms", "≤ 0.8 ×", 3)
def build_tutorial(e: Engine) -> float:
    return build(e, tutorial(), "--no-cache")


@row("tutorial build, cached", "ms", "≤ 15 ms, ≤ 0.4 ×", 5)
def build_cached(e: Engine) -> float:
    build(e, tutorial())
    return build(e, tutorial())


@row("build: COPY of 2,000 small files", "ms", "≤ 0.6 ×", 3)
def copy_small(e: Engine) -> float:
    files = {"Dockerfile": b"FROM busybox\nCOPY . /data\n"}
    files |= {f"d{i % 50}/f{i}": os.urandom(200) for i in range(2000)}
    return build(e, context(files), "--no-cache")


@row("build: COPY of 500 MB", "ms", "≤ 0.8 ×", 1)
def copy_big(e: Engine) -> float:
    return build(
        e,
        context({"Dockerfile": b"FROM busybox\nCOPY . /data\n", "big": os.urandom(500_000_000)}),
        "--no-cache",
    )


@row("build: ten RUN true", "ms", "≤ 0.2 ×", 2)
def run_steps(e: Engine) -> float:
    return build(e, context({"Dockerfile": b"FROM busybox\n" + b"RUN true\n" * 10}), "--no-cache")


@row("build: context of 20,000 files, most of them ignored", "ms", "≤ 0.8 ×", 3)
def ignored_context(e: Engine) -> float:
    top = e.dir / "ignored"
    if not top.exists():
        for folder in range(200):
            inner = top / "node_modules" / f"m{folder}" / "lib"
            inner.mkdir(parents=True)
            for number in range(99):
                (inner / f"f{number}.js").write_bytes(b"x" * 100)
        for number in range(200):
            (top / f"s{number}").write_bytes(b"y" * 100)
        (top / ".dockerignore").write_text("**/node_modules\n*.log\n")
        (top / "Dockerfile").write_text("FROM busybox\nCOPY . /data\n")
    return timed(lambda: e.docker("build", "-q", "--no-cache", "-t", "bench", str(top)))


@row("build: four stages, each RUN sleep 1", "ms", "< 1500 ms", 2)
def four_stages(e: Engine) -> float:
    stages = "".join(f"FROM busybox AS s{n}\nRUN sleep 1; echo {n} > /{n}\n" for n in range(4))
    copies = "".join(f"COPY --from=s{n} /{n} /{n}\n" for n in range(4))
    dockerfile = f"{stages}FROM busybox\n{copies}"
    return build(e, context({"Dockerfile": dockerfile.encode()}), "--no-cache")


@row("load of the Python image", "ms", "≤ 0.8 ×", 3)
def load(e: Engine) -> float:
    archive = e.dir / "python.tar"
    if not archive.exists():
        e.docker("save", "-o", str(archive), PYTHON_IMAGE)
    e.remove_all()
    for image in e.docker("images", "-aq").decode().split():
        with contextlib.suppress(RuntimeError):
            if image not in e.docker("images", "-q", "busybox").decode():
                e.docker("rmi", "-f", image)
    e.docker(
        "builder", "prune", "-af"
    )  # a build cache would keep the layers, and the load have nothing to do
    return timed(lambda: e.docker("load", "-q", "-i", str(archive)))


@row("save of the Python image", "ms", "≤ 0.8 ×", 3)
def save(e: Engine) -> float:
    out = e.dir / "saved.tar"
    value = timed(lambda: e.docker("save", "-o", str(out), PYTHON_IMAGE))
    out.unlink()
    return value


@row("json-file log, 200 MB written", "MB/s", "≥ 200 MB/s", 2, "higher")
def log_write(e: Engine) -> float:
    # Out of a file: busybox's yes and head together don't make 200 MB/s.
    make = f"yes {'x' * 99} | head -c 20000000 > /lines"
    e.docker("run", "--name", "writer", "busybox", "sh", "-c", make)
    e.docker("commit", "writer", "lines")
    e.docker("rm", "writer")
    command = ["cat", *["/lines"] * 10]
    milliseconds = timed(lambda: e.docker("run", "--name", "logger", "-d", "lines", *command))
    milliseconds += timed(lambda: e.docker("wait", "logger"))
    e.docker("rm", "-f", "logger")
    return 200 / (milliseconds / 1000)


@row("docker logs of 60 MB", "ms", "≤ 0.3 ×", 2)
def log_read(e: Engine) -> float:
    e.docker("run", "--name", "logger", "-d", "busybox", "sh", "-c", f"yes {'x' * 99} | head -c 60000000")
    e.docker("wait", "logger")
    value = timed(lambda: e.docker("logs", "logger"))
    e.docker("rm", "-f", "logger")
    return value


@row("run --rm, bridge more than none (medians of 7)", "ms", "≤ 3 ms", 3)
def bridge_costs(e: Engine) -> float:
    def once(network: str) -> float:
        return timed(lambda: e.docker("run", "--rm", "--network", network, "busybox", "true"))

    pairs = [(once("bridge"), once("none")) for _ in range(7)]
    return statistics.median(a for a, _ in pairs) - statistics.median(b for _, b in pairs)


@row("network create", "ms", "≤ 0.2 ×", 7)
def network_create(e: Engine) -> float:
    value = timed(lambda: e.api("POST", "/networks/create", {"Name": "bench", "CheckDuplicate": True}))
    e.api("DELETE", "/networks/bench")
    return value


@contextlib.contextmanager
def published(e: Engine) -> Iterator[int]:
    """A server in a container, published on port 8080: the program is the same as on the host."""
    command = ["run", "-d", "-p", "8080:80", "--name", "served", PYTHON_IMAGE]
    e.docker(*command, "python3", "-c", netbench.SERVER, "0.0.0.0", "80")
    try:
        deadline = time.monotonic() + 10
        while b"ready" not in e.docker("logs", "served") and time.monotonic() < deadline:
            time.sleep(0.05)
        yield 8080
    finally:
        e.docker("rm", "-f", "served")


@row("published port on the host's address: requests, of its own loopback's", "×", "≥ 0.8", 3, "higher")
def published_share(e: Engine) -> float:
    netns = f"/run/netns/{e.netns}"
    with published(e) as port, netbench.server(netns, netbench.SERVER, "127.0.0.1", "8079"):
        shares = []
        for _ in range(7):
            own = netbench.request_rate(netns, "127.0.0.1", 8079, 0.4)
            shares.append(netbench.request_rate(netns, e.address, port, 0.4) / own)
        return statistics.median(shares)


@row("published port on 127.0.0.1: requests", "/s", "≥ 1.0 ×", 5, "higher")
def published_rate(e: Engine) -> float:
    with published(e) as port:
        return netbench.request_rate(f"/run/netns/{e.netns}", "127.0.0.1", port)


@row("published port on 127.0.0.1: requests, a connection each", "/s", "≥ 1.0 ×", 5, "higher")
def published_connections(e: Engine) -> float:
    with published(e) as port:
        return netbench.request_rate(f"/run/netns/{e.netns}", "127.0.0.1", port, each=True)


@row("container to container, of a plain veth pair's throughput", "×", "≥ 0.95", 3, "higher")
def container_throughput(e: Engine) -> float:
    with containers(e, 2) as ids, netbench.plain_pair() as plain:
        shown = [json.loads(e.api("GET", f"/containers/{one}/json")[1]) for one in ids]
        source, sink = (f"/proc/{one['State']['Pid']}/ns/net" for one in shown)
        address = shown[1]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        pairs = [(netbench.throughput(source, sink, address), netbench.throughput(*plain)) for _ in range(3)]
        return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


@row("200 containers, each resolves another's name: p99 of 1,000", "ms", "< 5 ms", 1, only="sampan")
def name_lookups(e: Engine) -> float:
    e.api("POST", "/networks/create", {"Name": "bench"})
    try:
        with containers(e, 200, network="bench") as ids:
            shown = [json.loads(e.api("GET", f"/containers/{one}/json")[1]) for one in ids]
            pids, names = [one["State"]["Pid"] for one in shown], [one["Name"][1:] for one in shown]
            return statistics.quantiles(netbench.lookups(pids, names), n=100)[98]
    finally:
        e.api("DELETE", "/networks/bench")


@row("serve-registry: upload of 512 MB (beside docker-registry)", "MB/s", "≥ 1.0 ×", 2, "higher")
def registry_upload(e: Engine) -> float:
    return registrybench.uploads(e.name, 1, 512 << 20)


@row("serve-registry: 16 uploads of 64 MB at once", "MB/s", "≥ 1.0 ×", 2, "higher")
def registry_uploads(e: Engine) -> float:
    return registrybench.uploads(e.name, 16, 64 << 20)


@row("serve-registry: download of 256 MB", "MB/s", "≥ 1.0 ×", 3, "higher")
def registry_download(e: Engine) -> float:
    return registrybench.downloads(e.name, 1, 256 << 20, 4)


@row("serve-registry: downloads by 16 clients", "MB/s", "≥ 1.0 ×", 3, "higher")
def registry_downloads(e: Engine) -> float:
    return registrybench.downloads(e.name, 16, 128 << 20, 2)


@row("serve-registry: manifests, 1 client", "/s", "≥ 1.0 ×", 3, "higher")
def registry_manifests(e: Engine) -> float:
    return registrybench.manifest_rate(e.name, 1, 2000)


@row("serve-registry: manifests, 16 clients", "/s", "≥ 1.0 ×", 3, "higher")
def registry_manifests_many(e: Engine) -> float:
    return registrybench.manifest_rate(e.name, 16, 300)


@row("serve-registry: memory during 16 uploads of 1 GB", "MB PSS", "≤ 150 MB", 1)
def registry_memory(e: Engine) -> float:
    return registrybench.upload_memory(e.name, 16, 1 << 30)


def prepare(e: Engine, base: Path, busybox: bytes) -> None:
    """Both images into an engine."""
    subprocess.run(
        [DOCKER, "import", "-c", 'CMD ["sh"]', "-", "busybox"],
        env=e.env,
        input=busybox,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    e.docker("import", "-c", f"ENV {path}", "-c", 'CMD ["python3"]', str(base), PYTHON_IMAGE)


def busybox_root() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "root"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        data = Path("/bin/busybox").read_bytes()
        info = tarfile.TarInfo("bin/busybox")
        info.mode, info.size = 0o755, len(data)
        tar.addfile(info, io.BytesIO(data))
        for applet in subprocess.run(
            ["/bin/busybox", "--list"], capture_output=True, text=True
        ).stdout.split():
            if applet != "busybox":
                info = tarfile.TarInfo(f"bin/{applet}")
                info.type, info.linkname, info.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
                tar.addfile(info)
    return out.getvalue()


def table(rows: list[Row], engines: list[Engine]) -> str:
    names = [e.name for e in engines]
    lines = [
        "| what | unit | " + " | ".join(names) + " | ratio | aim |",
        "|---|---|" + "---:|" * (len(names) + 1) + "---|",
    ]
    for r in rows:
        medians = {n: statistics.median(v) for n, v in r.results.items() if v}
        cells = [f"{medians[n]:.3g}" if n in medians else "–" for n in names]
        ratio = "–"
        if len(medians) == 2 and medians["dockerd"]:
            ratio = f"{medians['sampan'] / medians['dockerd']:.2f} ×"
        lines.append(f"| {r.name} | {r.unit} | " + " | ".join(cells) + f" | {ratio} | {r.target} |")
    return "\n".join(lines)


def run(rows: list[Row], engines: list[Engine]) -> None:
    for r in rows:
        for _ in range(r.rounds):
            for e in engines:
                if r.only not in ("", e.name):
                    continue
                try:
                    r.results.setdefault(e.name, []).append(r.measure(e))
                except Exception as error:
                    print(f"  {r.name}: {e.name}: {error}", file=sys.stderr)
        shown = ", ".join(f"{n} {statistics.median(v):.3g}" for n, v in r.results.items() if v)
        print(f"{r.name}: {shown} {r.unit}", file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Replace the measured table in docs/performance.md, between its two marks."""
    page = PROJECT / "docs" / "performance.md"
    begin, end = "<!-- bench: begin -->", "<!-- bench: end -->"
    old = page.read_text()
    head, rest = old.split(begin, 1)
    page.write_text(head + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("-k", action="append", default=[])
    options = parser.parse_args()
    rows = [r for r in ROWS if not options.k or any(k in r.name for k in options.k)]
    if options.list:
        print("\n".join(r.name for r in ROWS))
        return
    base = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp")) / "base.tar"
    subprocess.run([PROJECT / "scripts" / "base-image", "--tar", base], check=True)
    engines = [Engine("sampan", 1)]
    if shutil.which("dockerd"):
        engines.append(Engine("dockerd", 2))
    else:
        print(
            "dockerd is not installed: only sampan is measured (apt-get install docker.io)", file=sys.stderr
        )
    version = "no dockerd"
    try:
        busybox = busybox_root()
        for e in engines:
            e.start()
            prepare(e, base, busybox)
            if e.name == "dockerd":
                version = "dockerd " + json.loads(e.api("GET", "/version")[1])["Version"]
        run(rows, engines)
    finally:
        for e in engines:
            e.stop()
        shutil.rmtree(base.parent, ignore_errors=True)
    machine = f"{os.cpu_count()} cores, kernel {platform.release().split('-')[0]}, Python {platform.python_version()}"
    text = f"Measured on {time.strftime('%Y-%m-%d')}: {machine}, {version}, client {Path(DOCKER).name}.\n\n{table(rows, engines)}"
    print(text)
    if options.write:
        write(text)


if __name__ == "__main__":
    main()

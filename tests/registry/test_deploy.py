"""docs/deploy.md, line by line: the registry and a builder in one network, the engine that runs in another."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, PROJECT, STOCK_CLI, busybox_tar

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "openssl", "curl", "unshare", "nsenter"))),
    reason="needs root, iproute2, openssl, curl and util-linux",
)
PAGE = PROJECT / "docs" / "deploy.md"


def blocks(machine: str) -> list[str]:
    """The commands of the page for one of its machines."""
    return re.findall(rf"^```sh {machine}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


class Machine:
    """A network namespace and a mount namespace with an /etc and /srv of its own, and an engine in it."""

    def __init__(self, number: int) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="deploy-", dir="/var/tmp"))
        self.home = self.dir / "home"
        self.home.mkdir()
        self.address = f"10.218.{os.getpid() % 200}.{number}"
        # a sleeping process keeps both namespaces; it ends with its stdin
        private = (
            f"unshare --mount --net --propagation private {sys.executable} -c 'import sys; sys.stdin.read()'"
        )
        self.keeper = subprocess.Popen(["sh", "-c", f"exec {private}"], stdin=subprocess.PIPE)
        while os.readlink(f"/proc/{self.keeper.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        for place in ("etc", "srv"):
            upper, work = self.dir / f"{place}-upper", self.dir / f"{place}-work"
            upper.mkdir()
            work.mkdir()
            options = f"lowerdir=/{place},upperdir={upper},workdir={work}"
            self.sh(f"mount -t overlay overlay -o {options} /{place}")
        self.sh("ip link set lo up")
        self.number = number
        self.engine: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        path = f"{BIN}:{os.environ['PATH']}"
        host = f"unix://{self.dir / 's'}"
        return {**clean, "PATH": path, "HOME": str(self.home), "SAMPAN_HOST": host, "DOCKER_HOST": host}

    def sh(self, script: str) -> str:
        """Run a script on this machine, in its home; what it prints."""
        enter = ["nsenter", "-t", str(self.keeper.pid), "--mount", "--net", f"--wd={self.home}"]
        out = self.dir / "out"
        with open(out, "wb") as file:  # no pipe: what runs on in the background would hold it open
            done = subprocess.run(
                [*enter, "sh", "-ec", script],
                env=self.env,
                stdout=file,
                stderr=file,
                timeout=100,
                cwd=self.home,
            )
        text = out.read_text()
        assert done.returncode == 0, f"{script}\n{text}"
        return text

    def start(self) -> None:
        enter = ["nsenter", "-t", str(self.keeper.pid), "--mount", "--net"]
        command = [sys.executable, "-m", "sampan.daemon", "-H", f"unix://{self.dir / 's'}"]
        command += ["--data-root", str(self.dir / "data"), "--exec-root", str(self.dir / "run")]
        command += ["--pidfile", str(self.dir / "pid"), "--bridge", f"smpi{self.number}"]
        command += ["--bip", f"10.219.{self.number}.1/24"]
        log = open(self.dir / "log", "wb")
        self.engine = subprocess.Popen([*enter, *command], env=self.env, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                self.sh("sampan version")
                return
            time.sleep(0.1)
        raise AssertionError((self.dir / "log").read_text())

    def close(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.sh("for one in $(sampan ps -aq); do sampan rm -f $one; done")
        if self.engine is not None:
            self.engine.terminate()
            self.engine.wait(60)
        assert self.keeper.stdin is not None
        self.keeper.stdin.close()
        self.keeper.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them; both know the registry's name."""
    with contextlib.ExitStack() as stack:
        first, second = Machine(1), Machine(2)
        stack.callback(first.close)
        stack.callback(second.close)
        subprocess.run(
            [
                "ip",
                "link",
                "add",
                "cable",
                "netns",
                str(first.keeper.pid),
                "type",
                "veth",
                "peer",
                "name",
                "cable",
                "netns",
                str(second.keeper.pid),
            ],
            check=True,
        )
        for machine in (first, second):
            machine.sh(f"ip addr add {machine.address}/24 dev cable; ip link set cable up")
            machine.sh(f"echo {first.address} registry.example >> /etc/hosts")
            machine.start()
        yield first, second


def test_the_page(machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    registry = 0
    try:
        first.sh("".join(blocks("registry")) + "echo $! > /srv/registry/pid")  # one shell, as at a terminal
        registry = int(first.sh("cat /srv/registry/pid"))
        first.sh("curl --retry 9 --retry-connrefused --retry-delay 1 -sk https://registry.example:5000/")
        (first.home / "base.tar").write_bytes(busybox_tar())
        first.sh("sampan import base.tar busybox")
        (first.home / "Dockerfile").write_text(
            "FROM busybox\nRUN mkdir /www && echo 'Hello from afar' > /www/index.html\n"
            'CMD ["/bin/busybox", "httpd", "-f", "-h", "/www"]\n'
        )
        assert len(blocks("builder")) == 1 and len(blocks("runner")) == 2
        assert "Login Succeeded" in first.sh(blocks("builder")[0])
        (second.home / "registry.crt").write_text(first.sh("cat /srv/registry/registry.crt"))
        refused = "sampan pull registry.example:5000/hello:1.0 && exit 1 || true"
        assert "certificate" in second.sh(refused).lower()
        for block in blocks("runner"):
            said = second.sh(block)
        assert said.rstrip().endswith("Hello from afar")
        next_one = blocks("builder")[0].splitlines()[-2:]
        first.sh("sed -i 's/afar/near/' Dockerfile\n" + "\n".join(next_one).replace(":1.0", ":1.1"))
        said = second.sh(blocks("next")[0] + blocks("runner")[1])
        assert said.rstrip().endswith("Hello from near")
        second.sh(
            "sampan logout registry.example:5000; sampan rm -f hello; "
            "sampan rmi registry.example:5000/hello:1.0 registry.example:5000/hello:1.1"
        )
        assert "denied" in second.sh(refused)
        if STOCK_CLI is None:
            return
        first.sh("sed -i 's/near/afar/' Dockerfile")
        docker = [block.replace("sampan ", "docker ") for block in (*blocks("builder"), *blocks("runner"))]
        assert "digest: sha256:" in first.sh(docker[0])  # as the page says, with the stock client
        for block in docker[1:]:
            said = second.sh(block)
        assert said.rstrip().endswith("Hello from afar")
    finally:
        if registry:
            with contextlib.suppress(ProcessLookupError):
                os.kill(registry, signal.SIGTERM)

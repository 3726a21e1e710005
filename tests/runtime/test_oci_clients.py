"""Stock programs on top of the OCI runtime: podman (with conmon) and containerd (with its shim)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.bundles import needs_root

pytestmark = needs_root
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """A program as scripts/install writes it."""
    source = Path(__file__).resolve().parents[2] / "src"
    path = tmp_path / "sampan-runtime"
    path.write_text(
        f"#!{sys.executable} -IS\nimport sys\n\nsys.path.append({str(source)!r})\n"
        "from sampan.runtime.oci.main import main\n\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


def _caller(*lead: str) -> Call:
    def call(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*lead, *words], text=True, capture_output=True, timeout=100, stdin=subprocess.DEVNULL
        )
        assert not (check and done.returncode), (words, done.stdout, done.stderr)
        return done

    return call


def _cgroups(name: str) -> list[str]:
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if name in path]


@pytest.mark.skipif(not (shutil.which("podman") and shutil.which("conmon")), reason="podman isn't installed")
def test_podman(launcher: Path, tmp_path: Path, oci_rootfs: Path) -> None:
    podman = _caller(
        *("podman", "--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run")),
        *("--storage-driver", "vfs", "--events-backend", "none", "--cgroup-manager", "cgroupfs"),
        *("--runtime", str(launcher)),
    )
    # Its default limits are above what an unprivileged machine may set.
    common = ("--network", "none", "--ulimit", "nofile=512:512", "--ulimit", "nproc=9999:9999")
    rootfs = ("--rootfs", str(oci_rootfs))
    name = f"smpc{os.getpid()}"
    try:
        done = podman("run", "--rm", *common, *rootfs, "sh", "-c", "id -u; exit 5", check=False)
        assert (done.stdout, done.returncode) == ("0\n", 5)
        assert podman("run", "--rm", *common, *rootfs, "nosuch", check=False).returncode == 127
        identifier = podman(
            "run", "-d", "--name", name, *common, "-m", "48m", *rootfs, "sleep", "60"
        ).stdout.strip()
        done = podman("exec", name, "sh", "-c", "echo inside; exit 3", check=False)
        assert (done.stdout, done.returncode) == ("inside\n", 3)
        podman("pause", name)
        assert "Paused" in podman("ps", "-a", "--format", "{{.Status}}").stdout
        podman("unpause", name)
        podman("kill", name)
        podman("wait", name)
        assert "Exited (137)" in podman("ps", "-a", "--format", "{{.Status}}").stdout
        podman("rm", name)
        assert [path for path in _cgroups(identifier) if not path.endswith("/conmon")] == []
    finally:
        podman("rm", "-f", name, check=False)
        for path in sorted(_cgroups("/libpod_parent"), reverse=True):  # conmon's own groups
            with contextlib.suppress(OSError):
                os.rmdir(path)


@contextlib.contextmanager
def _containerd(directory: Path) -> Iterator[str]:
    """A containerd of our own; its socket."""
    address = str(directory / "s")
    disabled = ", ".join(
        f'"io.containerd.{name}"'
        for name in (
            "grpc.v1.cri",
            *(f"snapshotter.v1.{kind}" for kind in ("btrfs", "zfs", "aufs", "devmapper")),
        )
    )
    (directory / "config.toml").write_text(
        f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\ndisabled_plugins = [{disabled}]\n'
        f'[grpc]\naddress = "{address}"\n[ttrpc]\naddress = "{directory}/t"\n'
    )
    with (
        open(directory / "log", "wb") as log,
        subprocess.Popen(
            ["containerd", "-c", str(directory / "config.toml")], stdout=log, stderr=log
        ) as daemon,
    ):
        try:
            deadline = time.monotonic() + 60
            while not os.path.exists(address) and time.monotonic() < deadline:
                time.sleep(0.05)
            yield address
        finally:
            daemon.terminate()


@pytest.mark.skipif(
    not (shutil.which("containerd") and shutil.which("ctr")), reason="containerd isn't installed"
)
def test_containerd(launcher: Path, oci_rootfs: Path) -> None:
    name = f"smpc{os.getpid()}"
    directory = Path(f"/tmp/{name}")  # its shim's socket needs a short path
    directory.mkdir()
    run = ("--runc-binary", str(launcher), "--rootfs", str(oci_rootfs))
    try:
        with _containerd(directory) as address:
            ctr = _caller("ctr", "-a", address, "-n", name)
            done = ctr("run", "--rm", *run, "first", "sh", "-c", "id -u; exit 3", check=False)
            assert (done.stdout, done.returncode) == ("0\n", 3)
            ctr("run", "-d", *run, "second", "sleep", "60")
            done = ctr(
                "task", "exec", "--exec-id", "e", "second", "sh", "-c", "echo inside; exit 4", check=False
            )
            assert (done.stdout, done.returncode) == ("inside\n", 4)
            ctr("task", "pause", "second")
            assert "PAUSED" in ctr("task", "ls").stdout
            ctr("task", "resume", "second")
            ctr("task", "kill", "--signal", "SIGKILL", "second")
            deadline = time.monotonic() + 60
            while "STOPPED" not in ctr("task", "ls").stdout and time.monotonic() < deadline:
                time.sleep(0.05)
            ctr("task", "rm", "second", check=False)
            ctr("container", "rm", "second")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    assert _cgroups(name) == []

"""testcontainers, as test suites use it."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("testcontainers", reason="testcontainers is not installed")
pytestmark = pytest.mark.root


@pytest.fixture
def core(host: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, told where the daemon is, without the helper container that it would pull."""
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setenv("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
    import testcontainers.core.config as settings
    import testcontainers.core.container as container

    monkeypatch.setattr(settings.testcontainers_config, "ryuk_disabled", True)
    yield container


def served(address: str) -> bytes:
    """What is there, as soon as the server listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return bytes(answer.read())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_generic_container(core: Any, tmp_path: Any) -> None:
    from testcontainers.core.waiting_utils import wait_for_logs

    script = "echo getting ready; sleep 0.3; echo $WORD is ready; exec httpd -f -p 8080 -h /etc"
    container = core.DockerContainer("busybox").with_command(["sh", "-c", script]).with_env("WORD", "server")
    with container.with_exposed_ports(8080).with_kwargs(init=True) as running:
        assert wait_for_logs(running, r"server is ready", timeout=60) >= 0
        address = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(8080)}/passwd"
        assert b"root:" in served(address)
        code, output = running.exec(["sh", "-c", "echo inside; exit 5"])
        assert (code, output) == (5, b"inside\n")
        stdout, stderr = running.get_logs()
        assert stdout == b"getting ready\nserver is ready\n" and stderr == b""
        identity = running.get_wrapped_container().id
    with pytest.raises(Exception, match="No such container"):
        running.get_docker_client().client.containers.get(identity)


def test_networks_and_volumes(core: Any, tmp_path: Any) -> None:
    from testcontainers.core.network import Network
    from testcontainers.core.waiting_utils import wait_for_logs

    (tmp_path / "index.html").write_text("shared page\n")
    with Network() as network:
        server = (
            core.DockerContainer("busybox")
            .with_command("sh -c 'echo up; exec httpd -f -p 80 -h /www'")
            .with_volume_mapping(str(tmp_path), "/www", "ro")
            .with_network(network)
            .with_network_aliases("pages")
            .with_kwargs(init=True)
        )
        asker = (
            core.DockerContainer("busybox")
            .with_command("sleep 100")
            .with_network(network)
            .with_kwargs(init=True)
        )
        with server, asker:
            wait_for_logs(server, "up", timeout=60)
            deadline = time.monotonic() + 30
            while asker.exec("wget -qO- http://pages/index.html").output != b"shared page\n":
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_an_image_of_its_own(core: Any, tmp_path: Any) -> None:
    from testcontainers.core.image import DockerImage

    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo made > /made\nCMD cat /made\n")
    with DockerImage(path=tmp_path, tag="sampan-tc:1") as image, core.DockerContainer(str(image)) as running:
        running.get_wrapped_container().wait()
        assert running.get_logs()[0] == b"made\n"

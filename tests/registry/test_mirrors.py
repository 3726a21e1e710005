"""Mirrors of Docker Hub: Debian's docker-registry as a pull-through cache before a second one."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

from tests.api.test_registries import serving
from tests.conftest import Daemon
from tests.indexes import multi
from tests.registry.front import Exchange, Front


def test_a_pull_through_cache(
    new_sampand: Any, sampand: Daemon, busybox: str, registry: str, tmp_path: Path
) -> None:
    made = multi("amd64", "arm64")
    sampand.docker("load", input=made.archive(f"{registry}/library/multi:1"))
    sampand.docker("tag", busybox, f"{registry}/team/tools:1")
    for name in (f"{registry}/library/multi:1", f"{registry}/team/tools:1"):
        sampand.docker("push", name)
        sampand.docker("rmi", name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        absent = f"http://127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "cache").mkdir()
    with serving(tmp_path / "cache", f"proxy: {{remoteurl: 'http://{registry}'}}\n") as cache:
        broken = [3]

        def break_off(exchange: Exchange) -> bool:
            if "/blobs/" in exchange.path and broken[0]:
                broken[0] -= 1
                exchange.close_connection = True
                return True
            return False

        front = Front(cache, break_off)
        try:
            daemon = new_sampand("--registry-mirror", absent, "--registry-mirror", f"http://{front.address}")
            login = base64.urlsafe_b64encode(b'{"username":"demo","password":"secret"}').decode()
            for image, more in (("multi", "&platform=all"), ("team/tools", "")):
                status, _, body = daemon.api(
                    "POST",
                    f"/images/create?fromImage={image}&tag=1{more}",
                    headers={"X-Registry-Auth": login},
                )
                assert status == 200 and b"Downloaded newer image" in body, body
            assert broken == [0]
            sent = {field.lower() for _, _, headers in front.requests for field in headers}
            assert sent and "authorization" not in sent
            assert {headers["User-Agent"].split("/")[0] for _, _, headers in front.requests} == {"sampan"}
            [document] = json.loads(daemon.docker("image", "inspect", "multi:1").stdout)
            assert document["RepoDigests"] == [f"multi@{made.digest}"]
            assert (
                daemon.docker("run", "--rm", "--network", "none", "team/tools:1", "echo", "ran").stdout
                == "ran\n"
            )
            # What the mirror lacks is asked of Docker Hub, which isn't in reach here.
            missing = daemon.docker("pull", "nosuch:1", check=False)
            assert missing.returncode == 1 and "registry-1.docker.io" in missing.stderr
            assert ("GET", "/v2/library/nosuch/manifests/1") in [one[:2] for one in front.requests]
        finally:
            front.close()
        # Another registry's images never go through a mirror of Docker Hub.
        assert "Downloaded newer" in daemon.docker("pull", f"{registry}/team/tools:1").stdout

"""What ``run``'s flags become: the same request as docker's own client sends, field by field."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import STOCK, sampan_command

pytestmark = pytest.mark.skipif(STOCK is None, reason="docker's client is not installed")

LINES = [
    "busybox",
    "-i busybox cat",
    "-a stdout -a stdin -i busybox",
    "-e A=1 -e B -e SET --env-file env -l a=b -l c --label-file labels busybox env",
    "-h host --domainname dom -u 5:6 -w /w --stop-signal USR1 --stop-timeout 3 --entrypoint '' busybox x y",
    "--entrypoint /bin/sh busybox -c 'echo x'",
    "-p 80 -p 8080:81 -p 127.0.0.1::82/udp -p [::1]:83:83 -p 90-91:90-91 --expose 70-71 --expose 60/udp -P busybox",
    "-v /a:/b -v named:/c:ro -v /anon -v ./rel:/r --volumes-from x:ro --volume-driver local --tmpfs /t:size=1m busybox",
    "--mount type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave --mount type=tmpfs,dst=/t,tmpfs-size=1m,"
    "tmpfs-mode=0700 --mount type=volume,src=v,dst=/v,volume-nocopy,volume-label=a=b,volume-subpath=p busybox",
    "-m 64m --memory-swap -1 --memory-reservation 32m --memory-swappiness 10 --cpus 1.5 --cpuset-cpus 0 --pids-limit 9 "
    "--ulimit nofile=10:20 --ulimit core=-1 --shm-size 8m --oom-score-adj 3 --oom-kill-disable busybox",
    "--cpu-period 100000 --cpu-quota 50000 --cpu-shares 5 --cpu-rt-period 9 --cpu-rt-runtime 8 --cpuset-mems 0 busybox",
    "--blkio-weight 300 --blkio-weight-device /dev/null:200 --device-read-bps /dev/null:1mb --device-write-bps "
    "/dev/null:2kb --device-read-iops /dev/null:5 --device-write-iops /dev/null:6 busybox",
    "--device /dev/null --device /dev/zero:/dev/z --device /dev/full:/dev/f:r --device-cgroup-rule 'c 1:3 rwm' busybox",
    "--cap-add net_admin --cap-drop ALL --privileged --security-opt no-new-privileges --security-opt label=disable "
    "--read-only --group-add 5 --group-add x --userns host --uts host --pid host --ipc shareable busybox",
    "--security-opt seccomp=profile.json busybox",
    "--security-opt systempaths=unconfined busybox",
    "--dns 9.9.9.9 --dns-search a.example --dns-option ndots:2 --add-host a:1.2.3.4 --add-host b=::1 "
    "--add-host gw:host-gateway busybox",
    "--network n1 --network-alias a --ip 10.0.0.5 --ip6 ::5 --link-local-ip 169.254.1.1 --mac-address 02:42:ac:11:00:09 "
    "--link db:d busybox",
    "--network name=n1,alias=a,ip=10.0.0.5,driver-opt=x=y,gw-priority=3 --network n2 busybox",
    "--network host busybox",
    "--network container:x busybox",
    "--link db:database --link other busybox",
    "--health-cmd 'test -f /x' --health-interval 1m30s --health-timeout 2s --health-retries 3 "
    "--health-start-period 5s --health-start-interval 1s busybox",
    "--no-healthcheck busybox",
    "--restart on-failure:3 --log-driver local --log-opt max-size=1m --log-opt a=b --runtime r busybox",
    "--rm --init --annotation a=b --storage-opt size=1G --sysctl net.x=1 --cgroup-parent /p --cgroupns private "
    "--isolation default busybox",
    "--gpus all busybox",
    "--gpus 'device=0,driver=nv' busybox",
    "--pull never --platform linux/arm64 --name abc --quiet busybox",
]
DEFAULTS = {"MemorySwappiness": -1, "RestartPolicy": {"Name": "no"}}


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[list[tuple[str, Any]]]:
    """An engine's door that notes the create request and refuses it."""
    found: list[tuple[str, Any]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/s")
    listener.listen(8)

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while line := file.readline():
                length = 0
                while (head := file.readline()) not in (b"\r\n", b""):
                    if head.lower().startswith(b"content-length:"):
                        length = int(head.split(b":")[1])
                body = file.read(length)
                if b"/containers/create" in line:
                    found.append((line.split()[1].decode(), json.loads(body)))
                    answer = b'{"message":"noted"}'
                    status = b"400 Bad Request"
                else:
                    answer, status = b"", b"200 OK"
                connection.sendall(
                    b"HTTP/1.1 %b\r\nApi-Version: 1.50\r\nOstype: linux\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (status, len(answer), answer)
                )

    def loop() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    yield found
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def _essence(value: Any) -> Any:
    """Without what is empty or a default: leaving it out and sending it mean the same."""
    if isinstance(value, dict):
        kept = {key: _essence(item) for key, item in value.items() if DEFAULTS.get(key) != item}
        return {
            key: item
            for key, item in kept.items()
            if DEFAULTS.get(key, 0) != item and (item not in (None, "", 0, False) and item != [0, 0])
            and (item not in ({}, []) or key in ("MaskedPaths", "ReadonlyPaths", "ExposedPorts", "Entrypoint"))
        }  # fmt: skip
    if isinstance(value, list):
        return [_essence(item) if item != {} else item for item in value]
    return value


@pytest.mark.parametrize("line", LINES)
def test_same_request(captured: list[tuple[str, Any]], tmp_path: Path, line: str) -> None:
    (tmp_path / "env").write_text("# comment\nFILE=1\nSET\n\n  INDENTED=x y\n")
    (tmp_path / "labels").write_text("f=g\n")
    (tmp_path / "profile.json").write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/s",
        "SET": "here",
    }
    words = ["create", *shlex.split(line)]
    assert STOCK is not None
    for command in ([STOCK, *words], sampan_command(*words)):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=30)
        assert b"noted" in done.stderr, done.stderr
    (stock_target, stock), (our_target, ours) = captured
    assert sorted(our_target.partition("?")[2].split("&")) == sorted(
        stock_target.partition("?")[2].split("&")
    )
    for request in (stock, ours):  # docker's client keeps no order here
        request["Env"] = sorted(request.get("Env") or [])
        request["HostConfig"]["Binds"] = sorted(request["HostConfig"].get("Binds") or [])
    assert _essence(ours) == _essence(stock)

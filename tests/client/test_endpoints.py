"""Addresses, contexts, logins, and the ways to an engine: TLS, ssh."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli.command import Settings
from sampan.cli.connect import choose, context_name
from sampan.cli.errors import CLIError
from sampan.client import credentials, endpoint, tls
from sampan.client.config import Config
from sampan.client.contexts import Context, ContextStore, check_name
from sampan.client.endpoint import TLSFiles
from sampan.client.engine import Client
from sampan.client.errors import ClientError, ConnectFailed
from tests.client.conftest import read_head

Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("unix:///run/x.sock", ("unix", "/run/x.sock", 0, "", "")),
        ("/run/x.sock", ("unix", "/run/x.sock", 0, "", "")),
        ("tcp://h:2375", ("tcp", "h", 2375, "", "")),
        ("h:1", ("tcp", "h", 1, "", "")),
        ("tcp://[::1]:5", ("tcp", "::1", 5, "", "")),
        ("tcp://", ("tcp", "localhost", 2375, "", "")),
        ("ssh://me@h:22/run/s", ("ssh", "h", 22, "me", "/run/s")),
        ("ssh://h", ("ssh", "h", 0, "", "")),
    ],
)
def test_addresses(url: str, parts: tuple[str, str, int, str, str]) -> None:
    found = endpoint.parse(url)
    assert (found.scheme, found.address, found.port, found.user, found.path) == parts


@pytest.mark.parametrize(
    "url", ["ftp://x", "ssh://", "ssh://me:secret@h", "ssh://-oProxyCommand=x", "tcp://h:99999"]
)
def test_bad_addresses(url: str) -> None:
    with pytest.raises(ClientError):
        endpoint.parse(url)


@given(st.text())
def test_any_address_is_parsed_or_refused(text: str) -> None:
    try:
        endpoint.parse(text)
    except ClientError:
        return


def test_who_decides(tmp_path: Path) -> None:
    store = ContextStore(str(tmp_path))
    meta = {"Name": "far", "Metadata": {}, "Endpoints": {"docker": {"Host": "tcp://far:1"}}}
    store.save(Context("far", meta, store.folder), {"ca": b"C"})
    config = Config.load(str(tmp_path))
    settings = Settings({})
    assert choose(settings, config).url == endpoint.default_url()
    config.data["currentContext"] = "far"
    found = choose(settings, config)
    assert found.address == "far" and found.tls is not None and found.tls.ca.endswith("/docker/ca.pem")
    assert choose(Settings({"DOCKER_HOST": "tcp://env:2"}), config).address == "env"
    assert choose(Settings({"DOCKER_HOST": "tcp://a:2", "SAMPAN_HOST": "tcp://b:2"}), config).address == "b"
    settings.host = "tcp://flag:3"
    assert choose(settings, config).address == "flag"
    assert context_name(settings, config) == "default"
    settings.context = "far"
    with pytest.raises(CLIError, match="either specify --host or --context"):
        choose(settings, config)
    secure = choose(
        Settings({"DOCKER_HOST": "tcp://s", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"}), config
    )
    assert secure.tls is not None and (secure.port, secure.tls.key, secure.tls.verify) == (
        2376,
        "/c/key.pem",
        True,
    )
    store.remove("far")
    with pytest.raises(ClientError, match="context not found"):
        store.get("far")
    assert not os.listdir(tmp_path / "contexts/tls")


def test_context_names() -> None:
    for bad in ("", "default", "-x", "a/b", "x", "a b"):
        with pytest.raises(ClientError):
            check_name(bad)
    check_name("good.name_1+2-3")


def test_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.load(str(tmp_path / "new"))
    config.data["other"] = {"kept": True}
    assert credentials.headers(config, "reg:5000") == {}
    login = {"username": "u", "password": "p:ü", "serveraddress": "reg:5000"}
    path = credentials.store(config, "reg:5000", login)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    again = Config.load(str(tmp_path / "new"))
    assert again.data["other"] == {"kept": True}
    assert credentials.get(again, "reg:5000") == login
    assert credentials.erase(again, "reg:5000") and not credentials.erase(again, "reg:5000")

    helper = tmp_path / "docker-credential-file"
    helper.write_text(f"#!/bin/sh\ncase $1 in store) cat > {tmp_path}/kept;; get) cat {tmp_path}/kept;; "
                      f"erase) rm {tmp_path}/kept;; list) echo '{{\"reg:5000\": \"u\"}}';; esac\n")  # fmt: skip
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    again.data["credsStore"] = "file"
    assert credentials.store(again, "reg:5000", login) == ""
    assert credentials.get(again, "reg:5000") == login

    def sent() -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(
            base64.urlsafe_b64decode(credentials.all_headers(again)["X-Registry-Config"])
        )
        return found

    assert sent() == {"reg:5000": login}
    # The environment comes first.
    pair = base64.b64encode(b"job:token").decode()
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"https://reg:5000/v1/": {"auth": pair}}}))
    assert credentials.get(again, "reg:5000")["username"] == "job"
    assert sent()["https://reg:5000/v1/"]["password"] == "token"
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "[]")
    with pytest.raises(ClientError, match="DOCKER_AUTH_CONFIG can't be read"):
        credentials.get(again, "reg:5000")
    monkeypatch.delenv("DOCKER_AUTH_CONFIG")
    again.data["credHelpers"] = {"reg:5000": "nosuch"}
    with pytest.raises(ClientError, match="executable file not found"):
        credentials.get(again, "reg:5000")


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{nonsense")
    with pytest.raises(ClientError, match="Error loading config file"):
        Config.load(str(tmp_path))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and a server's and a client's certificate signed by it."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl(
        *[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca-key.pem",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-subj",
            "/CN=ca",
        ]
    )
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name, key in (("server", "server-key.pem"), ("cert", "key.pem")):
        openssl(*f"req -newkey rsa:2048 -nodes -keyout {key} -out {name}.csr -subj /CN={name}".split())
        sign = (
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out {name}.pem -days 2"
        )
        openssl(*sign.split(), "-extfile", "san")
    return folder


@pytest.fixture
def secure_server(certificates: Path) -> Iterator[int]:
    """A TLS server that wants a client certificate, speaks HTTP, and echoes what is sent after an upgrade."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server-key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    _speak(connection)
            except (OSError, ssl.SSLError):
                continue

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def _speak(connection: ssl.SSLSocket) -> None:
    while head := read_head(connection):
        if head.startswith(b"HEAD"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 0\r\n\r\n")
            continue
        connection.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        total = 0
        while data := connection.recv(65536):
            total += len(data)
        connection.sendall(b"got %d" % total)
        return


def test_mutual_tls_with_half_close(certificates: Path, secure_server: int) -> None:
    where = endpoint.parse(f"tcp://127.0.0.1:{secure_server}")
    where.tls = TLSFiles(*(str(certificates / f"{n}.pem") for n in ("ca", "cert", "key")), verify=True)
    client = Client(where)
    assert client.negotiate() == "1.41"
    client.close()
    stream = client.upgrade("/containers/x/attach")
    data = b"x" * 200_000
    while data:
        data = data[stream.send_some(data) :]
    stream.close_write()
    assert stream.recv() == b"got 200000"
    stream.close()


def test_tls_refusals(certificates: Path, secure_server: int) -> None:
    where = endpoint.parse(f"tcp://127.0.0.1:{secure_server}")
    where.tls = TLSFiles(str(certificates / "cert.pem"), "", "", verify=True)
    with pytest.raises(ConnectFailed, match="error during connect"):
        Client(where).negotiate()
    where.tls = TLSFiles("", str(certificates / "cert.pem"), "/nonexistent/key.pem", verify=False)
    with pytest.raises(ClientError, match="unable to read TLS certificates"):
        Client(where).negotiate()
    where.tls = None
    with pytest.raises(ClientError):
        Client(where).negotiate()
    with socket.socketpair()[0] as dead, pytest.raises(ClientError):
        tls.wrap(dead, "x", TLSFiles("", "", "", verify=False))


def test_ssh_runs_dial_stdio_on_the_far_side(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(connection: socket.socket) -> None:
        while head := read_head(connection):
            body = b"" if head.startswith(b"HEAD") else b'{"Name": "far"}'
            answer = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(answer % len(body) + body)

    path = serve(script)
    # ssh itself is a script that runs the remote command here, where "sampan" is this project's.
    (tmp_path / "ssh").write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift 2; exec sh -c "$*"\n'
    )
    (tmp_path / "sampan").write_text(f'#!/bin/sh\nexec {sys.executable} -m sampan.cli.main "$@"\n')
    for name in ("ssh", "sampan"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    client = Client(endpoint.parse(f"ssh://me@far:2222{path}"))
    assert client.call("GET", "/info") == {"Name": "far"}
    assert client.call("GET", "/info") == {"Name": "far"}
    client.close()
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    with pytest.raises(ConnectFailed, match="ended with code 255"):
        Client(endpoint.parse("ssh://far")).negotiate()

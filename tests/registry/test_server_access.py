"""Who may do what at ``serve-registry``: passwords, tokens, TLS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
import urllib3

from sampan import errors
from sampan.kernel import crypt
from sampan.registryd.access import Users
from tests.registry.serving import Served, code_of

SALT = "$2y$05$ABCDEFGHIJKLMNOPQRSTUu"
SLOW_SALT = SALT.replace("05", "13")


def hashed(password: str, salt: str) -> str:
    """As htpasswd makes it; perl's crypt is another way to the same library."""
    command = ["perl", "-e", "print crypt($ARGV[0], $ARGV[1])", password, salt]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def users(folder: Path, **passwords: str) -> Path:
    """A file as ``htpasswd -B`` writes it."""
    path = folder / "users"
    lines = []
    for name, password in passwords.items():
        lines.append(f"{name}:{hashed(password, SALT)}\n")
    path.write_text("# users\n" + "".join(lines) + "\n")
    return path


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_known_hashes() -> None:
    """Vectors of crypt_blowfish's own tests, and what other programs make."""
    assert crypt.matches(b"U*U", b"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW")
    assert crypt.matches(b"\xa3", b"$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq")
    for bad in (
        b"",
        b"x",
        b"$2y$05$",
        b"$apr1$x$y",
        b"$2y$99$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    ):
        assert not crypt.matches(b"U*U", bad)
    assert not crypt.matches(b"U*U\0", b"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW")
    if shutil.which("openssl") is None:
        return
    command = ["openssl", "passwd", "-6", "-salt", "saltstring", "Hello world!"]
    made = subprocess.run(command, capture_output=True, check=True).stdout.strip()
    assert crypt.matches(b"Hello world!", made) and not crypt.matches(b"Hello world", made)


@pytest.mark.parametrize("line", ["alice", "alice:$apr1$a$b", "alice:{SHA}x", ":$2y$05$x", "alice:plain"])
def test_files_of_users_that_cannot_be_used(tmp_path: Path, line: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"# fine\n{line}\n")
    with pytest.raises(errors.InvalidParameter, match="line 2"):
        Users(path)


def test_passwords(tmp_path: Path, serve: Callable[..., Served]) -> None:
    served = serve("--htpasswd", str(users(tmp_path, alice="wonderland", bob="builder:1")))
    answer = served.ask("GET", "/v2/")
    assert (answer.status, code_of(answer)) == (401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
    for right in (basic("alice", "wonderland"), basic("bob", "builder:1")):
        served.auth = right
        assert served.ask("GET", "/v2/").status == 200
    for wrong in (
        basic("alice", "Wonderland"),
        basic("alice", ""),
        basic("mallory", "wonderland"),
        basic("alice", "x" * 5000),
        basic("alice", "wonderland\0"),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Bearer x"},
        {"Authorization": ""},
    ):
        served.auth = wrong
        for method, path in (("GET", "/v2/"), ("GET", "/v2/_catalog"), ("POST", "/v2/a/blobs/uploads/")):
            assert served.ask(method, path).status == 401, (wrong, path)
    served.auth = {}
    assert served.ask("GET", "/v2/_sampan/token").status == 405
    assert served.ask("GET", "/v2/_sampan/registry/usage").status == 401


def test_a_refused_upload_hears_why(tmp_path: Path, serve: Callable[..., Served]) -> None:
    """A client that sends its body at once still gets the 401, not a reset."""
    served = serve("--htpasswd", str(users(tmp_path, alice="wonderland")))
    for _ in range(5):
        assert served.ask("POST", "/v2/a/blobs/uploads/?digest=sha256:0", b"x" * 3_000_000).status == 401


def test_right_passwords_are_quick_the_second_time(tmp_path: Path, serve: Callable[..., Served]) -> None:
    path = tmp_path / "users"
    begun = time.perf_counter()
    path.write_text(f"alice:{hashed('wonderland', SLOW_SALT)}\n")
    once = time.perf_counter() - begun  # half a second or so
    served = serve("--htpasswd", str(path))
    served.auth = basic("alice", "wonderland")
    served.ask("GET", "/v2/")
    begun = time.perf_counter()
    for _ in range(100):
        assert served.ask("GET", "/v2/").status == 200
    assert time.perf_counter() - begun < 30 * once


def test_new_users_without_a_restart(tmp_path: Path, serve: Callable[..., Served]) -> None:
    path = users(tmp_path, alice="wonderland")
    served = serve("--htpasswd", str(path))
    served.auth = basic("alice", "wonderland")
    assert served.ask("GET", "/v2/").status == 200
    users(tmp_path, bob="builder")
    served.signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while served.ask("GET", "/v2/").status == 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served.ask("GET", "/v2/").status == 401
    served.auth = basic("bob", "builder")
    assert served.ask("GET", "/v2/").status == 200
    path.write_text("broken\n")
    served.signal(signal.SIGHUP)
    while "nothing was reloaded" not in served.errors() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served.ask("GET", "/v2/").status == 200


def test_everybody_reads_and_users_write(tmp_path: Path, serve: Callable[..., Served]) -> None:
    served = serve("--htpasswd", str(users(tmp_path, alice="wonderland")), "--anonymous-pull")
    challenge = served.ask("GET", "/v2/")
    assert challenge.status == 401
    realm = f"http://{served.address}/v2/_sampan/token"
    assert challenge.headers["WWW-Authenticate"] == f'Bearer realm="{realm}",service="sampan-registry"'

    def token(auth: dict[str, str]) -> urllib3.BaseHTTPResponse:
        served.auth = auth
        return served.ask("GET", "/v2/_sampan/token?service=sampan-registry&scope=repository:a:pull,push")

    mine = json.loads(token(basic("alice", "wonderland")).data)["token"]
    anyone = json.loads(token({}).data)["token"]
    assert token(basic("alice", "wrong")).status == 401

    def by_form(password: str, grant: str = "password") -> urllib3.BaseHTTPResponse:
        """As containerd asks first."""
        served.auth = {}
        form = urlencode({"grant_type": grant, "service": "x", "username": "alice", "password": password})
        kind = "application/x-www-form-urlencoded"
        return served.ask("POST", "/v2/_sampan/token", form, Content_Type=kind)

    assert by_form("wrong").status == 401 and by_form("wonderland", "refresh_token").status == 400
    served.auth = {"Authorization": f"Bearer {json.loads(by_form('wonderland').data)['access_token']}"}
    served.image("by-form", "x")
    assert served.ask("DELETE", "/v2/_sampan/token").status == 405

    served.auth = {"Authorization": f"Bearer {mine}"}
    assert served.ask("GET", "/v2/").status == 200
    served.image("a", "x")
    for auth in ({}, {"Authorization": f"Bearer {anyone}"}):
        served.auth = auth
        assert served.ask("GET", "/v2/a/manifests/x").status == 200
        refused = served.ask("POST", "/v2/a/blobs/uploads/")
        assert refused.status == 401
        assert 'scope="repository:a:pull,push"' in refused.headers["WWW-Authenticate"]
        assert served.ask("DELETE", "/v2/a/manifests/x").status == 401
    forged = base64.urlsafe_b64encode(b"\0" * 32 + b'["alice",9999999999]').decode()
    for bad in (forged, mine[:-4] + "AAAA", "x", "", "é"):
        served.auth = {"Authorization": f"Bearer {bad}".encode().decode("latin-1")}
        assert served.ask("GET", "/v2/a/manifests/x").status == 401, bad


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


def test_tls(tmp_path: Path, serve: Callable[..., Served]) -> None:
    cert, key = certificate(tmp_path, "one")
    served = serve("--tls-cert", str(cert), "--tls-key", str(key))
    assert served.scheme == "https"
    layer = b"0123456789" * 200_000
    served.image("a", "x", layer=layer)
    trusting = urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=str(cert)))
    url = f"https://{served.address}/v2/a/blobs/sha256:{hashlib.sha256(layer).hexdigest()}"
    assert trusting.request("GET", url).data == layer
    assert trusting.request("GET", url, headers={"Range": "bytes=1999990-"}).data == b"0123456789"
    with served.connect() as plain:
        plain.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP request to an HTTPS server" in plain.makefile("rb").read()

    other, other_key = certificate(tmp_path, "two")
    cert.write_bytes(other.read_bytes())
    key.write_bytes(other_key.read_bytes())
    served.signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = ssl.get_server_certificate(("127.0.0.1", served.port))
        if found.strip() == other.read_text().strip():
            return
        time.sleep(0.05)
    raise AssertionError("the new certificate isn't shown")


def test_keys_that_do_not_fit(tmp_path: Path, serve: Callable[..., Served]) -> None:
    (cert, key), (_, other) = certificate(tmp_path, "one"), certificate(tmp_path, "two")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:secret", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    for pair, words in (
        ((cert, other), f"{other} isn't the key of {cert}"),
        ((key, key), f"no certificate in {key}"),
        ((cert, locked), f"no key in {locked}"),
    ):
        with pytest.raises(AssertionError, match=re.escape(words)):
            serve("--tls-cert", str(pair[0]), "--tls-key", str(pair[1]))


def test_content_is_no_business_of_other_users(served: Served) -> None:
    assert served.data.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tls-cert", "/nope"], "belong together"),
        (["--tls-cert", "/nope", "--tls-key", "/nope"], "No such file or directory: '/nope'"),
        (["--htpasswd", "/nope"], "can't read the users"),
        (["--anonymous-pull"], "needs --htpasswd"),
        (["--share", "--mirror", "http://x"], "exclude each other"),
        (["--share"], "no engine's data root"),
        (["--mirror", "docker.io"], "no URL"),
        (["--listen", "nonsense"], "ADDRESS:PORT"),
        (["--mirror-user", "x"], "needs --mirror"),
        (["--mirror", "http://x", "--untagged-life", "1h"], "no meaning for a mirror"),
        (["--share", "--upload-life", "1h"], "no meaning with --share"),
        (["--collect-every", "0s"], "must be positive"),
        (["--notify-header", "x"], "not of the form"),
        (["--notify", "x.example/hook"], "begins with http"),
    ],
)
def test_settings_that_make_no_sense(serve: Callable[..., Served], flags: list[str], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        serve(*flags)

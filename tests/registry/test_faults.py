"""What an engine's user hears of a registry whose certificate isn't right, or who may not push there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3

from sampan.registry.faults import unreachable
from sampan.registry.pools import Pools, Proxies
from tests.conftest import Daemon
from tests.registry.conftest import free_port
from tests.registry.serving import Served
from tests.registry.test_server_access import users

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def certificate(folder: Path, name: str, *, old: bool = False) -> None:
    """``srv.crt`` and ``srv.key`` of a server, signed by ``ca.crt``."""
    openssl(folder, "req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
    openssl(folder, "req", *KEY, "-keyout", "srv.key", "-out", "srv.csr", "-subj", "/CN=server")
    (folder / "ext").write_text(f"subjectAltName={name}\n")
    (folder / "index").touch()
    (folder / "serial").write_text("01\n")
    (folder / "cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
        "[p]\ncommonName=supplied\n"
    )
    until = "210101000000Z" if old else "491231000000Z"
    dates = ("-startdate", "200101000000Z", "-enddate", until)
    signer = ("-config", "cnf", "-cert", "ca.crt", "-keyfile", "ca.key", "-extfile", "ext", "-notext")
    openssl(folder, "ca", "-batch", *signer, *dates, "-in", "srv.csr", "-out", "srv.crt")


def asked(host: str, certificates: Path) -> str:
    """What is said of a registry that can't be reached, "" when it can."""
    pools = Pools(host, verify=True, certificates=(certificates,), proxies=Proxies.of_environment())
    url = f"https://{host}/v2/"
    try:
        assert pools.request("GET", url).status == 200
    except urllib3.exceptions.HTTPError as error:
        return str(unreachable("GET", url, error, host, (certificates,)))
    return ""


@pytest.mark.parametrize(
    ("name", "old", "trusted", "words", "advice"),
    [
        ("IP:127.0.0.1", False, True, "", ""),
        ("IP:127.0.0.1", False, False, "x509: certificate signed by unknown authority", "/ca.crt"),
        (
            "IP:127.0.0.1",
            True,
            True,
            "x509: certificate has expired or is not yet valid",
            "a new certificate",
        ),
        (
            "DNS:x.example",
            False,
            True,
            "x509: certificate is valid for other names, not 127.0.0.1",
            "subjectAlt",
        ),
    ],
)
def test_certificates(
    tmp_path: Path, serve: Callable[..., Served], name: str, old: bool, trusted: bool, words: str, advice: str
) -> None:
    certificate(tmp_path, name, old=old)
    served = serve("--tls-cert", str(tmp_path / "srv.crt"), "--tls-key", str(tmp_path / "srv.key"))
    place = tmp_path / "certs.d" / served.address
    place.mkdir(parents=True)
    if trusted:
        shutil.copy(tmp_path / "ca.crt", place)
    said = asked(served.address, tmp_path / "certs.d")
    assert (words in said and advice in said) if words else said == ""
    if "/ca.crt" in advice:  # doing what is advised helps
        shutil.copy(tmp_path / "ca.crt", said.partition("certificate at ")[2].partition(",")[0])
        assert asked(served.address, tmp_path / "certs.d") == ""


def test_no_tls_and_nobody(served: Served, tmp_path: Path) -> None:
    said = asked(served.address, tmp_path)
    assert "http: server gave HTTP response to HTTPS client" in said and "insecure-registries" in said
    assert "connection refused" in asked(f"127.0.0.1:{free_port()}", tmp_path)


def test_who_is_not_logged_in(
    sampand: Daemon, busybox: str, serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve("--htpasswd", str(users(tmp_path, alice="wonderland")))
    name = f"{served.address}/team/app"
    sampand.docker("tag", "busybox", f"{name}:1")
    pushed = sampand.docker("push", f"{name}:1", check=False).stderr
    assert "unauthorized: authentication required" in pushed and "docker login" in pushed
    assert "pull" not in pushed
    pulled = sampand.docker("pull", f"{name}:2", check=False).stderr
    assert f"pull access denied for {name}, repository does not exist or may require 'docker login'" in pulled
    sampand.docker("rmi", f"{name}:1")

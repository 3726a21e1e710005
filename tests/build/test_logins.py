"""Secrets that log in: for ADD of repositories and URLs, for remote contexts, and for nobody else."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon

from .door import Built, Door

BASIC = "basic " + base64.b64encode(b"x-access-token:token").decode()
ACCEPTED = (BASIC, "Bearer token", "Basic other")


class Site:
    """A web server of a directory; ``asked`` has the paths and logins of requests. ``private``: it wants a login."""

    def __init__(self, top: Path, private: bool) -> None:
        top.mkdir()
        self.top = top
        self.asked: list[tuple[str, str]] = []
        site = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                login = self.headers.get("Authorization", "")
                site.asked.append((self.path, login))
                if self.path.startswith("/away/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/away/"))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif private and login not in ACCEPTED:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="x"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    super().do_GET()

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(top))
        )
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def repository(self, name: str, files: dict[str, str], *, module: str = "") -> str:
        """A repository with one commit, served as plain files; ``module``: the URL of a submodule at ``m``."""
        if shutil.which("git") is None:
            pytest.skip("git is not installed")
        work = self.top / f"{name}-work"
        work.mkdir()
        for path, text in files.items():
            (work / path).write_text(text)
        who = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main")
        commands = [["init", "-q"], *([["submodule", "-q", "add", module, "m"]] if module else [])]
        for command in (*commands, ["add", "."], ["commit", "-qm", "1"]):
            subprocess.run([*who, *command], cwd=work, check=True, capture_output=True)
        bare = self.top / f"{name}.git"
        subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
        subprocess.run(["git", "update-server-info"], cwd=bare, check=True)
        return f"{self.url}/{name}.git"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "private", True)
    yield site
    site.close()


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "public", False)
    yield site
    site.close()


@pytest.fixture(scope="module")
def door(sampand: Daemon, busybox: str) -> Door:
    return Door(sampand, busybox)


def build(door: Door, dockerfile: str | None, secrets: dict[str, str] | None = None, **query: str) -> Built:
    sent = {name: base64.b64encode(text.encode()).decode() for name, text in (secrets or {}).items()}
    header = base64.urlsafe_b64encode(json.dumps(sent).encode()).decode()
    body = b"" if dockerfile is None else None
    return door.build(dockerfile, body=body, headers={"X-Sampan-Secrets": header}, nocache="1", **query)


def test_repositories(door: Door, private: Site, public: Site) -> None:
    """The login goes to the repository's server; the server of its submodule gets none."""
    module = public.repository("module", {"g": "public"})
    url = private.repository(
        "r", {"f": "private", "Dockerfile": f"FROM {door.base}\nCOPY f /c\n"}, module=module
    )
    file = f"FROM BASE\nADD {url} /r\n"
    missing = build(door, file)
    assert "It asks for a login: sampan build --secret id=GIT_AUTH_TOKEN,src=FILE" in missing.error
    wrong = build(door, file, {"GIT_AUTH_TOKEN": "wrong"})
    assert wrong.error.endswith("The login that the secret gives was refused.")
    assert "asks for a login" in build(door, file, {"GIT_AUTH_TOKEN.elsewhere": "token"}).error
    public.asked.clear()
    for secrets in (
        {"GIT_AUTH_TOKEN": "token\n"},
        {"GIT_AUTH_HEADER": "Basic other"},
        {"GIT_AUTH_TOKEN.127.0.0.1": "token"},
    ):
        built = build(door, file, secrets)
        assert door.run(built.id, "cat", "/r/f", "/r/m/g") == "privatepublic"
    assert public.asked and {login for _, login in public.asked} == {""}
    refused = build(door, None, remote=url)
    assert "It asks for a login" in refused.error
    assert door.run(build(door, None, {"GIT_AUTH_TOKEN": "token"}, remote=url).id, "cat", "/c") == "private"


def test_downloads(door: Door, private: Site, public: Site) -> None:
    """The login doesn't follow to another server."""
    (private.top / "f").write_text("private")
    (private.top / "D").write_text(f"FROM {door.base}\nLABEL by=url\n")
    (public.top / "g").write_text("public")
    file = f"FROM BASE\nADD {private.url}/f {private.url}/away/{public.url}/g /x/\n"
    missing = build(door, file)
    assert "status 401 Unauthorized" in missing.error
    assert "sampan build --secret id=HTTP_AUTH_TOKEN_127.0.0.1,src=FILE" in missing.error
    wrong = build(door, file, {"HTTP_AUTH_TOKEN_127.0.0.1": "wrong"})
    assert "The login that a secret gives for 127.0.0.1 was refused." in wrong.error
    public.asked.clear()
    for secrets in (
        {"HTTP_AUTH_TOKEN_127.0.0.1": "token"},
        {"HTTP_AUTH_HEADER_127.0.0.1": "Basic other"},
    ):
        built = build(door, file, secrets)
        assert door.run(built.id, "cat", "/x/f", "/x/g") == "privatepublic"
    assert public.asked == [("/g", "")] * 2
    assert "status 401" in build(door, None, remote=f"{private.url}/D").error
    labelled = build(door, None, {"HTTP_AUTH_TOKEN_127.0.0.1": "token"}, remote=f"{private.url}/D")
    assert door.inspect(labelled.id)["Config"]["Labels"]["by"] == "url"

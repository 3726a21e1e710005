"""What COPY and ADD take: ignore files beside docker's own command line, --exclude, archives, downloads by a proxy."""

from __future__ import annotations

import http.server
import io
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import STOCK_CLI, Daemon, import_busybox

from .conftest import Bench, tar_of
from .door import Door


@pytest.fixture(scope="module")
def door(sampand: Daemon, busybox: str) -> Door:
    return Door(sampand, busybox)


IGNORE_FILES = [
    "a\n!a/b\n",
    "a\n!**/b\n",
    "a\n!a/b/c\na/b/c/x\n",
    "**/b\n!b\n",
    "?/b\n**a/a*/\n!*b\n",
    "*\n!a\n!a.b\n",
    "*\n!*/b\n",
    "/a/\n  b  \n# a comment\n#h\n",
    "!a\na\n!a/x\n",
    "/!a\na\n!!n\n",
    "\\!n\n\\#h\n!\\#h\n",
    "a*\n!ab\n",
    "**\n!a/**\na/b\n",
    "**/*.b\n**b\n",
    "[a-b]/[^x]\n[[]x]\n",
    "a/..\n./b/../a.b\n../a\n/\n.\n",
    "a**b\na/**/x\n**x\n",
    "a**[-a]\nb/**\n",
    "\ufeffa b\né*\n*.B\n",
    "a\\*\na?b\n.*\n+\n(a)\n$\n",
    # What Docker's matcher leaves to the regular expression that it makes.
    "f?|^f[a-b]\n",
    "f[^ab]|b*$\n!a|?b\n",
    "^f*\nf^?\n?{2}\n",
    "fa?{0,2}b\n",
    "\\w\n[[:punct:]]\n",
    "f[\\W]\n\\x66\\W\n",
    "[*]\n?[a?]\n",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("ignored")
    for name in ("a", "b", "ab", "a.b", ".a", "aXb", "a b", "[x]", "é", "#h", "!n", "a*", "+", "(a)", "$"):
        (top / f"f{name}").write_text("")
        (top / name).mkdir()
        for inner in ("a", "b", "x", "a.b", "c"):
            (top / name / inner).mkdir()
            for leaf in ("a", "b", "c", "x", "a.b"):
                (top / name / inner / leaf).write_text("")
    return top


@pytest.mark.skipif(STOCK_CLI is None, reason="docker's command line is not installed")
@pytest.mark.parametrize("text", IGNORE_FILES)
def test_ignore_files_as_docker_reads_them(sampand: Daemon, tree: Path, text: str) -> None:
    """docker's client applies ``.dockerignore``, the engine ``D.dockerignore``: the same files are left."""
    (tree / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    env = {**sampand.env, "DOCKER_BUILDKIT": "0"}
    layers = []
    for dockerfile, ignored in (("Dockerfile", ".dockerignore"), ("D", "D.dockerignore")):
        own = "Dockerfile\nD\n.dockerignore\nD.dockerignore\n"
        (tree / "Dockerfile").rename(tree / "moving")
        (tree / "moving").rename(tree / dockerfile)
        (tree / ignored).write_text(text + own)
        words = ["build", "-q", "--build-arg", "SOURCE_DATE_EPOCH=1", "-f", str(tree / dockerfile), str(tree)]
        done = subprocess.run([str(STOCK_CLI), *words], env=env, capture_output=True, text=True)
        (tree / ignored).unlink()
        (tree / dockerfile).rename(tree / "Dockerfile")
        assert done.returncode == 0, done.stderr
        layers.append(sampand.json("GET", f"/images/{done.stdout.strip()}/json")["RootFS"]["Layers"])
    assert layers[0] == layers[1]


def test_exclude_is_seen_from_the_source(bench: Bench, run: Any) -> None:
    files = {"d/a.md": "1", "d/s/b.md": "2", "d/s/c.txt": "3", "home.txt": "4", "home.md": "5", "e/d/x": "6"}
    run(
        files,
        "COPY --exclude=*.md d /in/",
        "COPY --exclude=d/*.md d /out/",
        "COPY --exclude=*.txt hom* /glob/",
        "COPY --exclude=d/s/*.txt d/s/* /path/",
        "COPY --exclude=* d* /none/",
        "COPY --exclude=** --exclude=!s d /back/",
        "COPY --parents --exclude=d/s d e /par/",
        "COPY --parents --exclude=**/*.txt ./d/./s /piv/",
        "COPY --exclude=home* home.md /gone/",
    )
    found = {path for path, (mode, *_) in bench.files("t").items() if path.count("/") and "." in path}
    assert found == {
        *("in/s/b.md", "in/s/c.txt", "out/a.md", "out/s/b.md", "out/s/c.txt", "glob/home.md", "path/b.md"),
        *("back/s/b.md", "back/s/c.txt", "par/d/a.md", "piv/s/b.md"),
    }
    assert "none" in bench.files("t") and "par/e/d/x" in bench.files("t")


@pytest.fixture
def run(bench: Bench) -> Any:
    import asyncio

    def build(files: dict[str, Any], *lines: str, **options: Any) -> list[dict[str, Any]]:
        dockerfile = "\n".join(["FROM base", *lines, ""])
        return asyncio.run(bench.build({"Dockerfile": dockerfile, **files}, tags=["t"], **options))

    return build


def test_members_above_the_archive_stay_in_the_destination(bench: Bench, run: Any) -> None:
    inner = tar_of({"../x": "1", "a/../../../../etc/passwd": "2", "/abs": "3", "l": ("../../../etc",)})
    run({"t.tar": inner}, "ADD t.tar /un/")
    found = bench.files("t")
    assert {path: one[3] for path, one in found.items() if one[3]} == {
        "un/x": "1",
        "un/etc/passwd": "2",
        "un/abs": "3",
        "un/l": "../../../etc",
    }


def test_directories_that_later_members_replace(bench: Bench, run: Any) -> None:
    """An archive may say a name twice: what comes later counts, and nothing is left of what was below."""
    members: list[tuple[str, bytes, int]] = [
        *((("a", tarfile.DIRTYPE, 1), ("a/b", tarfile.DIRTYPE, 2), ("a/b/c", tarfile.DIRTYPE, 3))),
        *((("a", tarfile.REGTYPE, 4), ("d", tarfile.DIRTYPE, 5), ("d/e/f", tarfile.DIRTYPE, 6))),
        *((("d", tarfile.SYMTYPE, 7), ("d", tarfile.DIRTYPE, 8), ("d", tarfile.DIRTYPE, 9))),
    ]
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, kind, time in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.mode = kind, time, 0o755
            info.linkname = "." if kind == tarfile.SYMTYPE else ""
            tar.addfile(info)
    run({"t.tar": inner.getvalue()}, "ADD t.tar /un/")
    assert sorted(path for path in bench.files("t") if path != "un") == ["un/a", "un/d"]
    top = bench.layers.directory(bench.images.get("t").layers[-1]) / "diff/un"
    assert [(top / name).stat().st_mtime for name in "ad"] == [4, 9]


def test_linked_files_of_a_named_user(door: Door) -> None:
    """The same COPY --link over another base whose user has another number isn't the same."""
    owners = []
    for number in (41, 42):
        built = door.build(
            f"FROM BASE\nRUN echo u:x:{number}:{number}::/: > /etc/passwd && echo u:x:{number}: > /etc/group\n"
            "COPY --link --chown=u:u f /f\n",
            {"f": "x"},
        )
        owners.append(door.sh(built.id, "stat -c %u:%g /f").strip())
    assert owners == ["41:41", "42:42"]


def test_capabilities_of_files_last(door: Door, sampand: Daemon, tmp_path: Path) -> None:
    """What setcap gave a file of the context is there in copies, after a commit, and in a saved archive."""
    ping = tmp_path / "context" / "d" / "ping"
    ping.parent.mkdir(parents=True)
    ping.write_bytes(b"x")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(ping, "security.capability", capability)
    (ping.parent.parent / "Dockerfile").write_text(
        f"FROM {door.base}\nCOPY d /d\nFROM {door.base}\nRUN true > /made\nCOPY --from=0 /d /a\n"
        "COPY --chown=5:6 d /b\nCOPY --link d /c\nRUN cp /a/ping /plain\n"
    )
    built = door.daemon.docker("build", "-q", str(ping.parent.parent)).stdout.strip().splitlines()[-1]
    container = sampand.docker("create", "--network", "none", built, "true").stdout.strip()
    try:
        committed = sampand.docker("commit", "-m", "again", container, "capable:1").stdout.strip()
        layers = [door.inspect(image)["RootFS"]["Layers"] for image in (built, committed)]
        assert layers[0] == layers[1] and len(layers[0]) == 6
        copied = sampand.docker("run", "-d", "--network", "none", committed, "touch", "/more").stdout.strip()
        sampand.docker("wait", copied)
        more = sampand.docker("commit", copied, "capable:2").stdout.strip()
        sampand.docker("rm", copied)
        assert door.inspect(more)["RootFS"]["Layers"][:-1] == layers[0]
        saved = tmp_path / "saved.tar"
        sampand.docker("save", "-o", str(saved), "capable:2")
        sampand.docker("rmi", "capable:1", "capable:2")
        sampand.docker("load", "-i", str(saved))
        loaded = sampand.docker("create", "--network", "none", "capable:2").stdout.strip()
        sampand.docker("export", "-o", str(tmp_path / "export.tar"), loaded)
        sampand.docker("rm", loaded)
        sampand.docker("rmi", "capable:2")
    finally:
        sampand.docker("rm", container)
    with tarfile.open(tmp_path / "export.tar") as tar:
        found = {
            one.name: one.pax_headers.get("SCHILY.xattr.security.capability")
            for one in tar
            if one.isreg() and one.name in ("a/ping", "b/ping", "plain")
        }
    text = capability.decode("utf-8", "surrogateescape")
    assert found == {"a/ping": text, "b/ping": text, "plain": None}


class _Proxy(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"by proxy")


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (_Proxy,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloads_go_by_the_proxy(
    new_sampand: Any, proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", address)
    monkeypatch.setenv("NO_PROXY", "direct.invalid")
    daemon = new_sampand()
    other = Door(daemon, import_busybox(daemon))
    built = other.build("FROM BASE\nADD http://files.invalid/some/file /got\n")
    assert other.run(built.id, "cat", "/got") == "by proxy"
    assert asked == ["http://files.invalid/some/file"]
    assert "no such host" in other.build("FROM BASE\nADD http://direct.invalid/file /got\n").error
    assert "refused" in other.build(f"FROM BASE\nADD http://127.0.0.1:{closed}/file /got\n").error
    assert len(asked) == 1


def test_entries_of_the_cache_by_what_they_stand_on(door: Door) -> None:
    door.build("FROM BASE\nRUN echo one > /parent-1\nRUN echo two > /parent-2\nRUN echo 3 > /parent-3\n")
    rows = {
        row["Description"][-1]: row
        for row in door.daemon.json("GET", "/system/df?type=build-cache")["BuildCache"]
        if "/parent-" in row["Description"]
    }
    assert rows["2"]["Parents"] == [rows["1"]["ID"]] and rows["3"]["Parents"] == [rows["2"]["ID"]]
    chosen = f'{{"parent":["{rows["1"]["ID"]}"]}}'
    gone = door.daemon.json("POST", f"/build/prune?all=1&filters={chosen.replace(chr(34), '%22')}")
    assert [one[:25] for one in gone["CachesDeleted"]] == [rows["2"]["ID"]]


def test_a_target_is_named(door: Door) -> None:
    said = door.build("FROM BASE AS first\nFROM BASE\n", target="0").error
    assert 'target stage "0" could not be found' in said and "named, not counted" in said
    assert os.sep not in door.build("FROM BASE AS first\nFROM BASE\n", target="FIRST").error

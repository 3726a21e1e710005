"""Every instruction and flag, as a client gives them, in images that are then looked into."""

from __future__ import annotations

import base64
import bz2
import contextlib
import functools
import gzip
import hashlib
import http.server
import json
import lzma
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from .conftest import tar_of
from .door import Door


@pytest.fixture(scope="module")
def door(sampand: Any, busybox: str) -> Door:
    return Door(sampand, busybox)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address and its directory."""
    top = tmp_path / "site"
    top.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

    handler = functools.partial(Quiet, directory=str(top))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", top
    server.shutdown()
    thread.join()
    server.server_close()


def test_heredocs(door: Door) -> None:
    built = door.build(
        """FROM BASE
ENV WHO=world
RUN <<EOF
echo "one $WHO" > /a
echo two >> /a
EOF
RUN <<'END'
#!/bin/sh -e
echo "$0" | grep -c END > /b
END
RUN cat <<X > /c && cat <<Y >> /c
x $WHO
X
y
Y
RUN cat 3<<EOF <&3 > /e
from three
EOF
COPY <<one.txt <<-"two.txt" /d/
hello ${WHO}
one.txt
\tkept ${WHO}
two.txt
ONBUILD RUN <<EOF
echo triggered > /t
EOF
""",
        t="smpg-heredocs",
    )
    shown = door.sh(built.id, "cat /a /b /c /e /d/one.txt /d/two.txt; ls -ld /d/one.txt | cut -c1-10")
    assert shown.split("\n") == [
        *("one world", "two", "1", "x world", "y", "from three", "hello world", "kept ${WHO}"),
        *("-rw-r--r--", ""),
    ]
    child = door.build("FROM smpg-heredocs\nRUN echo own >> /t\n")
    assert "# Executing 1 build trigger" in child.text
    assert door.run(child.id, "cat", "/t") == "triggered\nown\n"
    assert not door.inspect(child.id)["Config"].get("OnBuild")


def test_mounts(door: Door) -> None:
    built = door.build(
        """FROM BASE AS maker
RUN mkdir /out && echo made > /out/f
FROM BASE
RUN --mount=target=/ctx cat /ctx/sub/f > /1 && ! touch /ctx/x
RUN --mount=type=bind,source=sub,target=/ctx,rw echo new > /ctx/n && cat /ctx/n /ctx/f > /2
RUN --mount=type=bind,from=maker,source=/out,target=/m cat /m/f > /3
RUN --mount=type=bind,from=BASE,source=/etc/passwd,target=/p grep -c root /p > /4
RUN --mount=type=tmpfs,target=/t,size=1m df -k /t | tail -1 | awk '{print $2}' > /5 && touch /t/gone
RUN --mount=type=bind,source=sub/f,target=/one,rw echo over > /one && cat /one > /6
""",
        {"sub/f": "text\n"},
    )
    assert door.sh(built.id, "cat /1 /2 /3 /4 /5 /6") == "text\nnew\ntext\nmade\n1\n1024\nover\n"
    assert door.sh(built.id, "ls -d /ctx /m /p /t /one 2>/dev/null; true") == ""


def test_cache_mounts(door: Door) -> None:
    file = "FROM BASE\nRUN --mount=type=cache,target=/c{} echo {} >> /c/log; wc -l < /c/log > /n\n"
    first = door.build(file.format("", 1))
    second = door.build(file.format("", 2))
    assert [door.run(one.id, "cat", "/n").strip() for one in (first, second)] == ["1", "2"]
    assert door.sh(second.id, "ls /c 2>/dev/null; true") == ""
    other = door.build(
        file.format(",id=elsewhere,mode=0700,uid=7", 3).replace("; wc", "; stat -c %a:%u /c >&2; wc")
    )
    assert door.run(other.id, "cat", "/n").strip() == "1" and "700:7" in other.text
    rows = door.daemon.json("GET", "/system/df?type=build-cache")["BuildCache"]
    mounts = {row["Description"]: row for row in rows if row["Type"] == "exec.cachemount"}
    assert mounts["cached mount elsewhere"]["Size"] > 0 and not mounts["cached mount /c"]["InUse"]

    def pruned(**filters: Any) -> list[str]:
        chosen = quote(json.dumps({name: [value] for name, value in filters.items()}))
        return door.daemon.json("POST", f"/build/prune?all=1&filters={chosen}")["CachesDeleted"] or []

    assert pruned(type="nosuch") == [] and pruned(type="exec.cachemount", until="1h") == []
    assert len(pruned(description="cached mount elsewhere")) == 1
    assert mounts["cached mount /c"]["ID"] in [one[:25] for one in pruned(type="exec.cachemount")]
    third = door.build(file.format("", 4))
    assert door.run(third.id, "cat", "/n").strip() == "1"


@pytest.mark.parametrize(("sharing", "expected"), [("locked", "1 1"), ("private", "1 1"), ("shared", "2 2")])
def test_cache_sharing(door: Door, sharing: str, expected: str) -> None:
    """Two stages at the same time: how many of them see each other in the cache's directory."""
    look = "sleep 0.4 && ls /c | wc -l > /n && sleep 0.4 && rm /c/$N"
    if sharing == "shared":  # however long the other one takes
        look = "for i in $(seq 600); do [ $(ls /c | wc -l) = 2 ] && break; sleep .1; done; ls /c | wc -l > /n"
    step = f"RUN --mount=type=cache,id=smpg-{sharing},target=/c,sharing={sharing} touch /c/$N && {look}\n"
    built = door.build(
        f"FROM BASE AS a\nENV N=a\n{step}FROM BASE AS b\nENV N=b\n{step}"
        "FROM BASE\nCOPY --from=a /n /a\nCOPY --from=b /n /b\n"
    )
    assert " ".join(door.sh(built.id, "cat /a /b").split()) == expected


def secret_header(**secrets: str) -> dict[str, str]:
    plain = {name: base64.b64encode(value.encode()).decode() for name, value in secrets.items()}
    return {"X-Sampan-Secrets": base64.urlsafe_b64encode(json.dumps(plain).encode()).decode()}


def test_secrets_leave_no_trace(door: Door) -> None:
    words = {"a": "correct-horse-a", "b": "battery-staple-b"}
    built = door.build(
        """FROM BASE
RUN --mount=type=secret,id=a wc -c < /run/secrets/a > /1
RUN --mount=type=secret,id=b,env=B sh -c 'echo ${#B}' > /2
RUN --mount=type=secret,id=a,target=/tmp/s,mode=0440,uid=5,gid=6 stat -c %a:%u:%g /tmp/s > /3
RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing
""",
        headers=secret_header(**words),
        t="smpg-secret",
    )
    assert door.sh(built.id, "cat /1 /2 /3").split() == ["15", "16", "440:5:6"]
    assert door.sh(built.id, "ls /run/secrets /tmp/s 2>/dev/null; true") == ""
    daemon = door.daemon
    kept = subprocess.run(
        [
            "grep",
            "-rlaE",
            "correct-horse|battery-staple",
            str(daemon.root),
            str(daemon.run),
            str(daemon.dir / "log"),
        ],
        capture_output=True,
        text=True,
    ).stdout
    assert kept == ""
    digest = hashlib.sha256(words["b"].encode()).hexdigest()
    rows = subprocess.run(
        ["grep", "-rlac", digest[:16], str(daemon.root)], capture_output=True, text=True
    ).stdout
    assert rows == ""
    refused = door.build("FROM BASE\nRUN --mount=type=secret,id=x,required true\n")
    assert "secret x: not found" in refused.error
    ssh = door.build("FROM BASE\nRUN --mount=type=ssh,required=true true\n")
    assert 'no SSH key "default" forwarded from the client' in ssh.error


def test_copy_flags(door: Door) -> None:
    files = {"a/x/1.txt": "1", "a/y/2.txt": "2", "a/y/3.md": "3", "b": "b", "run.sh": "#!/bin/sh\necho ran\n"}
    built = door.build(
        """FROM BASE AS src
RUN mkdir /s && echo s > /s/f && ln -s f /s/l
FROM BASE
COPY --exclude=**/*.md --exclude=x a /ex/
COPY --parents a/*/2.txt b /par/
COPY --parents ./a/./y/2.txt /piv/
COPY --chmod=755 run.sh /bin/ran
COPY --chmod=u=rwX,g=rX,o= --chown=nobody:users a /own
COPY --link --chown=12:34 b /link/deep/b
COPY --link --from=src /s /fromlink
COPY --from=0 /s/l /byindex
COPY --from=BASE /etc/group /byimage
COPY a/?/[12].* b /glob/
COPY ["b", "/with blank/"]
ADD --unpack=false t.tgz /t.tgz
ADD t.tgz /untar/
""",
        {**files, "t.tgz": gzip.compress(tar_of({"in/x": "X", "in/l": ("x",)}))},
    )
    shown = door.sh(
        built.id,
        "find /ex /par /piv /glob /link /fromlink /own /untar '/with blank' -exec stat -c '%A %u:%g %n' {} +"
        "| sort -k3; ran; cat /byindex; grep -c root /byimage; stat -c %s /t.tgz > /dev/null && echo tgz",
    )
    lines = shown.split("\n")
    for line in (
        "-rw-r--r-- 0:0 /ex/y/2.txt",
        "-rw-r--r-- 0:0 /par/a/y/2.txt",
        "-rw-r--r-- 0:0 /par/b",
        "-rw-r--r-- 0:0 /piv/y/2.txt",
        "-rw-r--r-- 0:0 /glob/1.txt",
        "-rw-r--r-- 0:0 /glob/2.txt",
        "-rw-r--r-- 0:0 /glob/b",
        "drwxr-x--- 65534:100 /own/x",
        "-rw-r----- 65534:100 /own/y/3.md",
        "-rw-r--r-- 12:34 /link/deep/b",
        "-rw-r--r-- 0:0 /fromlink/f",
        "lrwxrwxrwx 0:0 /fromlink/l",
        "-rw-r--r-- 0:0 /untar/in/x",
        "-rw-r--r-- 0:0 /with blank/b",
    ):
        assert line in lines, shown
    for gone in ("/ex/x", "/ex/y/3.md", "/par/a/x", "/piv/a"):
        assert not [one for one in lines if one.endswith(f" {gone}")], shown
    assert lines[-5:] == ["ran", "s", "1", "tgz", ""]


def test_link_survives_a_changed_base(door: Door) -> None:
    """``--link``: the layer doesn't depend on what is below, so it is taken from the cache over another base."""
    first = door.build("FROM BASE\nRUN echo 1 > /1\nCOPY --link f /d/f\n", {"f": "x"})
    second = door.build("FROM BASE\nRUN echo 2 > /2\nCOPY --link f /d/f\n", {"f": "x"})
    assert second.cached() == 1
    assert door.sh(second.id, "cat /2 /d/f") == "2\nx"
    layers = [door.inspect(one.id)["RootFS"]["Layers"] for one in (first, second)]
    assert layers[0][-1] == layers[1][-1] and layers[0][-2] != layers[1][-2]


def test_add_unpacks_every_compression(door: Door) -> None:
    plain = tar_of({"top/f": "inside"})
    files: dict[str, Any] = {
        "a.tar": plain,
        "b.tar.gz": gzip.compress(plain),
        "c.tar.bz2": bz2.compress(plain),
        "d.tar.xz": lzma.compress(plain),
        "fake.tar": "no archive at all",
        "lone.gz": gzip.compress(b"just a file"),
    }
    if zstd := shutil.which("zstd"):
        files["e.tar.zst"] = subprocess.run([zstd, "-c"], input=plain, capture_output=True, check=True).stdout
    adds = "".join(f"ADD {name} /{name.split('.')[0]}/\n" for name in files)
    built = door.build(f"FROM BASE\n{adds}", files)
    for name in files:
        folder = name.split(".")[0]
        inner = "top/f" if "tar" in name and folder != "fake" else name
        assert door.sh(built.id, f"ls /{folder}/{inner}") == f"/{folder}/{inner}\n", name


def test_add_of_urls(door: Door, site: tuple[str, Path]) -> None:
    url, top = site
    (top / "f.txt").write_text("downloaded")
    (top / "t.tgz").write_bytes(gzip.compress(tar_of({"in/x": "X"})))
    digest = hashlib.sha256(b"downloaded").hexdigest()
    file = (
        f"FROM BASE\nADD {url}/f.txt /d/\nADD --checksum=sha256:{digest} --chmod=644 {url}/f.txt /named\n"
        f"ADD {url}/t.tgz /kept.tgz\nADD --unpack {url}/t.tgz /un/\n"
    )
    built = door.build(file)
    shown = door.sh(built.id, "cat /d/f.txt; stat -c ' %a' /d/f.txt /named; cat /un/in/x; test -f /kept.tgz")
    assert shown == "downloaded 600\n 644\nX"
    assert door.build(file).cached() == 4
    (top / "f.txt").write_text("another")
    changed = door.build(file)
    assert "digest mismatch" in changed.error
    missing = door.build(f"FROM BASE\nADD {url}/none /x\n")
    assert f"failed to GET {url}/none with status 404" in missing.error


@pytest.fixture
def repository(site: tuple[str, Path]) -> tuple[str, list[str]]:
    """A git repository's URL, served as plain files, and its two commits; ``v1`` tags the first."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    url, top = site
    work = top / "work"

    def git(*args: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main")
        return subprocess.run(
            ["git", *who, *args], cwd=work, capture_output=True, text=True, check=True
        ).stdout.strip()

    (work / "sub").mkdir(parents=True)
    git("init", "-q")
    (work / "Dockerfile").write_text("FROM busybox:latest\nCOPY sub/f .dockerignore* /\n")
    (work / "sub/f").write_text("first\n")
    (work / "sub/Dockerfile").write_text("FROM busybox:latest\nCOPY f /insub\n")
    git("add", ".")
    git("commit", "-qm", "1")
    git("tag", "v1")
    (work / "sub/f").write_text("second\n")
    git("commit", "-qam", "2")
    commits = [git("rev-parse", name) for name in ("v1", "HEAD")]
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(top / "r.git")], check=True)
    subprocess.run(["git", "update-server-info"], cwd=top / "r.git", check=True)
    return f"{url}/r.git", commits


def test_add_of_git(door: Door, repository: tuple[str, list[str]]) -> None:
    url, commits = repository
    built = door.build(
        f"FROM BASE\nADD {url} /head\nADD {url}#v1 /v1\nADD --keep-git-dir=true {url}#main:sub /sub\n"
        f"ADD --checksum={commits[0]} {url}#v1 /sum\n"
    )
    shown = door.sh(
        built.id, "cat /head/sub/f /v1/sub/f /sub/f /sum/sub/f; ls -d /head/.git 2>/dev/null; true"
    )
    assert shown == "second\nfirst\nsecond\nfirst\n"
    built = door.build(
        f"FROM BASE\nADD {url}?tag=v1&subdir=sub /a\nADD {url}?branch=main&keep-git-dir=1 /b\n"
    )
    assert door.sh(built.id, "cat /a/f /b/sub/f; ls -d /b/.git; stat -c %a /b /b/sub /b/sub/f") == (
        "first\nsecond\n/b/.git\n755\n755\n644\n"
    )
    for query, fault in (
        (f"tag=v1&commit={commits[1]}", "expected checksum to match"),
        ("subdir=a&subdir=b", 'query "subdir" has multiple values'),
        ("depth=1", 'unexpected query "depth"'),
    ):
        assert fault in door.build(f"FROM BASE\nADD {url}?{query} /x\n").error
    wrong = door.build(f"FROM BASE\nADD --checksum={commits[1]} {url}#v1 /x\n")
    assert "expected checksum to match" in wrong.error
    assert "failed to resolve git reference" in door.build(f"FROM BASE\nADD {url}#nosuch /x\n").error


def test_remote_contexts(door: Door, repository: tuple[str, list[str]], site: tuple[str, Path]) -> None:
    git, _ = repository
    url, top = site
    built = door.build(body=b"", remote=git)
    assert door.run(built.id, "cat", "/f") == "second\n"
    built = door.build(body=b"", remote=f"{git}#v1")
    assert door.run(built.id, "cat", "/f") == "first\n"
    built = door.build(body=b"", remote=f"{git}#main:sub")
    assert door.run(built.id, "cat", "/insub") == "second\n"
    dockerfile = f"FROM {door.base}\nCOPY f /f\n"
    (top / "c.tar.gz").write_bytes(gzip.compress(tar_of({"Dockerfile": dockerfile, "f": "tarball"})))
    assert door.run(door.build(body=b"", remote=f"{url}/c.tar.gz").id, "cat", "/f") == "tarball"
    (top / "Lone").write_text(f"FROM {door.base}\nRUN echo lone > /f\n")
    assert door.run(door.build(body=b"", remote=f"{url}/Lone").id, "cat", "/f") == "lone\n"
    missing = door.build(body=b"", remote=f"{url}/none")
    assert missing.status == 500 and "error downloading remote context" in missing.error
    refused = door.build(body=b"", remote="file:///etc/passwd")
    assert refused.status == 500 and "could not be recognized as URL" in refused.error


def test_a_repository_brings_no_settings(door: Door, site: tuple[str, Path], tmp_path: Path) -> None:
    """A ``.gitconfig`` in a repository is a file like others; git run by the engine doesn't take it for its own."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    url, top = site
    work, mark = top / "work", tmp_path / "mark"
    work.mkdir()
    (work / ".gitconfig").write_text(
        f'[core]\n\tfsmonitor = "touch {mark}; false"\n\tsshCommand = touch {mark}\n'
    )
    (work / "f").write_text("x")
    (work / ".gitmodules").write_text('[submodule "s"]\n\tpath = s\n\turl = git@localhost:none.git\n')
    who = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "1"]):
        subprocess.run([*who, *command], cwd=work, check=True, capture_output=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(top / "r.git")], check=True)
    subprocess.run(["git", "update-server-info"], cwd=top / "r.git", check=True)
    built = door.build(f"FROM BASE\nADD {url}/r.git /r\n")
    assert door.run(built.id, "cat", "/r/f") == "x"
    assert not mark.exists()


@pytest.fixture
def seer() -> Iterator[str]:
    """A server that knows which paths it was asked for: ``/seen/x`` answers when ``/x`` was, else 404."""
    asked: set[str] = set()
    known = threading.Condition()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/seen"):
                with known:
                    found = known.wait_for(lambda: self.path.removeprefix("/seen") in asked, 60)
                self.send_response(200 if found else 404)
            else:
                with known:
                    asked.add(self.path)
                    known.notify_all()
                self.send_response(404 if "missing" in self.path or "/v2" in self.path else 200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"data")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_later_sources_are_fetched_while_run_runs(door: Door, seer: str) -> None:
    url, host = seer, seer.removeprefix("http://")
    file = (
        "FROM BASE\nARG WHAT=no\nENV WHERE=$WHAT\n"
        f"RUN wget -q -O- {url}/seen/first && wget -q -O- {url}/seen/second && echo went\n"
        f"WORKDIR /w\nADD {url}/$WHERE /x/\nENV WHERE=second\nADD --chown=12 {url}/$WHERE ./\n"
        "RUN stat -c '%n %u' /x/first /w/second\n"
    )
    built = door.build(file, networkmode="host", nocache=1, buildargs={"WHAT": "first"})
    assert "went\n" in built.text and "/x/first 0\n/w/second 12\n" in built.text, built.error
    steps = re.findall(r"Step (\d)/9", built.text)
    assert steps == list("123456789") and built.text.index("went") < built.text.index("Step 6/9")
    # One that can't be had is told when its turn has come, after what runs before it.
    wrong = door.build(
        f"FROM BASE\nRUN wget -q -O- {url}/seen/missing && echo before\nADD {url}/missing /x\n",
        networkmode="host",
    )
    assert "before\n" in wrong.text and "with status 404" in wrong.error and wrong.text.count("Step 3/3") == 1
    pulled = door.build(
        f"FROM BASE\nRUN wget -q -O- {url}/seen/v2/ && echo before\nCOPY --from={host}/a:1 /x /x\n",
        networkmode="host",
    )
    assert "before\n" in pulled.text and "invalid from flag value" in pulled.error, pulled.text


def test_linked_layers_are_made_while_run_runs(door: Door, seer: str) -> None:
    dockerfile = (
        f"FROM BASE AS other\nRUN echo made > /made\nFROM BASE\nRUN wget -q -O- {seer}/seen/both && chmod 750 / && echo went\n"
        "WORKDIR /w\nCOPY --link --chown=3:4 linked /deep/\nCOPY --link --from=other /made .\nRUN stat -c '%n %a %u' / /deep/linked /w/made\n"
    )

    def watch() -> None:
        top, names = door.daemon.root / "build", set[str]()
        for _ in range(3000):
            with contextlib.suppress(FileNotFoundError):  # what is temporary goes while it is looked at
                names = {path.name for path in top.glob("*/*/upper/*/*")}
            if {"linked", "made"} <= names:
                urllib.request.urlopen(f"{seer}/both").close()
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    built = door.build(dockerfile, {"linked": "x"}, networkmode="host", nocache=1)
    watcher.join()
    assert "went\n" in built.text and "/ 750 0\n/deep/linked 644 3\n/w/made 644 0\n" in built.text, (
        built.error
    )
    again = door.build(dockerfile, {"linked": "x"}, networkmode="host")
    assert again.cached() == 6 and again.id == built.id
    # The linked layers come from the cache over another parent, too.
    assert door.build(dockerfile.replace("750", "711"), {"linked": "x"}, networkmode="host").cached() == 3

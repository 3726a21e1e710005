"""The same Dockerfiles through Debian's dockerd (classic builder) and here: configuration, history, layers."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.conftest import STOCK_CLI, Daemon, UnixConnection, busybox_tar
from tests.dockerd import running_dockerd

from .conftest import tar_of

pytestmark = [pytest.mark.dockerd, pytest.mark.timeout(240)]
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CASES = {
    "metadata": """FROM base
ARG V=1
ENV A=1 B="two words" C=$V
ENV old style value
LABEL a=b c="d e" f=$A
MAINTAINER Me <me@example.com>
EXPOSE 80 443/tcp 53/udp
VOLUME /v1 /v2
VOLUME ["/v3"]
USER nobody
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD wget -q localhost
SHELL ["/bin/sh", "-xc"]
CMD echo shell form $A
ENTRYPOINT ["/bin/sh", "-c"]
ONBUILD RUN echo hi
""",
    "workdirs": """FROM base
WORKDIR /a/b
WORKDIR c
WORKDIR /etc
RUN pwd > /pwd
USER nobody
WORKDIR /made/as/nobody
""",
    "copies": """FROM base
COPY f /one
COPY f /dir/
COPY d /d
COPY d/ /e/
COPY f g /many/
COPY d/sub/deep .
COPY link /followed
COPY --chown=65534:100 d /owned
COPY --chown=nobody:users f /named
COPY *.txt /globbed/
COPY . /all
""",
    "adds": """FROM base
ADD t.tar /un/
ADD t.tgz /gz
ADD fake.tar /fake.tar
ADD --chown=1:2 t.tar /owned/
ADD d /d
""",
    "runs": """FROM base
RUN mkdir /m && echo x > /m/f && chmod 4750 /m/f && chown 7:8 /m/f && ln -s f /m/l && ln /m/f /m/h
RUN rm -rf /m/l && mkfifo /m/p && touch -t 200001010000 /m/old
RUN ["/bin/sh", "-c", "echo exec > /exec"]
RUN true
RUN rm -r /home && mkdir /home && echo new > /home/n
RUN echo over > /etc/passwd2 && cat /etc/passwd >> /etc/passwd2 && chmod 600 /etc/group
ARG X=1
RUN echo $X > /x
ENV E=2
RUN env > /env
""",
    "stages": """FROM base AS one
RUN mkdir /o && echo 1 > /o/f && chown 5:6 /o/f /o && chmod 711 /o
FROM base AS unused
RUN true
FROM base
COPY --from=one /o /o
COPY --from=0 /o/f /byindex
COPY --from=one --chown=9:9 /o /chowned
CMD ["x"]
""",
    "scratch": """FROM scratch
COPY d /
ENV A=b
CMD ["/x"]
""",
    "variables": r"""# escape=\
ARG BASE=base
ARG UNUSED=1
FROM ${BASE}
ARG BASE
ARG A=one B
ARG HTTP_PROXY
ENV abc=hello
ENV abc=bye def=$abc
ENV ghi=$abc x="$abc \$abc \\" y='$abc' z=a\ b
ENV d1=${none:-word} d2=${abc:-word} d3=${none:+word} d4=${abc:+word} d5=$none. d6=${abc}s
LABEL l1=$A l2="multi\
line" "quoted key"=v
WORKDIR /$abc/${def}
RUN echo "$A $B $abc" > out; echo 'single $A' >> out; \
    # a comment within
    echo continued >> out
COPY f ${abc}-$A
USER ${none:-nobody}
EXPOSE $none 80
VOLUME /$abc/vol
STOPSIGNAL ${none:-SIGTERM}
CMD echo $abc
ENTRYPOINT [ "$abc", "a\"b" ]
""",
    "onbuild": """FROM base AS b
ENV WHERE=/from
ONBUILD RUN echo $WHERE > /t
ONBUILD COPY f /by/trigger
ONBUILD ENV SET=yes
ONBUILD WORKDIR /x
FROM b
RUN pwd > /pwd
""",
    "commands": """FROM base AS one
CMD ["a"]
HEALTHCHECK CMD true
ENTRYPOINT e
FROM one AS two
HEALTHCHECK NONE
ENTRYPOINT []
FROM two
CMD ["last"]
CMD []
USER 0:0
USER 5
ENTRYPOINT ["x", ""]
CMD y   z
LABEL a=1 a=2
ENV P=1
ENV P=2 Q=
EXPOSE 1-3 9/udp
""",
    "inherits": """FROM base AS a
ENV A=1
CMD ["a"]
FROM a
ENTRYPOINT ["b"]
ENV A=$A-2 PATH=/x:$PATH
""",
    "links": """FROM base
RUN ln -s /etc/target /file && echo t > /etc/target && ln -s /gone/there /dangling && ln -s /nodir /nodirlink
COPY f /file
COPY f /dangling
COPY d /nodirlink/sub/
COPY f /nodirlink/
WORKDIR /nodirlink/made
ADD t.tar /nodirlink/tar/
COPY link /nodirlink/viasource
""",
    "volumes": """FROM base
VOLUME /made/here /etc
RUN ls -d /made/here /etc
RUN true
ENTRYPOINT
""",
    "overwrites": """FROM base
RUN mkdir -p /d/sub && echo old > /d/sub/deep && chmod 700 /d && echo keep > /d/kept && ln -s /d /ln
COPY d /d
COPY f /ln/through
COPY d/sub /ln/sub2
COPY f /etc/passwd
RUN rm /d/kept
COPY f /d/kept
""",
}


def context() -> bytes:
    out = io.BytesIO()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, kind in (("in", "d"), ("in/x", "f"), ("in/l", "l"), ("in/h", "h")):
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mtime, info.mode = 33, 44, 1_100_000_000, 0o751
            if kind == "f":
                info.size = 3
            info.type = {
                "d": tarfile.DIRTYPE,
                "f": tarfile.REGTYPE,
                "l": tarfile.SYMTYPE,
                "h": tarfile.LNKTYPE,
            }[kind]
            info.linkname = {"l": "x", "h": "in/x"}.get(kind, "")
            tar.addfile(info, io.BytesIO(b"abc") if kind == "f" else None)
    files: dict[str, Any] = {"f": b"file f\n", "g": b"g", "x.txt": b"x", "y.txt": b"y", "fake.tar": b"none"}
    files |= {"t.tar": inner.getvalue(), "t.tgz": gzip.compress(inner.getvalue(), mtime=0)}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, (name, data) in enumerate(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.gid = len(data), 1_000_000_000 + number, 1000, 1000
            info.mode = 0o640 if name == "g" else 0o644
            tar.addfile(info, io.BytesIO(data))
        for name, mode in (("d", 0o750), ("d/sub", 0o1777), ("d/empty", 0o755)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.uid = tarfile.DIRTYPE, mode, 1_050_000_000, 1000
            tar.addfile(info)
        info = tarfile.TarInfo("d/sub/deep")
        info.size, info.mode, info.mtime = 4, 0o755, 1_060_000_000
        tar.addfile(info, io.BytesIO(b"deep"))
        info = tarfile.TarInfo("d/zhard")
        info.type, info.linkname, info.mode, info.mtime = tarfile.LNKTYPE, "d/sub/deep", 0o755, 1_060_000_000
        tar.addfile(info)
        for name, target in (("link", "d/sub/deep"), ("d/inside", "sub/deep"), ("d/dangling", "/nowhere")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mtime = tarfile.SYMTYPE, target, 1_070_000_000
            tar.addfile(info)
        for name, text in CASES.items():
            info = tarfile.TarInfo(f"Dockerfile.{name}")
            info.size, info.mtime = len(text.encode()), 1_000_000_000
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def docker(host: str, *args: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": "/nonexistent"}
    return subprocess.run([STOCK_CLI or "docker", *args], input=input, env=env, capture_output=True)


Image = tuple[dict[str, Any], list[dict[str, str]]]


def image(host: str, case: str, body: bytes) -> Image:
    """Build a case; the image's document and the members of each of its layers, in words."""
    tag = f"case-{case}"
    done = docker(host, "build", "-t", tag, "-f", f"Dockerfile.{case}", "-", input=body)
    assert done.returncode == 0, (done.stdout, done.stderr)
    saved = docker(host, "save", tag)
    with tarfile.open(fileobj=io.BytesIO(saved.stdout)) as tar:

        def read(name: str) -> bytes:
            member = tar.getmember(name)
            while member.issym() or member.islnk():
                member = tar.getmember(
                    os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
                )
            file = tar.extractfile(member)
            assert file is not None
            return file.read()

        (manifest,) = json.loads(read("manifest.json"))
        return json.loads(read(manifest["Config"])), [
            described(read(name)) for name in manifest["Layers"][1:]
        ]


def described(layer: bytes) -> dict[str, str]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        for one in tar:
            attributes = {k: v for k, v in one.pax_headers.items() if "xattr" in k}
            recent = one.mtime > 1_500_000_000 or one.mtime < 0
            time = "now" if recent else str(int(one.mtime))
            size = one.size if one.isreg() else 0
            content = tar.extractfile(one).read() if one.isreg() and size < 100 else b""  # type: ignore[union-attr]
            name = one.name.removeprefix("./").rstrip("/")
            if name.endswith(".wh..wh..opq"):
                found[name] = ""
                continue
            if name == "env":
                content = b"\n".join(sorted(w for w in content.split(b"\n") if not w.startswith(b"HOSTNAME")))
            kind = one.type.decode()
            found[name] = (
                f"{kind} {one.mode & 0o7777:o} {one.uid}:{one.gid} {time} {one.linkname} {content!r} {attributes}"
            )
    return found


@pytest.fixture(scope="module")
def hosts(sampand: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("dockerd")
    with running_dockerd(folder) as theirs:
        for host in (sampand.host, theirs):
            done = docker(
                host, "import", "-c", 'CMD ["sh"]', "-c", f"ENV {PATH}", "-", "base", input=busybox_tar()
            )
            assert done.returncode == 0, done.stderr
        yield sampand.host, theirs


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """The document without times, ids, and what names the engine."""
    history = [{k: v for k, v in entry.items() if k != "created"} for entry in document["history"][1:]]
    for entry in history:
        # An older dockerd knows no --start-interval.
        if "HEALTHCHECK" in entry["created_by"]:
            entry["created_by"] = entry["created_by"].replace('"0s" "0s"', '"0s"')
        # Debian's dockerd forgets a blank here.
        entry["created_by"] = re.sub(
            r"(--chown=[0-9a-z:]+?)(?=(?:file|dir):[0-9a-f]{64})", r"\1 ", entry["created_by"]
        )
        entry["created_by"] = re.sub(r"(file|dir|multi):[0-9a-f]{64}", r"\1:digest", entry["created_by"])
    config = {
        k: v
        for k, v in document["config"].items()
        if k not in ("Hostname", "Image") and v not in (None, "", False)
    }
    return {
        "config": config,
        "history": history,
        "author": document.get("author", ""),
        "platform": (document["os"], document["architecture"]),
        "layers": len(document["rootfs"]["diff_ids"]),
    }


@pytest.mark.parametrize("case", CASES)
def test_same_image(hosts: tuple[str, str], case: str) -> None:
    body = context()
    ours, theirs = (image(host, case, body) for host in hosts)
    mine, other = plain(ours[0]), plain(theirs[0])
    assert json.dumps(mine, indent=1, sort_keys=True) == json.dumps(other, indent=1, sort_keys=True)
    for number, (here, there) in enumerate(zip(ours[1], theirs[1], strict=True)):
        assert here == there, f"layer {number + 1}"


STREAMS = {
    "steps": (
        'FROM base\nWORKDIR /w\nCOPY f .\nRUN cat f\nRUN echo err >&2\nENV A=1\nEXPOSE 80\nCMD ["x"]\n',
        {},
    ),
    "quiet": ("FROM base\nRUN echo q\n", {"q": "1"}),
    "names": ("FROM base\nRUN true\n", {"t": "stream:1", "labels": '{"a": "1"}'}),
    "stages": ("FROM base AS a\nRUN echo x > /x\nFROM base\nCOPY --from=a /x /\n", {}),
    "target": ("FROM base AS a\nRUN true\nFROM base\nRUN false\n", {"target": "a"}),
    "unused": ("FROM base\nRUN true\n", {"buildargs": '{"NO": "1"}'}),
    "fails": ("FROM base\nRUN echo last; exit 3\n", {}),
    "fails quietly": ("FROM base\nRUN echo last; exit 4\n", {"q": "1"}),
    "missing": ("FROM base\nCOPY nosuch /\n", {}),
    "owner": ("FROM base\nCOPY --chown=nosuch f /\n", {}),
}


def stream(host: str, dockerfile: str, query: dict[str, str]) -> list[str]:
    """The objects of a build's answer, ids and what a container's making and removing says left out. A step that only
    changes the configuration makes none here; hints follow Docker's message.
    """
    connection = UnixConnection(host.removeprefix("unix://"))
    fields = urlencode({"rm": "1", "networkmode": "none", **query})
    connection.request("POST", f"/build?{fields}", tar_of({"Dockerfile": dockerfile, "f": "file\n"}))
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    lines = answer.read().splitlines()
    connection.close()
    found = []
    for one in (json.loads(line) for line in lines if line.strip()):
        if re.search(r"^ ---> Running in|Remov(ed|ing) intermediate", one.get("stream", "")):
            continue
        if "error" in one:
            one["error"] = one["error"].partition("\n")[0]
            one["errorDetail"]["message"] = one["errorDetail"]["message"].partition("\n")[0]
        text = json.dumps(one, sort_keys=True)
        found.append(re.sub(r"\b[0-9a-f]{12}\b", "ID", re.sub(r"sha256:[0-9a-f]{64}", "sha256:ID", text)))
    return found


@pytest.mark.parametrize("case", STREAMS)
def test_same_stream(hosts: tuple[str, str], case: str) -> None:
    """What docker-py and other clients read, line by line; then once more, from the cache."""
    dockerfile, query = STREAMS[case]
    for more in ({"nocache": "1"}, {}):
        mine, other = (stream(host, dockerfile, query | more) for host in hosts)
        assert mine == other

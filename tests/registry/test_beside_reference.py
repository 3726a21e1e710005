"""The same requests to ``serve-registry`` and to Debian's docker-registry: what is answered otherwise has a reason."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import urllib3

from tests.registry.serving import CONFIG, INDEX, LAYER, MANIFEST, Client, Served, digest_of

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)

FIELDS = (
    *("Accept-Ranges", "Allow", "Cache-Control", "Content-Length", "Content-Range", "Content-Type"),
    *("Docker-Content-Digest", "Docker-Distribution-Api-Version", "ETag", "Link", "Location", "Range"),
)
SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


class Step(NamedTuple):
    """A request; ``place`` of an earlier upload stands for ``{place}``."""

    name: str
    method: str
    path: str
    body: bytes | None = None
    fields: dict[str, str] = {}  # noqa: RUF012


BLOB = b"some bytes of a layer" * 9
SETTINGS = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
D, S = digest_of(BLOB), digest_of(SETTINGS)
NOTHING = digest_of(b"nothing")


def document(kind: str, **more: Any) -> bytes:
    found = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": CONFIG, "digest": S, "size": len(SETTINGS)},
        "layers": [{"mediaType": LAYER, "digest": D, "size": len(BLOB)}],
        **more,
    }
    return json.dumps(found).encode()


RAW, RAW2 = document(MANIFEST), document(SCHEMA2)
ENTRY = {
    "mediaType": MANIFEST,
    "digest": digest_of(RAW),
    "size": len(RAW),
    "platform": {"architecture": "amd64", "os": "linux"},
}
INDEXED = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [ENTRY]}).encode()
ACCEPT = {"Accept": f"{MANIFEST}, {INDEX}, {SCHEMA2}, {LIST}"}
R = "/v2/team/app"


def put(name: str, reference: str, raw: bytes, kind: str = MANIFEST) -> Step:
    return Step(name, "PUT", f"{R}/manifests/{reference}", raw, {"Content-Type": kind})


STEPS = (
    Step("ping", "GET", "/v2/"),
    Step("ping without a slash", "GET", "/v2"),
    Step("catalog of nothing", "GET", "/v2/_catalog"),
    Step("tags of nothing", "GET", f"{R}/tags/list"),
    Step("manifest of nothing", "GET", f"{R}/manifests/x", None, ACCEPT),
    Step("blob of nothing", "HEAD", f"{R}/blobs/{D}"),
    Step("mount of nothing", "POST", f"{R}/blobs/uploads/?mount={D}&from=other"),
    Step("begin", "POST", f"{R}/blobs/uploads/"),
    Step("status", "GET", "{place}"),
    Step("chunk", "PATCH", "{place}", BLOB[:50], {"Content-Range": "0-49"}),
    Step("status after a chunk", "GET", "{place}"),
    Step("stream", "PATCH", "{place}", BLOB[50:]),
    Step("finish", "PUT", "{place}&digest=" + D),
    Step("finish again", "PUT", "{place}&digest=" + D),
    Step("begin", "POST", f"{R}/blobs/uploads/"),
    Step("finish with all", "PUT", "{place}&digest=" + S, SETTINGS),
    Step("begin", "POST", f"{R}/blobs/uploads/"),
    Step("finish with a wrong digest", "PUT", "{place}&digest=" + NOTHING, SETTINGS),
    Step("begin", "POST", f"{R}/blobs/uploads/"),
    Step("finish without a digest", "PUT", "{place}", SETTINGS),
    Step("begin", "POST", f"{R}/blobs/uploads/"),
    Step("chunk too far", "PATCH", "{place}", BLOB[60:], {"Content-Range": f"60-{len(BLOB) - 1}"}),
    Step("cancel", "DELETE", "{place}"),
    Step("status of a cancelled one", "GET", "{place}"),
    Step("blob", "GET", f"{R}/blobs/{D}"),
    Step("blob's head", "HEAD", f"{R}/blobs/{D}"),
    Step("range", "GET", f"{R}/blobs/{D}", None, {"Range": "bytes=5-9"}),
    Step("range to the end", "GET", f"{R}/blobs/{D}", None, {"Range": "bytes=-3"}),
    Step("range of nothing", "GET", f"{R}/blobs/{D}", None, {"Range": "bytes=9999-"}),
    Step("known blob", "GET", f"{R}/blobs/{D}", None, {"If-None-Match": f'"{D}"'}),
    Step("blob by a bad digest", "GET", f"{R}/blobs/sha256:x"),
    Step("missing blob", "GET", f"{R}/blobs/{NOTHING}"),
    put("image", "1", RAW),
    put("image of Docker's", "2", RAW2, SCHEMA2),
    put("image by digest", digest_of(RAW), RAW),
    put("image by a wrong digest", NOTHING, RAW),
    put("index", "multi", INDEXED, INDEX),
    put("index as an image", "bad", INDEXED, MANIFEST),
    put("image that lacks a layer", "bad", RAW.replace(D.encode(), NOTHING.encode())),
    put("no JSON", "bad", b"{", MANIFEST),
    put("text", "bad", b"text", "text/plain"),
    put("other JSON", "other", b'{"mediaType":"application/x.y+json"}', "application/x.y+json"),
    put("schema 1", "old", b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+json"),
    put("a bad tag", ".bad", RAW),
    Step("manifest", "GET", f"{R}/manifests/1", None, ACCEPT),
    Step("manifest's head", "HEAD", f"{R}/manifests/1", None, ACCEPT),
    Step("manifest of Docker's", "GET", f"{R}/manifests/2", None, ACCEPT),
    Step("manifest by digest", "GET", f"{R}/manifests/{digest_of(RAW)}", None, ACCEPT),
    Step("index", "GET", f"{R}/manifests/multi", None, ACCEPT),
    Step("index for who knows only images", "GET", f"{R}/manifests/multi", None, {"Accept": SCHEMA2}),
    Step(
        "known manifest", "GET", f"{R}/manifests/1", None, {**ACCEPT, "If-None-Match": f'"{digest_of(RAW)}"'}
    ),
    Step("missing manifest", "GET", f"{R}/manifests/{NOTHING}", None, ACCEPT),
    Step("tags", "GET", f"{R}/tags/list"),
    Step("first tags", "GET", f"{R}/tags/list?n=2"),
    Step("last tags", "GET", f"{R}/tags/list?n=2&last=2"),
    Step("bad number of tags", "GET", f"{R}/tags/list?n=x"),
    Step("catalog", "GET", "/v2/_catalog"),
    Step("mount", "POST", f"/v2/other/blobs/uploads/?mount={D}&from=team/app"),
    Step("begin", "POST", "/v2/third/blobs/uploads/"),
    Step("finish", "PUT", "{place}&digest=" + S, SETTINGS),
    Step("first repository", "GET", "/v2/_catalog?n=1"),
    Step("a bad name", "GET", "/v2/Team/tags/list"),
    Step("another method", "POST", f"{R}/tags/list"),
    Step("another place", "GET", "/v2/team/app"),
    Step("delete a tag", "DELETE", f"{R}/manifests/2"),
    Step("delete a manifest", "DELETE", f"{R}/manifests/{digest_of(RAW)}"),
    Step("deleted manifest", "GET", f"{R}/manifests/{digest_of(RAW)}", None, ACCEPT),
    Step("delete it again", "DELETE", f"{R}/manifests/{digest_of(RAW)}"),
    Step("delete a blob", "DELETE", f"{R}/blobs/{D}"),
    Step("deleted blob", "GET", f"{R}/blobs/{D}"),
    Step("delete a missing blob", "DELETE", f"{R}/blobs/{NOTHING}"),
)


def answers(client: Client) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step's answer, without what differs by chance: ids, hosts."""
    place = ""
    for step in STEPS:
        path = step.path
        if path.startswith("{place}"):
            rest = path.removeprefix("{place}")
            path = place + (rest.replace("&", "?", 1) if "?" not in place else rest)
        try:
            answer = client.ask(step.method, path, step.body, **step.fields)
        except urllib3.exceptions.ProtocolError:
            yield step.name, {"status": 0}
            continue
        if answer.status == 202 and "/uploads/" in answer.headers.get("Location", ""):
            place = re.sub(r"^https?://[^/]+", "", answer.headers["Location"])
        found: dict[str, Any] = {name: answer.headers.get(name) for name in FIELDS}
        found["Location"] = clean(found["Location"])
        found["Content-Type"] = (found["Content-Type"] or "").partition(";")[0]
        found["status"] = answer.status
        if answer.status >= 400:
            found["codes"] = codes(answer.data)
            found["Content-Length"] = None
        else:
            found["body"] = answer.data
        yield step.name, {key: value for key, value in found.items() if value is not None}


def clean(location: str | None) -> str | None:
    if location is None:
        return None
    path = re.sub(r"^https?://[^/]+", "", location).partition("?")[0]
    return re.sub(r"uploads/.+", "uploads/ID", path)


def codes(body: bytes) -> list[str]:
    try:
        return sorted({entry["code"] for entry in json.loads(body)["errors"]})
    except ValueError:
        return []


OTHERWISE = {
    "ping without a slash": (301, "no page for people to read"),
    "manifest of nothing": (404, "the whole repository is unknown"),
    "chunk too far": (416, "the spec wants it refused; the reference appends it"),
    "range of nothing": (416, "RFC 9110; the reference sends half an answer"),
    "known blob": (304, "RFC 9110: the fields of the whole answer"),
    "known manifest": (304, "RFC 9110: the fields of the whole answer"),
    "other JSON": (201, "any JSON document can be a manifest"),
    "a bad tag": (400, "the spec's form of an error instead of a page not found"),
    "a bad name": (400, "the spec's form of an error instead of a page not found"),
    "another method": (405, "the spec's form of an error"),
    "another place": (404, "the spec's form of an error"),
    "index for who knows only images": (200, "what is there is given; clients see the type"),
    "tags": (200, "sorted, as the spec wants"),
    "first tags": (200, "in pages, which this version of the reference lacks"),
    "last tags": (200, "in pages, which this version of the reference lacks"),
    "bad number of tags": (400, "in pages, which this version of the reference lacks"),
    "first repository": (200, "the link's parameters in another order"),
    "delete a tag": (202, "the reference deletes manifests only"),
}


def test_answers(registry: str, served: Served) -> None:
    theirs, ours = dict(answers(Client(registry))), dict(answers(served))
    different = {name for name in ours if ours[name] != theirs[name]}
    assert different == set(OTHERWISE), {
        name: (theirs[name], ours[name]) for name in different ^ set(OTHERWISE)
    }
    assert {name: ours[name]["status"] for name in different} == {
        name: told[0] for name, told in OTHERWISE.items()
    }

"""The distribution-spec's checklist, workflow by workflow, over every kind of content that may be pushed.

What the conformance suite of the specification asks of a registry is asked here, in the project's own tests:
each kind of content is pushed by each way of pushing, listed, asked for, pulled, found by its subject and
deleted; then a collection must leave nothing of it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest

from tests.registry.contents import KINDS, Content, Descriptor
from tests.registry.serving import INDEX, LAYER, MANIFEST, Client, Served, code_of, digest_of

CODES = frozenset(
    [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ]
)


# -- ways of pushing a blob: each returns the last answer ---------------------------------------------------


def open_session(client: Client, repository: str, digest: str) -> str:
    algorithm = digest.partition(":")[0]
    query = "" if algorithm == "sha256" else f"?digest-algorithm={algorithm}"
    answer = client.ask("POST", f"/v2/{repository}/blobs/uploads/{query}", Content_Length="0")
    assert answer.status == 202
    return answer.headers["Location"]


def post_only(client: Client, repository: str, digest: str, data: bytes) -> Any:
    return client.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)


def post_put(client: Client, repository: str, digest: str, data: bytes) -> Any:
    return client.ask("PUT", f"{open_session(client, repository, digest)}?digest={digest}", data)


def stream(client: Client, repository: str, digest: str, data: bytes) -> Any:
    place = open_session(client, repository, digest)
    answer = client.ask("PATCH", place, iter([data[:100], data[100:]]) if data else None)
    assert answer.status == 202
    return client.ask("PUT", f"{answer.headers['Location']}?digest={digest}")


def chunks(client: Client, repository: str, digest: str, data: bytes, *, last_by_put: bool = False) -> Any:
    """Three chunks; before each one another is sent out of order."""
    place, third = open_session(client, repository, digest), len(data) // 3 + 1
    for start in range(0, len(data), third):
        end = min(start + third, len(data))
        wrong = end if end < len(data) else 0
        piece = data[wrong : wrong + third]
        if wrong != start:
            span = f"{wrong}-{wrong + len(piece) - 1}"
            assert client.ask("PATCH", place, piece, Content_Range=span).status == 416
            status = client.ask("GET", place)
            assert (status.status, status.headers["Range"]) == (204, f"0-{max(0, start - 1)}")
            place = status.headers["Location"]
        piece, span = data[start:end], f"{start}-{end - 1}"
        if last_by_put and end == len(data):
            gap = f"{start + 1}-{end}"
            refused = client.ask("PUT", f"{place}?digest={digest}", piece, Content_Range=gap)
            assert (refused.status, refused.headers["Range"]) == (416, f"0-{start - 1}")
            return client.ask("PUT", f"{place}?digest={digest}", piece, Content_Range=span)
        answer = client.ask("PATCH", place, piece, Content_Range=span)
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{end - 1}")
        place = answer.headers["Location"]
    return client.ask("PUT", f"{place}?digest={digest}")


def chunks_and_put(client: Client, repository: str, digest: str, data: bytes) -> Any:
    return chunks(client, repository, digest, data, last_by_put=True)


WAYS = (post_only, post_put, stream, chunks, chunks_and_put)
Way = Callable[[Client, str, str, bytes], Any]


# -- the tests ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collecting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that keeps nothing that isn't needed, once it is told to collect."""
    served = Served(tmp_path_factory.mktemp("conformance") / "served", "--unneeded-life", "0s").start()
    yield served
    assert "Traceback" not in served.errors()
    served.stop()
    served.log.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.replace("_", "-"))
def test_content(collecting: Served, kind: Callable[[Content], None], algorithm: str) -> None:
    content, repository = Content(algorithm), f"kinds/{kind.__name__.replace('_', '-')}-{algorithm}"
    kind(content)
    push(collecting, repository, content)
    check_tags(collecting, repository, content)
    check_pull(collecting, repository, content)
    check_referrers(collecting, repository, content)
    delete(collecting, repository, content)
    collecting.signal(signal.SIGUSR1)
    mine, deadline = {*content.blobs, *content.manifests}, time.monotonic() + 60
    while left := mine & stored(collecting):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def stored(served: Served) -> set[str]:
    return {f"{path.parent.name}:{path.name}" for path in (served.data / "blobs").glob("*/*")}


def push(client: Client, repository: str, content: Content) -> None:
    ways = cycle(WAYS)
    for digest, data in content.blobs.items():
        answer = next(ways)(client, repository, digest, data)
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest), answer.data
        assert client.ask("GET", answer.headers["Location"]).data == data
    for digest, (raw, kind) in content.manifests.items():
        # tags of other digests than sha256 come as parameters: a tag alone says nothing of the algorithm
        tags = [tag for tag, named in content.tags.items() if named == digest]
        query = "?" + "&".join(f"tag={tag}" for tag in tags) if tags and content.algorithm != "sha256" else ""
        for reference in (digest + query, *(() if query else tags)):
            answer = client.put(repository, reference, raw, kind)
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest), answer.data
            assert answer.headers.get("OCI-Tag", "") == (", ".join(tags) if query else "")
            assert answer.headers.get("OCI-Subject") == json.loads(raw).get("subject", {}).get("digest")
            there = client.ask("GET", answer.headers["Location"])
            assert (there.data, there.headers["Content-Type"]) == (raw, kind)


def check_tags(client: Client, repository: str, content: Content) -> None:
    wanted = sorted(content.tags)
    found = client.json(f"/v2/{repository}/tags/list")
    assert found == {"name": repository, "tags": wanted}
    if wanted:
        half = client.json(f"/v2/{repository}/tags/list?last={wanted[0]}")
        assert half["tags"] == wanted[1:]


def check_pull(client: Client, repository: str, content: Content) -> None:
    references = {**{digest: digest for digest in content.manifests}, **content.tags}
    for reference, digest in references.items():
        raw, kind = content.manifests[digest]
        same(client, f"/v2/{repository}/manifests/{reference}", raw, kind, digest)
    for digest, data in content.blobs.items():
        same(client, f"/v2/{repository}/blobs/{digest}", data, "application/octet-stream", digest)


def same(client: Client, path: str, data: bytes, kind: str, digest: str) -> None:
    """GET gives ``data``, and HEAD all of GET's fields."""
    fields = {"Accept": f"{MANIFEST}, {INDEX}"} if "/manifests/" in path else {}
    got, head = client.ask("GET", path, **fields), client.ask("HEAD", path, **fields)
    assert (got.status, head.status, got.data, head.data) == (200, 200, data, b"")
    assert {**got.headers, "Date": ""} == {**head.headers, "Date": ""}
    for name, value in (
        ("Content-Type", kind),
        ("Docker-Content-Digest", digest),
        ("Content-Length", str(len(data))),
    ):
        assert got.headers[name] == value


def check_referrers(client: Client, repository: str, content: Content) -> None:
    for subject, wanted in content.referrers.items():
        path = f"/v2/{repository}/referrers/{subject}"
        everything = client.ask("GET", path)
        assert (everything.status, everything.headers["Content-Type"]) == (200, INDEX)
        assert "OCI-Filters-Applied" not in everything.headers
        document = json.loads(everything.data)
        assert (document["schemaVersion"], document["mediaType"]) == (2, INDEX)
        order = [entry["digest"] for entry in document["manifests"]]
        assert sorted(document["manifests"], key=by_digest) == sorted(wanted, key=by_digest), order
        for kind in {entry["artifactType"] for entry in wanted if "artifactType" in entry}:
            some = client.ask("GET", f"{path}?artifactType={kind.replace('+', '%2B')}")
            assert some.headers["OCI-Filters-Applied"] == "artifactType"
            fitting = [entry for entry in wanted if entry.get("artifactType") == kind]
            assert sorted(json.loads(some.data)["manifests"], key=by_digest) == sorted(fitting, key=by_digest)
        none = client.json(f"{path}?artifactType=application/x.none")
        assert none["manifests"] == []


def by_digest(entry: Descriptor) -> str:
    return str(entry["digest"])


def delete(client: Client, repository: str, content: Content) -> None:
    places = [f"manifests/{tag}" for tag in content.tags]
    places += [f"manifests/{digest}" for digest in reversed(content.manifests)]
    places += [f"blobs/{digest}" for digest in content.blobs]
    for place in places:
        assert client.ask("DELETE", f"/v2/{repository}/{place}").status == 202, place
        assert client.ask("HEAD", f"/v2/{repository}/{place}").status == 404, place
        assert client.ask("DELETE", f"/v2/{repository}/{place}").status == 404, place
    assert client.json(f"/v2/{repository}/tags/list")["tags"] == []
    for subject in content.referrers:
        assert client.json(f"/v2/{repository}/referrers/{subject}")["manifests"] == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.replace("_", "-"))
def test_blobs(shared: Served, way: Way, algorithm: str) -> None:
    for data in (b"", b"{}", os.urandom(512), os.urandom(3 * 4096 - 5)):
        if not data and way is chunks_and_put:
            continue  # there is no last chunk
        digest = digest_of(data, algorithm)
        answer = way(shared, "blobs", digest, data)
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
        same(shared, answer.headers["Location"], data, "application/octet-stream", digest)
        assert shared.ask("DELETE", answer.headers["Location"]).status == 202
        assert shared.ask("GET", answer.headers["Location"]).status == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.replace("_", "-"))
def test_blobs_that_are_not_what_they_say(shared: Served, way: Way, algorithm: str) -> None:
    promised = digest_of(os.urandom(9), algorithm)
    answer = way(shared, "blobs", promised, os.urandom(5000))
    assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")
    assert shared.ask("HEAD", f"/v2/blobs/blobs/{promised}").status == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_mounts(shared: Served, algorithm: str) -> None:
    data = os.urandom(512)
    digest = digest_of(data, algorithm)
    post_only(shared, "mount/source", digest, data)
    for repository, source in (("mount/named", "&from=mount/source"), ("mount/anonymous", "")):
        answer = shared.ask("POST", f"/v2/{repository}/blobs/uploads/?mount={digest}{source}")
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
        same(shared, answer.headers["Location"], data, "application/octet-stream", digest)
    other = os.urandom(512)
    missing = digest_of(other, algorithm)
    answer = shared.ask("POST", f"/v2/mount/named/blobs/uploads/?mount={missing}&from=mount/source")
    assert answer.status == 202
    done = shared.ask("PUT", f"{answer.headers['Location']}?digest={missing}", other)
    assert (done.status, done.headers["Docker-Content-Digest"]) == (201, missing)


def test_an_upload_that_is_cancelled(shared: Served) -> None:
    place = open_session(shared, "cancel", digest_of(b""))
    assert shared.ask("DELETE", place, Content_Length="0").status == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = shared.ask(method, f"{place}?digest={digest_of(b'')}")
        assert (answer.status, code_of(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_nothing_there(shared: Served) -> None:
    nothing = digest_of(os.urandom(8))
    answer = shared.ask("GET", f"/v2/never/pushed/referrers/{nothing}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, INDEX)
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    assert json.loads(answer.data) == document
    assert shared.ask("GET", "/v2/never/pushed/tags/list").status == 404
    assert shared.ask("GET", "/v2/").status == shared.ask("HEAD", "/v2/").status == 200


ERRORS = [
    ("GET", "/v2/e/manifests/{nothing}", {}, 404),
    ("GET", "/v2/e/manifests/missing", {}, 404),
    ("GET", "/v2/e/manifests/sha256:baddigest", {}, 400),
    ("PUT", "/v2/e/manifests/sha256:baddigest", {"body": b"{}", "Content_Type": MANIFEST}, 400),
    ("PUT", "/v2/e/manifests/{nothing}", {"body": b"{}", "Content_Type": MANIFEST}, 400),
    ("PUT", "/v2/e/manifests/x", {"body": b'"no manifest"', "Content_Type": MANIFEST}, 400),
    ("PUT", "/v2/e/manifests/x", {"body": b"{}"}, 400),
    ("PUT", "/v2/e/manifests/.x", {"body": b"{}", "Content_Type": MANIFEST}, 400),
    ("GET", "/v2/e/blobs/{nothing}", {}, 404),
    ("GET", "/v2/e/blobs/sha256:baddigest", {}, 400),
    ("GET", "/v2/E/tags/list", {}, 400),
    ("GET", "/v2/none/tags/list", {}, 404),
    ("GET", "/v2/e/tags/list?n=many", {}, 400),
    ("GET", "/v2/e/referrers/tag", {}, 400),
    ("GET", "/v2/e/blobs/uploads/none", {}, 404),
    ("POST", "/v2/e/blobs/uploads/?digest=sha256:x", {}, 400),
    ("POST", "/v2/e/blobs/uploads/?digest-algorithm=crc32", {}, 400),
    ("POST", "/v2/e/blobs/uploads/?mount=x&from=e", {}, 400),
    ("DELETE", "/v2/none/manifests/{nothing}", {}, 404),
    ("DELETE", "/v2/e/blobs/{nothing}", {}, 404),
    ("POST", "/v2/e/manifests/x", {}, 405),
]


@pytest.mark.parametrize(("method", "path", "options", "status"), ERRORS)
def test_errors(shared: Served, method: str, path: str, options: dict[str, Any], status: int) -> None:
    """Every refusal has the spec's form and one of its codes."""
    shared.blob("e", b"some")
    answer = shared.ask(method, path.format(nothing=digest_of(b"nothing")), **options)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    document = json.loads(answer.data)
    assert set(document) == {"errors"} and len(document["errors"]) == 1
    error = document["errors"][0]
    assert (
        error["code"] in CODES
        and isinstance(error["message"], str)
        and set(error) <= {"code", "message", "detail"}
    )


def test_what_a_manifest_needs_and_nobody_has(shared: Served) -> None:
    """Each missing blob is told, of any kind of manifest."""
    here, nowhere = shared.blob("needs", b"here"), [digest_of(bytes([number])) for number in range(2)]
    pointers = [{"mediaType": LAYER, "digest": digest, "size": 4} for digest in (here, *nowhere)]
    for kind, document in (
        (MANIFEST, {"config": pointers[0], "layers": pointers[1:]}),
        (INDEX, {"manifests": pointers}),
        ("application/vnd.oci.artifact.manifest.v1+json", {"blobs": pointers}),
    ):
        raw = json.dumps({"schemaVersion": 2, "mediaType": kind, **document}).encode()
        answer = shared.put("needs", "x", raw, kind)
        assert (answer.status, code_of(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
        told = json.loads(answer.data)["errors"][0]["detail"]
        assert {entry["digest"] for entry in told} == set(nowhere)


def test_schema_1_hears_what_to_do(shared: Served) -> None:
    raw = json.dumps({"schemaVersion": 1, "name": "a", "tag": "x", "fsLayers": [], "history": []}).encode()
    for kind in ("prettyjws", "json"):
        answer = shared.put("old", "x", raw, f"application/vnd.docker.distribution.manifest.v1+{kind}")
        assert (answer.status, code_of(answer)) == (400, "MANIFEST_INVALID")
        assert "newer client" in answer.data.decode()
    assert shared.put("old", "x", raw, "application/json").status == 400

"""``serve-registry`` against the distribution-spec: what its conformance tests ask, and what they forget."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest

from sampan.registryd.documents import read
from sampan.registryd.links import Links
from sampan.storage.db import Database
from tests.registry.serving import CONFIG, INDEX, LAYER, MANIFEST, Served, code_of, digest_of


def test_what_is_pushed_is_pulled(served: Served) -> None:
    layer = os.urandom(700_001)
    digest, raw = served.image("team/app", "1.0", layer=layer)
    for reference in ("1.0", digest):
        for method in ("GET", "HEAD"):
            answer = served.ask(method, f"/v2/team/app/manifests/{reference}", Accept=MANIFEST)
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest)
            assert answer.headers["Content-Type"] == MANIFEST
            assert int(answer.headers["Content-Length"]) == len(raw)
            assert answer.data == (raw if method == "GET" else b"")
    blob = served.ask("GET", f"/v2/team/app/blobs/{digest_of(layer)}")
    assert (blob.status, blob.data) == (200, layer)
    head = served.ask("HEAD", f"/v2/team/app/blobs/{digest_of(layer)}")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(layer)))
    ping = served.ask("GET", "/v2/")
    assert ping.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert abs(parsedate_to_datetime(ping.headers["Date"]).timestamp() - time.time()) < 60
    with served.connect() as sock:  # as through a proxy
        sock.sendall(b"GET http://x.example/v2/?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 200")


def test_what_is_not_there(served: Served) -> None:
    served.image("a", "x")
    nothing = digest_of(b"nothing")
    for path, code in (
        ("/v2/a/manifests/nope", "MANIFEST_UNKNOWN"),
        (f"/v2/a/manifests/{nothing}", "MANIFEST_UNKNOWN"),
        ("/v2/b/manifests/x", "NAME_UNKNOWN"),
        (f"/v2/a/blobs/{nothing}", "BLOB_UNKNOWN"),
        (f"/v2/b/blobs/{digest_of(b'layer')}", "NAME_UNKNOWN"),
        ("/v2/b/tags/list", "NAME_UNKNOWN"),
    ):
        answer = served.ask("GET", path)
        assert (answer.status, code_of(answer)) == (404, code), path
    assert served.ask("GET", "/v2/a/blobs/sha256:short").status == 400


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-", 5, 1000), ("bytes=-7", 993, 1000), ("bytes=990-5000", 990, 1000)],
)
def test_ranges(shared: Served, asked: str, start: int, end: int) -> None:
    data = os.urandom(1000)
    digest = shared.blob("a", data)
    answer = shared.ask("GET", f"/v2/a/blobs/{digest}", Range=asked)
    assert (answer.status, answer.data) == (206, data[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/1000"


def test_ranges_that_hold_nothing_or_mean_nothing(served: Served) -> None:
    data = os.urandom(1000)
    digest = served.blob("a", data)
    for asked in ("bytes=1000-", "bytes=-0", f"bytes={10**17}-", "bytes=7-3"):
        answer = served.ask("GET", f"/v2/a/blobs/{digest}", Range=asked)
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */1000"), asked
    for asked in ("bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=" + "9" * 500 + "-"):
        answer = served.ask("GET", f"/v2/a/blobs/{digest}", Range=asked)
        assert (answer.status, answer.data) == (200, data), asked
    other = {"Range": "bytes=0-1", "If_Range": '"another"'}
    assert served.ask("GET", f"/v2/a/blobs/{digest}", **other).data == data
    assert served.ask("GET", f"/v2/a/blobs/{digest}", If_None_Match=f'"{digest}"').status == 304


def test_upload_in_one_piece(served: Served) -> None:
    data = os.urandom(100_000)
    place = served.begin("a")
    answer = served.ask("PUT", f"{place}?digest={digest_of(data)}", data)
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/a/blobs/{digest_of(data)}")
    assert served.ask("GET", answer.headers["Location"]).data == data


def test_upload_without_a_length(served: Served) -> None:
    data = os.urandom(900_000)
    pieces = (data[at : at + 70_000] for at in range(0, len(data), 70_000))
    place = served.begin("a")
    answer = served.ask("PATCH", place, pieces)
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(data) - 1}")
    assert served.ask("PUT", f"{place}?digest={digest_of(data)}").status == 201
    assert served.ask("GET", f"/v2/a/blobs/{digest_of(data)}").data == data


def test_upload_in_chunks(served: Served) -> None:
    data = os.urandom(3000)
    place = served.begin("a")
    first = served.ask("PATCH", place, data[:1000], Content_Range="0-999")
    assert (first.status, first.headers["Range"]) == (202, "0-999")
    gap = served.ask("PATCH", place, data[2000:], Content_Range="2000-2999")
    assert (gap.status, gap.headers["Range"], gap.headers["Location"]) == (416, "0-999", place)
    again = served.ask("PATCH", place, data[:1000], Content_Range="0-999")
    assert again.status == 416
    status = served.ask("GET", place)
    assert (status.status, status.headers["Range"], status.headers["Location"]) == (204, "0-999", place)
    assert served.ask("PATCH", place, data[1000:2000], Content_Range="1000-1999").status == 202
    last = served.ask("PUT", f"{place}?digest={digest_of(data)}", data[2000:], Content_Range="2000-2999")
    assert last.status == 201
    assert served.ask("GET", place).status == 404
    assert served.ask("GET", f"/v2/a/blobs/{digest_of(data)}").data == data


def test_chunks_that_lie(served: Served) -> None:
    place = served.begin("a")
    for declared in ("0-5", "x", "5-0", "0-", "0-" + "9" * 40):
        answer = served.ask("PATCH", place, b"12345", Content_Range=declared)
        assert answer.status == 400, declared
    assert served.ask("PATCH", place, iter([b"12345"]), Content_Range="0-2").status == 400


def test_other_content_than_promised(served: Served) -> None:
    place = served.begin("a")
    answer = served.ask("PUT", f"{place}?digest={digest_of(b'right')}", b"wrong")
    assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")
    assert served.ask("GET", place).status == 404
    assert served.ask("PUT", f"{served.begin('a')}?digest=md5:abc", b"x").status == 400
    assert served.ask("PUT", served.begin("a"), b"x").status == 400
    single = served.ask("POST", f"/v2/a/blobs/uploads/?digest={digest_of(b'right')}", b"wrong")
    assert single.status == 400
    assert len(list((served.data / "uploads").iterdir())) == 2


def test_upload_of_one_repository_is_none_of_another(served: Served) -> None:
    place = served.begin("a")
    assert served.ask("PATCH", place.replace("/v2/a/", "/v2/b/"), b"x").status == 404


def test_cancel(served: Served) -> None:
    place = served.begin("a")
    served.ask("PATCH", place, b"something")
    assert served.ask("DELETE", place).status == 204
    assert code_of(served.ask("PATCH", place, b"more")) == "BLOB_UPLOAD_UNKNOWN"
    assert list((served.data / "uploads").iterdir()) == []


def test_sha512(served: Served) -> None:
    data = os.urandom(5000)
    digest = digest_of(data, "sha512")
    answer = served.ask("POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512")
    assert served.ask("PUT", f"{answer.headers['Location']}?digest={digest}", data).status == 201
    assert served.ask("GET", f"/v2/a/blobs/{digest}").data == data
    # announced or not
    other = os.urandom(5000)
    place = served.begin("a")
    assert served.ask("PUT", f"{place}?digest={digest_of(other, 'sha512')}", other).status == 201
    assert served.ask("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5").status == 400


def test_mount(served: Served) -> None:
    digest = served.blob("a", b"shared")
    answer = served.ask("POST", f"/v2/b/blobs/uploads/?mount={digest}&from=a")
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/b/blobs/{digest}")
    assert served.ask("GET", f"/v2/b/blobs/{digest}").data == b"shared"
    assert served.ask("POST", f"/v2/c/blobs/uploads/?mount={digest}").status == 201
    for query in (
        f"mount={digest_of(b'nope')}&from=a",
        f"mount={digest}&from=nope",
        f"mount={digest}&from=../a",
    ):
        answer = served.ask("POST", f"/v2/d/blobs/uploads/?{query}")
        assert answer.status == 202 and "/blobs/uploads/" in answer.headers["Location"], query


def test_manifests_that_are_refused(served: Served) -> None:
    _, raw = served.image("a", "good")
    good = json.loads(raw)
    unknown = {**good, "layers": [{"mediaType": LAYER, "digest": digest_of(b"nope"), "size": 4}]}
    for document, kind, code in (
        (unknown, MANIFEST, "MANIFEST_BLOB_UNKNOWN"),
        ({**good, "schemaVersion": 1}, MANIFEST, "MANIFEST_INVALID"),
        (good, INDEX, "MANIFEST_INVALID"),
        ({**good, "mediaType": "text/plain"}, "text/plain", "MANIFEST_INVALID"),
        ({**good, "layers": [{"digest": "sha256:..", "size": 1}]}, MANIFEST, "MANIFEST_INVALID"),
        ({**good, "config": None}, MANIFEST, "MANIFEST_INVALID"),
        ({**good, "layers": [{"digest": digest_of(b"layer"), "size": -1}]}, MANIFEST, "MANIFEST_INVALID"),
        ([1], MANIFEST, "MANIFEST_INVALID"),
    ):
        answer = served.put("a", "bad", json.dumps(document).encode(), kind)
        assert (answer.status, code_of(answer)) == (400, code), document
    assert served.put("a", "bad", b"{" * 100_000).status == 400
    assert code_of(served.put("a", digest_of(b"other"), raw)) == "DIGEST_INVALID"
    assert served.put("a", "big", raw + b" " * (4 << 20)).status == 413
    assert served.put("a", "large", raw + b" " * ((4 << 20) - len(raw))).status == 201
    assert served.put("a", "-bad", raw).status == 400
    assert served.put("a", "t" * 129, raw).status == 400
    assert served.ask("GET", "/v2/a/manifests/bad").status == 404


def test_index_with_its_images(served: Served) -> None:
    digest, raw = served.image("a")
    entry = {"mediaType": MANIFEST, "digest": digest, "size": len(raw)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    assert served.put("a", "multi", index, INDEX).status == 201
    answer = served.ask("GET", "/v2/a/manifests/multi")
    assert (answer.data, answer.headers["Content-Type"]) == (index, INDEX)
    assert code_of(served.put("b", "multi", index, INDEX)) == "MANIFEST_BLOB_UNKNOWN"


def test_several_tags_at_once(served: Served) -> None:
    _, raw = served.image("a", "x")
    answer = served.put("a", f"{digest_of(raw)}?tag=1.2.3&tag=1.2&tag=latest", raw)
    assert (answer.status, answer.headers["OCI-Tag"]) == (201, "1.2.3, 1.2, latest")
    assert served.json("/v2/a/tags/list")["tags"] == ["1.2", "1.2.3", "latest", "x"]
    assert served.put("a", "y?tag=z", raw).status == 400


def test_tags_page_by_page(served: Served) -> None:
    names = ["B", "a", "a-1", "a.1", "b", "z"]
    served.image("a/b", *reversed(names))
    assert served.json("/v2/a/b/tags/list") == {"name": "a/b", "tags": names}
    found, path = [], "/v2/a/b/tags/list?n=4"
    while path:
        answer = served.ask("GET", path)
        found.append(json.loads(answer.data)["tags"])
        path = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert found == [names[:4], names[4:]]
    assert served.json("/v2/a/b/tags/list?last=a.1")["tags"] == ["b", "z"]
    none = served.ask("GET", "/v2/a/b/tags/list?n=0")
    assert json.loads(none.data)["tags"] == [] and "Link" not in none.headers
    for bad in ("-1", "x", "1.5", "9" * 30):
        assert served.ask("GET", f"/v2/a/b/tags/list?n={bad}").status == 400, bad


def test_catalog(served: Served) -> None:
    for name in ("b", "a/c", "a"):
        served.image(name, "x")
    assert served.json("/v2/_catalog")["repositories"] == ["a", "a/c", "b"]
    answer = served.ask("GET", "/v2/_catalog?n=2")
    assert answer.headers["Link"] == '</v2/_catalog?n=2&last=a%2Fc>; rel="next"'
    assert served.json("/v2/_catalog?n=2&last=a%2Fc")["repositories"] == ["b"]


def test_referrers(served: Served) -> None:
    subject, raw = served.image("a", "app")
    about = {"mediaType": MANIFEST, "digest": subject, "size": len(raw)}
    sbom, _ = served.image("a", subject=about, artifactType="x/sbom", annotations={"k": "v"})
    plain, plain_raw = served.image("a", subject=about)
    answer = served.put("a", plain, plain_raw)
    assert answer.headers["OCI-Subject"] == subject
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": about}
    listed = json.dumps(index).encode()
    assert served.put("a", "list", listed, INDEX).headers["OCI-Subject"] == subject

    answer = served.ask("GET", f"/v2/a/referrers/{subject}")
    assert answer.headers["Content-Type"] == INDEX
    found = {entry["digest"]: entry for entry in json.loads(answer.data)["manifests"]}
    assert set(found) == {sbom, plain, digest_of(listed)}
    assert found[sbom]["artifactType"] == "x/sbom" and found[sbom]["annotations"] == {"k": "v"}
    assert found[plain]["artifactType"] == CONFIG
    assert "artifactType" not in found[digest_of(listed)]

    filtered = served.ask("GET", f"/v2/a/referrers/{subject}?artifactType=x%2Fsbom")
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["digest"] for entry in json.loads(filtered.data)["manifests"]] == [sbom]
    assert served.ask("DELETE", f"/v2/a/manifests/{sbom}").status == 202
    assert sbom not in served.ask("GET", f"/v2/a/referrers/{subject}").data.decode()
    for repository in ("a", "never"):
        assert served.json(f"/v2/{repository}/referrers/{digest_of(b'x')}")["manifests"] == []
    assert served.ask("GET", "/v2/a/referrers/latest").status == 400


def test_subject_may_come_later(served: Served) -> None:
    subject = digest_of(b"later")
    about = {"mediaType": MANIFEST, "digest": subject, "size": 5}
    referrer, _ = served.image("a", subject=about)
    found = served.json(f"/v2/a/referrers/{subject}")["manifests"]
    assert [entry["digest"] for entry in found] == [referrer]


def test_many_referrers_come_in_pages(served: Served) -> None:
    subject = digest_of(b"popular")
    about = {"mediaType": MANIFEST, "digest": subject, "size": 5}
    _, raw = served.image("a", subject=about)
    served.stop()
    register = Database(served.data / "registry.db")  # a thousand pushes take their time
    links, pushed = Links(register), read(raw, MANIFEST)
    with links.transaction() as tx:
        for number in range(1005):
            links.put(tx, "a", digest_of(str(number).encode()), pushed, [])
    register.close()
    served.start()
    found, path = set(), f"/v2/a/referrers/{subject}"
    while path:
        answer = served.ask("GET", path)
        found |= {entry["digest"] for entry in json.loads(answer.data)["manifests"]}
        path = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert len(found) == 1006


def test_deleting(served: Served) -> None:
    digest, _ = served.image("a", "one", "two")
    assert served.ask("DELETE", "/v2/a/manifests/one").status == 202
    assert served.ask("GET", "/v2/a/manifests/one").status == 404
    assert served.ask("GET", "/v2/a/manifests/two").status == 200
    assert served.ask("DELETE", f"/v2/a/manifests/{digest}").status == 202
    for reference in ("two", digest):
        assert served.ask("GET", f"/v2/a/manifests/{reference}").status == 404
        assert served.ask("DELETE", f"/v2/a/manifests/{reference}").status == 404
    blob = digest_of(b"layer")
    assert served.ask("DELETE", f"/v2/a/blobs/{blob}").status == 202
    assert served.ask("GET", f"/v2/a/blobs/{blob}").status == 404
    assert served.ask("DELETE", f"/v2/a/blobs/{blob}").status == 404
    assert served.json("/v2/a/tags/list")["tags"] == []


def test_methods_that_nothing_answers(served: Served) -> None:
    for method, path in (
        ("POST", "/v2/"),
        ("PUT", "/v2/_catalog"),
        ("POST", "/v2/a/tags/list"),
        ("PATCH", "/v2/a/manifests/x"),
    ):
        answer = served.ask(method, path)
        assert (answer.status, code_of(answer)) == (405, "UNSUPPORTED")
        assert "GET" in answer.headers["Allow"]
    assert served.ask("GET", "/v1/search").status == 404


def test_read_only(serve: Callable[..., Served]) -> None:
    first = serve()
    digest, _ = first.image("a", "x")
    first.stop()
    served = serve("--read-only")
    assert served.ask("GET", "/v2/a/manifests/x").status == 200
    for method, path in (
        ("PUT", "/v2/a/manifests/y"),
        ("POST", "/v2/a/blobs/uploads/"),
        ("DELETE", f"/v2/a/manifests/{digest}"),
        ("DELETE", f"/v2/a/blobs/{digest_of(b'layer')}"),
    ):
        answer = served.ask(method, path, b"{}" if method == "PUT" else None)
        assert (answer.status, code_of(answer)) == (405, "UNSUPPORTED")
        assert "read-only" in answer.data.decode()


def test_one_owner_of_the_data(served: Served, serve: Callable[..., Served]) -> None:
    with pytest.raises(AssertionError, match="in use by another daemon"):
        serve()

"""``serve-registry`` over time: collection beside traffic, usage."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sampan.registryd.links import Links
from sampan.storage.db import Database
from tests.conftest import BIN
from tests.registry.serving import INDEX, MANIFEST, Served, code_of, digest_of


def blobs(served: Served) -> set[str]:
    return {f"sha256:{path.name}" for path in (served.data / "blobs" / "sha256").iterdir()}


def collected(served: Served, gone: Callable[[], bool]) -> bool:
    """Whether it is gone soon after the server was told to collect."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        served.signal(signal.SIGUSR1)
        if gone():
            return True
        time.sleep(0.05)
    return False


def for_a_while(push: Callable[[int], None], clients: int, stop: threading.Event) -> None:
    """Let several push at once until they are told to stop; what one raises is raised."""
    with ThreadPoolExecutor(clients) as pool:
        ends = [pool.submit(push, number) for number in range(clients)]
        time.sleep(4)
        stop.set()
        for end in ends:
            end.result()


def test_what_nothing_needs_goes(serve: Callable[..., Served]) -> None:
    served = serve("--unneeded-life", "0s")
    kept, _ = served.image("a", "kept", layer=b"kept")
    lost, _ = served.image("a", "lost", layer=b"lost")
    served.ask("DELETE", f"/v2/a/manifests/{lost}")
    time.sleep(1.1)  # lives are counted in whole seconds
    assert collected(served, lambda: digest_of(b"lost") not in blobs(served))
    assert lost not in blobs(served)
    assert {kept, digest_of(b"kept")} <= blobs(served)
    assert served.ask("GET", f"/v2/a/blobs/{digest_of(b'kept')}").status == 200
    assert served.ask("GET", f"/v2/a/blobs/{digest_of(b'lost')}").status == 404


def test_what_another_repository_has_stays(serve: Callable[..., Served]) -> None:
    served = serve("--unneeded-life", "0s")
    one, _ = served.image("a", "x", layer=b"shared")
    served.image("b", "x", layer=b"shared")
    served.ask("DELETE", f"/v2/a/manifests/{one}")
    time.sleep(1.1)
    place = f"/v2/a/blobs/{digest_of(b'shared')}"
    assert collected(served, lambda: served.ask("HEAD", place).status == 404)
    assert served.ask("GET", f"/v2/b/blobs/{digest_of(b'shared')}").data == b"shared"
    assert served.ask("GET", "/v2/b/manifests/x").status == 200


def test_fresh_blobs_have_a_day(serve: Callable[..., Served]) -> None:
    served = serve()
    digest = served.blob("a", b"on its way")
    for _ in range(3):
        served.signal(signal.SIGUSR1)
        time.sleep(0.1)
    assert served.ask("HEAD", f"/v2/a/blobs/{digest}").status == 200


def test_abandoned_uploads_go(serve: Callable[..., Served]) -> None:
    served = serve()
    old, young = served.begin("a"), served.begin("a")
    served.ask("PATCH", old, b"never finished")
    served.ask("PATCH", young, b"to be finished")
    folder = served.data / "uploads"
    path = next(folder.glob(f"{old.rpartition('/')[2]}*"))
    os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert collected(served, lambda: not path.exists())
    assert served.ask("GET", old).status == 404
    assert served.ask("PUT", f"{young}?digest={digest_of(b'to be finished')}").status == 201


def test_untagged_manifests_stay_unless_told(serve: Callable[..., Served]) -> None:
    served = serve("--untagged-life", "0s", "--unneeded-life", "0s")
    child, raw = served.image("a", layer=b"child")
    entry = {"mediaType": MANIFEST, "digest": child, "size": len(raw)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    assert served.put("a", "multi", index, INDEX).status == 201
    about, _ = served.image("a", layer=b"sbom", subject=entry)
    loose, _ = served.image("a", layer=b"loose")
    time.sleep(1.1)
    assert collected(served, lambda: loose not in blobs(served))
    assert {child, about, digest_of(b"child"), digest_of(b"sbom")} <= blobs(served)
    served.ask("DELETE", "/v2/a/manifests/multi")
    assert collected(served, lambda: not blobs(served))


def test_pushing_goes_on_during_collections(serve: Callable[..., Served]) -> None:
    """With lives of no length the collector races with every push; what was acknowledged with a manifest stays."""
    served = serve("--unneeded-life", "1s", "--collect-every", "10ms")
    stop, lost = threading.Event(), []

    def push(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            layer = f"{number} {turn % 3}".encode()  # the same content comes and goes
            digest, _ = served.image(f"r{number % 2}", f"t{number}", layer=layer)
            for path in (f"manifests/{digest}", f"blobs/{digest_of(layer)}"):
                if served.ask("GET", f"/v2/r{number % 2}/{path}").status != 200:
                    lost.append((number, turn, path))
            served.ask("DELETE", f"/v2/r{number % 2}/manifests/{digest}")

    for_a_while(push, 4, stop)
    assert lost == []
    assert served.errors() == "" or "Traceback" not in served.errors()


def test_usage(served: Served) -> None:
    layer = b"x" * 1000
    served.image("a", "one", "two", layer=layer)
    served.image("b", "one", layer=layer + b"y" * 500)
    found = served.usage()
    assert found["a"]["tags"] == 2 and found["a"]["manifests"] == 1 and found["a"]["blobs"] == 3
    shared = len(json.dumps({"architecture": "amd64", "os": "linux"}))
    assert found["a"]["size"] - found["a"]["unshared"] == shared
    assert found["b"]["size"] - found["a"]["size"] in range(500, 510)
    command = [BIN / "sampan", "serve-registry", "--data", served.data, "--usage"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[0].split() == ["REPOSITORY", "TAGS", "MANIFESTS", "BLOBS", "SIZE", "UNSHARED"]
    assert shown[1].split()[:4] == ["a", "2", "1", "3"]


def test_repositories_go_with_their_last_content(serve: Callable[..., Served]) -> None:
    served = serve("--unneeded-life", "0s")
    kept, _ = served.image("kept", "x", layer=b"kept")
    gone, _ = served.image("gone", "x", layer=b"gone")
    served.blob("blob/only", b"never in a manifest")
    served.ask("DELETE", f"/v2/gone/manifests/{gone}")
    assert served.json("/v2/gone/tags/list")["tags"] == []  # until it is collected
    time.sleep(1.1)
    assert collected(served, lambda: served.json("/v2/_catalog")["repositories"] == ["kept"])
    assert set(served.usage()) == {"kept"}
    assert code_of(served.ask("GET", "/v2/gone/tags/list")) == "NAME_UNKNOWN"
    served.kill()
    served.start()
    assert served.json("/v2/_catalog")["repositories"] == ["kept"]
    # The name can come again, beside another that came first; none has what another one has.
    other, _ = served.image("other", "x", layer=b"other")
    again, _ = served.image("gone", "y", layer=b"again")
    assert served.json("/v2/gone/tags/list")["tags"] == ["y"]
    assert served.ask("GET", "/v2/gone/manifests/y").headers["Docker-Content-Digest"] == again
    assert served.ask("GET", f"/v2/gone/manifests/{other}").status == 404
    assert served.ask("GET", f"/v2/kept/manifests/{kept}").status == 200


def test_a_data_directory_of_before(serve: Callable[..., Served]) -> None:
    """Its repositories had numbers that could be given again."""
    served = serve()
    digest, _ = served.image("a/b", "x", layer=b"old")
    served.stop()
    with contextlib.closing(sqlite3.connect(served.data / "registry.db")) as db:
        db.executescript(
            "CREATE TABLE before (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
            "INSERT INTO before SELECT id, name FROM repositories; DROP TABLE repositories;"
            "ALTER TABLE before RENAME TO repositories;"
            "UPDATE migrations SET version = version - 4 WHERE component = 'registry'"
        )
    served.start()
    assert served.json("/v2/_catalog")["repositories"] == ["a/b"]
    assert served.ask("GET", "/v2/a/b/manifests/x").headers["Docker-Content-Digest"] == digest
    served.image("c", "x")
    assert served.json("/v2/_catalog")["repositories"] == ["a/b", "c"]


def test_what_gets_a_tag_during_a_collection_stays(serve: Callable[..., Served]) -> None:
    """Untagged, it was about to go; tagged again and acknowledged, it doesn't."""
    served = serve("--untagged-life", "0s", "--collect-every", "10ms")
    stop, lost = threading.Event(), []

    def push(number: int) -> None:
        digest, raw = served.image("r", f"t{number}", layer=f"{number}".encode())
        while not stop.is_set():
            served.ask("DELETE", f"/v2/r/manifests/t{number}")
            time.sleep(0.2 * number)  # it becomes old enough now and then
            if served.put("r", f"t{number}", raw).status != 201:
                lost.append((number, "refused"))
            if served.ask("GET", f"/v2/r/manifests/{digest}").status != 200:
                lost.append((number, "lost"))

    for_a_while(push, 6, stop)
    assert lost == [] and "Traceback" not in served.errors()


def test_many_go_beside_pushes_and_a_kill_takes_nothing(serve: Callable[..., Served]) -> None:
    """Hundreds of blobs, some looks' worth; what was put aside when it was killed goes with the next start."""
    served = serve("--unneeded-life", "0s")
    digest, _ = served.image("keep", "x", layer=b"keep")
    for number in range(450):
        path = served.data / "blobs" / "sha256" / digest_of(f"{number}".encode()).partition(":")[2]
        path.write_bytes(f"{number}".encode())
    (served.data / "ingest" / "gone-sha256-00").write_bytes(b"put aside")
    served.kill()
    served.start()
    time.sleep(1.1)
    assert collected(served, lambda: "collected 450 blobs (1240 bytes)" in served.errors())
    needed = {digest, *(one["digest"] for one in _named(served, "keep", "x"))}
    assert blobs(served) == needed
    assert list((served.data / "ingest").iterdir()) == []


def _named(served: Served, repository: str, tag: str) -> list[dict[str, str]]:
    """The descriptors in a manifest."""
    document = served.json(f"/v2/{repository}/manifests/{tag}")
    return [document["config"], *document["layers"]]


def test_what_a_collection_takes_as_it_is_asked_for_is_not_promised(tmp_path: Path) -> None:
    """Who asks reads beside the collector: the copy is what such a look still shows."""
    digest = digest_of(b"asked for")
    db = Database(tmp_path / "register")
    with Links(db).transaction() as tx:
        Links(db).link(tx, "a", digest, 9)
    db.close()
    shutil.copy(tmp_path / "register", tmp_path / "before")
    db, before = Database(tmp_path / "register"), Database(tmp_path / "before")
    links = Links(db, before, freshen=-1)  # every question is noted
    assert links.has_blob("a", digest)
    assert links.unlink("a", digest)
    assert not links.has_blob("a", digest)
    before.close()
    db.close()

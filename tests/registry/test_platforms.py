"""Images for several platforms: pulled one by one or whole, kept, and pushed as they came."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import urllib3

from sampan import errors
from sampan.images import archive
from sampan.images.manifest import parse_platform
from sampan.images.reference import Reference
from sampan.images.store import ImageStore
from sampan.registry import catalog
from sampan.registry.pull import Puller
from sampan.registry.push import push
from sampan.registry.transport import Transport
from sampan.storage.db import Database
from sampan.storage.gates import Gates
from sampan.storage.gc import Leases
from tests.conftest import BIN, Daemon, current_cli
from tests.indexes import INDEX, MANIFEST, Multi, descriptor, multi, nested
from tests.indexes import digest as digest_of
from tests.registry.front import Exchange
from tests.registry.test_client import NewFront
from tests.registry.test_client import front as front

NewStore = Callable[[str], ImageStore]
ALL = ("amd64", "arm64", "s390x")


def quiet(_: dict[str, Any]) -> None:
    """A report that nobody reads."""


def loaded(
    store: ImageStore, made: Multi, name: str = "docker.io/team/x:1", **options: Any
) -> archive.Loaded:
    [found] = archive.load(store, io.BytesIO(made.archive(name)).read, quiet, **options)
    return found


def get(registry: str, path: str, what: str) -> tuple[int, bytes]:
    accept = {"Accept": f"{INDEX}, {MANIFEST}"}
    answer = urllib3.PoolManager().request(
        "GET", f"http://{registry}/v2/{path}/manifests/{what}", headers=accept
    )
    return answer.status, answer.data


def in_registry(new_store: NewStore, registry: str, *architectures: str) -> tuple[Multi, Reference]:
    """A registry with such an image, pushed by a store of its own."""
    made, store = multi(*architectures), new_store("pusher")
    name = Reference.parse(f"{registry}/team/x:1")
    loaded(store, made, name.canonical)
    push(store, Transport(name.domain), name, quiet)
    return made, name


def collect(store: ImageStore) -> None:
    leases = Leases(store.db, store.blobs, store.layers)
    leases.add_roots(store.reachable)
    leases.collect()


def test_an_archive_of_several_platforms_is_pushed_as_it_was(new_store: NewStore, registry: str) -> None:
    made, _ = in_registry(new_store, registry, *ALL)
    assert get(registry, "team/x", "1") == (200, made.raw)
    for platform, raw in made.manifests.items():
        assert get(registry, "team/x", made.digest_for(platform)) == (200, raw)


def test_platforms_pulled_one_by_one_then_whole(new_store: NewStore, registry: str) -> None:
    made, name = in_registry(new_store, registry, *ALL)
    store, transport = new_store("two"), Transport(name.domain)
    puller = Puller(store, Gates())
    first = puller.pull(transport, name, quiet, parse_platform("linux/s390x"))
    assert first.newer and first.image.id == made.image("linux/s390x") == store.get(name.familiar).id
    assert puller.pull(transport, name, quiet).newer
    # A name stands for this machine's image as soon as that is here; the others stay.
    assert store.get(name.familiar).id == made.image("linux/amd64")
    assert store.get(f"{name.name}@{made.digest}").id == made.image("linux/amd64")
    assert store.get(name.familiar, parse_platform("linux/s390x")).id == made.image("linux/s390x")
    with pytest.raises(errors.NotFound, match="does not provide the specified platform"):
        store.get(name.familiar, parse_platform("linux/arm64"))
    assert [one.id for one in store.rows()] == [made.image("linux/amd64")]
    assert store.digests(made.image("linux/s390x")) == [f"{name.name}@{made.digest}"]
    assert not puller.pull(transport, name, quiet).newer
    whole = puller.pull(transport, name, quiet, everything=True)
    assert whole.newer and whole.digest == made.digest and store.indexes.whole(made.digest)
    assert not puller.pull(transport, name, quiet, everything=True).newer
    # A collection, and a restart, leave everything.
    before = set(store.blobs.digests())
    collect(store)
    assert set(store.blobs.digests()) == before and made.digest in before
    again = ImageStore(Database(store.db.path), store.blobs, store.layers)
    other = Reference.parse(f"{registry}/other/y:2")
    again.tag(other, again.get(name.familiar).id, index=again.target(name))
    assert push(again, transport, other, quiet).digest == made.digest
    assert get(registry, "other/y", "2") == (200, made.raw)
    assert get(registry, "other/y", made.digest_for("att/arm64")) == (200, made.manifests["att/arm64"])


def test_part_of_an_index_goes_out_as_one_image(new_store: NewStore, registry: str) -> None:
    made, name = in_registry(new_store, registry, *ALL)
    store, transport = new_store("two"), Transport(name.domain)
    Puller(store, Gates()).pull(transport, name, quiet)
    # Where the registry has the rest, the index goes again.
    assert push(store, transport, name, quiet).digest == made.digest
    other = Reference.parse(f"{registry}/other/y:2")
    store.tag(other, store.get(name.familiar).id, index=made.digest)
    lines: list[dict[str, Any]] = []
    mine = made.digest_for("linux/amd64")
    assert push(store, transport, other, lines.append).digest == mine
    [note] = [line["aux"] for line in lines if "manifestPushedInsteadOfIndex" in line.get("aux", {})]
    assert (note["originalIndex"]["digest"], note["selectedManifest"]["digest"]) == (made.digest, mine)
    assert get(registry, "other/y", "2") == (200, made.manifests["linux/amd64"])
    with pytest.raises(errors.NotFound, match="does not provide"):
        push(store, transport, other, quiet, platform=parse_platform("linux/arm64"))
    # Which of several is meant must be said, unless one of them is this machine's.
    third = new_store("three")
    for platform in ("linux/arm64", "linux/s390x"):
        Puller(third, Gates()).pull(transport, name, quiet, parse_platform(platform))
    third.tag(other, third.get(name.familiar).id, index=made.digest)
    with pytest.raises(errors.Conflict, match="multiple matching manifests"):
        push(third, transport, other, quiet)
    pushed = push(third, transport, other, quiet, platform=parse_platform("linux/s390x"))
    assert pushed.digest == made.digest_for("linux/s390x")


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        return {one.name: found.extractfile(one).read() for one in found if one.isfile()}  # type: ignore[union-attr]


def test_archives(new_store: NewStore) -> None:
    made, one, two = multi(*ALL), new_store("one"), new_store("two")
    found = loaded(one, made)
    assert found.names == ["team/x:1"] and found.image.id == made.image("linux/amd64")
    files = members(b"".join(archive.save(one, ["team/x:1"])))
    [entry] = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == made.digest
    for digest, data in made.blobs.items():
        assert files["blobs/" + digest.replace(":", "/")] == data
    [docker] = json.loads(files["manifest.json"])
    assert docker["Config"].endswith(made.image("linux/amd64").partition(":")[2])
    # One platform alone is an image alone.
    wanted = parse_platform("linux/s390x")
    single = b"".join(archive.save(one, ["team/x:1"], platforms=[wanted]))
    [entry] = json.loads(members(single)["index.json"])["manifests"]
    assert entry["digest"] == made.digest_for("linux/s390x")
    with pytest.raises(errors.NotFound, match="does not provide the specified platform"):
        archive.save(one, ["team/x:1"], platforms=[parse_platform("linux/386")])
    [other] = archive.load(two, io.BytesIO(single).read, quiet)
    assert other.image.id == made.image("linux/s390x") and not two.target_of("team/x:1")
    # Loading may take only some, too.
    third = new_store("three")
    loaded(third, made, platforms=[parse_platform("linux/arm64"), wanted])
    assert {image.id for image in third.list()} == {made.image("linux/arm64"), made.image("linux/s390x")}
    assert not third.indexes.whole(made.digest)


def test_names_leave_and_so_do_the_images(new_store: NewStore) -> None:
    made, store = multi(*ALL), new_store("one")
    image = loaded(store, made).image
    kept = len(list(store.blobs.digests()))
    store.delete(made.image("linux/amd64"))
    assert (
        store.get("team/x:1").id == made.image("linux/arm64") and image.id not in store.references().values()
    )
    for platform in ("linux/arm64", "linux/s390x"):
        store.delete(made.image(platform))
    assert store.references() == {} and kept
    collect(store)
    assert list(store.blobs.digests()) == [] and store.layers.list() == []
    # The index's record stays until the next start: it must not be in the way.
    assert store.tags(loaded(store, multi("amd64", seed="2"), "docker.io/team/y:1").image.id) == ["team/y:1"]


@pytest.mark.skipif(not current_cli(), reason="Debian's docker CLI doesn't know images --tree")
def test_with_the_stock_client(sampand: Daemon, registry: str) -> None:
    made, name = multi(*ALL), f"{registry}/team/multi:1"
    docker = sampand.docker
    out = sampand.docker("load", input=made.archive(name))
    assert f"Loaded image: {name}" in out.stdout
    tree = docker("images", "--tree").stdout
    assert all(f"linux/{architecture}" in tree for architecture in ALL)
    [document] = json.loads(docker("image", "inspect", name).stdout)
    assert document["Descriptor"]["digest"] == made.digest and document["Architecture"] == "amd64"
    [document] = json.loads(docker("image", "inspect", "--platform", "linux/s390x", name).stdout)
    assert document["Architecture"] == "s390x" and document["Id"] == made.image("linux/s390x")
    assert docker("push", name).stdout.splitlines()[-1].startswith(f"1: digest: {made.digest} size: ")
    assert [json.loads(docker("image", "inspect", name).stdout)[0]["RepoDigests"]] == [
        [f"{name.rpartition(':')[0]}@{made.digest}"]
    ]
    made_container = docker("create", "--platform", "linux/arm64", name).stdout.strip()
    [container] = json.loads(docker("inspect", made_container).stdout)
    assert container["Image"] == made.image("linux/arm64")
    in_use = docker("rmi", name, check=False)
    assert in_use.returncode == 1 and "is using its referenced image" in in_use.stderr
    docker("rm", made_container)
    removed = docker("rmi", "--platform", "linux/s390x", name).stdout
    assert removed.splitlines() == [f"Deleted: {made.image('linux/s390x')}"]
    absent = docker("history", "--platform", "linux/s390x", name, check=False)
    assert "does not provide the specified platform (linux/s390x)" in absent.stderr
    other = f"{registry}/other/multi:1"
    docker("tag", name, other)
    part = docker("push", other)
    assert "only the available single-platform image was pushed" in part.stderr + part.stdout
    gone = docker("rmi", name, other).stdout
    assert f"Deleted: {made.image('linux/arm64')}" in gone and made.image("linux/amd64") in gone
    for flag, count in (("linux/s390x", 1), ("all", 3)):
        docker("pull", "--platform", flag, name)
        filters = quote(json.dumps({"reference": [name]}))
        listed = sampand.json("GET", f"/images/json?manifests=1&filters={filters}")
        [line] = listed
        assert sum(one["Available"] and one["Kind"] == "image" for one in line["Manifests"]) == count
    assert sum(one["Available"] and one["Kind"] == "attestation" for one in line["Manifests"]) == 3
    docker("rmi", name)


def test_with_our_client(sampand: Daemon, new_store: NewStore, registry: str) -> None:
    made, name = in_registry(new_store, registry, *ALL)

    def sampan(*words: str) -> str:
        return sampand.docker(*words, cli=str(BIN / "sampan")).stdout

    assert f"Digest: {made.digest}" in sampan("pull", "--all-platforms", name.familiar)
    tree = sampan("images", "--tree", name.familiar).splitlines()
    assert tree[0].split("  ")[0] == "IMAGE" and tree[1].startswith(f"{name.familiar}   ")
    assert [line.split()[1] for line in tree[2:]] == [f"linux/{one}" for one in ALL]
    assert [line.split()[2] for line in tree[2:]] == [made.digest_for(f"linux/{one}")[7:19] for one in ALL]
    gone = sampan("rmi", "--platform", "linux/arm64", "--platform", "linux/s390x", name.familiar)
    assert gone.splitlines() == [f"Deleted: {made.image(f'linux/{one}')}" for one in ("arm64", "s390x")]
    other = f"{registry}/other/z:1"
    sampan("tag", name.familiar, other)
    note = sampand.docker("push", other, cli=str(BIN / "sampan")).stderr
    assert "only the available single-platform image was pushed" in note
    assert sampan("rmi", name.familiar, other).count("Deleted: ") == 1


def test_the_index_says_what_an_image_is_for(new_store: NewStore, registry: str) -> None:
    """As ``docker manifest annotate --arch`` makes it: the image's own configuration names another machine."""
    made, store = multi("amd64", "arm64"), new_store("one")
    entries = json.loads(made.raw)
    for entry, architecture in zip(entries["manifests"], ("riscv64", "mips64le"), strict=False):
        entry["platform"]["architecture"] = architecture
    made.raw = json.dumps(entries).encode()
    loaded(store, made)
    for architecture, really in (("riscv64", "amd64"), ("mips64le", "arm64")):
        wanted = parse_platform(f"linux/{architecture}")
        assert store.get("team/x:1", wanted).id == made.image(f"linux/{really}")
    with pytest.raises(errors.NotFound, match="does not provide"):
        store.get("team/x:1", parse_platform("linux/amd64"))


def test_an_index_within_an_index(new_store: NewStore, registry: str) -> None:
    """Pushed, pulled for a platform and whole, saved and loaded: each document stays as it was."""
    (made, inner), pusher = nested("amd64", "arm64"), new_store("pusher")
    name = Reference.parse(f"{registry}/team/x:1")
    loaded(pusher, made, name.canonical)
    assert pusher.indexes.whole(made.digest)
    assert push(pusher, Transport(name.domain), name, quiet).digest == made.digest
    for digest in (made.digest, inner.digest):
        assert get(registry, "team/x", digest)[0] == 200
    store, transport = new_store("two"), Transport(name.domain)
    puller = Puller(store, Gates())
    one = puller.pull(transport, name, quiet, parse_platform("linux/arm64"))
    assert one.image.id == made.image("linux/arm64") and not store.indexes.whole(made.digest)
    with pytest.raises(errors.NotFound, match="no matching manifest for linux/s390x"):
        puller.pull(transport, name, quiet, parse_platform("linux/s390x"))
    assert puller.pull(transport, name, quiet, everything=True).newer
    assert store.indexes.whole(made.digest) and store.get(name.familiar).id == made.image("linux/amd64")
    assert not puller.pull(transport, name, quiet, everything=True).newer
    assert catalog.inspect(transport, name)["Id"] == made.image("linux/amd64")
    collect(store)
    again = ImageStore(Database(store.db.path), store.blobs, store.layers)
    assert again.indexes.whole(made.digest)
    third = new_store("three")
    archive.load(third, io.BytesIO(b"".join(archive.save(again, [name.familiar]))).read, quiet)
    assert third.indexes.whole(made.digest)
    other = Reference.parse(f"{registry}/other/y:2")
    third.tag(other, third.get(name.familiar).id, index=made.digest)
    assert push(third, transport, other, quiet).digest == made.digest


def test_everything_of_an_index_comes_in_parallel_and_once(
    new_store: NewStore, front: NewFront, registry: str
) -> None:
    made, _ = in_registry(new_store, registry, "amd64", "arm64", "s390x", "ppc64le")
    barrier, first = threading.Barrier(3, timeout=60), iter(range(3))

    def wait_for_others(exchange: Exchange) -> bool:
        if exchange.command == "GET" and "/blobs/" in exchange.path and next(first, None) is not None:
            barrier.wait()
        return False

    server, store = front(wait_for_others), new_store("two")
    there = Reference.parse(f"{server.address}/team/x:1")
    Puller(store, Gates()).pull(Transport(there.domain), there, quiet, everything=True)
    assert store.indexes.whole(made.digest)
    asked = [path for method, path, _ in server.requests if method == "GET" and path != "/v2/"]
    assert len(asked) == len(set(asked)), "something came twice"


def test_a_lie_about_the_size_of_a_manifest(new_store: NewStore, front: NewFront, registry: str) -> None:
    made, _ = in_registry(new_store, registry, "amd64")
    lie = json.loads(made.raw)
    lie["manifests"][0]["size"] += 1
    raw = json.dumps(lie).encode()
    server = front(
        lambda exchange: (
            exchange.path.endswith("/manifests/1") and exchange.answer(200, raw, Content_Type=INDEX)
        )
    )
    store, there = new_store("two"), Reference.parse(f"{server.address}/team/x:1")
    with pytest.raises(errors.SystemFailure, match="bytes, the manifest list says"):
        Puller(store, Gates()).pull(Transport(there.domain), there, quiet)
    assert store.list() == []


def test_indexes_without_an_end(new_store: NewStore, front: NewFront) -> None:
    """Each holds the next one."""
    made: dict[str, bytes] = {}
    inner = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    for number in range(100):
        made[digest_of(inner)] = inner
        document = {"schemaVersion": 2, "n": number, "manifests": [descriptor(INDEX, inner)]}
        inner = json.dumps(document).encode()
    made["1"] = inner

    def hook(exchange: Exchange) -> bool:
        raw = made.get(exchange.path.rpartition("/")[2], b"")
        return bool(raw) and exchange.answer(200, raw, Content_Type=INDEX)

    server = front(hook)
    for everything in (False, True):
        there = Reference.parse(f"{server.address}/team/x:1")
        with pytest.raises(errors.Unsupported, match="holds more than 64 others"):
            Puller(new_store(f"s{everything}"), Gates()).pull(
                Transport(there.domain), there, quiet, everything=everything
            )


def test_several_pulls_of_everything_at_once(new_store: NewStore, front: NewFront, registry: str) -> None:
    made, _ = in_registry(new_store, registry, *ALL, "arm", "386")
    server, store, gates = front(), new_store("two"), Gates()
    there = Reference.parse(f"{server.address}/team/x:1")

    def pull() -> None:
        Puller(store, gates).pull(Transport(there.domain), there, quiet, everything=True)

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.indexes.whole(made.digest) and list((store.layers.root / "tmp").iterdir()) == []
    blobs = [path for method, path, _ in server.requests if "/blobs/" in path]
    assert len(blobs) == len(set(blobs)), "something came twice"

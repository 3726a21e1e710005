"""Loading and saving: forms of archives, digests that stay, errors as Docker words them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from sampan import errors
from sampan.images import archive, history, transfer
from sampan.images.reference import Reference
from sampan.images.store import ImageStore
from tests.tars import tar_of

NewStore = Callable[[str], ImageStore]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config_of(*layers: bytes, **more: Any) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T03:04:05.6Z",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(layer) for layer in layers]},
        **more,
    }
    return json.dumps(document).encode()


L1, L2 = tar_of({"a": b"1"}), tar_of({"b": b"2" * 100_000})


def old_docker() -> bytes:
    config = config_of(L1, L2, L1)
    manifest = [
        {
            "Config": "c.json",
            "RepoTags": ["old:1", "old:2"],
            "Layers": ["x/layer.tar", "y/layer.tar", "z/layer.tar"],
        }
    ]
    files = {
        "x/layer.tar": L1,
        "y/layer.tar": L2,
        "c.json": config,
        "manifest.json": json.dumps(manifest).encode(),
    }
    return tar_of(files, {"z/layer.tar": "../x/layer.tar"})


def descriptor(kind: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": "sha256:" + sha(data), "size": len(data), **more}


def oci(pack: Callable[[bytes], bytes], suffix: str) -> bytes:
    """Two platforms; only ours is complete."""
    config, packed = config_of(L1, L2), [pack(L1), pack(L2)]
    kind = "application/vnd.oci.image.layer.v1.tar" + suffix
    image = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor(kind, layer) for layer in packed],
        }
    ).encode()
    manifest = "application/vnd.oci.image.manifest.v1+json"
    inner = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                descriptor(manifest, b"absent", platform={"os": "linux", "architecture": "s390x"}),
                descriptor(manifest, image, platform={"os": "linux", "architecture": "amd64"}),
            ],
        }
    ).encode()
    note = {"io.containerd.image.name": "docker.io/library/multi:1"}
    index = {
        "schemaVersion": 2,
        "manifests": [descriptor("application/vnd.oci.image.index.v1+json", inner, annotations=note)],
    }
    blobs = {f"blobs/sha256/{sha(data)}": data for data in (config, image, inner, *packed)}
    return tar_of(
        {**blobs, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    )


def load(store: ImageStore, data: bytes) -> list[archive.Loaded]:
    lines: list[dict[str, Any]] = []
    loaded = archive.load(store, io.BytesIO(data).read, lines.append)
    assert [line["stream"] for line in lines if "stream" in line]
    return loaded


def contents(store: ImageStore, identity: str) -> dict[str, bytes]:
    found = {}
    for directory in reversed(store.layers.lowers(store.get(identity).chain)):
        found.update({path.name: path.read_bytes() for path in directory.iterdir()})
    return found


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "old-docker": old_docker,
    "old-docker-gzip": lambda: gzip.compress(old_docker()),
    "old-docker-zstd": lambda: zstd.compress(old_docker()),
    "oci-gzip": lambda: oci(gzip.compress, "+gzip"),
    "oci-zstd": lambda: oci(zstd.compress, "+zstd"),
    "oci-plain": lambda: oci(lambda data: data, ""),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_load_save_load_keeps_every_digest(new_store: NewStore, kind: str) -> None:
    first, second = new_store("one"), new_store("two")
    [loaded] = load(first, ARCHIVES[kind]())
    assert contents(first, loaded.image.id) == {"a": b"1", "b": b"2" * 100_000}
    saved = b"".join(archive.save(first, [loaded.names[0].partition(":")[0]]))
    [again] = load(second, saved)
    assert again.names == loaded.names
    assert (again.image.id, again.image.manifest) == (loaded.image.id, loaded.image.manifest)
    assert b"".join(archive.save(second, [again.names[0].partition(":")[0]])) == saved
    # Loading what is there already changes nothing.
    [third] = load(second, saved)
    assert third.image.id == again.image.id
    assert len(second.layers.list()) == len(again.image.layers)
    assert list((second.layers.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"this is no tar", "unexpected EOF"),
        (b"", "invalid archive: does not contain a manifest.json"),
        (tar_of({"x": b"y"}), "invalid archive: does not contain a manifest.json"),
        (tar_of({"manifest.json": b"{"}), "invalid manifest.json"),
        (tar_of({"manifest.json": b'[{"Config":"c.json","Layers":[]}]'}), "c.json is missing"),
        (old_docker()[:60_000], "unexpected EOF"),
        (
            tar_of({"l": L1, "c": config_of(L2), "manifest.json": b'[{"Config":"c","Layers":["l"]}]'}),
            "invalid diffID for layer",
        ),
        (
            tar_of({"l": L1, "c": config_of(L1, L2), "manifest.json": b'[{"Config":"c","Layers":["l"]}]'}),
            "layers length mismatch",
        ),
        (tar_of({"blobs/sha256/" + "0" * 64: L1}), "mismatch"),
        (tar_of({"blobs/sha256/" + "0" * 64: gzip.compress(L1)}), "mismatch"),
        (tar_of({"c": b"[]", "manifest.json": b'[{"Config":"c","Layers":[]}]'}), "no RootFS key"),
    ],
)
def test_junk_is_refused_and_leaves_nothing(store: ImageStore, data: bytes, message: str) -> None:
    with pytest.raises(errors.SampanError) as caught:
        archive.load(store, io.BytesIO(data).read, lambda _: None)
    assert message in str(caught.value)
    assert store.list() == []
    assert list((store.layers.root / "tmp").iterdir()) == []
    assert list((store.blobs.root / "ingest").iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    from sampan.storage.blobs import BlobStore
    from sampan.storage.db import Database
    from sampan.storage.layers import LayerStore

    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "smpc", small], check=True)
    try:
        blobs = BlobStore(small)
        store = ImageStore(Database(tmp_path / "db"), blobs, LayerStore(small, blobs))
        layer = tar_of({"f": b"x" * (6 << 20)})
        manifest = b'[{"Config":"c","Layers":["l"],"RepoTags":["x:1"]}]'
        with pytest.raises(errors.SystemFailure, match="no space left on device"):
            archive.load(
                store,
                io.BytesIO(tar_of({"c": config_of(layer), "l": layer, "manifest.json": manifest})).read,
                lambda _: None,
            )
        assert store.list() == [] and list((small / "layers" / "tmp").iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_save_names_what_is_missing_before_the_first_byte(store: ImageStore) -> None:
    load(store, old_docker())
    with pytest.raises(errors.NotFound, match="No such image: nosuch"):
        archive.save(store, ["old", "nosuch"])


def test_import(store: ImageStore) -> None:
    options = transfer.ImportOptions(
        name=Reference.parse("imp:1"),
        message="a message",
        changes=["CMD x"],
        apply=lambda config, changes: {**config, "Cmd": changes},
    )
    image = transfer.import_tar(store, io.BytesIO(gzip.compress(L2)).read, options)
    assert store.get("imp:1").id == image.id
    assert image.config == {"Cmd": ["CMD x"]}
    assert image.size == 100_000
    [step] = history.steps(store, image)
    assert (step.comment, step.size, step.tags) == ("a message", 100_000, ["imp:1"])
    with pytest.raises(errors.SampanError, match="unexpected EOF"):
        transfer.import_tar(store, io.BytesIO(b"junk\n").read, transfer.ImportOptions())


def test_names_ids_and_what_is_kept(new_store: NewStore, tmp_path: Path) -> None:
    store = new_store("one")
    [loaded] = load(store, oci(gzip.compress, "+gzip"))
    image = loaded.image
    assert store.get("multi:1").id == store.get(image.id[7:19]).id == store.get(image.id).id == image.id
    for bad in ("multi", "nosuch", "sha256:0000"):
        with pytest.raises(errors.NotFound, match="No such image: "):
            store.get(bad)
    store.tag("other/name", image.id)
    store.add_digest(Reference.parse("other/name"), image.manifest, image.id)
    assert store.get(f"other/name@{image.manifest}").id == image.id
    again = ImageStore(store.db, store.blobs, store.layers)
    assert again.tags(image.id) == ["multi:1", "other/name:latest"]
    assert again.untag("other/name") == ["other/name:latest", f"other/name@{image.manifest}"]
    index = json.loads((store.blobs.root / "index.json").read_text())
    assert [entry["digest"] for entry in index["manifests"]] == [image.manifest]
    assert again.reachable().layers == {image.chain}
    assert set(again.reachable().blobs) == set(store.blobs.digests())
    again.delete(image.id)
    assert again.list() == [] and again.reachable() == (set(), set())


@pytest.fixture
def skopeo() -> Iterator[str]:
    import shutil

    found = shutil.which("skopeo")
    if found is None:
        pytest.skip("skopeo is not installed")
    yield found


def test_skopeo_reads_both_forms(store: ImageStore, tmp_path: Path, skopeo: str) -> None:
    load(store, old_docker())
    out = tmp_path / "out.tar"
    out.write_bytes(b"".join(archive.save(store, ["old:1"])))
    for form in ("docker-archive", "oci-archive"):
        subprocess.run([skopeo, "inspect", "--raw", f"{form}:{out}"], check=True, capture_output=True)

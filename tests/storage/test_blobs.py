"""Blobs, their verification, leases and collection."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from sampan import errors
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.gc import Leases, Reachable
from sampan.storage.layers import LayerStore

DIGEST = "sha256:" + hashlib.sha256(b"hello").hexdigest()


def test_a_blob_is_an_oci_layouts(blobs: BlobStore) -> None:
    assert blobs.put(b"hello", DIGEST) == (DIGEST, 5)
    assert (blobs.root / "blobs" / "sha256" / DIGEST[7:]).read_bytes() == b"hello"
    assert json.loads((blobs.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((blobs.root / "index.json").read_text())["schemaVersion"] == 2
    assert list(blobs.digests()) == [DIGEST]


@pytest.mark.parametrize(
    ("data", "options"),
    [(b"hellO", {}), (b"hello", {"size": 4}), (b"hello", {"size": 6}), (b"hello", {"limit": 3})],
)
def test_wrong_content_leaves_nothing(blobs: BlobStore, data: bytes, options: dict[str, int]) -> None:
    with pytest.raises(errors.InvalidParameter), blobs.writer(DIGEST, **options) as writer:
        writer.write(data)
        writer.commit()
    assert not blobs.has(DIGEST)
    assert os.listdir(blobs.root / "ingest") == []


def test_a_broken_download_is_taken_up_again(blobs: BlobStore) -> None:
    with blobs.writer(DIGEST, size=5, keep=True) as writer:
        writer.write(b"he")
        with pytest.raises(errors.Conflict):
            blobs.writer(DIGEST, keep=True)
    again = BlobStore(blobs.root)
    with again.writer(DIGEST, size=5, keep=True) as writer:
        assert writer.offset == 2
        writer.write(b"llo")
        writer.commit()
    assert again.read(DIGEST) == b"hello"


@pytest.mark.parametrize(
    "text", ["sha256:xx", "md5:" + "0" * 32, "../../etc/passwd", "sha256:../" + "a" * 61, ""]
)
def test_names_that_are_no_digests(blobs: BlobStore, text: str) -> None:
    with pytest.raises(errors.InvalidParameter):
        blobs.path(text)


def test_only_what_nobody_needs_is_collected(blobs: BlobStore, layers: LayerStore, tmp_path: Path) -> None:
    leases = Leases(Database(tmp_path / "db"), blobs, layers)
    base = layers.apply(None, io.BytesIO(bytes(1024)))
    top = layers.apply(base.chain_id, io.BytesIO(bytes(2048)))
    other = layers.apply(None, io.BytesIO(bytes(4096)))
    blobs.put(b"hello")
    blobs.put(b"rooted")
    rooted = "sha256:" + hashlib.sha256(b"rooted").hexdigest()
    leases.add_roots(lambda: Reachable(set(), {rooted}))
    leases.hold("container:x", layers=[top.chain_id])
    with leases.working():
        fresh = layers.apply(None, io.BytesIO(bytes(8192)))
        gone = leases.collect()
        assert gone.layers == [other.chain_id]
        assert gone.blobs == [DIGEST]
        assert layers.has(fresh.chain_id)
    leases.release("container:x")
    assert set(leases.collect().layers) == {base.chain_id, top.chain_id, fresh.chain_id}
    assert list(blobs.digests()) == [rooted]


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    db = Database(tmp_path / "db")
    db.migrate("x", ["CREATE TABLE x (a INTEGER)"])
    with pytest.raises(RuntimeError), db.transaction() as tx:
        tx.execute("INSERT INTO x VALUES (1)")
        with db.transaction() as inner:
            inner.execute("INSERT INTO x VALUES (2)")
        raise RuntimeError
    assert db.query("SELECT * FROM x") == []
    db.migrate("x", ["CREATE TABLE x (a INTEGER)", "CREATE TABLE y (a INTEGER)"])
    with pytest.raises(errors.SystemFailure, match="newer"):
        db.migrate("x", [])


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"junk" * 500)
    with pytest.raises(errors.SystemFailure, match="cannot open the database"):
        Database(tmp_path / "db")

"""Layers: unpacking, hostile archives, exact archives again, overlay's marks, failures that leave nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from sampan import errors
from sampan.kernel.overlay import mount_detached
from sampan.storage.blobs import BlobStore
from sampan.storage.diff import changes
from sampan.storage.layers import LayerStore, chain_id
from sampan.storage.tar import ArchiveError

Member = tuple[str, bytes | None, dict[str, object]]


def make_tar(*members: Member) -> bytes:
    """(name, content or None, attributes of the TarInfo)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data, attributes in members:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            info.mode = 0o644
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()


def file(name: str, data: bytes = b"", **attributes: object) -> Member:
    return name, data, attributes


def directory(name: str, **attributes: object) -> Member:
    return name, None, {"type": tarfile.DIRTYPE, "mode": 0o755, **attributes}


def link(name: str, target: str) -> Member:
    return name, None, {"type": tarfile.SYMTYPE, "linkname": target}


def hard(name: str, target: str) -> Member:
    return name, None, {"type": tarfile.LNKTYPE, "linkname": target}


def diff_of(layers: LayerStore, chain: str) -> Path:
    return layers.lowers(chain)[0]


def leftovers(layers: LayerStore) -> list[str]:
    return os.listdir(layers.root / "tmp")


@pytest.mark.parametrize(
    "pack", [lambda data: data, gzip.compress, zstd.compress], ids=["plain", "gzip", "zstd"]
)
def test_the_archive_comes_back_byte_for_byte(layers: LayerStore, pack) -> None:  # type: ignore[no-untyped-def]
    archive = make_tar(
        directory("d", mtime=1000, mode=0o2750, uid=5, gid=6),
        file("d/f", os.urandom(70000), mode=0o4755, uid=7, mtime=123.5),
        file("d/empty"),
        file("big", b"x" * (3 << 20)),
        hard("d/hard", "d/f"),
        link("l", "/etc/passwd"),
        ("dev", None, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("fifo", None, {"type": tarfile.FIFOTYPE}),
        file("ü" * 120, b"long", pax_headers={"SCHILY.xattr.user.a": "b"}),
    )
    layer = layers.apply(None, io.BytesIO(pack(archive)))
    assert layer.diff_id == "sha256:" + hashlib.sha256(archive).hexdigest()
    assert b"".join(layers.tar(layer.chain_id)) == archive
    diff = diff_of(layers, layer.chain_id)
    found = os.stat(diff / "d" / "f")
    assert (found.st_mode & 0o7777, found.st_uid, found.st_nlink) == (0o4755, 7, 2)
    assert found.st_mtime_ns == 123_500_000_000
    assert os.stat(diff / "d").st_mtime == 1000
    assert os.stat(diff / "d").st_mode & 0o7777 == 0o2750
    assert os.stat(diff / "dev").st_rdev == os.makedev(1, 3)
    assert os.getxattr(diff / ("ü" * 120), "user.a") == b"b"
    assert leftovers(layers) == []


def test_gnu_tar_archives_come_back(layers: LayerStore, tmp_path: Path) -> None:
    source = tmp_path / "s"
    os.makedirs(source / ("n" * 150))
    with open(source / "sparse", "wb") as sparse:
        sparse.seek(8 << 20)
        sparse.write(b"end")
    (source / ("n" * 150) / ("m" * 120)).write_bytes(b"deep")
    for kind in ("gnu", "posix", "oldgnu"):
        archive = tmp_path / f"{kind}.tar"
        subprocess.run(["tar", f"--format={kind}", "-S", "-cf", archive, "-C", source, "."], check=True)
        with open(archive, "rb") as stream:
            layer = layers.apply(None, stream)
        assert b"".join(layers.tar(layer.chain_id)) == archive.read_bytes()
        assert (diff_of(layers, layer.chain_id) / "sparse").read_bytes() == (source / "sparse").read_bytes()
        assert (diff_of(layers, layer.chain_id) / "sparse").stat().st_blocks < 1000


def test_members_that_replace_earlier_ones(layers: LayerStore) -> None:
    archive = make_tar(
        file("f", b"first"),
        file("f", b"second!"),
        directory("d"),
        file("d/inner", b"inside"),
        file("d", b"now a file"),
        link("s", "d2"),
        directory("d2"),
        file("s/through", b"by the link"),
        file("s", b"link gone"),
    )
    layer = layers.apply(None, io.BytesIO(archive))
    diff = diff_of(layers, layer.chain_id)
    assert (diff / "f").read_bytes() == b"second!"
    assert (diff / "d").read_bytes() == b"now a file"
    assert (diff / "d2" / "through").read_bytes() == b"by the link"
    assert b"".join(layers.tar(layer.chain_id)) == archive


def test_whiteouts_become_overlay_marks(layers: LayerStore) -> None:
    base = layers.apply(
        None,
        io.BytesIO(
            make_tar(directory("d"), file("d/a", b"a"), file("d/b", b"b"), directory("o"), file("o/x"))
        ),
    )
    archive = make_tar(file("d/.wh.a"), directory("o"), file("o/.wh..wh..opq"), file("o/new", b"n"))
    layer = layers.apply(base.chain_id, io.BytesIO(archive))
    diff = diff_of(layers, layer.chain_id)
    assert stat.S_ISCHR(os.lstat(diff / "d" / "a").st_mode)
    assert os.getxattr(diff / "o", "trusted.overlay.opaque") == b"y"
    assert b"".join(layers.tar(layer.chain_id)) == archive
    fd = mount_detached(layers.lowers(layer.chain_id), None, None)
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{fd}/d")) == ["b"]
        assert os.listdir(f"/proc/self/fd/{fd}/o") == ["new"]
    finally:
        os.close(fd)


def test_directories_that_a_layer_leaves_out_look_as_below(layers: LayerStore) -> None:
    base = layers.apply(None, io.BytesIO(make_tar(directory("tmp", mode=0o1777, uid=3))))
    layer = layers.apply(base.chain_id, io.BytesIO(make_tar(file("tmp/f"))))
    found = os.stat(diff_of(layers, layer.chain_id) / "tmp")
    assert (found.st_mode & 0o7777, found.st_uid) == (0o1777, 3)


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Path]:
    """A file of the host that no archive may reach."""
    target = tmp_path / "planted"
    target.write_bytes(b"untouched")
    os.chmod(target, 0o600)
    before = os.stat(target)
    yield target
    assert target.read_bytes() == b"untouched"
    after = os.stat(target)
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_nlink) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
        before.st_nlink,
    )
    assert sorted(os.listdir(target.parent)) == ["planted", "root"]


def hostile(planted: Path) -> dict[str, bytes]:
    out, up = str(planted), "../" * 12 + str(planted).lstrip("/")
    evil = {"mode": 0o777, "uid": 99}
    return {
        "absolute": make_tar(file(out, b"evil", **evil)),
        "dot-dot": make_tar(file(up, b"evil", **evil)),
        "link-then-file": make_tar(link("l", str(planted.parent)), file("l/planted", b"evil", **evil)),
        "link-is-file": make_tar(link("l", out), file("l", b"evil", **evil)),
        "relative-link": make_tar(
            link("l", "../" * 12 + str(planted.parent)[1:]), file("l/planted", b"evil")
        ),
        "hard-link": make_tar(hard("h", out), file("h", b"evil", **evil)),
        "hard-link-up": make_tar(hard("h", up), file("h", b"evil", **evil)),
        "link-dir": make_tar(link("l", str(planted.parent)), directory("l", mode=0o777), file("l/new", b"x")),
        "link-whiteout": make_tar(link("l", str(planted.parent)), file("l/.wh.planted")),
        "link-opaque": make_tar(link("l", str(planted.parent)), file("l/.wh..wh..opq")),
        "whiteout-up": make_tar(file(".wh..")),
        "link-chain": make_tar(link("a", "b"), link("b", str(planted.parent)), file("a/planted", b"evil")),
        "proc": make_tar(link("p", f"/proc/{os.getpid()}/root{planted.parent}"), file("p/planted", b"evil")),
        "overlay-mark": make_tar(
            directory("d", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})
        ),
    }


@pytest.mark.parametrize("case", sorted(hostile(Path("/x/planted"))))
def test_hostile_archives_leave_the_host_alone(layers: LayerStore, planted: Path, case: str) -> None:
    try:
        layer = layers.apply(None, io.BytesIO(hostile(planted)[case]))
    except errors.SampanError:
        assert leftovers(layers) == []
        return
    for path in diff_of(layers, layer.chain_id).rglob("*"):
        assert "trusted.overlay.redirect" not in os.listxattr(path, follow_symlinks=False)


def test_cut_off_and_damaged_archives(layers: LayerStore) -> None:
    archive = make_tar(file("f", b"x" * 5000))
    for damaged in (archive[:700], archive[:512] + b"", gzip.compress(archive)[:-20], b"this is no tar"):
        with pytest.raises(errors.SampanError, match=r"unexpected EOF"):
            layers.apply(None, io.BytesIO(damaged))
    with pytest.raises(ArchiveError, match="invalid tar header"):
        layers.apply(None, io.BytesIO(b"j" * 2000))
    with pytest.raises(errors.InvalidParameter, match="mismatch"):
        layers.apply(None, io.BytesIO(archive), diff_id="sha256:" + "0" * 64)
    assert leftovers(layers) == []
    assert layers.list() == []


def test_one_layer_from_many_threads(layers: LayerStore) -> None:
    archive = make_tar(*(file(f"f{number}", os.urandom(1000)) for number in range(50)))
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(layers.apply(None, io.BytesIO(archive)).chain_id))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert len(layers.list()) == 1
    assert leftovers(layers) == []


def test_what_a_crash_left_is_removed_at_start(layers: LayerStore, blobs: BlobStore) -> None:
    kept = layers.apply(None, io.BytesIO(make_tar(file("f"))))
    os.makedirs(layers.root / "tmp" / "half" / "diff")
    os.makedirs(layers.root / ("1" * 64) / "diff")
    (blobs.root / "ingest" / "w-x").write_bytes(b"half")
    again = LayerStore(blobs.root, BlobStore(blobs.root))
    assert [layer.chain_id for layer in again.list()] == [kept.chain_id]
    assert leftovers(again) == []
    assert os.listdir(blobs.root / "ingest") == []


def test_an_upper_directory_is_adopted(layers: LayerStore, tmp_path: Path) -> None:
    base = layers.apply(
        None, io.BytesIO(make_tar(directory("d"), file("d/gone"), directory("o"), file("o/x")))
    )
    upper, work = layers.make_upper(base.chain_id, tmp_path / "c")
    fd = mount_detached(layers.lowers(base.chain_id), upper, work)
    merged = f"/proc/self/fd/{fd}"
    os.unlink(f"{merged}/d/gone")
    Path(f"{merged}/new").write_bytes(b"new")
    os.link(f"{merged}/new", f"{merged}/twin")
    os.unlink(f"{merged}/o/x")
    os.rmdir(f"{merged}/o")
    os.mkdir(f"{merged}/o")
    assert [(change.path, change.kind) for change in changes(upper, layers.lowers(base.chain_id))] == [
        ("/d", 0),
        ("/d/gone", 2),
        ("/new", 1),
        ("/o", 0),
        ("/twin", 1),
    ]
    os.close(fd)
    captured = layers.capture(base.chain_id, upper)
    adopted = layers.adopt(base.chain_id, upper)
    assert adopted == captured
    assert not upper.exists()
    assert adopted.chain_id == chain_id(base.chain_id, adopted.diff_id)
    archive = b"".join(layers.tar(adopted.chain_id))
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        names = members.getnames()
    assert names == ["d", "d/.wh.gone", "new", "o", "o/.wh..wh..opq", "twin"]


def test_the_empty_layer_is_dockers(layers: LayerStore, tmp_path: Path) -> None:
    base = layers.apply(None, io.BytesIO(make_tar(file("f"))))
    upper, _ = layers.make_upper(base.chain_id, tmp_path / "c")
    empty = layers.adopt(base.chain_id, upper)
    assert empty.diff_id == "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


@pytest.mark.root
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "smpc", small], check=True)
    try:
        store = LayerStore(small, BlobStore(small))
        with pytest.raises(errors.SystemFailure, match="no space left on device"):
            store.apply(None, io.BytesIO(make_tar(file("f", b"x" * (8 << 20)))))
        assert leftovers(store) == [] and store.list() == []
        assert store.apply(None, io.BytesIO(make_tar(file("f", b"x" * 1000)))).size == 1000
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_changed_layer_is_noticed(layers: LayerStore) -> None:
    layer = layers.apply(None, io.BytesIO(make_tar(file("f", b"right"))))
    (diff_of(layers, layer.chain_id) / "f").write_bytes(b"wrong")
    with pytest.raises(errors.SystemFailure, match="was changed on disk"):
        b"".join(layers.tar(layer.chain_id))

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.kernel import paths


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_links_and_dots_stay_inside(root: int, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root/secret").write_text("inside")
    os.symlink("/secret", tmp_path / "root/absolute")
    os.symlink("../../../secret", tmp_path / "root/dots")
    for name in ("absolute", "dots", "/secret", "../../secret"):
        fd = paths.open_in_root(root, name, os.O_RDONLY)
        assert os.read(fd, 10) == b"inside"
        os.close(fd)


def test_magic_links_are_refused(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/proc").mkdir()
    proc = os.open("/proc", os.O_PATH)
    with pytest.raises(OSError, match="Too many levels"):
        paths.open_in_root(proc, "self/root", os.O_PATH | os.O_DIRECTORY)
    os.close(proc)


def test_directories_and_files_are_made_inside(root: int, tmp_path: Path) -> None:
    os.symlink("/made/target", tmp_path / "root/link")
    os.close(paths.make_directories(root, "/a/b/c"))
    os.close(paths.make_directories(root, "/link/below"))
    os.close(paths.make_file(root, "/etc/deep/file"))
    assert (tmp_path / "root/a/b/c").is_dir()
    assert (tmp_path / "root/made/target/below").is_dir()
    assert (tmp_path / "root/etc/deep/file").is_file()
    with pytest.raises(NotADirectoryError):
        paths.make_directories(root, "/etc/deep/file/x")
    os.symlink("loop", tmp_path / "root/loop")
    with pytest.raises(OSError, match="Too many levels"):
        paths.make_directories(root, "/loop/x")

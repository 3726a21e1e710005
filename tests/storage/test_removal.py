"""Deleting trees: all of it, nothing beyond it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.storage.removal import remove_tree


def test_everything_goes_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/file").write_text("x")
    (tree / "a/b/fifo").touch()
    (tree / "a/b/out").symlink_to(outside)
    (tree / "dangling").symlink_to("nowhere")
    (tree / "closed").mkdir(mode=0)
    remove_tree(str(tree))
    assert [entry.name for entry in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").is_dir()


def test_any_depth(tmp_path: Path) -> None:
    """Deeper than a path may be long, and than Python may recurse."""
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("deep", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(str(tree))
    assert not tree.exists()


def test_what_is_no_directory(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "missing"))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(NotADirectoryError):
            remove_tree(str(tmp_path / name))
    assert len(list(tmp_path.iterdir())) == 2

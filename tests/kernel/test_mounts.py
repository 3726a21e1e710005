from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sampan.kernel import mounts

pytestmark = pytest.mark.root


def test_detached_overlay_shows_in_no_mount_table(tmp_path: Path) -> None:
    names = [f"lower{number}" for number in range(3)]
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(str(number))
        (tmp_path / name / f"only{number}").touch()
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    lowers = [str(tmp_path / name) for name in names]
    tree = mounts.overlay(lowers, str(tmp_path / "upper"), str(tmp_path / "work"))
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{tree}")) == ["file", "only0", "only1", "only2"]
        assert Path(f"/proc/self/fd/{tree}/file").read_text() == "0"
        Path(f"/proc/self/fd/{tree}/new").touch()
        assert Path("/proc/self/mountinfo").read_text() == before
    finally:
        os.close(tree)
    assert (tmp_path / "upper/new").exists()


@pytest.mark.parametrize("count", [3, 100])
@pytest.mark.parametrize("name", ["a" * 200, "a:b,c\\d" + "a" * 200, "short"])
def test_many_layers_with_long_and_odd_names(tmp_path: Path, name: str, count: int) -> None:
    """Names over 255 bytes, or an older kernel, take another way to the same mount."""
    if name == "short" and count == 3:
        pytest.skip("tried above")
    top = tmp_path / name / ("b" * (200 if name != "short" else 2))
    lowers = []
    for number in range(count):
        (top / f"{number}").mkdir(parents=True)
        (top / f"{number}" / "file").write_text(str(number))
        (top / f"{number}" / f"only{number}").touch()
        lowers.append(str(top / f"{number}"))
    for name in ("upper", "work"):
        (top / name).mkdir()
    before, home = Path("/proc/self/mountinfo").read_text(), os.getcwd()
    tree = mounts.overlay(lowers, str(top / "upper"), str(top / "work"))
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{tree}")) == sorted(
            ["file", *(f"only{n}" for n in range(count))]
        )
        assert Path(f"/proc/self/fd/{tree}/file").read_text() == "0"
        Path(f"/proc/self/fd/{tree}/new").touch()
        assert (Path("/proc/self/mountinfo").read_text(), os.getcwd()) == (before, home)
    finally:
        os.close(tree)
    assert (top / "upper/new").exists()
    both = mounts.overlay(lowers, None, None, mounts.MOUNT_ATTR_RDONLY)
    with pytest.raises(OSError, match="Read-only"):
        Path(f"/proc/self/fd/{both}/x").touch()
    os.close(both)
    with pytest.raises(FileNotFoundError):
        mounts.overlay([*lowers, str(top / "nosuch")], str(top / "upper"), str(top / "work"))


def test_one_layer_without_upper_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    tree = mounts.overlay([str(tmp_path / "lower")], None, None)
    with pytest.raises(OSError, match="Read-only"):
        Path(f"/proc/self/fd/{tree}/x").touch()
    os.close(tree)


def test_the_kernels_own_words_are_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        mounts.detached("tmpfs", [("size", "nonsense")])
    assert caught.value.errno == errno.EINVAL
    assert "size" in str(caught.value)


def test_options_that_the_kernel_would_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        mounts.mount("tmpfs", str(tmp_path), "tmpfs", 0, "x" * 5000)
    assert caught.value.errno == errno.E2BIG


def test_mount_flags_become_attributes() -> None:
    flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NOATIME
    add, remove = mounts.attributes(flags)
    assert add == mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOATIME
    assert remove == mounts.MOUNT_ATTR__ATIME
    assert mounts.attributes(0) == (0, 0)

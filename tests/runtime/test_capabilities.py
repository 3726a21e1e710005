"""Docker's rules for capabilities."""

from pathlib import Path

import pytest

from sampan.errors import InvalidParameter
from sampan.runtime import capabilities as caps

ALL = (1 << len(caps.NAMES)) - 1


def test_the_default_is_dockers_mask() -> None:
    assert caps.mask(caps.granted(None, None, bounding=ALL)) == 0xA80425FB


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (["sys_admin"], None, 0xA82425FB),
        (None, ["ALL"], 0),
        (["NET_ADMIN"], ["all"], 1 << 12),
        (["ALL"], ["CAP_CHOWN"], ALL & ~1),
        (["ALL"], ["ALL"], ALL),
        (None, ["CHOWN", "cap_kill"], 0xA80425FB & ~1 & ~(1 << 5)),
    ],
)
def test_add_and_drop(add: list[str] | None, drop: list[str] | None, expected: int) -> None:
    assert caps.mask(caps.granted(add, drop, bounding=ALL)) == expected


def test_privileged_is_what_the_engine_has_itself() -> None:
    assert caps.mask(caps.granted(None, ["ALL"], privileged=True, bounding=0b1011)) == 0b1011
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapBnd"))
    assert caps.available() == int(line.split()[1], 16)


@pytest.mark.parametrize("field", ["CapAdd", "CapDrop"])
def test_unknown_ones_are_refused_in_dockerds_words(field: str) -> None:
    with pytest.raises(InvalidParameter, match=f'invalid {field}: unknown capability: "CAP_NOSUCH"'):
        caps.normalise(["NoSuch"], field)

"""Device rules and nodes."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import InvalidParameter, SystemFailure
from sampan.runtime import devices
from sampan.runtime.cgroups.devicerules import words


def test_a_device_of_the_host() -> None:
    found = devices.expand("/dev/null", "/dev/xnull")
    assert [(d.path, d.kind, d.major, d.minor) for d in found] == [("/dev/xnull", "c", 1, 3)]


def test_a_directory_of_devices_and_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    os.mknod(tmp_path / "d" / "a", 0o20600, os.makedev(1, 3))
    os.mknod(tmp_path / "d" / "sub" / "b", 0o20640, os.makedev(1, 5))
    (tmp_path / "d" / "plain").write_text("no device")
    (tmp_path / "link").symlink_to("d")
    found = devices.expand(str(tmp_path / "link"), "/dev/set/")
    assert [(d.path, d.minor, d.mode) for d in found] == [
        ("/dev/set/a", 3, 0o600),
        ("/dev/set/sub/b", 5, 0o640),
    ]


@pytest.mark.parametrize("path", ["/dev/nosuch", "/etc/passwd"])
def test_what_is_no_device(path: str) -> None:
    with pytest.raises(SystemFailure, match=f'gathering device information .* custom device "{path}"'):
        devices.expand(path, path)


def test_the_hosts_devices_leave_out_terminals_and_links() -> None:
    paths = {device.path for device in devices.host_devices()}
    assert {"/dev/null", "/dev/zero"} <= paths
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in paths)
    assert not any(Path(path).is_symlink() for path in paths)


def test_rules() -> None:
    for text in ("c 13:* rwm", "a *:* r", "b 8:1 m"):
        rule = devices.parse_rule(text)
        assert rule.allow
        assert words(rule) == text


@pytest.mark.parametrize(
    "text", ["", "c 1:3", "d 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 ", "c a:3 r", "c 1:3  r"]
)
def test_malformed_rules(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid device cgroup rule format"):
        devices.parse_rule(text)


@given(st.text(alphabet="abc 0123456789:*rwm-", max_size=14))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = devices.parse_rule(text)
    except InvalidParameter:
        return
    kind, numbers, access = words(rule).split(" ")
    asked = text.split(" ")
    assert (kind, access) == (asked[0], asked[2])
    assert numbers.split(":") == [x if x == "*" else str(int(x)) for x in asked[1].split(":")]

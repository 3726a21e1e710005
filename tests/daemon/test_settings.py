"""Flags and daemon.json: dockerd's errors for what is unknown, contradictory or unsupported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sampan import errors
from sampan.daemon import settings
from sampan.storage.rootlock import RootLock


def test_flags_and_file(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(
        '{"live-restore": false, "insecure-registries": ["r:5000"], "storage-driver": "overlay2"}'
    )
    found = settings.load(["--config-file", str(file), "-H", "unix:///a", "-Htcp://b", "--mtu=1400"])
    assert found.hosts == ("unix:///a", "tcp://b")
    assert (found.engine.mtu, found.engine.live_restore) == (1400, False)
    assert found.engine.insecure_registries == ("r:5000",)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ('{"nosuch": 1}', [], "don't match any configuration option: nosuch"),
        ('{"mtu": 1400}', ["--mtu", "1500"], "both as a flag and in the configuration file: mtu"),
        ('{"mtu": "x"}', [], '"mtu" should be a number'),
        ("{", [], "unable to configure the daemon with file"),
        ('{"userns-remap": "x"}', [], '"userns-remap" in .* is not supported'),
        ("{}", ["--nosuch"], "unknown flag: --nosuch"),
        ("{}", ["--mtu"], "flag needs an argument: --mtu"),
        ("{}", ["--containerd=/x"], "--containerd is not supported: sampan needs no containerd"),
        ("{}", ["--registry-mirror", "mirror:5000"], "invalid mirror: unsupported scheme"),
        ("{}", ["--registry-mirror", "https://mirror/path"], "invalid mirror: path, query"),
        ("{}", ["--registry-mirror", "https://u:p@mirror"], "invalid mirror: username/password"),
        ("{}", ["--log-level", "x"], 'invalid logging level: "x"'),
        (
            "{}",
            ["--default-address-pool", "base=foo,size=24"],
            'invalid base pool "foo": invalid CIDR address',
        ),
        ("{}", ["--default-address-pool", "base=10.0.0.0/16,size=8"], "no network of /8 is in it"),
        (
            '{"dns": ["x"]}',
            [],
            'invalid argument "x" for "--dns" flag: IP address is not correctly formatted: x',
        ),
        ("{}", ["--default-gateway", "fd00::1"], "--default-gateway fd00::1 is no IPv4 address"),
        ("{}", ["--fixed-cidr-v6", "fd00::/64"], "--fixed-cidr-v6 can't be used without --ipv6"),
        ("{}", ["--bridge-accept-fwmark", "0x1/"], 'invalid bridge-accept-fwmark: "0x1/"'),
        ('{"bridge-accept-fwmark": "0x1ffffffff"}', [], "invalid bridge-accept-fwmark"),
        ("{}", ["--default-network-opt", "bridge"], "want driver=name=value"),
        ('{"default-network-opts": {"bridge": "x"}}', [], '"default-network-opts" should be an object'),
        ('{"proxies": {"ftp-proxy": "x"}}', [], "don't match any configuration option: ftp-proxy"),
        ('{"proxies": "x"}', [], '"proxies" should be an object of strings'),
        ('{"builder": []}', [], '"builder" should be'),
        ('{"builder": {"gc": {"enabled": 1}}}', [], '"builder" should be'),
        ('{"builder": {"gc": {"defaultKeepStorage": "much"}}}', [], '"builder": want a size such as'),
        ('{"builder": {"gc": {"policy": []}, "entitlements": {}}}', [], "entitlements, policy not supported"),
        ('{"proxies": {"no-proxy": "a"}}', ["--no-proxy=b"], "no-proxy: \\(from flag: b, from file: a"),
    ],
)
def test_refusals(tmp_path: Path, content: str, flags: list[str], message: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(content)
    with pytest.raises(errors.SampanError, match=message):
        settings.load(["--config-file", str(file), *flags])


@pytest.mark.parametrize(
    ("gc", "size"),
    [
        ("{}", 20 << 30),
        ('{"enabled": true, "defaultKeepStorage": "30GB"}', 30 << 30),
        ('{"defaultMaxUsedSpace": "1.5gb", "defaultKeepStorage": 5000}', 5000),
        ('{"enabled": false, "defaultKeepStorage": "30GB"}', 0),
    ],
)
def test_the_bound_of_the_build_cache(tmp_path: Path, gc: str, size: int) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(f'{{"builder": {{"gc": {gc}}}}}')
    assert settings.load(["--config-file", str(file)]).engine.build_cache_size == size


def test_a_root_has_one_owner(tmp_path: Path) -> None:
    held = RootLock(tmp_path)
    with pytest.raises(errors.SystemFailure, match=r"in use by another daemon \(pid \d+\)"):
        RootLock(tmp_path)
    held.close()
    RootLock(tmp_path).close()


def test_only_root_starts_it(tmp_path: Path) -> None:
    root = tmp_path / "data"
    command = [sys.executable, "-m", "sampan.daemon", "--data-root", str(root), "--bridge", "none"]
    done = subprocess.run(["unshare", "--user", *command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        "sampand: sampand needs to be started with root privileges\nUse sudo.\n",
    )
    assert not root.exists()

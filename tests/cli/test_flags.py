"""Flags: docker's syntax, and values with grammars of their own."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli import catalog, container_config, endpoints, mounts, names, ports, units, values
from sampan.cli.errors import CLIError, FlagError
from sampan.cli.flags import parse
from sampan.cli.main import load, main
from sampan.cli.suggest import distance, nearest
from sampan.cli.terminal import DetachFilter, detach_keys

TABLE = (
    ("all", "a", "bool", False, ""),
    ("interactive", "i", "bool", False, ""),
    ("proxy", "", "bool", True, ""),
    ("name", "n", "string", "dflt", ""),
    ("publish", "p", "list", "", ""),
    ("count", "c", "int", 0, ""),
)


def test_every_form() -> None:
    line = [
        "-aip80",
        "-p=81",
        "-p",
        "82",
        "--name=x",
        "--count",
        "-5",
        "--proxy=false",
        "img",
        "-i",
        "--",
        "-z",
    ]
    options, arguments = parse(TABLE, line)
    assert options.flag("all") and options.flag("interactive") and not options.flag("proxy")
    assert options.all("publish") == ["80", "81", "82"]
    assert (options.text("name"), options.number("count")) == ("x", -5)
    assert arguments == ["img", "-z"]
    assert "proxy" in options.given


def test_words_after_the_first_argument_can_be_kept() -> None:
    options, arguments = parse(TABLE, ["-a", "img", "-i", "--name", "x"], interspersed=False)
    assert arguments == ["img", "-i", "--name", "x"]
    assert not options.flag("interactive")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--nam"], "unknown flag: --nam\nDid you mean --name?"),
        (["-z"], "unknown shorthand flag: 'z' in -z"),
        (["-az"], "unknown shorthand flag: 'z' in -az"),
        (["--name"], "flag needs an argument: --name"),
        (["-n"], "flag needs an argument: 'n' in -n"),
        (
            ["-c", "x"],
            'invalid argument "x" for "-c, --count" flag: strconv.ParseInt: parsing "x": invalid syntax',
        ),
        (
            ["--all=x"],
            'invalid argument "x" for "-a, --all" flag: strconv.ParseBool: parsing "x": invalid syntax',
        ),
    ],
)
def test_errors(line: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(TABLE, line)
    assert str(caught.value) == message
    assert caught.value.exit_code == 125


@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_words_parse_or_are_refused(words: list[str]) -> None:
    with contextlib.suppress(FlagError):
        parse(TABLE, words)


def test_every_verb_loads_and_has_sound_flags() -> None:
    rows = [row for group, _ in catalog.GROUPS.values() for row in group.values()]
    rows += [*catalog.COMMON.values(), *catalog.TOP.values()]
    for target, summary in rows:
        command = load(target)
        assert command.summary == summary or target.startswith("inspect")
        seen = [option[0] for option in command.options]
        shorts = [option[1] for option in command.options if option[1]]
        assert len(set(seen)) == len(seen) and len(set(shorts)) == len(shorts), target
        for name, _, kind, default, text in command.options:
            assert text, (target, name)
            if kind == "bool":
                assert default in (True, False)


@given(st.text(max_size=30))
def test_any_text_of_a_grammar_is_read_or_refused(text: str) -> None:
    for kind in values._CONVERTERS:
        with contextlib.suppress(ValueError):
            values.convert(kind, text)
    for read in (
        lambda: ports.publish([text]),
        lambda: ports.expose([text]),
        lambda: names.parse(text),
        lambda: container_config.device(text),
        lambda: container_config.restart_policy(text),
        lambda: detach_keys(text),
    ):
        with contextlib.suppress(CLIError):
            read()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", {"80/tcp": [("", "")]}),
        ("8080:80", {"80/tcp": [("", "8080")]}),
        ("127.0.0.1::80/udp", {"80/udp": [("127.0.0.1", "")]}),
        ("[::1]:8080:80", {"80/tcp": [("::1", "8080")]}),
        ("8000-8001:80-81", {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]}),
        ("8000-8010:80", {"80/tcp": [("", "8000-8010")]}),
        ("published=8080,target=80,protocol=udp", {"80/udp": [("", "8080")]}),
    ],
)
def test_ports(text: str, expected: dict[str, list[tuple[str, str]]]) -> None:
    exposed, bindings = ports.publish([text])
    shown = {port: [(b["HostIp"], b["HostPort"]) for b in found] for port, found in bindings.items()}
    assert shown == expected
    assert set(exposed) == set(expected)


def test_mounts() -> None:
    assert mounts.parse("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"},
    }
    assert mounts.parse('type=volume,dst=/b,"volume-opt=o=size=1m,uid=5",volume-opt=type=tmpfs') == {
        "Type": "volume",
        "Target": "/b",
        "VolumeOptions": {"DriverConfig": {"Options": {"o": "size=1m,uid=5", "type": "tmpfs"}}},
    }
    with pytest.raises(ValueError, match="cannot mix"):
        mounts.parse("type=tmpfs,dst=/x,volume-nocopy")


def test_networks() -> None:
    found = endpoints.parse("name=n1,alias=a,alias=b,ip=10.0.0.5,driver-opt=x=y")
    assert endpoints.endpoint(found) == {
        "IPAMConfig": {"IPv4Address": "10.0.0.5"},
        "Aliases": ["a", "b"],
        "DriverOpts": {"x": "y"},
    }


@given(st.integers(-(10**18), 10**18))
def test_durations_read_back(nanoseconds: int) -> None:
    assert units.parse_duration(units.duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (180, "3 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (72 * 3600, "3 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    assert units.age(seconds) == text


def test_sizes() -> None:
    assert [units.size(n) for n in (0, 999, 1000, 2041234, 283_000_000)] == [
        "0B",
        "999B",
        "1kB",
        "2.041MB",
        "283MB",
    ]
    assert units.binary_size(25275809792) == "23.54GiB"
    assert [units.parse_size(t) for t in ("64m", "1.5g", "10", "2KB", "1GiB")] == [
        *(64 << 20, 3 << 29, 10, 2048, 1 << 30)
    ]


@given(st.binary(max_size=40), st.lists(st.integers(1, 5), max_size=20))
def test_detach_keys_lose_nothing(data: bytes, cuts: list[int]) -> None:
    keys = b"\x10\x11"
    found, out, at = DetachFilter(keys), b"", 0
    left = False
    for size in [*cuts, len(data)]:
        piece, left = found.feed(data[at : at + size])
        out += piece
        at += size
        if left:
            break
    if left:
        assert data.startswith(out + keys) and keys not in out
    else:
        assert data == out or data == out + keys[:1]


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_distance_is_one(left: str, right: str) -> None:
    assert distance(left, right) == distance(right, left)
    assert (distance(left, right) == 0) == (left == right)
    assert distance(left, right) <= max(len(left), len(right))


def test_suggestions() -> None:
    verbs = [*catalog.COMMON, *catalog.TOP]
    assert nearest("rnu", verbs) == "run"
    assert nearest("biuld", verbs) == "build"
    assert nearest("xyzzy", verbs) == ""


@pytest.mark.parametrize(
    "path", [*catalog.COMMON, *catalog.TOP, *catalog.GROUPS, "container ls", "volume rm"]
)
def test_help_names_every_flag(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*path.split(), "--help"]) == 0
    shown = capfd.readouterr().out
    assert shown.startswith(f"Usage:  sampan {path}")
    target = catalog.find(path.split())[1]
    for name, *_ in load(target).options if target else ():
        assert f"--{name}" in shown


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("", 0, "Common Commands:"),
        ("help", 0, "Management Commands:"),
        ("help run", 0, "--cpu-shares"),
        ("container", 0, "Manage containers"),
        ("--version", 0, "Sampan version"),
        ("runn x", 1, "Did you mean 'sampan run'?"),
        ("container lss", 1, "Did you mean 'sampan container ls'?"),
        ("swarm init", 1, "manages clusters"),
        ("--nosuch ps", 125, "unknown flag: --nosuch"),
        ("-H a -H b ps", 1, "please specify only one -H"),
        ("build -t name:tag.", 1, "sampan build -t name:tag ."),
        ("build -t Bad:Name .", 125, "must be lowercase"),
        ("build /nonexistent/folder", 1, 'path "/nonexistent/folder" not found'),
        ("-H ftp://x ps", 1, "unable to parse docker host"),
    ],
)
def test_what_is_said(line: str, code: int, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == code
    out, err = capfd.readouterr()
    assert words in (out if code == 0 else err)

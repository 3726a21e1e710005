"""The grammar of -v, --mount, --tmpfs and --volumes-from; merging of configurations; names; signals."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import errors
from sampan.engine import names
from sampan.engine.containers import merge, mounts, signals
from sampan.engine.containers.attach import KeyFilter, parse_keys
from sampan.engine.containers.timestamps import human_duration, parse_duration
from sampan.runtime.config import BindOptions, ContainerConfig, HostConfig, Mount, VolumeOptions


@pytest.mark.parametrize(
    ("spec", "kind", "source", "destination", "rw"),
    [
        ("/a:/b", "bind", "/a", "/b", True),
        ("/a:/b/:ro,z", "bind", "/a", "/b", False),
        ("name:/data", "volume", "name", "/data", True),
        ("/anon", "volume", "", "/anon", True),
    ],
)
def test_bind_specifications(spec: str, kind: str, source: str, destination: str, rw: bool) -> None:
    point = mounts.parse_bind(spec)
    assert (point.type, point.source or point.name, point.destination, point.rw) == (
        kind,
        source,
        destination,
        rw,
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("/a:/b:zz", "invalid mode: zz"),
        ("/a:relative", "invalid volume specification: '/a:relative': invalid mount config for type \"bind\": "
         "invalid mount path: 'relative' mount path must be absolute"),
        ("vol:/", "destination can't be '/'"),
        ("x", "invalid mount path: 'x' mount path must be absolute"),
        ("/a:/b:ro:z", "invalid volume specification: '/a:/b:ro:z'"),
        ("/a:ro", "invalid volume specification: '/a:ro'"),
        ("", "invalid volume specification: ''"),
    ],
)  # fmt: skip
def test_bad_binds_are_500(spec: str, words: str) -> None:
    with pytest.raises(errors.SystemFailure) as caught:
        mounts.parse_bind(spec)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount(type="bind", target="/x"), 'type "bind": field Source must not be empty'),
        (Mount(type="bind", source="rel", target="/x"), "invalid mount path: 'rel' mount path must be absolute"),
        (Mount(type="bind", source="/nosuch/dir", target="/x"), "bind source path does not exist: /nosuch/dir"),
        (Mount(type="bind", source="/", target="/x", bind_options=BindOptions(propagation="nonsense")),
         "invalid propagation mode: nonsense"),
        (Mount(type="volume", source="v", target="rel"), "invalid mount path: 'rel' mount path must be absolute"),
        (Mount(type="tmpfs", source="x", target="/x"), "field Source must not be specified"),
        (Mount(type="nonsense", target="/x"), 'type "nonsense": mount type unknown'),
        (Mount(type="volume", source="v", target="/x", volume_options=VolumeOptions(subpath="../x")),
         "subpath must be a relative path within the volume"),
        (Mount(type="bind", source="/", target="/x", volume_options=VolumeOptions()),
         "field VolumeOptions must not be specified"),
    ],
)  # fmt: skip
def test_bad_mounts_are_400(mount: Mount, words: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        mounts.parse_mount(mount)
    assert words in caught.value.message


def test_one_destination_is_mounted_once() -> None:
    host = HostConfig(binds=["a1:/x", "b1:/x"])
    with pytest.raises(errors.InvalidParameter, match="Duplicate mount point: /x"):
        mounts.collect(ContainerConfig(), host, lambda _: pytest.fail("no container is asked for"))


@given(st.text(max_size=40))
def test_any_text_is_a_bind_or_refused(spec: str) -> None:
    try:
        point = mounts.parse_bind(spec)
    except errors.SystemFailure:
        return
    assert point.destination.startswith("/") and point.destination.strip("/")


def test_merge_takes_from_the_image_what_the_user_leaves_out() -> None:
    image = ContainerConfig(
        entrypoint=["e"], cmd=["c"], env=["A=1", "B=2"], working_dir="/w", labels={"k": "i"}
    )
    merged = merge.merge(ContainerConfig(cmd=["x"], env=["A=9"], labels={}), image)
    assert (merged.entrypoint, merged.cmd, merged.env) == (["e"], ["x"], ["A=9", "B=2"])
    assert (merged.working_dir, merged.labels) == ("/w", {"k": "i"})
    own = merge.merge(ContainerConfig(entrypoint=["mine"]), image)
    assert (own.entrypoint, own.cmd) == (["mine"], None)
    with pytest.raises(errors.InvalidParameter, match="no command specified"):
        merge.merge(ContainerConfig(entrypoint=[""]), ContainerConfig(entrypoint=["e"]))


def test_generated_names_are_allowed_and_free() -> None:
    taken: set[str] = set()
    rng = random.Random(1)
    for _ in range(2000):
        name = names.generate(taken.__contains__, rng)
        assert names.check(name) == name and name not in taken
        taken.add(name)


@pytest.mark.parametrize("name", ["a b", "x", "_x", "a/b", "", "ü1"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="Invalid container name"):
        names.check(name)


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)],
)
def test_signals(text: str, number: int) -> None:
    assert signals.parse(text) == number


@pytest.mark.parametrize("text", ["", "x", "0", "NOSUCH", "RTMIN+99"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="invalid signal"):
        signals.parse(text)


@given(st.lists(st.binary(max_size=6), max_size=8), st.sampled_from(["ctrl-p,ctrl-q", "a,b", "x,x,y"]))
def test_detach_keys_over_any_border(parts: list[bytes], keys: str) -> None:
    codes = parse_keys(keys)
    whole = b"".join(parts)
    finder = KeyFilter(codes)
    passed = b""
    for part in parts:
        if not finder.found:
            passed += finder.feed(part)
    if codes in whole and len(set(codes)) == len(codes):
        assert finder.found and passed == whole[: whole.index(codes)]
    elif codes not in whole:
        assert not finder.found and whole.startswith(passed)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (3600, "About an hour"),
     (7200, "2 hours"), (86400 * 3, "3 days"), (86400 * 21, "3 weeks"), (86400 * 90, "3 months"),
     (86400 * 800, "2 years")],
)  # fmt: skip
def test_durations_as_ps_words_them(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


def test_go_durations() -> None:
    assert parse_duration("1h30m") == 5400 * 10**9
    assert parse_duration("1.5s") == 1_500_000_000
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration("1 day")

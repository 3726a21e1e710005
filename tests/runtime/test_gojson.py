"""JSON with Go's manners: nulls, folded keys, and the words of its decoder."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import gojson
from sampan.errors import InvalidParameter
from sampan.runtime.config import (
    ContainerConfig,
    CreateRequest,
    HealthConfig,
    HostConfig,
    LogConfig,
    Mount,
    TmpfsOptions,
    with_defaults,
)


def create(body: Any) -> CreateRequest:
    return gojson.convert(body, CreateRequest, root="")


# From a recorded dockerd 29; the last four follow Go's rules for cases that weren't recorded.
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Image": 5}, "json: cannot unmarshal number into Go struct field .Image of type string"),
        (
            {"HostConfig": 5},
            "json: cannot unmarshal number into Go struct field .HostConfig of type container.HostConfig",
        ),
        ([], "json: cannot unmarshal array into Go value of type container.CreateRequest"),
        ({"Cmd": {"a": 1}}, "json: cannot unmarshal object into Go struct field .Cmd of type []string"),
        ({"Cmd": "a b"}, "json: cannot unmarshal string into Go struct field .Cmd of type []string"),
        (
            {"HostConfig": {"Memory": "x"}},
            "json: cannot unmarshal string into Go struct field .HostConfig.Memory of type int64",
        ),
        ({"ExposedPorts": {"x/tcp": {}}}, "invalid port 'x': invalid syntax"),
        ({"HostConfig": {"Dns": ["nonsense"]}}, 'ParseAddr("nonsense"): unable to parse IP'),
        ({"Tty": 1}, "json: cannot unmarshal number into Go struct field .Tty of type bool"),
        (
            {"HostConfig": {"BlkioWeight": 70000}},
            "json: cannot unmarshal number 70000 into Go struct field .HostConfig.BlkioWeight of type uint16",
        ),
        (
            {"HostConfig": {"Memory": 1.5}},
            "json: cannot unmarshal number 1.5 into Go struct field .HostConfig.Memory of type int64",
        ),
        (
            {"HostConfig": {"Mounts": [{"Type": True}]}},
            "json: cannot unmarshal bool into Go struct field .HostConfig.Mounts.Type of type mount.Type",
        ),
    ],
)
def test_mismatches_in_the_words_of_go(body: Any, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        create(body)
    assert caught.value.message == f"invalid JSON: {words}"


def test_the_root_is_named_after_the_type_unless_told() -> None:
    with pytest.raises(InvalidParameter, match=r"Go struct field HealthConfig\.Test of type \[\]string"):
        gojson.convert({"Test": 1}, HealthConfig)


def test_null_is_the_default_and_keys_are_folded() -> None:
    request = create(
        {"image": "x", "CMD": ["a", None], "Tty": None, "hostconfig": {"capadd": None, "MEMORY": 7}}
    )
    assert request.image == "x"
    assert request.cmd == ["a", ""]
    assert request.tty is False
    assert request.host_config is not None
    assert request.host_config.cap_add is None
    assert request.host_config.memory == 7
    assert gojson.convert(None, CreateRequest) == CreateRequest()


def test_an_exact_key_is_its_own_field_and_unknown_ones_are_ignored() -> None:
    assert create({"Image": "x", "Nosuch": {"a": [1]}}) == create({"image": "x"})
    assert create({"image": "a", "Image": "b"}).image == "b"


def test_empty_and_null_lists_stay_apart() -> None:
    shown = gojson.encode(gojson.convert({"Binds": [], "Dns": None}, HostConfig))
    assert shown["Binds"] == []
    assert shown["Dns"] is None


@pytest.mark.parametrize("given", [[], [7], [7, 8], [7, 8, 9], [7, 8, "x"]])
def test_an_array_has_its_length(given: list[Any]) -> None:
    host = create({"HostConfig": {"ConsoleSize": given}}).host_config
    assert host is not None and host.console_size == [*given, 0, 0][:2]


def test_null_where_anything_may_be() -> None:
    mount = {"Type": "volume", "Target": "/x", "ClusterOptions": {"a": None}}
    assert create({"HostConfig": {"Mounts": [mount]}}).host_config is not None


def test_what_go_leaves_out_when_empty() -> None:
    assert "Mounts" not in gojson.encode(HostConfig(mounts=[]))
    assert "Init" not in gojson.encode(HostConfig())
    assert gojson.encode(HostConfig(init=False))["Init"] is False
    assert gojson.encode(Mount(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(mode=448))) == {
        "Type": "tmpfs",
        "Target": "/t",
        "TmpfsOptions": {"Mode": 448},
    }


def test_ports_are_normalised() -> None:
    ports = {"80": {}, "53/UDP": None, "8000-8002/tcp": {}}
    assert list(create({"ExposedPorts": ports}).exposed_ports or ()) == ["80/tcp", "53/udp", "8000-8002/tcp"]


def test_defaults_that_dockerd_fills_in() -> None:
    host = with_defaults(HostConfig(memory=8 << 20, memory_swappiness=-1, pids_limit=0), cgroup_v2=False)
    assert (host.network_mode, host.ipc_mode, host.cgroupns_mode) == ("bridge", "private", "host")
    assert (host.memory_swap, host.memory_swappiness, host.pids_limit) == (16 << 20, None, None)
    assert (host.restart_policy.name, host.log_config.type, host.shm_size) == ("no", "json-file", 64 << 20)
    assert "/proc/kcore" in (host.masked_paths or ())
    assert with_defaults(HostConfig(), cgroup_v2=True).cgroupns_mode == "private"
    open_paths = with_defaults(HostConfig(security_opt=["systempaths=unconfined"]), cgroup_v2=True)
    assert open_paths.masked_paths == open_paths.readonly_paths == []


def test_the_daemons_log_options_go_with_its_driver_only() -> None:
    daemon = LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"})
    own = with_defaults(
        HostConfig(log_config=LogConfig(config={"max-file": "9"})), cgroup_v2=False, log=daemon
    )
    assert own.log_config.config == {"max-size": "1m", "max-file": "9"}
    other = with_defaults(HostConfig(log_config=LogConfig(type="none")), cgroup_v2=False, log=daemon)
    assert other.log_config.config == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
NAMES = [*gojson.encode(HostConfig(init=True)), "Mounts", "Tmpfs", "Sysctls"]


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_any_json_is_taken_or_refused_in_words(body: dict[str, Any]) -> None:
    try:
        host = gojson.convert(body, HostConfig)
    except InvalidParameter as error:
        assert error.message.startswith("invalid JSON: ")
    else:
        again = gojson.convert(gojson.encode(host), HostConfig)
        assert gojson.encode(again) == gojson.encode(host)


@given(
    st.builds(
        ContainerConfig,
        hostname=st.text(),
        tty=st.booleans(),
        env=st.none() | st.lists(st.text()),
        labels=st.none() | st.dictionaries(st.text(), st.text()),
        stop_timeout=st.none() | st.integers(-(2**63), 2**63 - 1),
        volumes=st.none() | st.dictionaries(st.text(), st.just({})),
    )
)
def test_what_is_encoded_decodes_to_the_same(config: ContainerConfig) -> None:
    assert gojson.convert(gojson.encode(config), ContainerConfig) == config

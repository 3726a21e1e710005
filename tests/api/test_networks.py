"""/networks over HTTP: the statuses and words that dockerd gives."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def made(sampand: Any) -> Iterator[list[str]]:
    """Names of networks to remove at the end."""
    names: list[str] = []
    yield names
    for name in names:
        sampand.api("DELETE", f"/v1.50/networks/{urllib.parse.quote(name)}")


def create(daemon: Any, name: str, **more: Any) -> tuple[int, Any]:
    status, _heads, body = daemon.api("POST", "/v1.50/networks/create", {"Name": name, **more})
    return status, json.loads(body)


def ipam(*configs: dict[str, Any]) -> dict[str, Any]:
    return {"Driver": "default", "Config": list(configs)}


SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node '
    "to swarm and try again."
)
BRIDGE = "com.docker.network.bridge."

# From recorded answers of Docker Engine 29.
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network "),
    ({"Name": "host"}, 403, "operation is not permitted on predefined host network "),
    ({"Name": "default"}, 403, "operation is not permitted on predefined default network "),
    ({"Name": ""}, 400, "invalid name: name is empty"),
    ({"Name": "tn", "Driver": "nosuch"}, 404, 'plugin "nosuch" not found'),
    ({"Name": "tn", "Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
    ({"Name": "tn", "Driver": "null"}, 403, 'only one instance of "null" network is allowed'),
    ({"Name": "tn", "Driver": "overlay"}, 403, SWARM),
    ({"Name": "tn", "Scope": "swarm"}, 403, "cannot create a swarm scoped network when swarm is not active"),
    ({"Name": "tn", "IPAM": {"Driver": "nosuch"}}, 404, 'plugin "nosuch" not found'),
    ({"Name": "tn", "IPAM": ipam({"Subnet": "nonsense"})}, 400,
     "invalid JSON: netip.ParsePrefix(\"nonsense\"): no '/'"),
    ({"Name": "tn", "IPAM": ipam({"Subnet": "172.29.60.5/24"})}, 400,
     "invalid network config:\ninvalid subnet 172.29.60.5/24: it should be 172.29.60.0/24"),
    ({"Name": "tn", "IPAM": ipam({"Subnet": "127.0.0.0/8"})}, 400,
     "invalid network config:\ninvalid subnet 127.0.0.0/8: loopback subnet '127.0.0.0/8' is not allowed"),
    ({"Name": "tn", "EnableIPv6": True, "IPAM": ipam({"Subnet": "FF05::/64"})}, 400,
     "invalid network config:\ninvalid subnet FF05::/64: multicast subnet 'ff05::/64' is not allowed"),
    ({"Name": "tn", "IPAM": ipam({"Subnet": "172.29.62.0/24"}, {"Subnet": "172.29.61.0/24"})}, 403,
     "bridge driver doesn't support multiple subnets"),
    ({"Name": "tn", "Options": {f"{BRIDGE}enable_icc": "x"}}, 400,
     f'failed to parse {BRIDGE}enable_icc value: x (strconv.ParseBool: parsing "x": invalid syntax)'),
    ({"Name": "tn", "Driver": "macvlan", "Options": {"parent": "lo"}}, 500,
     "loopback interface is not a valid macvlan parent link"),
    ({"Name": "tn", "Driver": "ipvlan", "Options": {"parent": "nosuch0"}},
     500, "invalid subinterface vlan name nosuch0, example formatting is eth0.10"),
    ({"Name": "tn", "ConfigFrom": {"Network": "nosuch"}}, 404,
     'configuration network "nosuch" does not exist'),
    ({"Name": "tn", "Driver": 5}, 400,
     "invalid JSON: json: cannot unmarshal number into Go struct field CreateRequest.Driver of type string"),
]  # fmt: skip


@pytest.mark.parametrize(("request_body", "status", "message"), REFUSED)
def test_creations_refused(sampand: Any, request_body: dict[str, Any], status: int, message: str) -> None:
    before = sampand.json("GET", "/v1.50/networks")
    got, _heads, body = sampand.api("POST", "/v1.50/networks/create", request_body)
    words = json.loads(body)["message"]
    assert (got, words[: len(message)]) == (status, message)
    assert words in (message, *[words for rest in [words[len(message) :]] if rest.startswith("\n")])
    assert sampand.json("GET", "/v1.50/networks") == before


@pytest.mark.parametrize("mode", ["none", "host", "container:somebody"])
def test_what_only_an_interface_can_have(sampand: Any, busybox: str, mode: str) -> None:
    def refused(**more: Any) -> str:
        status, _heads, body = sampand.api(
            "POST",
            "/v1.50/containers/create",
            {"Image": busybox, "HostConfig": {"NetworkMode": mode}, **more},
        )
        assert status == 400, body
        return str(json.loads(body)["message"])

    mac = refused(MacAddress="02:42:ac:11:00:99")
    assert mac == "conflicting options: mac-address and the network mode"
    fixed = {"EndpointsConfig": {mode: {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}}}
    wanted = "user-specified IP address is supported on user-defined networks only"
    assert refused(NetworkingConfig=fixed) == (
        f"invalid config for network {mode}: invalid endpoint settings:\n{wanted}"
    )


def test_subnets_by_their_size_alone(sampand: Any, made: list[str]) -> None:
    made.append("sized")
    sizes = ipam({"Subnet": "0.0.0.0/28"}, {"Subnet": "::/96"})
    assert create(sampand, "sized", EnableIPv6=True, IPAM=sizes)[0] == 201
    four, six = (item["Subnet"] for item in sampand.json("GET", "/v1.50/networks/sized")["IPAM"]["Config"])
    assert four.endswith("/28") and not four.startswith("0.") and six.startswith("fd") and six.endswith("/96")


def test_subnets_however_they_are_spelled(sampand: Any, made: list[str]) -> None:
    made.append("spelled")
    asked = {"Subnet": "FD00:0:00AA::/64", "IPRange": "fd00:0:aa:0:1::/80", "Gateway": "FD00:0:AA::9"}
    assert create(sampand, "spelled", EnableIPv6=True, IPAM=ipam(asked))[0] == 201
    shown = sampand.json("GET", "/v1.50/networks/spelled")["IPAM"]["Config"]
    wanted = {"Subnet": "fd00:0:aa::/64", "IPRange": "fd00:0:aa:0:1::/80", "Gateway": "fd00:0:aa::9"}
    assert wanted in shown and shown.index(wanted) == 1, "IPv4 comes first"


def test_life_of_a_network(sampand: Any, made: list[str]) -> None:
    made.append("tn2")
    config = {"Subnet": "172.29.160.0/24", "IPRange": "172.29.160.128/25", "Gateway": "172.29.160.254"}
    status, answer = create(
        sampand, "tn2", IPAM={**ipam(config), "Options": {}}, Internal=True, Attachable=True,
        Options={f"{BRIDGE}name": "smpfbr2"}, Labels={"a": "b"},
    )  # fmt: skip
    assert status == 201 and answer["Warning"] == "" and len(answer["Id"]) == 64
    shown = sampand.json("GET", "/v1.50/networks/tn2")
    created = shown.pop("Created")
    assert created.endswith("Z")
    assert shown == {
        "Name": "tn2",
        "Id": answer["Id"],
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [config]},
        "Internal": True,
        "Attachable": True,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Options": {f"{BRIDGE}name": "smpfbr2"},
        "Labels": {"a": "b"},
        "Containers": {},
    }
    status_ipam = sampand.json("GET", "/v1.55/networks/tn2")["Status"]["IPAM"]["Subnets"]["172.29.160.0/24"]
    assert status_ipam == {"IPsInUse": 3, "DynamicIPsAvailable": 126}
    assert create(sampand, "tn2") == (409, {"message": "network with name tn2 already exists"})
    overlap = create(sampand, "tn3", IPAM=ipam({"Subnet": "172.29.160.0/25"}))
    assert overlap == (
        403,
        {"message": "invalid pool request: Pool overlaps with other one on this address space"},
    )
    status, again = create(sampand, "tn3", Options={f"{BRIDGE}name": "smpfbr2"})
    assert status == 403 and again["message"].endswith("networks have same bridge name")
    assert sampand.json("GET", f"/v1.50/networks/{answer['Id'][:12]}")["Name"] == "tn2"
    assert sampand.api("DELETE", "/v1.50/networks/tn2")[0] == 204
    status, _heads, body = sampand.api("GET", "/v1.50/networks/tn2")
    assert (status, json.loads(body)) == (404, {"message": "network tn2 not found"})


def test_predefined_networks(sampand: Any) -> None:
    for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null")):
        shown = sampand.json("GET", f"/v1.50/networks/{name}")
        assert (shown["Driver"], shown["Scope"], shown["IPAM"]["Options"]) == (driver, "local", None)
        status, _heads, body = sampand.api("DELETE", f"/v1.50/networks/{name}")
        assert status == 403
        assert json.loads(body)["message"] == f"{name} is a pre-defined network and cannot be removed"
    assert sampand.json("GET", "/v1.50/networks/host")["IPAM"]["Config"] is None
    options = sampand.json("GET", "/v1.50/networks/bridge")["Options"]
    assert options[f"{BRIDGE}default_bridge"] == "true" and options["com.docker.network.driver.mtu"] == "1500"


def names(daemon: Any, **filters: Any) -> list[str]:
    query = urllib.parse.quote(json.dumps(filters))
    return [item["Name"] for item in daemon.json("GET", f"/v1.50/networks?filters={query}")]


def test_filters(sampand: Any, made: list[str]) -> None:
    made += ["tf1", "tf2"]
    create(sampand, "tf1", Labels={"tfa": "b"})
    create(sampand, "tf2", Labels={"tfa": "c", "tfd": ""})
    assert names(sampand, name=["tf"]) == ["tf1", "tf2"]
    assert names(sampand, label=["tfa"]) == ["tf1", "tf2"]
    assert names(sampand, label={"tfa=b": True}) == ["tf1"]
    assert names(sampand, label=["tfa", "tfd"]) == ["tf2"]
    assert set(names(sampand, type=["builtin"])) == {"bridge", "host", "none"}
    assert {"tf1", "tf2"} <= set(names(sampand, dangling=["true"], scope=["local"], driver=["bridge"]))
    assert names(sampand, driver=["null"]) == ["none"]
    for filters, status, message in (
        ({"type": ["x"]}, 500, "invalid filter: 'type'='x'"),
        ({"nosuch": ["1"]}, 400, "invalid filter 'nosuch'"),
    ):
        query = urllib.parse.quote(json.dumps(filters))
        got, _heads, body = sampand.api("GET", f"/v1.50/networks?filters={query}")
        assert (got, json.loads(body)["message"].partition("\n")[0]) == (status, message)


def test_prune(sampand: Any, made: list[str]) -> None:
    made += ["tp1", "tp2"]
    create(sampand, "tp1", Labels={"tpx": ""})
    create(sampand, "tp2", Labels={"tpx": "keep"})
    old = urllib.parse.quote(json.dumps({"until": ["1h"], "label": ["tpx"]}))
    assert sampand.json("POST", f"/v1.50/networks/prune?filters={old}") == {"NetworksDeleted": None}
    some = urllib.parse.quote(json.dumps({"label": ["tpx"], "label!": ["tpx=keep"]}))
    assert sampand.json("POST", f"/v1.50/networks/prune?filters={some}") == {"NetworksDeleted": ["tp1"]}
    assert names(sampand, label=["tpx"]) == ["tp2"]
    bad = urllib.parse.quote(json.dumps({"nosuch": ["1"]}))
    assert sampand.api("POST", f"/v1.50/networks/prune?filters={bad}")[0] == 400


def test_config_only_networks(sampand: Any, made: list[str]) -> None:
    made += ["tfrom", "tconf"]
    assert create(sampand, "tconf", ConfigOnly=True, Labels={"x": "y"})[0] == 201
    assert sampand.json("GET", "/v1.50/networks/tconf")["Driver"] == "null"
    assert create(sampand, "tfrom", ConfigFrom={"Network": "tconf"})[0] == 201
    shown = sampand.json("GET", "/v1.50/networks/tfrom")
    assert (shown["ConfigFrom"], shown["Labels"]) == ({"Network": "tconf"}, {"x": "y"})
    assert sampand.api("DELETE", "/v1.50/networks/tconf")[0] == 403


def test_who_may_say_what_of_a_configuration(sampand: Any, made: list[str]) -> None:
    made += ["tinner", "tconf"]
    for field in ({"Internal": True}, {"Attachable": True}, {"Scope": "local"}):
        status, answer = create(sampand, "tconf", ConfigOnly=True, **field)
        assert status == 403 and "Network operator fields like [ ingress | internal |" in answer["message"]
    assert create(sampand, "tconf", ConfigOnly=True)[0] == 201
    source = {"Network": "tconf"}
    for own, words in (
        ({"Labels": {"a": "b"}}, "user specified configurations"),
        ({"EnableIPv6": True}, "user specified configurations"),
        ({"IPAM": {"Config": [{"Subnet": "10.204.77.0/24"}]}}, "user specified configurations"),
        ({"Options": {"com.docker.network.driver.mtu": "1400"}}, "network driver options"),
    ):
        status, answer = create(sampand, "tinner", ConfigFrom=source, **own)
        rest = "are not supported if the network depends on a configuration network"
        assert status == 403 and answer["message"].startswith(f"{words} {rest}")
    assert create(sampand, "tinner", ConfigFrom=source, Internal=True)[0] == 201
    assert sampand.json("GET", "/v1.50/networks/tinner")["Internal"]


def test_connect_errors(sampand: Any) -> None:
    for path, body, status, message in (
        ("nosuch/connect", {"Container": "web"}, 404, "network nosuch not found"),
        ("bridge/connect", {"Container": "nosuch"}, 404, "No such container: nosuch"),
        ("nosuch/disconnect", {"Container": "web"}, 404, "network nosuch not found"),
        ("bridge/disconnect", {"Container": "nosuch"}, 404, "No such container: nosuch"),
        ("bridge/disconnect", {"Container": "nosuch", "Force": True}, 404, "endpoint nosuch not found"),
    ):
        got, _heads, answer = sampand.api("POST", f"/v1.50/networks/{path}", body)
        assert (got, json.loads(answer)["message"]) == (status, message)


def test_published_port_of_a_container(sampand: Any, busybox: str) -> None:
    import urllib.request

    serve = "mkdir -p /w; echo hello > /w/index.html; exec httpd -f -p 127.0.0.1:5000 -h /w"
    port = "18453"
    sampand.docker("run", "-d", "--name", "tnweb", "-p", f"{port}:5000", busybox, "sh", "-c", serve)
    try:
        for _ in range(400):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                    assert answer.read() == b"hello\n"
                break
            except OSError:
                import time

                time.sleep(0.05)
        else:
            raise AssertionError("the published port was never reached")
        assert sampand.docker("port", "tnweb").stdout.splitlines()[0] == f"5000/tcp -> 0.0.0.0:{port}"
        taken = sampand.docker("run", "--rm", "-p", f"{port}:80", busybox, "true", check=False)
        assert taken.returncode == 125 and "port is already allocated" in taken.stderr
        users = sampand.json("GET", "/v1.50/networks/bridge")["Containers"]
        assert [item["Name"] for item in users.values()] == ["tnweb"]
    finally:
        sampand.docker("rm", "-f", "tnweb")


def test_egress_of_containers(sampand: Any, busybox: str, made: list[str]) -> None:
    status, _heads, body = sampand.api("GET", "/v1.50/containers/nosuch/egress")
    assert (status, json.loads(body)) == (404, {"message": "No such container: nosuch"})
    status, answer = create(sampand, "tne", Options={"sampan.egress": "http://x"})
    assert status == 400 and answer["message"].startswith("invalid egress rule 'http://x'")
    body = {"Image": busybox, "Cmd": ["sleep", "60"], "Labels": {"sampan.egress": "a..b"}}
    status, _heads, raw = sampand.api("POST", "/v1.50/containers/create", body)
    assert status == 400 and json.loads(raw)["message"].startswith("invalid egress rule")
    body["Labels"], body["HostConfig"] = {}, {"Annotations": {"sampan.egress": "10.0.0.0/8:443"}}
    one = sampand.json("POST", "/v1.50/containers/create", body)["Id"]
    try:
        status, _heads, raw = sampand.api("GET", f"/v1.50/containers/{one}/egress")
        assert status == 409 and json.loads(raw)["message"] == f"container {one} is not running"
        sampand.json("POST", f"/v1.50/containers/{one}/start")
        shown = sampand.json("GET", f"/v1.50/containers/{one}/egress")
        assert (shown["Controlled"], shown["Allowed"]) == (True, ["10.0.0.0/8:443"])
        assert shown["Refused"] == [] and shown["RefusedNames"] == {}
    finally:
        sampand.api("DELETE", f"/v1.50/containers/{one}?force=1")


def test_auxiliary_addresses_that_are_none(sampand: Any) -> None:
    for given in ({"a": ""}, {"a": None}):
        body = {
            "Name": "aux",
            "IPAM": {"Config": [{"Subnet": "10.214.99.0/24", "AuxiliaryAddresses": given}]},
        }
        status, _, text = sampand.api("POST", "/networks/create", body)
        assert status == 400 and b"invalid auxiliary address a: invalid address" in text, text

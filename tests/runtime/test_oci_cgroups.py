"""Control groups of OCI containers: limits read back from the kernel, updates, freezing, figures, removal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sampan.runtime.cgroups.files import hierarchies
from sampan.runtime.cgroups.limits import cpu_weight, v1, v2
from sampan.runtime.oci.cgroup import clean_path
from sampan.runtime.oci.document import Node
from sampan.runtime.oci.resources import Resources
from tests.runtime.bundles import Bundle, needs_root

pytestmark = needs_root
V2 = "unified" in hierarchies()


def _group(kind: str, path: str) -> Path:
    points = hierarchies()
    return Path(points["unified" if V2 else kind] + path)


def _value(kind: str, path: str, old: str, new: str) -> str:
    """A file of the container's group: its name on v1, on v2."""
    return (_group(kind, path) / (new if V2 else old)).read_text().strip()


def test_limits(bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = path = f"/{bundle.id}/inner"
    bundle.linux["resources"] |= {
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 17},
    }
    bundle.process["args"] = ["sleep", "100"]
    bundle.create()
    assert _value("memory", path, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert _value("memory", path, "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    assert _value("cpu", path, "cpu.shares", "cpu.weight") == (str(cpu_weight(512)) if V2 else "512")
    assert _value("cpu", path, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert _value("cpuset", path, "cpuset.cpus", "cpuset.cpus") == "0"
    assert _value("pids", path, "pids.max", "pids.max") == "17"
    pid = bundle.state()["pid"]
    assert str(pid) in _value("memory", path, "cgroup.procs", "cgroup.procs").split()
    bundle.call("start", bundle.id)
    bundle.call("update", "--memory", str(80 << 20), "--pids-limit", "-1", bundle.id)
    assert _value("memory", path, "memory.limit_in_bytes", "memory.max") == str(80 << 20)
    assert _value("pids", path, "pids.max", "pids.max") == "max"
    bundle.call("update", "--resources", "-", bundle.id, stdin=None, input='{"pids": {"limit": 23}}')
    assert _value("pids", path, "pids.max", "pids.max") == "23"
    event = json.loads(bundle.call("events", "--stats", bundle.id).stdout)
    assert event["type"] == "stats"
    assert event["data"]["pids"] == {"current": 1, "limit": 23}
    assert event["data"]["memory"]["usage"]["limit"] == 80 << 20
    assert event["data"]["cpu"]["usage"]["total"] > 0
    bundle.call("delete", "--force", bundle.id)
    assert not _group("memory", f"/{bundle.id}").exists()


def test_update_refusals(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "100"]
    bundle.started()
    assert "no limit given" in bundle.fails("update", bundle.id)
    assert "Intel RDT isn't supported" in bundle.fails("update", "--l3-cache-schema", "L3:0=f", bundle.id)
    assert "not a whole number" in bundle.fails("update", "--memory", "1g", bundle.id)


def test_one_process_only(bundle: Bundle) -> None:
    """A limit of 0 (or 1) leaves room for the first process."""
    bundle.linux["resources"]["pids"] = {"limit": 0}
    done = bundle.shell("echo alone; (echo child); echo after").run(check=False)
    assert done.stdout.startswith("alone\n")
    assert "child" not in done.stdout


def test_memory_limit_kills(bundle: Bundle) -> None:
    bundle.linux["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
    done = bundle.shell("dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?").run()
    assert done.stdout == "137\n"


def test_impossible_limits_are_errors(bundle: Bundle) -> None:
    bundle.linux["resources"]["cpu"] = {"cpus": "4000"}
    message = bundle.fails("create", bundle.id)
    assert "error setting cgroup config" in message
    assert "cpuset.cpus = 4000" in message
    bundle.linux["resources"] = {"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}
    assert "hugetlb" in bundle.fails("create", bundle.id)
    bundle.linux["resources"] = {"unified": {"nosuch.max": "1"}}
    assert "nosuch" in bundle.fails("create", bundle.id) or not V2
    assert bundle.left() == []


def test_a_used_group_is_refused(bundle: Bundle) -> None:
    bundle.process["args"] = ["sleep", "100"]
    bundle.started()
    bundle.linux["cgroupsPath"] = f"/{bundle.id}"
    other = bundle.write().call("create", f"{bundle.id}-other", check=False)
    assert other.returncode == 1
    assert "container's cgroup is not empty" in other.stderr
    assert bundle.state()["status"] == "running"


def test_pause_and_resume(bundle: Bundle) -> None:
    bundle.shell("while true; do echo x; sleep 0.02; done").started()
    bundle.said("x")
    bundle.call("pause", bundle.id)
    assert bundle.state()["status"] == "paused"
    size = os.path.getsize(bundle.path / "out")
    assert "cannot exec in a paused container" in bundle.fails("exec", bundle.id, "true")
    assert "container not running or created" in bundle.fails("pause", bundle.id)
    assert os.path.getsize(bundle.path / "out") == size
    bundle.call("resume", bundle.id)
    assert bundle.state()["status"] == "running"
    assert "container not paused" in bundle.fails("resume", bundle.id)
    bundle.call("pause", bundle.id)
    bundle.call("kill", bundle.id, "KILL")
    bundle.await_status("stopped")


def test_devices_are_denied_unless_allowed(bundle: Bundle) -> None:
    bundle.allow("CAP_MKNOD", "CAP_DAC_OVERRIDE")
    # 240 is for local use: nothing drives it, which only an allowed process gets to know.
    bundle.linux["devices"] = [{"path": "/dev/local", "type": "c", "major": 240, "minor": 11}]
    done = bundle.shell("cat /dev/null && echo null; cat /dev/local").run(check=False)
    assert done.stdout == "null\n"
    assert "Operation not permitted" in done.stderr
    rule = {"allow": True, "type": "c", "major": 240, "minor": 11, "access": "r"}
    bundle.linux["resources"]["devices"].append(rule)
    done = bundle.run(check=False)
    assert "No such device or address" in done.stderr


def test_groups_are_seen_from_inside(bundle: Bundle) -> None:
    script = "cat /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/pids/cgroup.procs 2>/dev/null | head -1; head -1 /proc/self/cgroup"
    said = bundle.shell(script).output().splitlines()
    assert said[0] == "1"
    assert said[1].endswith(":/")


def test_exec_in_a_group_below(bundle: Bundle) -> None:
    if V2:
        pytest.skip("v2 has no processes in inner groups")
    bundle.process["args"] = ["sleep", "100"]
    bundle.started()
    inner = _group("pids", f"/{bundle.id}/below")
    inner.mkdir()
    (_group("memory", f"/{bundle.id}/below")).mkdir()
    said = bundle.call("exec", "--cgroup", "pids,memory:below", bundle.id, "cat", "/proc/self/cgroup").stdout
    assert "pids:/below" in said
    assert "freezer:/\n" in said
    assert "doesn't exist" in bundle.fails("exec", "--cgroup", "nosuch", bundle.id, "true")


# -- translation, which needs no kernel of either kind ------------------------------------------------------------


def test_v2_values() -> None:
    wanted = Resources(
        Node(
            {
                "memory": {"limit": 1000, "swap": 1500, "reservation": -1},
                "cpu": {"shares": 1024, "quota": -1, "period": 50000, "burst": 10},
                "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 7}],
                "rdma": {"mlx5_1": {"hcaHandles": 3}},
                "unified": {"memory.high": "900"},
            }
        )
    )
    assert {file for setting in v2(wanted.limits) for file in setting.files} == {
        ("memory.max", "1000"),
        ("memory.swap.max", "500"),
        ("memory.low", "max"),
        ("cpu.weight", "39"),
        ("cpu.max", "max 50000"),
        ("cpu.max.burst", "10"),
        ("io.bfq.weight", "500"),
        ("io.weight", "4950"),
        ("io.max", "8:0 rbps=600"),
        ("hugetlb.2MB.max", "7"),
        ("rdma.max", "mlx5_1 hca_handle=3"),
        ("memory.high", "900"),
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"memory": {"swappiness": 10}},
        {"memory": {"disableOOMKiller": True}},
        {"cpu": {"realtimeRuntime": 5}},
        {"network": {"classID": 5}},
        {"memory": {"swap": 5}},
        {"unified": {"../x": "1"}},
    ],
)
def test_what_v2_cannot_do_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Exception, match=r"^linux\.resources\."):
        Resources(Node(fields)).check(v2=True)


def test_v1_order_of_memory_and_swap() -> None:
    wanted = Resources(Node({"memory": {"limit": 5, "swap": 7}})).limits
    names = [setting.files[0][0] for setting in v1(wanted)]
    assert names == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    assert [setting.files[0][0] for setting in v1(wanted, sum_first=True)] == names[::-1]


def test_memory_and_swap_grow_and_shrink(bundle: Bundle) -> None:
    bundle.linux["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
    bundle.process["args"] = ["sleep", "100"]
    bundle.started()
    path = f"/{bundle.id}"
    for megabytes in (96, 48, -1):
        size = str(megabytes << 20) if megabytes > 0 else "-1"
        bundle.call("update", "--memory", size, "--memory-swap", size, bundle.id)
        found = _value("memory", path, "memory.limit_in_bytes", "memory.max")
        assert found == size if megabytes > 0 else found == "max" or int(found) > 1 << 60


def test_paths_stay_below() -> None:
    assert clean_path("/../../x", "id") == "/x"
    assert clean_path("", "id") == "/id"
    assert clean_path("a/b", "id") == "/a/b"

"""What config.json may say: refusals that name the field, and what a container gets of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.bundles import ALL_CAPABILITIES, Bundle, needs_root

pytestmark = needs_root


def _put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        config = config[int(name)] if isinstance(config, list) else config.setdefault(name, {})
    if isinstance(config, list):
        config[int(last)] = value
    else:
        config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("ociVersion", "2.0.0", "ociVersion: 2.0.0 isn't supported"),
        ("ociVersion", "abc", "ociVersion: 'abc' isn't a version"),
        ("ociVersion", None, "ociVersion: this field is required"),
        ("root.path", "nosuch", "root.path: "),
        ("root", [], "root: an object is expected, not a list"),
        ("process", None, "process: this field is required"),
        ("process.args", [], "process.args: at least the program is required"),
        ("process.args", ["a", 1], "process.args[1]: a string is expected, not a number"),
        ("process.cwd", "tmp", "process.cwd: 'tmp' isn't an absolute path"),
        ("process.user", {"uid": -1}, "process.user.uid: -1 isn't between 0 and 4294967295"),
        (
            "process.rlimits",
            [{"type": "RLIMIT_X", "soft": 1, "hard": 1}],
            "process.rlimits[0].type: 'RLIMIT_X'",
        ),
        ("process.selinuxLabel", "a:b", "process.selinuxLabel: SELinux labels aren't supported"),
        ("process.scheduler", {"policy": "SCHED_DEADLINE"}, "process.scheduler.policy: SCHED_DEADLINE"),
        ("process.oomScoreAdj", 2000, "process.oomScoreAdj: 2000 isn't between -1000 and 1000"),
        ("process.apparmorProfile", "docker", "process.apparmorProfile: apparmor is not supported"),
        ("mounts.0", {"type": "proc"}, "mounts[0].destination: this field is required"),
        ("mounts.0", {"destination": "/x", "type": "bind"}, "mounts[0].source: a bind mount needs it"),
        (
            "mounts.0",
            {"destination": "/x", "source": "/proc/nosuch", "type": "bind", "options": ["bind"]},
            'error mounting \\"/proc/nosuch\\" to rootfs at \\"/x\\": no such file or directory',
        ),
        (
            "mounts.0",
            {"destination": "/x", "source": "/tmp", "options": ["bind", "size=3"]},
            "mounts[0].options: bind mounts cannot have any filesystem-specific options applied: size=3",
        ),
        ("linux.namespaces.0.type", "moon", "linux.namespaces[0].type: 'moon' isn't one of pid"),
        ("linux.namespaces.0", {"type": "mount"}, "linux.namespaces: the same type is there twice"),
        ("linux.namespaces.0", {"type": "pid", "path": "/proc/self/ns/net"}, "isn't a namespace of type pid"),
        ("linux.namespaces.0", {"type": "pid", "path": "/etc/passwd"}, "isn't a namespace of type pid"),
        ("linux.namespaces.0", {"type": "user"}, "linux.uidMappings, linux.gidMappings"),
        (
            "linux.uidMappings",
            [{"containerID": 0, "hostID": 0, "size": 1}],
            "no user namespace to map ids in",
        ),
        (
            "linux.sysctl",
            {"kernel.panic": "1"},
            'linux.sysctl: \\"kernel.panic\\" is not in a separate kernel',
        ),
        ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt: Intel RDT isn't supported"),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND"}, "linux.memoryPolicy: NUMA"),
        ("linux.netDevices", {"eth9": {}}, "linux.netDevices: moving network devices isn't supported"),
        ("linux.mountLabel", "x", "linux.mountLabel: SELinux"),
        ("linux.cgroupsPath", "system.slice:sampan:x", "linux.cgroupsPath: "),
        ("linux.rootfsPropagation", "loud", "linux.rootfsPropagation: 'loud' isn't one of shared"),
        ("linux.resources", {"memory": {"limit": "1g"}}, "linux.resources.memory.limit: a whole number"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"}, "seccomp: SCMP_ACT_NOTIFY"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}, "linux.seccomp.flags: X"),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"},
            "seccomp: listenerPath",
        ),
    ],
)
def test_refusals_name_the_field(bundle: Bundle, path: str, value: Any, words: str) -> None:
    _put(bundle.config, path, value)
    assert words in bundle.fails("create", bundle.id)
    assert bundle.left() == []


def test_bundles_that_are_none(bundle: Bundle, tmp_path: Path) -> None:
    assert "config.json not found" in bundle.fails("create", "--bundle", str(tmp_path), bundle.id)
    assert "no such file or directory" in bundle.fails("create", "--bundle", "/proc/nosuch", bundle.id)
    assert "invalid container ID format" in bundle.fails("create", "a/b")
    (bundle.path / "config.json").write_text('{"ociVersion": ')
    done = bundle.call("create", bundle.id, check=False)
    assert done.returncode == 1
    assert "config.json: not JSON" in done.stderr


def test_unknown_fields_and_nulls_are_ignored(bundle: Bundle) -> None:
    bundle.config["future"] = {"x": 1}
    bundle.process["future"] = True
    bundle.config["hooks"] = None
    bundle.linux["devices"] = None
    bundle.config["ociVersion"] = "1.9.3-dev"
    assert bundle.shell("echo fine").output() == "fine\n"


def test_command_line_refusals(bundle: Bundle) -> None:
    for words, message in (
        (["--systemd-cgroup", "create", bundle.id], "--systemd-cgroup: cgroups managed by systemd"),
        (["checkpoint", bundle.id], "checkpoint: saving running containers"),
        (["restore", bundle.id], "restore: containers can't be restored"),
        (["create", "--nosuch", bundle.id], "flag provided but not defined: -nosuch"),
        (["create"], "requires exactly 1 argument"),
        (["kill", bundle.id, "NOSUCH"], "unknown signal"),
        (["--log-format", "xml", "list"], "invalid log-format"),
    ):
        assert message in bundle.fails(*words)


def test_features_are_true(bundle: Bundle) -> None:
    found = json.loads(bundle.call("features").stdout)
    assert found["ociVersionMin"] == "1.0.0"
    assert "createContainer" in found["hooks"]
    assert {"rro", "tmpcopyup", "idmap", "rprivate", "nosuid"} <= set(found["mountOptions"])
    assert found["linux"]["cgroup"]["systemd"] is False
    assert "SCMP_ACT_ERRNO" in found["linux"]["seccomp"]["actions"]


def test_spec_writes_what_run_takes(bundle: Bundle) -> None:
    bundle.call("spec")
    written = json.loads((bundle.path / "config.json").read_text())
    assert written["process"]["args"] == ["sh"]
    assert "config.json exists" in bundle.call("spec", check=False).stderr


# -- what the process gets --------------------------------------------------------------------------------------


def test_user_groups_umask_and_directory(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o027}
    bundle.process["cwd"] = "/tmp/new/directory"
    bundle.process["env"] += ["A=1"]
    said = bundle.shell("id -u; id -g; id -G; umask; pwd; echo $HOME $A").output().split()
    assert said == ["1000", "1001", "1001", "7", "8", "0027", "/tmp/new/directory", "/home/joe", "1"]


def test_capabilities(bundle: Bundle) -> None:
    wanted = ["CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_NOSUCH"]
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "permitted", "inheritable"), wanted)
    bundle.process["capabilities"] |= {"effective": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    done = bundle.shell("grep -E 'Cap|NoNew' /proc/self/status").run()
    assert "CAP_NOSUCH can't be granted and is left out" in done.stderr
    found = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert int(found["CapBnd"], 16) == int(found["CapInh"], 16) == 1 << 10 | 1 << 5
    assert int(found["CapAmb"], 16) == 1 << 5
    assert int(found["CapEff"], 16) == 1 << 5
    assert found["NoNewPrivs"] == "1"


def test_limits_score_and_scheduling(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    bundle.process["oomScoreAdj"] = 500
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    bundle.process["execCPUAffinity"] = {"initial": "0", "final": "0"}
    bundle.linux["personality"] = {"domain": "LINUX32"}
    script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; awk '{print $19, $41}' /proc/self/stat"
    script += "; cat /proc/self/personality; grep Cpus_allowed_list /proc/self/status"
    said = bundle.shell(script).output().split()
    assert said == ["100", "200", "500", "5", "3", "00000008", "Cpus_allowed_list:", "0"]


def test_limits_beyond_ours_are_an_error(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]
    assert "process.rlimits: error setting rlimit type 7" in bundle.fails()


def test_names_and_sysctl(bundle: Bundle) -> None:
    bundle.config |= {"hostname": "tested", "domainname": "example.org"}
    bundle.linux["sysctl"] = {"kernel.msgmax": "4096", "net.ipv4.ip_forward": "1"}
    script = "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward"
    assert bundle.shell(script).output().split() == ["tested", "example.org", "4096", "1"]


@pytest.mark.parametrize("nnp", [True, False])
def test_seccomp(bundle: Bundle, nnp: bool) -> None:
    bundle.process["noNewPrivileges"] = nnp
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    done = bundle.shell("mkdir /tmp/never; grep Seccomp: /proc/self/status").run()
    assert "Operation not supported" in done.stderr or "Not supported" in done.stderr
    assert done.stdout == "Seccomp:\t2\n"


# -- file system ------------------------------------------------------------------------------------------------


def test_hidden_and_readonly_paths(bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    bundle.allow(*ALL_CAPABILITIES)
    script = "ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic; touch /etc/new; chmod 0 /proc/keys"
    done = bundle.shell(f"{script}; cat /proc/keys; echo end").run()
    assert done.stdout.split() == ["0", "end"]
    assert done.stderr.count("Read-only file system") == 3
    assert os.stat("/dev/null").st_mode & 0o777 == 0o666


def test_bind_mounts(bundle: Bundle) -> None:
    source = bundle.path / "source"
    source.mkdir()
    (source / "file").write_text("from outside\n")
    binds: list[dict[str, Any]] = [
        {"destination": "/in/rw", "source": str(source), "type": "bind", "options": ["rbind", "rprivate"]},
        {"destination": "/in/ro", "source": "source", "options": ["bind", "ro", "nosuid", "noexec"]},
        {
            "destination": "/in/rro",
            "source": str(source),
            "type": "none",
            "options": ["rbind", "rro", "nodev"],
        },
        {"destination": "/in/one", "source": str(source / "file"), "options": ["bind", "ro"]},
    ]
    bundle.config["mounts"] += binds
    script = "cat /in/one; touch /in/rw/new; touch /in/ro/new; touch /in/rro/new; mount | grep /in/"
    done = bundle.shell(script).run()
    assert done.stderr.count("Read-only file system") == 2
    lines = done.stdout.splitlines()
    assert lines[0] == "from outside"
    options = {line.split()[2]: line.split()[5].strip("()").split(",") for line in lines[1:]}
    assert "rw" in options["/in/rw"]
    assert {"ro", "nosuid", "noexec"} <= set(options["/in/ro"])
    assert {"ro", "nodev"} <= set(options["/in/rro"])
    assert (source / "new").exists()


def test_links_do_not_lead_mounts_out(bundle: Bundle, oci_rootfs: Path) -> None:
    link = oci_rootfs / "way-out"
    link.unlink(missing_ok=True)
    outside = bundle.path / "outside"
    outside.mkdir()
    link.symlink_to(outside)
    mount = {"destination": "/way-out/x", "type": "tmpfs", "source": "tmpfs"}
    bundle.config["mounts"].append(mount)
    assert (
        f"tmpfs on {outside}/x type tmpfs" in bundle.shell("mount | grep way; mount | grep outside").output()
    )
    assert list(outside.iterdir()) == []


def test_tmpfs_starts_with_what_it_covers(bundle: Bundle) -> None:
    mount = {"destination": "/full", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}
    bundle.config["mounts"].append(mount)
    assert bundle.shell("cat /full/file; mount | grep -c /full").output().split() == ["content", "1"]


def test_propagation_of_host_mounts(bundle: Bundle) -> None:
    source = bundle.path / "shared"
    (source / "later").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(source)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        (source / "later").mkdir()
        for name, kind in (("slave", "rslave"), ("private", "rprivate")):
            mount = {"destination": f"/{name}", "source": str(source), "options": ["rbind", kind]}
            bundle.config["mounts"].append(mount)
        bundle.process["args"] = ["sleep", "100"]
        bundle.started()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(source / "later")], check=True)
        seen = bundle.call("exec", bundle.id, "mount").stdout
        assert "/slave/later" in seen
        assert "/private/later" not in seen
    finally:
        bundle.close()
        subprocess.run(["umount", "-R", str(source)], check=True)


def test_devices(bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        {"path": "/dev/made", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/pipe", "type": "p"},
    ]
    said = bundle.shell(
        "stat -c '%A %u %g %t:%T %n' /dev/made /dev/pipe /dev/zero; readlink /dev/ptmx"
    ).output()
    assert said.splitlines() == [
        "crw-r----- 3 4 1:5 /dev/made",
        "prw-rw-rw- 0 0 0:0 /dev/pipe",
        "crw-rw-rw- 0 0 1:5 /dev/zero",
        "pts/ptmx",
    ]


def test_idmapped_mount(bundle: Bundle) -> None:
    source = bundle.path / "mapped"
    source.mkdir()
    (source / "file").touch()
    mapping = [{"containerID": 0, "hostID": 5000, "size": 1000}]
    mount = {
        "destination": "/mapped",
        "source": str(source),
        "options": ["bind", "idmap"],
        "uidMappings": mapping,
        "gidMappings": mapping,
    }
    bundle.config["mounts"].append(mount)
    done = bundle.shell("stat -c %u:%g /mapped/file").run(check=False)
    if "mount_setattr" in done.stderr or "invalid argument" in done.stderr:
        pytest.skip(f"this file system can't map ids: {done.stderr}")
    assert done.stdout == "5000:5000\n"


# -- namespaces -------------------------------------------------------------------------------------------------


def test_user_namespace(bundle: Bundle, oci_rootfs: Path) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 5000}]
    bundle.linux.update(uidMappings=mapping, gidMappings=mapping)
    bundle.linux["namespaces"].append({"type": "user"})
    secret = bundle.path / "private"
    secret.mkdir(mode=0o700)
    (secret / "file").write_text("bound by the host's root\n")
    (oci_rootfs / "tmp/file").touch()  # its root may not make files that belong to the host's
    mount = {"destination": "/tmp/file", "source": str(secret / "file"), "options": ["bind"]}
    bundle.config["mounts"].append(mount)
    bundle.shell("id -u; cat /proc/self/uid_map; cat /tmp/file; echo x > /dev/null; sleep 100").create()
    bundle.call("start", bundle.id)
    said = bundle.said("bound by").split()
    assert said[:4] == ["0", "0", "100000", "5000"]
    assert os.stat(f"/proc/{bundle.state()['pid']}").st_uid == 100000
    done = bundle.call("exec", "--user", "7:7", bundle.id, "sh", "-c", "id -u; cat /proc/self/uid_map")
    assert done.stdout.split() == ["7", "0", "100000", "5000"]


def test_joined_namespaces(bundle: Bundle) -> None:
    with subprocess.Popen(
        ["unshare", "-n", "-u", "-i", "sh", "-c", "hostname joined; exec sleep 60"]
    ) as holder:
        try:
            while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n" and holder.poll() is None:
                pass
            spaces = [{"type": kind} for kind in ("pid", "mount", "cgroup")]
            for kind, name in (("network", "net"), ("uts", "uts"), ("ipc", "ipc")):
                spaces.append({"type": kind, "path": f"/proc/{holder.pid}/ns/{name}"})
            bundle.linux["namespaces"] = spaces
            del bundle.config["hostname"]
            said = (
                bundle.shell("hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")
                .output()
                .split()
            )
            wanted = [os.readlink(f"/proc/{holder.pid}/ns/{name}") for name in ("net", "ipc")]
            assert said == ["joined", *wanted]
        finally:
            holder.kill()


def test_time_namespace(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
    assert float(bundle.shell("cat /proc/uptime").output().split()[0]) > 1_000_000


def test_network_namespace_has_its_loopback(bundle: Bundle) -> None:
    assert bundle.shell("grep -c lo: /proc/net/dev; cat /sys/class/net/lo/operstate").output().split() == [
        "1",
        "unknown",
    ]


def test_interpreter_cannot_be_written_from_inside(bundle: Bundle) -> None:
    """CVE-2019-5736: what is behind /proc/<pid>/exe before execve is not writable."""
    bundle.process["args"] = ["true"]
    bundle.create()
    exe = f"/proc/{bundle.state()['pid']}/exe"
    assert Path(f"/proc/{bundle.state()['pid']}/comm").read_text().startswith("sampan-runtime")
    assert os.statvfs(exe).f_flag & os.ST_RDONLY
    with pytest.raises(OSError, match=r"Read-only|Text file busy"):
        os.open(exe, os.O_WRONLY)


def test_rootless_of_a_user(bundle: Bundle, tmp_path: Path) -> None:
    """An ordinary user's own container: one id, no cgroup."""
    for directory in (*tmp_path.parents, tmp_path):
        if not os.stat(directory).st_mode & 0o005:
            os.chmod(directory, os.stat(directory).st_mode | 0o055)
    rootfs = Path(bundle.config["root"]["path"])
    for directory in (*rootfs.parents, rootfs):
        os.chmod(directory, os.stat(directory).st_mode | 0o055) if directory != Path("/") else None
    from sampan.runtime.oci.specfile import document

    config = document(rootless=True)
    config["process"] |= {
        "terminal": False,
        "args": ["sh", "-c", "id -u; cat /proc/self/uid_map"],
        "rlimits": [],
    }
    config["root"]["path"] = str(rootfs)
    config["linux"]["uidMappings"][0]["hostID"] = config["linux"]["gidMappings"][0]["hostID"] = 4321
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(config))
    os.chown(own, 4321, 4321)
    python = "/usr/bin/python3"  # ours may be in a directory that only root can read
    probe = subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
    source = Path(__file__).resolve().parents[2] / "src"
    if probe.returncode or any(not os.stat(parent).st_mode & 0o001 for parent in (source, *source.parents)):
        pytest.skip("an ordinary user can reach no Python 3.11 or not the sources")
    boot = f"import sys; sys.path.append({str(source)!r})\nfrom sampan.runtime.oci.main import main\nsys.exit(main())"

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-IS", "-c", boot, "--root", str(own / "state"), *words],
            cwd=own, user=4321, group=4321, extra_groups=[], text=True, capture_output=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    done = call("run", bundle.id)
    assert done.stdout.split() == ["0", "0", "4321", "1"], done.stderr
    config["process"]["args"] = ["sleep", "60"]
    (own / "config.json").write_text(json.dumps(config))
    with open(tmp_path / "out", "w") as out:
        subprocess.run(
            [python, "-IS", "-c", boot, "--root", str(own / "state"), "run", "--detach", bundle.id],
            cwd=own, user=4321, group=4321, extra_groups=[], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            check=True,
        )  # fmt: skip
    done = call("exec", bundle.id, "sh", "-c", "id -u; exit 5")
    assert (done.stdout, done.returncode) == ("0\n", 5), done.stderr
    assert call("delete", "--force", bundle.id).returncode == 0
    assert list((own / "state").iterdir()) == []


def test_without_pivot_root(bundle: Bundle) -> None:
    bundle.shell("ls -d /bin /etc/passwd; ls -d /usr; ls /../../full").write()
    done = bundle.call("run", "--no-pivot", bundle.id, check=False)
    assert done.stdout.split() == ["/bin", "/etc/passwd", "file"]

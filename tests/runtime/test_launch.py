from __future__ import annotations

import asyncio
import os
import re
import struct
from collections.abc import Callable
from typing import Any

import pytest

from sampan.errors import StartFailure
from sampan.kernel import mounts, namespaces
from sampan.runtime.supervisor import Supervisor
from tests.runtime.plans import ALL_NAMESPACES, Box
from tests.runtime.running import finish, logged, start, supervised, until

pytestmark = pytest.mark.root

Change = dict[str, Any]


def run(args: list[str], change: Callable[[Box, dict[str, Any]], None] | None = None, **changes: Any) -> Any:
    async def go() -> tuple[int, str, str]:
        async with supervised() as (supervisor, box):
            plan = box.plan(args, **changes)
            if change:
                change(box, plan)
            code, out, err = await finish(supervisor, plan)
            return code, out.decode(), err.decode()

    return asyncio.run(go())


def failure(args: list[str], **changes: Any) -> StartFailure:
    with pytest.raises(StartFailure) as caught:
        run(args, **changes)
    return caught.value


def sh(script: str, **changes: Any) -> str:
    code, out, err = run(["sh", "-c", script], **changes)
    assert code == 0, (code, out, err)
    return out


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 42", 42),
        ("kill -9 $$", 0),
        ("sleep 9 & kill -9 $!; wait $!", 137),
        ("nosuch", 127),
    ],
)
def test_exit_codes(script: str, code: int) -> None:
    assert run(["sh", "-c", script])[0] == code  # signals to pid 1 from inside don't end it, as in Docker


def test_namespaces_are_its_own() -> None:
    out = sh(
        "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; "
        "hostname; echo $$; ls /sys/class/net"
    )
    inside = out.split()
    for name, link in zip(("mnt", "pid", "net", "ipc", "uts", "cgroup"), inside, strict=False):
        assert link != os.readlink(f"/proc/self/ns/{name}")
    assert inside[6:] == ["box", "1", "lo"]


def test_only_its_own_mounts_and_processes() -> None:
    out = sh("cat /proc/self/mountinfo; echo ==; ps")
    mountinfo, processes = out.split("==\n")
    points = [line.split()[4] for line in mountinfo.splitlines()]
    assert points[0] == "/"
    assert not [p for p in points if p.startswith(("/tmp", "/var", "/home"))]
    assert "sampan" not in processes


def test_host_mount_table_is_untouched() -> None:
    before = open("/proc/self/mountinfo").read()
    sh("true")
    assert open("/proc/self/mountinfo").read() == before


def test_masked_and_readonly_paths() -> None:
    out = sh("cat /proc/keys | wc -c; ls /sys/firmware | wc -l; touch /proc/sys/kernel/domainname 2>&1; true")
    assert out.split("\n")[:2] == ["0", "0"]
    assert "Read-only" in out


def test_devices() -> None:
    out = sh(
        "stat -c '%n %t,%T %a' /dev/null /dev/zero /dev/full /dev/urandom /dev/tty; "
        "head -c 3 /dev/zero | wc -c"
    )
    assert "/dev/null 1,3 666" in out
    assert "/dev/tty 5,0 666" in out
    assert out.endswith("3\n")


def test_read_only_root() -> None:
    code, _, err = run(["touch", "/x"], readonly=True)
    assert code == 1
    assert "Read-only file system" in err


def test_written_files_are_in_the_upper_directory() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sh", "-c", "echo data > /new"])
            await finish(supervisor, plan)
            assert open(os.path.join(plan["rootfs"][2], "new")).read() == "data\n"

    asyncio.run(go())


def test_many_layers_with_colons_in_their_names() -> None:
    def change(box: Box, plan: dict[str, Any]) -> None:
        extra = []
        for number in range(100):
            layer = box.root / f"{'long' * 20}:{number},x"
            layer.mkdir()
            (layer / f"f{number}").touch()
            extra.append(str(layer))
        plan["rootfs"][1] = extra + plan["rootfs"][1]

    code, out, err = run(["sh", "-c", "ls /f* | wc -l"], change)
    assert (code, out, err) == (0, "100\n", "")


def bind(source: str, target: str, flags: int = 0, make: str = "dir", propagation: int = 0) -> list[Any]:
    return ["bind", source, target, flags, True, propagation, make]


def test_bind_mounts() -> None:
    def change(box: Box, plan: dict[str, Any]) -> None:
        (box.root / "shared").mkdir()
        (box.root / "shared/file").write_text("from the host\n")
        (box.root / "resolv").write_text("nameserver 1.2.3.4\n")
        plan["mounts"] += [
            bind(str(box.root / "shared"), "/deep/er/data"),
            bind(str(box.root / "shared"), "/ro", mounts.MS_RDONLY),
            bind(str(box.root / "resolv"), "/etc/resolv.conf", make="file"),
        ]

    script = "cat /deep/er/data/file /etc/resolv.conf; touch /deep/er/data/x; touch /ro/y; ls /ro"
    code, out, err = run(["sh", "-c", script], change)
    assert code == 0
    assert out == "from the host\nnameserver 1.2.3.4\nfile\nx\n"
    assert "Read-only file system" in err


def test_links_in_the_image_do_not_lead_mounts_out() -> None:
    def change(box: Box, plan: dict[str, Any]) -> None:
        victim = box.root / "victim"
        victim.mkdir()
        os.symlink(str(victim), box.layer / "link")
        os.symlink("../../../../../../" + str(victim), box.layer / "dots")
        (box.root / "shared").mkdir()
        (box.root / "shared/file").touch()
        plan["mounts"] += [
            bind(str(box.root / "shared"), "/link/a"),
            bind(str(box.root / "shared"), "/dots/b"),
        ]
        change.victim = victim  # type: ignore[attr-defined]

    code, out, err = run(
        ["sh", "-c", "ls /link/a /dots/b | grep -c file; ls -d /tmp/smpa-*/victim/[ab]"], change
    )
    # What the links name doesn't exist inside the root: it is made there, as Docker does.
    assert code == 0, err
    assert out.startswith("2\n/tmp/smpa-")


def test_bind_of_a_directory_onto_a_file() -> None:
    error = failure(["true"], mounts=[bind("/etc", "/etc/passwd")])
    assert 'error mounting "/etc" to rootfs at "/etc/passwd"' in error.message
    assert (
        "not a directory: Are you trying to mount a directory onto a file (or vice-versa)?" in error.message
    )
    assert error.status == 400


def test_shared_propagation_reaches_the_host_and_back() -> None:
    def change(box: Box, plan: dict[str, Any]) -> None:
        place = box.root / "rshared"
        place.mkdir()
        change.place = str(place)  # type: ignore[attr-defined]
        mounts.mount(str(place), str(place), None, mounts.MS_BIND)
        mounts.mount(None, str(place), None, mounts.MS_SHARED)
        (place / "sub").mkdir()
        plan["mounts"].append(bind(str(place), "/s", propagation=mounts.MS_SHARED | mounts.MS_REC))
        plan["caps"] = dict.fromkeys(("bounding", "effective", "permitted"), 0x1FFFFFFFFFF) | {
            "inheritable": 0,
            "ambient": 0,
        }

    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sh", "-c", "mount -t tmpfs t /s/sub && touch /s/sub/inside"])
            change(box, plan)
            place = change.place  # type: ignore[attr-defined]
            try:
                code, _, err = await finish(supervisor, plan)
                assert code == 0, err
                assert os.path.exists(f"{place}/sub/inside")
            finally:
                if os.path.ismount(f"{place}/sub"):
                    mounts.umount(f"{place}/sub", mounts.MNT_DETACH)
                mounts.umount(place, mounts.MNT_DETACH)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("name", "groups", "expected"),
    [
        ("", [], "uid=0(root) gid=0(root) groups=0(root)"),
        ("1000:2000", [], "uid=1000(alice) gid=2000 groups=2000"),
        ("alice", [], "uid=1000(alice) gid=1001(alice) groups=50(staff),1001(alice)"),
        ("alice:staff", [], "uid=1000(alice) gid=50(staff) groups=50(staff)"),
        ("4711", [], "uid=4711 gid=0(root) groups=0(root)"),
        ("daemon", ["99", "nogroup"], "uid=1(daemon) gid=1(daemon) groups=1(daemon),99,65534(nogroup)"),
    ],
)
def test_users(name: str, groups: list[str], expected: str) -> None:
    out = sh("id", user={"name": name, "groups": groups}).strip()
    head, _, listed = out.partition(" groups=")
    assert head == expected.partition(" groups=")[0]
    assert sorted(listed.split(",")) == sorted(expected.partition(" groups=")[2].split(","))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
        ("root:nosuchgroup", "unable to find group nosuchgroup: no matching entries in group file"),
        ("-5", "uids and gids must be in range 0-2147483647"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_unknown_users(name: str, message: str) -> None:
    assert failure(["id"], user={"name": name, "groups": []}).message == message


def test_home_is_that_of_the_user() -> None:
    assert sh("echo $HOME", user={"name": "alice", "groups": []}) == "/home/alice\n"
    assert sh("echo $HOME", env=["PATH=/bin", "HOME=/set"]) == "/set\n"


def test_privileges_of_a_user() -> None:
    out = sh(
        "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status", user={"uid": 1000, "gid": 1001, "groups": [1001]}
    )
    values = dict(re.findall(r"(\w+):\s+(\w+)", out))
    assert values["CapEff"] == values["CapPrm"] == values["CapInh"] == "0" * 16
    assert values["CapBnd"] == "00000000a80425fb"
    assert values["NoNewPrivs"] == "0"


def test_privileges_of_root_and_ambient() -> None:
    caps = {"bounding": 0x400, "effective": 0x400, "permitted": 0x400, "inheritable": 0x400, "ambient": 0x400}
    out = sh("grep -E 'Cap|NoNew' /proc/self/status", user={"uid": 1000, "gid": 1, "groups": []}, caps=caps)
    values = dict(re.findall(r"(\w+):\s+(\w+)", out))
    assert values["CapAmb"] == values["CapEff"] == values["CapBnd"] == f"{0x400:016x}"
    assert "NoNewPrivs:\t1" in sh("cat /proc/self/status", no_new_privs=True)


def seccomp_refusing(number: int, error: int) -> bytes:
    """ld nr; jeq number → errno; else allow."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("HBBI", *line) for line in code)


@pytest.mark.parametrize("no_new_privs", [False, True])
def test_seccomp(no_new_privs: bool) -> None:
    mkdir = 83 if os.uname().machine == "x86_64" else 34
    script = "busybox mkdir /d; grep Seccomp: /proc/self/status"
    user = {"uid": 1000, "gid": 1000, "groups": []}
    _, out, err = run(
        ["sh", "-c", script],
        seccomp=seccomp_refusing(mkdir, 95),
        no_new_privs=no_new_privs,
        user=user,
        cwd="/tmp",
    )
    assert "Seccomp:\t2" in out
    assert "not supported" in err


def test_working_directory() -> None:
    assert sh("pwd", cwd="/new/dir") == "/new/dir\n"
    error = failure(["pwd"], cwd="/etc/passwd")
    assert error.message == "Cannot mkdir: /etc/passwd is not a directory"
    error = failure(["pwd"], cwd="/missing", make_cwd=False)
    assert error.message.endswith(
        'chdir to cwd ("/missing") set in config.json failed: no such file or directory'
    )
    assert error.exit_code == 127


_PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create "
    "failed: unable to start container process: error during container init: "
)


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH', 127),
        ("", 'exec: "": executable file not found in $PATH', 127),
        ("/nosuch", 'exec: "/nosuch": stat /nosuch: no such file or directory', 127),
        ("/etc", 'exec: "/etc": is a directory: permission denied', 126),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied', 126),
    ],
)
def test_programs_that_can_not_run(name: str, message: str, code: int) -> None:
    error = failure([name])
    assert error.message == _PREFIX + message
    assert (error.exit_code, error.status) == (code, 400)


def test_missing_interpreter_and_wrong_format() -> None:
    def change(box: Box, plan: dict[str, Any]) -> None:
        for name, text in (("script", b"#!/no/such\n"), ("junk", b"\x7fELF junk")):
            path = box.layer / name
            path.write_bytes(text)
            path.chmod(0o755)

    with pytest.raises(StartFailure) as caught:
        run(["/script"], change)
    assert caught.value.message == _PREFIX + "exec /script: no such file or directory"
    assert caught.value.exit_code == 127
    with pytest.raises(StartFailure) as caught:
        run(["/junk"], change)
    assert caught.value.message == _PREFIX + "exec /junk: exec format error"
    assert caught.value.exit_code == 126


def test_rlimits_are_set_or_refused() -> None:
    out = sh("ulimit -Sn; ulimit -Hn", rlimits=[[7, 100, 200]])
    assert out == "100\n200\n"
    error = failure(["true"], rlimits=[[7, 1 << 40, 1 << 40]])  # more than fs.nr_open
    words = "error setting rlimits for ready process: error setting rlimit type 7: operation not permitted"
    assert error.message == _PREFIX + words


def test_sysctl_hostname_umask_and_oom_score() -> None:
    out = sh(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; hostname; umask; "
        "cat /proc/self/oom_score_adj",
        sysctl={"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"},
        hostname="host.example",
        umask=0o077,
        oom_score_adj=123,
    )
    assert out.split() == ["1", "77", "host.example", "0077", "123"]
    error = failure(["true"], sysctl={"net.nosuch": "1"})
    assert "sysctl net.nosuch: no such file or directory" in error.message


def test_signals_are_as_by_default() -> None:
    _, out, _ = run(["grep", "Sig", "/proc/self/status"])
    values = dict(re.findall(r"(\w+):\s+(\w+)", out))
    assert int(values["SigBlk"], 16) == int(values["SigIgn"], 16) == 0


def test_no_descriptor_leaks_in() -> None:
    assert sh("ls /proc/self/fd | wc -l; ls -l /proc/1/fd >&2").split()[0] == "4"  # 0, 1, 2 and ls's own


def test_user_may_reopen_its_streams() -> None:
    assert sh("echo again > /dev/stdout", user={"uid": 1000, "gid": 1000, "groups": []}) == "again\n"


def test_the_interpreter_can_not_be_written_from_inside() -> None:
    """CVE-2019-5736: an exec's process is still the launcher's program when the container sees it."""

    async def go() -> None:
        async with supervised() as (supervisor, box):
            process = await supervisor.launch(box.plan(["sleep", "60"]))
            try:
                program = os.open(f"/proc/{process.pid}/exe", os.O_PATH)
                assert os.fstatvfs(program).f_flag & os.ST_RDONLY
                os.close(program)
            finally:
                await process.abort()

    asyncio.run(go())


def test_init_reaps_and_forwards() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            script = "trap 'echo got; exit 5' TERM; "
            script += "setsid sh -c 'sleep .05 & exit' & echo up; while :; do sleep .05; done"
            plan = box.plan(["sh", "-c", script], init=True)
            process = await start(supervisor, plan)
            with open(f"/proc/{process.pid}/cmdline", "rb") as shown:
                assert shown.read().startswith(b"/sbin/docker-init\0--\0sh\0")
            await until(lambda: logged(plan["log"]["path"]) == "up\n")
            process.signal(15)
            assert (await process.wait()).code == 5

    asyncio.run(go())
    assert run(["sh", "-c", "kill -9 $$"], init=True)[0] == 137
    assert failure(["nosuch"], init=True).exit_code == 127


def test_what_is_not_supported_is_refused() -> None:
    error = failure(["true"], userns={"uid_map": [[0, 100000, 65536]], "gid_map": [[0, 100000, 65536]]})
    assert error.message.endswith("plan: user namespaces with id maps are not supported yet")


def test_joined_and_host_namespaces() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            first = await start(supervisor, box.plan(["sleep", "60"], hostname="first"))
            kinds = {
                "net": namespaces.CLONE_NEWNET,
                "pid": namespaces.CLONE_NEWPID,
                "ipc": namespaces.CLONE_NEWIPC,
            }
            joined = sum(kinds.values())
            setns = [[f"/proc/{first.pid}/ns/{name}", flag] for name, flag in kinds.items()]
            plan = box.plan(
                ["sh", "-c", "for n in net pid ipc; do readlink /proc/self/ns/$n; done; ps"],
                setns=setns,
                unshare=ALL_NAMESPACES & ~joined,
            )
            _, out, _ = await finish(supervisor, plan)
            links = out.decode().split()[:3]
            assert links == [os.readlink(f"/proc/{first.pid}/ns/{name}") for name in ("net", "pid", "ipc")]
            assert b"sleep 60" in out
            await first.abort()
            host = box.plan(
                ["readlink", "/proc/self/ns/net"], unshare=ALL_NAMESPACES & ~namespaces.CLONE_NEWNET
            )
            host["mounts"] = [m for m in host["mounts"] if m[1] != "sysfs"]
            assert (await finish(supervisor, host))[1].decode().strip() == os.readlink("/proc/self/ns/net")

    asyncio.run(go())


def test_abort_before_go_leaves_nothing() -> None:
    async def go(supervisor: Supervisor, box: Box) -> None:
        process = await supervisor.launch(box.plan(["true"]))
        pid, monitor = process.pid, process.monitor_pid
        await process.abort()
        assert not os.path.exists(f"/proc/{pid}")
        await until(lambda: not os.path.exists(f"/proc/{monitor}"))

    async def main() -> None:
        async with supervised() as (supervisor, box):
            await go(supervisor, box)

    asyncio.run(main())

"""AppArmor profiles are entered where the machine has AppArmor; scripts/vm-test's machine has it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

ENABLED = Path("/sys/module/apparmor/parameters/enabled")

needs_apparmor = pytest.mark.skipif(
    not ENABLED.exists() or ENABLED.read_text().strip() != "Y", reason="this machine has no AppArmor"
)
needs_parser = pytest.mark.skipif(
    not Path("/sys/kernel/security/apparmor/profiles").exists() or not shutil.which("apparmor_parser"),
    reason="this machine can't load AppArmor profiles",
)
without_apparmor = pytest.mark.skipif(ENABLED.exists(), reason="this machine has AppArmor")


def run(sampand: Any, busybox: str, option: str) -> Any:
    command = ["run", "--rm", "--network", "none", "--security-opt", option, busybox, "echo", "ran"]
    return sampand.docker(*command, check=False)


@needs_apparmor
def test_a_profile_that_is_not_loaded_is_an_error(sampand: Any, busybox: str) -> None:
    done = run(sampand, busybox, "apparmor=nosuch-profile")
    assert done.returncode in (125, 127)  # clients go by the words "no such file"
    assert "nosuch-profile" in done.stderr


@needs_apparmor
def test_unconfined(sampand: Any, busybox: str) -> None:
    assert run(sampand, busybox, "apparmor=unconfined").stdout == "ran\n"


@without_apparmor
def test_elsewhere_the_option_means_nothing(sampand: Any, busybox: str) -> None:
    assert run(sampand, busybox, "apparmor=nosuch-profile").stdout == "ran\n"


def shell(sampand: Any, busybox: str, script: str, *options: str) -> str:
    command = ["run", "--rm", "--network", "none", *options, busybox, "sh", "-c", script]
    output: str = sampand.docker(*command, check=False).stdout
    return output


CONFINED = "cat /proc/self/attr/current"


@needs_parser
def test_the_default_profile(sampand: Any, busybox: str) -> None:
    assert shell(sampand, busybox, CONFINED) == "sampan-default (enforce)\n"
    assert "name=apparmor" in sampand.json("GET", "/info")["SecurityOptions"]
    body = {"Image": busybox, "Cmd": ["sleep", "60"], "HostConfig": {"NetworkMode": "none"}}
    container = sampand.json("POST", "/containers/create", body)["Id"]
    sampand.json("POST", f"/containers/{container}/start")
    assert sampand.json("GET", f"/containers/{container}/json")["AppArmorProfile"] == "sampan-default"
    assert sampand.docker("exec", container, "sh", "-c", CONFINED).stdout == "sampan-default (enforce)\n"
    sampand.json("DELETE", f"/containers/{container}?force=1")


@needs_parser
def test_who_has_no_profile(sampand: Any, busybox: str) -> None:
    assert shell(sampand, busybox, CONFINED, "--privileged") == "unconfined\n"
    assert shell(sampand, busybox, CONFINED, "--security-opt", "apparmor=unconfined") == "unconfined\n"


@needs_parser
def test_what_the_default_profile_forbids(sampand: Any, busybox: str) -> None:
    able = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    mount = "mount -t tmpfs tmpfs /mnt 2>/dev/null && echo mounted || echo refused"
    assert shell(sampand, busybox, f"mkdir /mnt; {mount}", *able) == "refused\n"
    free = (*able, "--security-opt", "apparmor=unconfined")
    assert shell(sampand, busybox, f"mkdir /mnt; {mount}", *free) == "mounted\n"
    write = "mount -o remount,rw /proc/sys; echo 1 > /proc/sys/vm/drop_caches && echo written || echo refused"
    assert shell(sampand, busybox, write, *able).endswith("refused\n")
    usual = "echo x > /tmp/f && cat /tmp/f && kill -0 1 && echo 77 > /proc/self/oom_score_adj && echo fine"
    assert shell(sampand, busybox, usual) == "x\nfine\n"

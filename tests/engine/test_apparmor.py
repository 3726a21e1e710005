"""AppArmor profiles are entered where the machine has AppArmor; scripts/vm-test's machine has it."""

from pathlib import Path
from typing import Any

import pytest

ENABLED = Path("/sys/module/apparmor/parameters/enabled")

needs_apparmor = pytest.mark.skipif(
    not ENABLED.exists() or ENABLED.read_text().strip() != "Y", reason="this machine has no AppArmor"
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

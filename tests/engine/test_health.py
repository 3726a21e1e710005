"""Health checks as clients see them: verdicts, their log, and what an engine's or container's restart keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.conftest import BIN, import_busybox


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.03)


def test_what_a_check_said_before_its_time_was_over_is_kept(sampand: Any, busybox: str) -> None:
    flags = ("--health-interval", "100ms", "--health-timeout", "1s", "--health-retries", "1")
    check = ("--health-cmd", "echo looking; sleep 50")
    sampand.docker("run", "-d", "--name", "slow", *flags, *check, busybox, "sleep", "613")

    def health() -> Any:
        return sampand.json("GET", "/containers/slow/json")["State"]["Health"]

    try:
        until(lambda: health()["Status"] == "unhealthy")
        wanted = (-1, "Health check exceeded timeout (1s): looking\n")  # a busy machine may not come so far
        until(lambda: wanted in [(one["ExitCode"], one["Output"]) for one in health()["Log"]])
    finally:
        sampand.docker("rm", "-f", "slow")


def test_a_restart_keeps_the_log_and_an_engines_restart_the_verdict(new_sampand: Any) -> None:
    daemon = new_sampand()
    import_busybox(daemon)
    flags = ("--network", "none", "--health-interval", "1s", "--health-start-period", "300s")
    more = ("--health-start-interval", "100ms", "--health-cmd", "test ! -e /ill && echo fine")
    # Debian's docker CLI doesn't know --health-start-interval.
    command = ("run", "-d", "--init", "--name", "well", *flags, *more, "busybox", "sleep", "614")
    daemon.docker(*command, cli=str(BIN / "sampan"))

    def health() -> Any:
        return daemon.json("GET", "/containers/well/json")["State"]["Health"]

    until(lambda: health()["Status"] == "healthy")
    daemon.kill()
    daemon.start()
    found = health()
    assert found["Status"] == "healthy" and found["Log"][0]["Output"] == "fine\n"
    daemon.docker("exec", "well", "touch", "/ill")  # so that it doesn't turn healthy before it is looked at
    daemon.docker("restart", "well")
    found = health()
    assert found["Status"] == "starting" and found["Log"] and found["FailingStreak"] == 0

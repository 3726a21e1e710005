"""``docker top``: ps of the host, asked for the container's processes only."""

import time
from typing import Any
from urllib.parse import quote


def test_arguments_of_ps(sampand: Any, busybox: str) -> None:
    sampand.docker("run", "-d", "--name", "topped", busybox, "sh", "-c", "sleep 616 & exec sleep 615")
    try:

        def rows(arguments: str) -> list[list[str]]:
            found = sampand.json("GET", f"/containers/topped/top?ps_args={quote(arguments)}")
            assert "PID" in found["Titles"]
            return [row[found["Titles"].index("PID") :] for row in found["Processes"]]

        deadline = time.monotonic() + 30
        while [row[-1] for row in rows("-eo pid,comm")] != ["sleep", "sleep"]:  # each was a shell first
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # Only the container's.
        assert [row[-1] for row in rows("-o pid,args --sort args")] == ["sleep 615", "sleep 616"]
        # A forest takes no choice of processes.
        assert rows("axf")[0][-1].endswith("sleep 615")
        assert [row[-1] for row in rows("-eo pid,comm")] == ["sleep", "sleep"]
        threads = rows("-m")
        assert [row[0] for row in threads].count("-") == 2 and len(threads) == 4
    finally:
        sampand.docker("rm", "-f", "topped")

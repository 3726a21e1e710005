from __future__ import annotations

from typing import Any


def test_stock_client_builds_and_caches(sampand: Any, busybox: str, tmp_path: Any) -> None:
    (tmp_path / "Dockerfile").write_text(
        f'FROM {busybox}\nWORKDIR /a\nCOPY f .\nRUN cat f; echo x >&2\nCMD ["sh"]\n'
    )
    (tmp_path / "f").write_text("hello\n")
    first = sampand.docker("build", "-t", "smpg:1", str(tmp_path)).stdout
    assert "hello\n" in first and "Successfully tagged smpg:1" in first
    again = sampand.docker("build", "-t", "smpg:1", str(tmp_path)).stdout
    assert again.count("Using cache") == 4
    assert sampand.docker("run", "--rm", "--network", "none", "smpg:1", "cat", "/a/f").stdout == "hello\n"


def test_exit_code_of_a_failing_run(sampand: Any, busybox: str, tmp_path: Any) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\nRUN exit 3\n")
    done = sampand.docker("build", str(tmp_path), check=False)
    assert done.returncode == 3
    assert "The command '/bin/sh -c exit 3' returned a non-zero code: 3" in done.stderr

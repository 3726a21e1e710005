"""Content trust: asked for, it is refused before anything happens."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import sampan_command


@pytest.mark.parametrize(
    "words", [["pull", "x:1"], ["push", "x:1"], ["create", "x:1"], ["run", "x:1"], ["build", "."]]
)
def test_content_trust_is_refused_never_ignored(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    engine = ["-H", f"unix://{tmp_path}/nobody"]  # refused before any engine is asked
    for environment, flags in (({"DOCKER_CONTENT_TRUST": "1"}, []), ({}, ["--disable-content-trust=false"])):
        done = subprocess.run(
            sampan_command(*engine, words[0], *flags, *words[1:]), capture_output=True, text=True,
            cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **environment},
        )  # fmt: skip
        assert done.returncode in (1, 125) and "content trust is not supported" in done.stderr, done

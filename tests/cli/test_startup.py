"""What a user waits for: the modules that a verb loads before it does anything."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.conftest import PYTHON, SOURCE

HEAVY = {"argparse", "json", "re", "enum", "typing", "dataclasses", "socket", "http", "ssl", "subprocess"}
HEAVY |= {
    "asyncio",
    "rich",
    "logging",
    "tarfile",
    "threading",
    "inspect",
    "functools",
    "contextlib",
    "signal",
}
HEAVY |= {"email", "urllib", "collections", "tempfile", "shutil", "random", "datetime", "hashlib"}


@pytest.mark.parametrize(
    "words",
    [
        ["version"],
        ["ps"],
        ["images"],
        ["run", "--rm", "-e", "A=b", "-p", "8080:80", "x", "true"],
        ["logs", "x"],
        ["exec", "x", "true"],
        ["stop", "x"],
        ["rm", "-f", "x"],
        ["inspect", "x"],
        ["start", "x"],
    ],
    ids=lambda words: words[0],
)
def test_verbs_load_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        "from sampan.cli.main import main\n"
        f"code = main(['-H', 'unix:///nonexistent/sampan.sock', *{words!r}])\n"
        "print('MODULES', *sorted(sys.modules))"
    )
    done = subprocess.run([PYTHON, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30)
    assert "Cannot connect to the Docker daemon at unix:///nonexistent/sampan.sock" in done.stderr, (
        done.stderr
    )
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert "sampan.cli.main" in loaded
    assert not {name for name in loaded if name.partition(".")[0] in HEAVY}
    assert not {name for name in loaded if name.startswith(("sampan.api", "sampan.engine", "sampan.build"))}

"""Errors point at the word that is wrong, whichever part of the builder finds it."""

from __future__ import annotations

from typing import Any

import pytest

from .door import Door


@pytest.fixture(scope="module")
def door(sampand: Any, busybox: str) -> Door:
    return Door(sampand, busybox)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("COPY nosuch /x", "nosuch"),
        ("COPY f \\\n  other \\\n  /x/", "other"),
        ("COPY file /x", "file"),
        ("COPY --form=x a b", "--form"),
        ("COPY --chmod=99 f /x", "99"),
        ("COPY --chown=nosuch f /x", "nosuch"),
        ("COPY ../f /x", "../f"),
        ("RUN --mount=type=cach,target=/x true", "cach"),
        ("RUN --mount=type=cache,targt=/x true", "targt"),
        ("RUN --network=some true", "some"),
        ('RUN ["nosuch"]', "nosuch"),
        ("EXPOSE 80/foo", "foo"),
        ("STOPSIGNAL SIGFOO", "SIGFOO"),
        ("HEALTHCHECK --interval=5 CMD true", "5"),
        ("ADD http://127.0.0.1:1/x /x", "http://127.0.0.1:1/x"),
        ("FROM --platform=linux/arm64 BASE", "linux/arm64"),
        ("FROM Upper", "Upper"),
        ("ONBUILD FROM x", "FROM"),
    ],
)
def test_the_word(door: Door, line: str, word: str) -> None:
    error = door.build(f"FROM BASE\n{line}\n", {"f": "x"}).error
    shown = error.split("\n")
    (at,) = [number for number, text in enumerate(shown) if text.strip().strip("|^ ") == "" and "^" in text]
    assert shown[at - 1][shown[at].index("^") : shown[at].rindex("^") + 1] == word, error


def test_the_end_where_something_is_missing(door: Door) -> None:
    assert "  2 | WORKDIR\n    |        ^" in door.build("FROM BASE\nWORKDIR\n").error
    assert "  2 | COPY f\n    |       ^" in door.build("FROM BASE\nCOPY f\n").error


def test_a_command_that_fails_is_no_fault_of_its_words(door: Door) -> None:
    assert "^" not in door.build("FROM BASE\nRUN exit 3\n").error


def test_a_foreign_frontend_is_told(door: Door) -> None:
    assert (
        "[Warning] The frontend example.com/f:1" in door.build("# syntax=example.com/f:1\nFROM BASE\n").text
    )
    assert "[Warning]" not in door.build("# syntax=docker/dockerfile:1.7-labs\nFROM BASE\n").text

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


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("FROM BASE\nRUNecho hi", "did you mean `RUN echo hi`?"),
        ("FROMbusybox", "did you mean `FROM busybox`?"),
        ("FROM BASE\nENVA=1", "did you mean `ENV A=1`?"),
        ("FROM BASE\nRUN\u00a0true", "did you mean `RUN true`?"),
        ("FROM BASE\nRNU true", "did you mean `RUN true`?"),
        ("FROM BASE: 1.2", "did you mean `FROM BASE:1.2`?"),
        ("FROM BASE ASS b", "did you mean `FROM BASE AS b`?"),
        ("FROM BASE\nARG A = 1", "did you mean `ARG A=1`?"),
        ("FROM BASE\nCOPY --chown 1 f /", "did you mean `COPY --chown=1 f /`?"),
        ("FROM BASE\nCOPY -chown=1 f /", "did you mean `COPY --chown=1 f /`?"),
        ("FROM BASE\nCOPY f /x --chown=1", "did you mean `COPY --chown=1 f /x`?"),
        ("FROM BASE\nHEALTHCHECK --interval=5 CMD x", "did you mean `HEALTHCHECK --interval=5s CMD x`?"),
        ("FROM BASE\nSTOPSIGNAL SIGTREM", "did you mean SIGTERM?"),
        (
            "FROM BASE\nRUN echo a &&\necho b",
            "If line 2 goes on here, it needs a \\ at its end: `RUN echo a && \\`",
        ),
        ("FROM BASE\nENV A=1\n\n    B=2", "If line 2 goes on here, it needs a \\ at its end: `ENV A=1 \\`"),
        ("FROM BASE\nRUN a \\ # b\n  && c", "What follows the \\ of line 2 ends the instruction there; "),
        ("FROM BASE\nEXPOSE 80 # web", "A # begins a comment only at the beginning of a line."),
        ("FROM BASE\nCOPY f /x # it", "A # begins a comment only at the beginning of a line."),
        ("FROM BASE # it", "A # begins a comment only at the beginning of a line."),
        (
            "FROM BASE\nRUN <<E\na\n  E\n",
            "It ends with E alone on a line. Line 4 has blanks beside it; <<- allows tabs",
        ),
        ("FROM BASE\nRUN ['echo', 'a']", "This is no JSON list (texts in double quotes, "),
        (
            "FROM BASE\nRUN mkdir /a && cd /a\nRUN cat b",
            "The cd of line 2 ended with its RUN; `WORKDIR /a` holds",
        ),
        (
            "ARG D=/x\nFROM BASE\nCOPY f $D",
            "D of line 1 is for FROM lines only; `ARG D` in the stage takes it over.",
        ),
        ("FROM BASE\nRUN nosuch", "127 is the shell's: the image has no such command, "),
        ("FROM BASE\nRUN /etc/passwd", "126 is the shell's: it may not execute that file."),
        ("ARG D=/x\nFROM BASE\nRUN test $D", "D of line 1 is for FROM lines only; "),
        ("FROM $NO", "NO has no value; `ARG NO=…` before the first FROM"),
        ("FROM BASE:${NO}", "NO has no value; `ARG NO=…` before the first FROM"),
        ("FROM https://example.com/_/x", "An image is named without https://"),
        ("FROM BASE\nCOPY /home/me/g /x", "Sources are looked for in the context, "),
        ("FROM BASE\nCOPY ~/g /x", "Sources are looked for in the context, "),
        (
            "FROM BASE\nCOPY *.jar /x",
            "Nothing in the context (or what the ignore file leaves of it) matches *.jar.",
        ),
        ("FROM BASE\nUSER me\nRUN true", "Users are looked up in the image's own /etc/passwd"),
        ("# only this", "It needs at least a FROM line."),
        ("ARG A=1", "It needs a FROM line."),
        ("\nRUN true\nFROM BASE", "  2 | RUN true\n    | ^^^\nA FROM instruction must come before RUN."),
        ("services:\n  web:", "A Dockerfile begins with FROM and an image's name."),
        ("FROM BASE\n  ehco b", "  2 |   ehco b\n    |   ^^^^"),
    ],
)
def test_what_beginners_do(door: Door, text: str, advice: str) -> None:
    found = door.build(text + "\n", {"f": "x"})
    # A reference's tag is the base's own; what is meant is the line as it was written.
    assert advice.replace("BASE", door.base) in found.error, found.error


def test_what_is_no_mistake_of_beginners_gets_no_advice(door: Door) -> None:
    for text in (
        "RUN cd /; exit 1",
        "RUN echo [ && false",
        "ARG V=1\nRUN false $V",
        "RUN true # remark\nRUN false",
        "ARG A V\nRUN false $V",
    ):
        last = door.build(f"ARG V=2\nFROM BASE\n{text}\n").error.splitlines()[-1]
        assert last.strip().endswith(text.splitlines()[-1]), last


def test_utf16_and_lists_that_are_none(door: Door) -> None:
    assert (
        "It is UTF-16; save it as UTF-8."
        in door.build(None, {"Dockerfile": "FROM x\n".encode("utf-16")}).error
    )
    assert "this is no JSON list" in door.build("FROM BASE\nCMD ['a']\n").text
    assert "JSON arguments recommended" in (plain := door.build("FROM BASE\nCMD a\n").text)
    assert "no JSON list" not in plain


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

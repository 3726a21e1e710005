"""Regular expressions of filters: Docker's usual ones are taken, none takes long."""

from __future__ import annotations

import re
import time

import pytest

from sampan.engine import patterns
from sampan.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("^/?web(-[0-9]+)?$", "web-12"),
        ("^(web|db|cache)-[0-9]+$", "db-1"),
        (".*we.*b.*", "xwexbx"),
        ("(?i:WEB)", "web"),
        (r"a[](*+]\(b", "a+(b"),
        ("[0-9a-f]{64}", "a" * 64),
    ],
)
def test_what_people_write_is_taken(text: str, found: str) -> None:
    expression = patterns.compiled(text)
    assert expression.search(found)
    assert not expression.search("_")


@pytest.mark.parametrize(
    "text",
    [
        "^([0-9a-f]+)+z",
        "(a|a)*z",
        "((a*))*z",
        "(?:a{1,30}){1,30}z",
        ".*.*.*.*z",
        "a?" * 30 + "z",
        "(a|a)" * 30 + "z",
    ],
)
def test_what_could_take_long_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="could take too long"):
        patterns.compiled(text)


@pytest.mark.parametrize("text", ["(", "(?=a+)z", r"(a)(?P=b)", "a{99999999999}", "(" * 5000 + ")" * 5000])
def test_what_is_none_of_gos(text: str) -> None:
    with pytest.raises(re.error):
        patterns.compiled(text)


@pytest.mark.parametrize("text", [".*.*.*z", ".*.*" + "a?" * 6 + "z", "(a|a)" * 18 + "z"])
def test_what_is_taken_is_done_soon(text: str) -> None:
    expression = patterns.compiled(text)
    before = time.process_time()
    assert not expression.search("a" * 64)
    assert time.process_time() - before < 3

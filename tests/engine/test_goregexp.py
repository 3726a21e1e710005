"""Go's regular expressions, as filters, log options and ignore files have them: taken as Go takes them, none slow."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import InvalidParameter
from sampan.goregexp import Regexp, RegexpError
from tests.conftest import Daemon


@pytest.mark.parametrize(
    ("text", "found", "not_found"),
    [
        ("", "", None),
        ("^/?web(-[0-9]+)?$", "web-12", "web-"),
        ("^(web|db|cache)-[0-9]+$", "db-1", "db-1\n"),
        ("(a|b)+", "xb", "x"),
        ("(a+)+z", "aaz", "aa"),
        ("(?i)WEB(?-i)x", "wEbx", "webX"),
        ("(?i:k)s|t", "\u212as", "ks\n"[1:]),
        ("(?m)^b$", "a\nb\nc", "ab"),
        ("(?s)a.b", "a\nb", "ab"),
        ("a.b", "axb", "a\nb"),
        (r"\Aab\z", "ab", "ab\n"),
        (r"\bweb\b", "my web", "my_web"),
        (r"\Bb", "ab", "a b"),
        (r"\d\D\w\W\s\S", "1a_- x", "1a_-x "),
        ("[[:alpha:]][[:^digit:]][^[:space:]]", "ab1", "a1b"),
        (r"\x41\x{e9}\101\Q.*\E\.", "A\u00e9A.*.", "A\u00e9Axx."),
        (r"a[](*+\]-]\(b", "a-(b", "a](c"),
        ("(?P<one>a)(?<two>b)(?:c)", "abc", "acb"),
        ("a{2}b{1,}c{,2}d{0,1}$", "aabc{,2}d", "aabcc"),
        ("[0-9a-f]{64}", "a" * 64, "a" * 63),
        ("x{1000}", "x" * 1000, "x" * 999),
        ("(|a)*b??c+?", "c", "b"),
    ],
)
def test_what_go_takes(text: str, found: str, not_found: str | None) -> None:
    assert Regexp(text).search(found)
    assert not_found is None or not Regexp(text).search(not_found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(", "missing closing ): `(`"),
        ("a)", "unexpected ): `a)`"),
        ("[a", "missing closing ]: `[a`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:web:]]", "invalid character class range: `[:web:]`"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("(a{100}){100}", "invalid repeat count: `{100}`"),
        (r"\8", r"invalid escape sequence: `\8`"),
        ("\\", "trailing backslash at end of expression: ``"),
        ("(?=a+)z", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?P<n>a)(?P<n>b)", "duplicate capture name: `n`"),
    ],
)
def test_what_go_refuses(text: str, reason: str) -> None:
    with pytest.raises(RegexpError) as refused:
        Regexp(text)
    assert str(refused.value) == f"error parsing regexp: {reason}"


@pytest.mark.parametrize("text", ["(" * 5000 + ")" * 5000, "(?:abcdef){900}", r"\pL"])
def test_what_is_too_much(text: str) -> None:
    with pytest.raises(InvalidParameter, match="regular expression"):
        Regexp(text)


@pytest.mark.parametrize(
    "text",
    [
        "^([0-9a-f]+)+z",
        "(a|a)*z",
        "((a*))*z",
        "(?:a{1,30}){1,30}z",
        ".*.*.*.*z",
        "a?" * 30 + "z",
        "(a|aa)" * 30 + "z",
        "(" * 90 + "a" + ")+" * 90 + "z",
        "(a|b)*a(a|b){990}z",
    ],
)
def test_none_takes_long(text: str) -> None:
    """Python's own matcher is at these for years; processor time, so that a busy machine doesn't count."""
    expression = Regexp(text)
    before = time.process_time()
    assert not expression.search("ab" * 100 + "a" * 64)
    assert time.process_time() - before < 5


PIECES = st.sampled_from(
    [
        "a",
        "b",
        "ab",
        ".",
        "*",
        "+",
        "?",
        "|",
        "(",
        ")",
        "(?:",
        "[ab]",
        "[^a]",
        "^",
        r"\b",
        "{2}",
        "{1,2}",
        r"\d",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join), st.lists(st.text(alphabet="ab1\n", max_size=8), max_size=5))
def test_the_same_as_pythons(text: str, subjects: list[str]) -> None:
    """Where both languages mean the same, both matchers agree."""
    try:
        expression = Regexp(text)
    except RegexpError:
        return
    try:
        other = re.compile(text)
    except re.error:
        # Python repeats no repetitions and no places.
        return
    for subject in subjects:
        assert expression.search(subject) == (other.search(subject) is not None), (text, subject)


def test_filters_and_log_options(sampand: Daemon, busybox: str) -> None:
    names = ("gore-abab", "gore-c")
    for name in names:
        sampand.docker("create", "--name", name, "--network", "none", busybox, "true")
    try:
        for wanted, found in (
            ("^/?gore-(a|b)+$", "gore-abab"),
            ("(g+)+ore-c", "gore-c"),
            ("gore-(", ""),
        ):
            listed = sampand.docker("ps", "-a", "--format", "{{.Names}}", "--filter", f"name={wanted}")
            assert str(listed.stdout).strip() == found
        refused = sampand.docker("ps", "--filter", r"name=\pL", check=False)
        assert refused.returncode and "Unicode class" in str(refused.stderr)
        words = ["run", "--rm", "--network", "none", "--log-opt", "labels-regex=(a", busybox, "true"]
        refused = sampand.docker(*words, check=False)
        assert "initialize logging driver: error parsing regexp: missing closing ): `(a`" in str(
            refused.stderr
        )
        words = ["run", "--name", "gore-l", "--network", "none", "--label", "abab=1", "--label", "c=2"]
        sampand.docker(*words, "--log-opt", "labels-regex=^(a|b)+$", busybox, "echo", "x")
        assert str(sampand.docker("logs", "--details", "gore-l").stdout) == "abab=1 x\n"
    finally:
        sampand.docker("rm", "-f", *names, "gore-l", check=False)

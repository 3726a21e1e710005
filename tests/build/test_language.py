from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build.changes import apply_changes
from sampan.build.glob import Glob
from sampan.build.grammar import read_dockerfile
from sampan.build.ignore import Ignore
from sampan.build.modes import parse_mode
from sampan.build.words import Lexer
from sampan.errors import InvalidParameter, SampanError

CASES = sorted((Path(__file__).parent / "dockerfiles").iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_recorded_dockerfiles(case: Path) -> None:
    """What dockerd said to each file, before its stream began, or "ok"."""
    expected = (case / "result").read_text().rstrip("\n")
    try:
        read_dockerfile((case / "Dockerfile").read_bytes())
        said = "ok"
    except SampanError as error:
        said = error.message
    assert said == expected


def test_lost_space_is_mended() -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_dockerfile(b"FROM x\nCOPY. /app\n")
    assert "did you mean `COPY . /app`?" in caught.value.hint
    assert "  2 | COPY. /app\n    |     ^" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("FROM base AS", "did you mean `FROM base AS NAME`?"),
        ("FROM base build", "did you mean `FROM base AS build`?"),
        ("FROM base\nRUN <<EOF\ntrue", "It ends with EOF alone on a line."),
    ],
)
def test_what_was_meant(line: str, hint: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_dockerfile(line.encode())
    assert caught.value.hint.endswith(hint)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a", "foobarbaz"),
        ("${a#f*b}", "arbaz"),
        ("${a##f*b}", "az"),
        ("${a%b*}", "foobar"),
        ("${a%%b*}", "foo"),
        ("${a/ba/fo}", "fooforbaz"),
        ("${a//ba/fo}", "fooforfoz"),
        ("${e:-x$a}", "xfoobarbaz"),
        ("${e-x}", ""),
        ("${u:+x}", ""),
        ("${a:+x}", "x"),
        (r"\$a", "$a"),
        ("'$a'", "$a"),
        (r'"\$a ${u}"', "$a "),
    ],
)
def test_substitution(text: str, expected: str) -> None:
    assert Lexer().word(text, {"a": "foobarbaz", "e": ""}) == expected


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("a.txt", True),
        ("keep.txt", False),
        ("x/a.txt", False),
        ("node_modules/m", True),
        ("a/b.pyc", True),
        ("b.pyc", True),
        ("top", True),
        ("a/top", False),
    ],
)
def test_ignore(path: str, excluded: bool) -> None:
    ignore = Ignore.parse(b"# comment\n*.txt\n!keep.txt\nnode_modules\n**/*.pyc\n/top\n")
    assert ignore.excludes(path) == excluded


@pytest.mark.parametrize(
    ("mode", "before", "directory", "after"),
    [
        ("755", 0o600, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("+x", 0o644, False, 0o755),
        ("g=u", 0o640, False, 0o660),
    ],
)
def test_modes(mode: str, before: int, directory: bool, after: int) -> None:
    assert parse_mode(mode)(before, directory) == after


def test_changes() -> None:
    config = apply_changes({}, ['CMD ["a", "b"]', "# a remark"])
    assert apply_changes(config, ["WORKDIR x"]) == {"Cmd": ["a", "b"], "WorkingDir": "/x"}
    assert apply_changes({}, ["ENV a=b \\", "", "c=d"]) == {"Env": ["a=b", "c=d"]}
    assert apply_changes(config, []) == config
    for changes, message in (
        (["RUN true"], "RUN is not a valid change command"),
        (["ENV a=b", "USER", "run x"], "run is not a valid change command"),
        (["USER"], "USER requires exactly one argument"),
        ([""], "file with no instructions"),
        (["# a remark", " "], "file with no instructions"),
    ):
        with pytest.raises(InvalidParameter) as refused:
            apply_changes({}, changes)
        assert refused.value.message == message


LINES = st.lists(
    st.sampled_from(
        ["FROM a", "RUN <<E", "E", "COPY a b", "# escape=`", "ENV a=$b", "\\", "[", '"', "ARG x", "--f="]
    )
    | st.text(max_size=20),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(LINES)
def test_parser_never_crashes(lines: list[str]) -> None:
    try:
        read_dockerfile("\n".join(lines).encode("utf-8", "surrogatepass"))
    except SampanError as error:
        assert error.status == 400


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab*?/[]^-\\!.", max_size=30), st.text(alphabet="ab/.", max_size=40))
def test_patterns_never_crash(pattern: str, path: str) -> None:
    try:
        ignore = Ignore.parse(pattern.encode())
    except InvalidParameter:
        return
    assert ignore.excludes(path or ".") in (True, False)


@pytest.mark.timeout(60, func_only=True)
def test_patterns_never_hang() -> None:
    assert not Glob("*a" * 200 + "b").match("a" * 4000)
    assert not Glob("**/a/" * 100 + "b", "ignore").match("a/" * 1000)
    for pattern in ("**/a/" * 100 + "b", "?{900}b", "*a" * 200 + "|b", "[a]{500}[^b]{500}|*b"):
        assert not Ignore.parse(pattern.encode()).excludes("aa/" * 250 + "a")

"""The template language of --format."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import jsontext
from sampan.cli.template import Template, TemplateError, render

DATA = {
    "Name": "web",
    "Id": "abc",
    "N": 3,
    "F": 1.5,
    "Yes": True,
    "No": False,
    "Null": None,
    "List": ["a", "b", "c"],
    "Map": {"x": 1, "y": {"z": "deep"}},
    "Objects": [{"K": "k1"}, {"K": "k2"}],
    "Empty": [],
}

CASES = [
    ("plain", "plain"),
    ("{{.Name}}", "web"),
    ("{{ .Name }}-{{.N}}", "web-3"),
    ("{{.ID}}", "abc"),
    ("{{.List}} {{.Map}} {{.F}}", "[a b c] map[x:1 y:map[z:deep]] 1.5"),
    ("{{.Null}} {{.Nope}} {{.Nope.Deeper}}", "<no value> <no value> <no value>"),
    ("{{json .Map}} {{json .Name}} {{json .Null}}", '{"x":1,"y":{"z":"deep"}} "web" null'),
    ("{{.Map.y.z | upper}}", "DEEP"),
    ("{{index .List 1}} {{index .Map \"x\"}} {{index .Map `y` \"z\"}}", "b 1 deep"),
    ("{{(index .Objects 1).K}}", "k2"),
    ("{{range .List}}[{{.}}]{{end}}", "[a][b][c]"),
    ("{{range $i, $e := .List}}{{if $i}}, {{end}}{{$i}}={{$e}}{{end}}", "0=a, 1=b, 2=c"),
    ("{{range $k, $v := .Map}}{{$k}};{{end}}", "x;y;"),
    ("{{range .Empty}}x{{else}}none{{end}}", "none"),
    ("{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac"),
    ("{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
    ("{{if .Yes}}y{{else}}n{{end}}{{if .No}}y{{else if .N}}m{{else}}n{{end}}", "ym"),
    ("{{with .Map.y}}{{.z}}{{end}}{{with .Null}}x{{else}}-{{end}}", "deep-"),
    ("{{if and .Yes .N (not .No)}}1{{end}}{{if or .No .Null}}2{{end}}{{or .Null .Name}}", "1web"),
    ("{{eq .N 3}} {{ne .N 3}} {{lt 1 2}} {{ge 2 2}} {{eq .Name \"a\" \"web\"}}", "true false true true true"),
    ("{{len .List}}{{len .Name}}", "33"),
    ("{{join .List \"-\"}} {{split \"a,b\" \",\"}}", "a-b-c [a b]"),
    ("{{lower \"ABC\"}} {{title \"ab cd\"}} {{truncate .Name 2}} {{pad .Name 1 2}}|", "abc Ab Cd we  web  |"),
    ("{{printf \"%s|%5d|%-5s|%q|%v|%05d|%x|%.2f%%\" .Name .N \"a\" \"q\\n\" .List 42 255 .F}}",
     'web|    3|a    |"q\\n"|[a b c]|00042|ff|1.50%'),
    ("{{println .Name .N}}", "web 3\n"),
    ("{{slice .Name 1}} {{slice .List 0 2}}", "eb [a b]"),
    ("a {{- .Name -}} b", "awebb"),
    ("{{/* a comment with }} in it */}}x", "x"),
    ("{{$x := .Name}}{{$x}}{{$.N}}", "web3"),
    ("{{\"{{\"}}", "{{"),
    ("{{.Name | printf \"%s-%s\" \"a\"}}", "a-web"),
    ("{{html \"<a&b>\"}} {{urlquery \"a b\"}}", "&lt;a&amp;b&gt; a+b"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "expected"), CASES)
def test_cases(template: str, expected: str) -> None:
    assert render(template, DATA) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{{.Name",
        "{{if .Yes}}",
        "{{end}}",
        "{{else}}",
        "{{nosuch .Name}}",
        "{{$nosuch}}",
        '{{"a}}',
        "{{}}",
        "{{.Name |}}",
        "{{(.Name}}",
        "{{range}}{{end}}",
        "{{index .List 7}}",
        "{{index .Null 1}}",
        "{{.Name.X}}",
        '{{lt 1 "a"}}',
        '{{define "x"}}{{end}}',
        "{{| .Name}}",
        "{{join}}",
    ],
)
def test_errors_are_ours(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, DATA)
    assert caught.value.message.startswith("template parsing error: template: :1")


def test_strict_refuses_missing_keys() -> None:
    with pytest.raises(TemplateError, match='map has no entry for key "Nope"'):
        render("{{.Nope}}", DATA, strict=True)


@given(st.text())
def test_any_text_renders_or_is_refused(text: str) -> None:
    try:
        result = Template(text).run(DATA)
    except TemplateError:
        return
    if "{{" not in text:
        assert result == text


@given(st.text(alphabet='{}.|()$"`ab 01:=-/*,ifendrang'))
def test_any_syntax_renders_or_is_refused(text: str) -> None:
    with contextlib.suppress(TemplateError):
        Template("{{" + text + "}}").run(DATA)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | FLOATS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_json_reads_back(value: object) -> None:
    assert json.loads(render("{{json .}}", value)) == value
    assert jsontext.loads(jsontext.dumps(value, 4, sort=True)) == value
    assert jsontext.loads(json.dumps(value)) == value


@given(st.lists(VALUES.filter(lambda v: isinstance(v, dict)), max_size=5), st.integers(1, 9))
def test_documents_in_any_pieces(values: list[object], size: int) -> None:
    data = "".join(json.dumps(value) + "\r\n" for value in values).encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert list(jsontext.documents(pieces)) == values


@given(
    st.lists(st.text(alphabet=st.characters(exclude_characters='"', exclude_categories=["Cs"])), max_size=5)
)
def test_range_visits_all(items: list[str]) -> None:
    assert render("{{range .}}<{{.}}>{{end}}", items) == "".join(f"<{item}>" for item in items)
    assert render('{{join . "+"}}', items) == "+".join(items)
    assert render("{{len .}}", items) == str(len(items))

"""Docker's grammar of image names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import InvalidParameter
from sampan.images.reference import Reference, from_parts

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/team/x:1", "localhost:5000/team/x:1", "localhost:5000/team/x:1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("a__b/c.d--e@" + D, "docker.io/a__b/c.d--e@" + D, "a__b/c.d--e@" + D),
        ("Reg/x:V1", "Reg/x:V1", "Reg/x:V1"),
    ],
)
def test_forms(text: str, canonical: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert reference.canonical == canonical
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("Bad Name", "invalid reference format: repository name (library/Bad Name) must be lowercase"),
        ("Bad", "invalid reference format: repository name (library/Bad) must be lowercase"),
        ("x:", "invalid reference format"),
        ("x:tag with", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("x@sha256:xx", "invalid reference format"),
        ("x@sha256:" + "a" * 40, "invalid checksum digest length"),
        ("a" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("a" * 256, "repository name must not be more than 255 characters"),
        ("x:" + "t" * 129, "invalid reference format"),
        ("-x", "invalid reference format"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Reference.parse(text)
    assert message in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_refused_or_stable(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidParameter:
        return
    assert Reference.parse(reference.familiar) == reference
    assert Reference.parse(reference.canonical) == reference


def test_the_apis_two_parts() -> None:
    assert from_parts("busybox", D).canonical == "docker.io/library/busybox@" + D
    assert from_parts("busybox:1", "2").tag == "2"
    assert from_parts("busybox").tag == ""

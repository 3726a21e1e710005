"""Opening a bundle: a directory with ``config.json`` and, usually, the root file system. bundle.md, config.md."""

from __future__ import annotations

import os

from sampan import jsontext
from sampan.errors import InvalidParameter, NotFound
from sampan.runtime.oci.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONFIG = "config.json"


def load(bundle: str) -> Spec:
    """The bundle's configuration. NotFound, InvalidParameter, Unsupported naming the field."""
    path = os.path.join(bundle, CONFIG)
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        raise NotFound(
            f"JSON specification file {CONFIG} not found in {bundle}",
            hint="Give the bundle's directory with --bundle; `sampan-runtime spec` writes a first configuration.",
        ) from None
    return Spec(parse(text, path))


def parse(text: bytes, name: str) -> dict[str, Any]:
    """A JSON object. InvalidParameter naming the file."""
    try:
        found = jsontext.loads(text)
    except ValueError as error:
        raise InvalidParameter(f"{name}: {error}") from error
    if not isinstance(found, dict):
        raise InvalidParameter(f"{name}: a JSON object is expected")
    return found

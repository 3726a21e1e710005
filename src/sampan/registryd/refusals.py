"""What the registry refuses, in the codes of the distribution-spec ("Error Codes").

Those are all that a 4xx may have; UNKNOWN and UNAVAILABLE, of the reference registry, are for what fails here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sampan import errors

_STATUS = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DENIED": 403,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "SIZE_INVALID": 400,
    "TOOMANYREQUESTS": 429,
    "UNAUTHORIZED": 401,
    "UNAVAILABLE": 503,
    "UNKNOWN": 500,
    "UNSUPPORTED": 405,
}


class Refusal(errors.SampanError):
    """A request that is refused: the spec's code, its status, what clients are told."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 0,
        detail: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or _STATUS[code]
        self.detail = detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON that the spec wants."""
        entry = {"code": self.code, "message": self.message, "detail": self.detail}
        return msgspec.json.encode({"errors": [entry]}) + b"\n"


def of_error(error: errors.SampanError) -> Refusal:
    """Any error of sampan's as a refusal."""
    if isinstance(error, Refusal):
        return error
    other = "UNSUPPORTED" if error.status < 500 else "UNKNOWN"
    code = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN"}.get(error.status, other)
    return Refusal(code, str(error), status=error.status)

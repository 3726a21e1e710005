"""The value of ``RUN --mount=``: comma separated fields, by the reference's tables."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable

from sampan.build.diagnostics import DockerfileError, Span, nearest
from sampan.build.instructions import MountSpec

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_KEYS = [
    "type",
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "id",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "sharing",
    "required",
    "env",
    "mode",
    "uid",
    "gid",
    "size",
]
_FLAGS = ("readonly", "ro", "readwrite", "rw", "required")
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "ro": "readonly", "rw": "readwrite"}


def parse_mount_flag(
    text: str, span: Span | None = None, expand: Callable[[str], str] | None = None
) -> MountSpec:
    """The mount that ``text`` describes; ``expand`` replaces variables in each value.

    Raises DockerfileError for an unknown field, a bad value, or fields that don't belong to the type.
    """

    def fail(reason: str) -> DockerfileError:
        return DockerfileError(reason, span)

    try:
        fields = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration):
        raise fail(f"failed to parse csv mounts: {text}") from None
    values: dict[str, str] = {}
    for field in fields:
        key, eq, value = field.partition("=")
        key = key.lower()
        if key not in _KEYS:
            close = nearest(key, _KEYS)
            raise fail(
                f"unexpected key '{key}' in '{field}'" + (f" (did you mean {close}?)" if close else "")
            )
        if not eq and key not in (*_FLAGS, "env"):
            raise fail(f"invalid field '{field}' must be a key=value pair")
        values[_ALIASES.get(key, key)] = expand(value) if expand and value else value if eq else "true"
    return _Mount(values, fail).spec()


class _Mount:
    """The fields of one mount while they are checked."""

    def __init__(self, values: dict[str, str], fail: Callable[[str], DockerfileError]) -> None:
        self.values = values
        self.fail = fail

    def spec(self) -> MountSpec:
        kind = self.values.get("type", "bind").lower()
        if kind not in _TYPES:
            close = nearest(kind, list(_TYPES))
            raise self.fail(
                f'unsupported mount type "{kind}"' + (f" (did you mean {close}?)" if close else "")
            )
        self.belongs(kind)
        target = self.values.get("target", "")
        identity = self.values.get("id", "")
        if not target and kind in ("bind", "cache", "tmpfs"):
            raise self.fail(f'invalid mount for type "{kind}": target is required')
        if kind == "secret" and not identity and not target:
            raise self.fail("invalid secret mount. one of source, target required")
        if kind == "ssh":
            identity = identity or "default"
        if kind == "secret" and not identity:
            identity = posixpath.basename(target.rstrip("/"))
        return MountSpec(
            type=kind,
            target=target,
            source=self.values.get("source", ""),
            from_=self.values.get("from", ""),
            id=identity,
            readonly=self.readonly(),
            sharing=self.sharing(),
            required=self.flag("required") or False,
            env=self.values.get("env"),
            mode=self.number("mode", 8),
            uid=self.number("uid", 10),
            gid=self.number("gid", 10),
            size=self.size(),
        )

    def belongs(self, kind: str) -> None:
        """Refuse fields that mean nothing for this type rather than ignore them."""
        allowed = {
            "bind": {"source", "from", "readonly", "readwrite"},
            "cache": {"id", "source", "from", "readonly", "readwrite", "sharing", "mode", "uid", "gid"},
            "tmpfs": {"size"},
            "secret": {"id", "required", "env", "mode", "uid", "gid", "source"},
            "ssh": {"id", "required", "mode", "uid", "gid"},
        }[kind] | {"type", "target"}
        for key in self.values:
            if key not in allowed:
                raise self.fail(f"unexpected key '{key}' for mount type '{kind}'")

    def flag(self, key: str) -> bool | None:
        text = self.values.get(key)
        if text is None:
            return None
        if text.lower() in ("true", "1", "t"):
            return True
        if text.lower() in ("false", "0", "f"):
            return False
        raise self.fail(f"invalid value for {key}: {text}")

    def readonly(self) -> bool | None:
        readonly, readwrite = self.flag("readonly"), self.flag("readwrite")
        if readonly is not None:
            return readonly
        return None if readwrite is None else not readwrite

    def sharing(self) -> str:
        text = self.values.get("sharing", "shared").lower()
        if text not in ("shared", "private", "locked"):
            raise self.fail(f'unsupported sharing value "{text}"')
        return text

    def number(self, key: str, base: int) -> int | None:
        text = self.values.get(key)
        if text is None:
            return None
        digits = r"[0-7]{1,12}" if base == 8 else r"\d{1,10}"
        if not re.fullmatch(digits, text) or int(text, base) > 0xFFFFFFFF:
            raise self.fail(f"invalid value {text} for {key}")
        return int(text, base)

    def size(self) -> int:
        text = self.values.get("size", "0")
        match = re.fullmatch(r"(\d{1,15})([bkmgt]?)b?", text.lower())
        if match is None:
            raise self.fail(f"invalid value for size: {text}")
        return int(match[1]) * _SIZES[match[2]]

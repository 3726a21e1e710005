"""The image that a stage has become so far: its document, the layer it stands on, its id."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sampan.build import imageconfig
from sampan.build.options import Platform


def timestamp(epoch: int | None) -> str:
    """Now, or SOURCE_DATE_EPOCH, as RFC 3339 with nanoseconds."""
    if epoch is not None:
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    now = datetime.now(UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond * 1000:09d}Z"


@dataclass(frozen=True, slots=True)
class Image:
    """An image document (OCI image-spec, config.md) and the chain id of its topmost layer (None: no layer).

    Never changed in place: each step gives a new one.
    """

    document: dict[str, Any]
    chain: str | None
    base_reference: str = ""
    # The id of the stored image that this still is: its bytes may be written in another way.
    stored: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """The ``config`` object. Not to be changed; `changed_config` gives a copy."""
        found: dict[str, Any] = self.document.get("config") or {}
        return found

    def changed_config(self) -> dict[str, Any]:
        """A copy to change."""
        return copy.deepcopy(self.config)

    @property
    def layered(self) -> bool:
        """Whether it has layers or history: an image that can be named."""
        return bool(self.document["history"] or self.document["rootfs"]["diff_ids"])

    def encoded(self) -> bytes:
        """The document as it is stored; equal documents give equal bytes."""
        return json.dumps(self.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
            "utf-8", "replace"
        )

    @property
    def id(self) -> str:
        """``sha256:…`` of the document."""
        return self.stored or "sha256:" + hashlib.sha256(self.encoded()).hexdigest()

    def then(
        self,
        created_by: str,
        created: str,
        *,
        config: dict[str, Any] | None = None,
        layer: tuple[str, str] | None = None,
        author: str = "",
    ) -> Image:
        """The image after one more step. ``layer``: chain id and diff id when it changed files."""
        # What is not changed is shared with the image before.
        document = {**self.document, "history": list(self.document["history"])}
        entry: dict[str, Any] = {"created": created, "created_by": created_by}
        who = author or document.get("author") or ""
        if who:
            entry["author"] = document["author"] = who
        if layer is None:
            entry["empty_layer"] = True
        else:
            rootfs = self.document["rootfs"]
            document["rootfs"] = {**rootfs, "diff_ids": [*rootfs["diff_ids"], layer[1]]}
        document["history"].append(entry)
        document["created"] = created
        if config is not None:
            document["config"] = config
        return Image(document, layer[0] if layer else self.chain, self.base_reference)

    def with_config(self, config: dict[str, Any]) -> Image:
        """The same image with another configuration and no new history (ONBUILD triggers taken out)."""
        return Image({**self.document, "config": config}, self.chain, self.base_reference)


def scratch(platform: Platform) -> Image:
    """The empty image that FROM scratch starts with."""
    document: dict[str, Any] = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Env": [f"PATH={imageconfig.DEFAULT_PATH}"]},
        "history": [],
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    if platform.variant:
        document["variant"] = platform.variant
    return Image(document, None)


_KEPT = (
    "architecture",
    "variant",
    "os",
    "os.version",
    "os.features",
    "author",
    "config",
    "history",
    "rootfs",
)


def from_document(document: dict[str, Any], chain: str | None, reference: str, identity: str) -> Image:
    """The image that FROM starts with, out of a stored image's document."""
    kept = {key: document[key] for key in _KEPT if document.get(key)}
    kept["config"] = copy.deepcopy(kept.get("config") or {})
    kept["history"] = kept.get("history") or []
    kept.setdefault("rootfs", {"type": "layers", "diff_ids": []})
    kept["created"] = document.get("created") or "0001-01-01T00:00:00Z"
    if not imageconfig.env_dict(kept["config"]).get("PATH"):
        imageconfig.set_env(kept["config"], "PATH", imageconfig.DEFAULT_PATH)
    return Image(kept, chain, reference, identity)

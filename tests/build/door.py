"""Builds through the engine's HTTP door: files in, the stream's objects out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from .conftest import tar_of


@dataclass
class Built:
    """An answer of ``POST /build``: its status and the objects of its stream (or the error document)."""

    status: int
    objects: list[dict[str, Any]]

    @property
    def text(self) -> str:
        """What a client prints."""
        return "".join(one.get("stream", "") for one in self.objects)

    @property
    def error(self) -> str:
        """The failure's message with its hint, "" when it went well."""
        last = self.objects[-1] if self.objects else {}
        return str(last.get("error") or last.get("message") or "")

    @property
    def id(self) -> str:
        """The id of the image that came out."""
        assert not self.error, self.error
        return str([one["aux"]["ID"] for one in self.objects if "ID" in one.get("aux", {})][-1])

    def aux(self, kind: str) -> list[Any]:
        """The records of one of this engine's extensions (``sampan.why``, …)."""
        return [one["aux"] for one in self.objects if one.get("id") == kind]

    def cached(self) -> int:
        """How many steps came from the cache."""
        return self.text.count("---> Using cache")


class Door:
    """Builds on one daemon. ``base`` is a small image that is there."""

    def __init__(self, daemon: Any, base: str) -> None:
        self.daemon = daemon
        self.base = base

    def build(
        self,
        dockerfile: str | None = None,
        files: dict[str, Any] | None = None,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        mtime: int = 1_000_000_000,
        **query: Any,
    ) -> Built:
        """Build ``dockerfile`` (``BASE`` stands for the base image) with the context ``files``; RUN has no network."""
        query = {"networkmode": "none", **query}
        content = dict(files or {})
        if dockerfile is not None:
            content["Dockerfile"] = dockerfile.replace("BASE", self.base)
        fields = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in query.items()}
        sent = body if body is not None else tar_of(content, mtime)
        status, _, data = self.daemon.api(
            "POST", f"/build?{urlencode(fields)}", body=sent, headers=headers or {}
        )
        return Built(status, [json.loads(line) for line in data.splitlines() if line.strip()])

    def run(self, image: str, *command: str) -> str:
        """What ``command`` prints in a container of ``image``."""
        return str(self.daemon.docker("run", "--rm", "--network", "none", image, *command).stdout)

    def sh(self, image: str, script: str) -> str:
        """What a shell script prints in a container of ``image``."""
        return self.run(image, "sh", "-c", script)

    def inspect(self, image: str) -> dict[str, Any]:
        """The image as the API shows it."""
        found: dict[str, Any] = self.daemon.json("GET", f"/images/{image}/json")
        return found

"""``docker commit``: a container's own layer on top of its image's, as a new image."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from dataclasses import dataclass, field
from typing import Any

from sampan import errors, gojson
from sampan.engine.containers import configchange
from sampan.engine.containers.context import Containers
from sampan.engine.containers.merge import merge_env
from sampan.engine.containers.record import Container
from sampan.engine.containers.timestamps import rfc3339
from sampan.images.reference import Reference
from sampan.runtime.config import ContainerConfig


@dataclass(frozen=True)
class CommitOptions:
    """What the client said: name, texts, Dockerfile instructions, a configuration to start from."""

    repo: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    changes: list[str] = field(default_factory=list)
    pause: bool = True
    config: ContainerConfig | None = None


async def commit(containers: Containers, reference: str, options: CommitOptions) -> str:
    """Make the image and give its id. NotFound, InvalidParameter for changes that aren't allowed."""
    container = containers.get(reference)
    target = _target(options)
    config = _config(container, options)

"""Networks: what ``docker network`` does, and the network side of a container's start and end."""

from __future__ import annotations

from sampan.engine.networks.types import Prepared, SandboxRequest

__all__ = ["Prepared", "SandboxRequest"]

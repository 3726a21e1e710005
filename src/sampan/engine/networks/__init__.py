"""Networks: what ``docker network`` does, and the network side of a container's start and end."""

from __future__ import annotations

from sampan.engine.networks.create import CreateNetwork
from sampan.engine.networks.records import NetworkRecord
from sampan.engine.networks.service import Networks
from sampan.engine.networks.types import Prepared, SandboxRequest

__all__ = ["CreateNetwork", "NetworkRecord", "Networks", "Prepared", "SandboxRequest"]

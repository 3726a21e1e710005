"""What is remembered of a container: one msgspec record, stored as JSON in one row of the database."""

from __future__ import annotations

from typing import Literal

import msgspec

from sampan.engine.containers.states import Status, is_running
from sampan.runtime.config import ContainerConfig, EndpointSettings, HostConfig

MountType = Literal["bind", "volume", "tmpfs", "image"]


class State(msgspec.Struct, omit_defaults=True):
    """The state that inspect shows; times in ns since 1970, 0 for never."""

    status: Status = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    # A start is under way or done: after a crash a live process of an "exited" container is adopted.
    starting: bool = False
    stopped_by_user: bool = False


class HealthResult(msgspec.Struct, omit_defaults=True):
    """One run of the health check."""

    start_ns: int = 0
    end_ns: int = 0
    exit_code: int = 0
    output: str = ""


class Health(msgspec.Struct, omit_defaults=True):
    """What the health check found: the last five results."""

    status: str = "starting"
    failing_streak: int = 0
    log: list[HealthResult] = []


class MountPoint(msgspec.Struct, omit_defaults=True):
    """One mount of the container, resolved: where its content is and how it is mounted."""

    type: MountType
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    # The following steer the mounting and aren't shown.
    no_copy: bool = False
    anonymous: bool = False
    subpath: str = ""
    create_source: bool = False
    recursive: bool = True
    read_only_recursive: bool = True
    tmpfs_options: str = ""
    image_layers: list[str] = []


class Container(msgspec.Struct, omit_defaults=True):
    """One container. ``name`` has no slash; ``image`` is the id, ``config.image`` what the user wrote."""

    id: str
    name: str
    created_ns: int
    image: str
    path: str
    args: list[str]
    config: ContainerConfig
    host: HostConfig
    state: State
    driver: str = "overlay2"
    platform: str = "linux"
    chain: str = ""
    networks: dict[str, EndpointSettings | None] = {}
    mounts: list[MountPoint] = []
    links: dict[str, str] = {}
    restart_count: int = 0
    health: Health | None = None
    warnings: list[str] = []

    @property
    def running(self) -> bool:
        """Whether its process lives (paused included)."""
        return is_running(self.state.status)

    @property
    def short_id(self) -> str:
        """The first twelve digits of the id."""
        return self.id[:12]

    def event_attributes(self) -> dict[str, str]:
        """The attributes of its events: labels, then image and name, as dockerd has them."""
        return {**(self.config.labels or {}), "image": self.config.image, "name": self.name}

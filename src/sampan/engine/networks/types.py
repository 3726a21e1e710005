"""What the rest of the engine and its networks tell each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sampan.engine.containers.record import Container
from sampan.runtime.config import ContainerConfig, EndpointSettings, HostConfig


@dataclass(frozen=True, slots=True)
class SandboxRequest:
    """A container that is about to start, as its networks see it.

    ``networks`` are the endpoint settings by network name (``default`` stands for the default bridge);
    ``links`` maps an alias to the id of the container it leads to. For a container of the build, or of a
    program, ``config`` and ``host`` may be nearly empty: what counts is the network mode.
    """

    container_id: str
    name: str
    hostname: str
    config: ContainerConfig
    host: HostConfig
    networks: Mapping[str, EndpointSettings | None] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, container: Container) -> SandboxRequest:
        """The request for a container of the engine."""
        return cls(
            container_id=container.id,
            name=container.name,
            hostname=container.config.hostname or container.short_id,
            config=container.config,
            host=container.host,
            networks=container.networks,
            links=container.links,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a start needs of the networks: texts of the two files and the endpoints with their addresses.

    In mode ``container:X`` both texts are empty: the other container's files are used.
    """

    hosts: str
    resolv_conf: str
    endpoints: Mapping[str, EndpointSettings] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class Containers(Protocol):
    """The engine's containers, as far as networks need them (engine.containers.registry.Registry)."""

    def get(self, reference: str) -> Container:
        """The container with this name, id or prefix. NotFound "No such container: …"."""

    def save(self, container: Container) -> None:
        """Store what changed (``container.networks``)."""

    def __iter__(self) -> Iterator[Container]:
        """All containers."""


class Events(Protocol):
    """Where events go (engine.events.EventBus)."""

    def publish(
        self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], scope: str = "local"
    ) -> object:
        """Tell an event to all listeners."""

"""A new container's configuration: what the user asked for, completed from the image's."""

from __future__ import annotations

import copy
from typing import TypeVar

from sampan import errors
from sampan.runtime.config import ContainerConfig, HealthConfig

_V = TypeVar("_V")


def merge(user: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """``user`` completed by ``image`` as Docker does it; neither is changed.

    InvalidParameter "no command specified" when neither says what to run.
    """
    merged = copy.copy(user)
    merged.user = user.user or image.user
    merged.working_dir = user.working_dir or image.working_dir
    merged.stop_signal = user.stop_signal or image.stop_signal
    merged.shell = user.shell or image.shell
    merged.env = merge_env(user.env, image.env) or None
    merged.exposed_ports = _union(image.exposed_ports, user.exposed_ports)
    merged.volumes = _union(image.volumes, user.volumes)
    if image.labels or user.labels is None:
        merged.labels = {**(image.labels or {}), **(user.labels or {})}
    _merge_command(merged, user, image)
    merged.healthcheck = _merge_health(user.healthcheck, image.healthcheck)
    if not merged.entrypoint and not merged.cmd:
        raise errors.InvalidParameter(
            "no command specified", hint="Name one after the image, or give the image a CMD or ENTRYPOINT."
        )
    return merged


def merge_env(user: list[str] | None, image: list[str] | None) -> list[str]:
    """The user's variables, then those of the image that the user didn't name."""
    mine = list(user or ())
    named = {entry.partition("=")[0] for entry in mine}
    return mine + [entry for entry in image or () if entry.partition("=")[0] not in named]


def replace_env(base: list[str], changes: list[str] | None) -> list[str]:
    """``base`` with ``changes`` in their places, new names at the end; a name without ``=`` is taken out."""
    fresh = {entry.partition("=")[0]: entry for entry in changes or ()}
    found = [fresh.pop(entry.partition("=")[0], entry) for entry in base]
    return [entry for entry in (*found, *fresh.values()) if "=" in entry]


def _union(low: dict[str, _V] | None, high: dict[str, _V] | None) -> dict[str, _V] | None:
    if not low and not high:
        return None
    return {**(low or {}), **(high or {})}


def _merge_command(merged: ContainerConfig, user: ContainerConfig, image: ContainerConfig) -> None:
    if not user.entrypoint:
        if not user.cmd:
            merged.cmd = image.cmd
        if user.entrypoint is None:
            merged.entrypoint = image.entrypoint
    if merged.entrypoint == [""]:
        merged.entrypoint = None


def _merge_health(user: HealthConfig | None, image: HealthConfig | None) -> HealthConfig | None:
    if user is None or image is None:
        return user or image
    merged = copy.copy(user)
    merged.test = user.test or image.test
    for name in ("interval", "timeout", "start_period", "start_interval", "retries"):
        setattr(merged, name, getattr(user, name) or getattr(image, name))
    return merged


def command(config: ContainerConfig) -> tuple[str, list[str]]:
    """Path and arguments of the first process: the entrypoint with the command behind it."""
    words = [*(config.entrypoint or ()), *(config.cmd or ())]
    return words[0], words[1:]

"""Restart policies: whether a container that ended is started again, and after how long."""

from __future__ import annotations

from sampan.engine.containers.context import Live
from sampan.engine.containers.record import Container

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
# A run of this length is no crash loop: the next delay is the first one again.
_GOOD_RUN = 10.0


def wants(container: Container) -> bool:
    """Whether the policy asks for a restart after this exit, nobody having stopped the container."""
    policy, code = container.host.restart_policy, container.state.exit_code
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name in ("on-failure", "on-unhealthy"):
        more = not policy.maximum_retry_count or container.restart_count < policy.maximum_retry_count
        return code != 0 and more
    return False


def wants_healing(container: Container) -> bool:
    """Whether the policy asks for a restart because the health check says unhealthy (our extension)."""
    policy = container.host.restart_policy
    more = not policy.maximum_retry_count or container.restart_count < policy.maximum_retry_count
    return policy.name == "on-unhealthy" and more


def decide(container: Container, live: Live, *, ours: bool = True) -> float | None:
    """Seconds until the restart, or None for none. The delay doubles from 0.1 s up to a minute.

    ``ours``: whether it is the policy's affair; a stop for the engine's end, or for a restart by hand, isn't.
    """
    state = container.state
    if not ours or live.removing or state.stopped_by_user or not wants(container):
        live.back_off = 0.0
        return None
    ran = (state.finished_ns - state.started_ns) / 1e9
    if ran >= _GOOD_RUN or not live.back_off:
        live.back_off = FIRST_DELAY
    else:
        live.back_off = min(live.back_off * 2, LONGEST_DELAY)
    return live.back_off


def at_engine_start(container: Container) -> bool:
    """Whether a container that doesn't run is started with the engine: ``always`` even if it was stopped.

    One that was waiting for its restart is restarted; that is counted already.
    """
    state, policy = container.state, container.host.restart_policy.name
    if not state.started_ns or state.status in ("created", "removing", "dead"):
        return False
    if policy == "always" or state.status == "restarting":
        return True
    return not state.stopped_by_user and wants(container)

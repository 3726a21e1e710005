"""The filters of ``docker ps`` and of prune, with Docker's meanings and words of refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sampan import errors
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.engine.containers.states import STATUSES
from sampan.engine.containers.timestamps import parse_filter_time
from sampan.goregexp import Regexp, RegexpError

Test = Callable[[Container], bool]

LIST_FILTERS = frozenset(
    (
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",  # of Windows; says nothing here
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    )
)
PRUNE_FILTERS = frozenset(("label", "label!", "until"))
_HEALTH = ("none", "starting", "healthy", "unhealthy")


class Selection:
    """Which containers a client wants: all tests must hold."""

    def __init__(self, tests: Iterable[Test] = (), *, implies_all: bool = False) -> None:
        self._tests = list(tests)
        self.implies_all = implies_all

    def matches(self, container: Container) -> bool:
        """Whether the container is wanted."""
        return all(test(container) for test in self._tests)


def parse(containers: Containers, filters: Mapping[str, list[str]]) -> Selection:
    """The selection that these filters mean. InvalidParameter for values that mean nothing."""
    tests = [
        _PARSERS[name](containers, values) for name, values in filters.items() if values and name in _PARSERS
    ]
    return Selection(tests, implies_all=bool(filters.get("status")))


def _by_status(containers: Containers, values: list[str]) -> Test:
    for value in values:
        if value not in STATUSES:
            raise errors.InvalidParameter(
                f"invalid filter 'status={value}': invalid value for state ({value}): "
                f"must be one of {', '.join(STATUSES)}"
            )
    return lambda container: container.state.status in values


def _by_exit(containers: Containers, values: list[str]) -> Test:
    codes = set()
    for value in values:
        if not re.fullmatch(r"[+-]?\d{1,18}", value):
            raise errors.InvalidParameter(
                f"invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax"
            )
        codes.add(int(value))
    return lambda c: not c.running and bool(c.state.finished_ns) and c.state.exit_code in codes


def _by_health(containers: Containers, values: list[str]) -> Test:
    for value in values:
        if value not in _HEALTH:
            raise errors.InvalidParameter(
                f"invalid filter 'health={value}': invalid value for health ({value}): "
                f"must be one of {', '.join(_HEALTH)}"
            )
    return lambda container: (container.health.status if container.health else "none") in values


def _by_name(containers: Containers, values: list[str]) -> Test:
    patterns = [_pattern(value) for value in values]
    return lambda c: any(p.search(c.name) or p.search(f"/{c.name}") for p in patterns)


def _pattern(text: str) -> Regexp:
    """A regular expression; what is none is taken literally, as Docker does."""
    try:
        return Regexp(text)
    except RegexpError:
        return Regexp(re.escape(text))


def _by_id(containers: Containers, values: list[str]) -> Test:
    """Ids by prefix; one that is empty or fits several containers fits none, as in dockerd."""
    wanted: set[str] = set()
    for value in values:
        found = [container.id for container in containers if value and container.id.startswith(value)]
        wanted.update(found if len(found) == 1 else ())
    return lambda container: container.id in wanted


def label_test(values: Iterable[str]) -> Test:
    """All of ``key`` or ``key=value`` must be among the labels."""
    wanted = [value.partition("=") for value in values]

    def test(container: Container) -> bool:
        labels = container.config.labels or {}
        return all(key in labels and (not mark or labels[key] == value) for key, mark, value in wanted)

    return test


def _by_label(containers: Containers, values: list[str]) -> Test:
    return label_test(values)


def _by_ancestor(containers: Containers, values: list[str]) -> Test:
    """Containers made from one of these images, or from an image that is built on one of them."""
    wanted: set[str] = set()
    chains: set[str] = set()
    for value in values:
        try:
            image = containers.images.get(value)
        except errors.SampanError:
            continue
        wanted.add(image.id)
        if image.layers:
            chains.add(image.layers[-1])
    return lambda c: (
        c.config.image in values
        or _descends(containers, c.image, wanted)
        or _stands_on(containers, c.chain, chains)
    )


def _descends(containers: Containers, image: str, wanted: set[str]) -> bool:
    """Whether an image is one of these or was made from one, by what the store knows of parents."""
    while image and image not in wanted:
        try:
            image = containers.images.get(image).parent
        except errors.SampanError:
            return False
    return bool(image)


def _stands_on(containers: Containers, chain: str, wanted: set[str]) -> bool:
    """Whether one of these chains lies below another; an equal one says nothing about who came first."""
    while chain and wanted:
        try:
            chain = containers.layers.get(chain).parent or ""
        except errors.NotFound:
            return False
        if chain in wanted:
            return True
    return False


def _by_before(containers: Containers, values: list[str]) -> Test:
    limit = min(containers.get(value).created_ns for value in values)
    return lambda container: container.created_ns < limit


def _by_since(containers: Containers, values: list[str]) -> Test:
    limit = max(containers.get(value).created_ns for value in values)
    return lambda container: container.created_ns > limit


def _by_volume(containers: Containers, values: list[str]) -> Test:
    def test(container: Container) -> bool:
        return any(value in (p.name, p.source, p.destination) for p in container.mounts for value in values)

    return test


def _by_network(containers: Containers, values: list[str]) -> Test:
    def test(container: Container) -> bool:
        networks: dict[str, Any] = containers.networks.settings(container.id).get("Networks") or {}
        return any(
            value == name or bool(value and (settings or {}).get("NetworkID", "").startswith(value))
            for name, settings in networks.items()
            for value in values
        )

    return test


def _ports(name: str, values: list[str]) -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for value in values:
        numbers, _, protocol = value.partition("/")
        first, _, last = numbers.partition("-")
        for part, word in ((first, "start"), (last or first, "end")):
            if not part.isdecimal() or int(part) > 65535:
                raise errors.SystemFailure(
                    f"error while looking up for {name} {value}: invalid {word} port '{part}': invalid syntax"
                )
        found.update((port, protocol or "tcp") for port in range(int(first), int(last or first) + 1))
    return found


def _by_publish(containers: Containers, values: list[str]) -> Test:
    wanted = _ports("publish", values)

    def test(container: Container) -> bool:
        for key, bindings in (containers.networks.settings(container.id).get("Ports") or {}).items():
            _, _, protocol = key.partition("/")
            if any((int(b["HostPort"] or 0), protocol) in wanted for b in bindings or ()):
                return True
        return any(
            (int(b.host_port), key.partition("/")[2]) in wanted
            for key, bindings in (container.host.port_bindings or {}).items()
            for b in bindings or ()
            if b.host_port.isdecimal()
        )

    return test


def _by_expose(containers: Containers, values: list[str]) -> Test:
    wanted = _ports("expose", values)

    def test(container: Container) -> bool:
        keys = [*(container.config.exposed_ports or ()), *(container.host.port_bindings or ())]
        return any((int(k.partition("/")[0]), k.partition("/")[2]) in wanted for k in keys if k[0].isdigit())

    return test


def _by_task(containers: Containers, values: list[str]) -> Test:
    """No container is a swarm's task."""
    asked = {
        value.lower() in ("true", "1") for value in values if value.lower() in ("true", "1", "false", "0")
    }
    if len(asked) != 1 or len(values) > 1:
        raise errors.InvalidParameter(f"invalid filter 'is-task=[{' '.join(values)}]'")
    return lambda container: asked == {False}


_PARSERS: dict[str, Callable[[Containers, list[str]], Test]] = {
    "ancestor": _by_ancestor,
    "before": _by_before,
    "exited": _by_exit,
    "expose": _by_expose,
    "health": _by_health,
    "id": _by_id,
    "is-task": _by_task,
    "label": _by_label,
    "name": _by_name,
    "network": _by_network,
    "publish": _by_publish,
    "since": _by_since,
    "status": _by_status,
    "volume": _by_volume,
}


def prune_bounds(filters: Mapping[str, list[str]], now_ns: int) -> tuple[int, Test]:
    """``until`` as ns (0: none) and the test for what is kept because of ``label`` and ``label!``."""
    untils = filters.get("until") or []
    if len(untils) > 1:
        raise errors.InvalidParameter("more than one until filter specified")
    until = parse_filter_time(untils[0], now_ns) if untils else 0
    wanted, unwanted = filters.get("label") or [], filters.get("label!") or []

    def keep(container: Container) -> bool:
        if wanted and not label_test(wanted)(container):
            return True
        return any(label_test([value])(container) for value in unwanted)

    return until, keep

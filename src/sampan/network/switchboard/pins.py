"""Egress control by name: which names a container may ask for, and the addresses it may then reach.

An address that a name stands for is let through for as long as the answer lives, by an element with a
timeout in the engine's nftables table; nothing else opens it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sampan.network.switchboard import wire

if TYPE_CHECKING:
    from sampan.kernel.nft import Nft

_SHORTEST = 60
_LONGEST = 86400
_MOST_REFUSED = 256
_TELL_AGAIN = 60.0
_TELL_PACE = 10.0
_TELL_BURST = 20.0


class _Control:
    def __init__(self, table: str, sources: list[str], rules: list[dict[str, Any]]) -> None:
        self.table = table
        self.sources = sources
        self.rules = rules
        self.refused: dict[str, int] = {}
        self._told: dict[str, float] = {}
        self._budget, self._filled = _TELL_BURST, time.monotonic()

    def inherit(self, old: _Control) -> None:
        """Go on counting and telling where another one ends."""
        self.refused, self._told = old.refused, old._told
        self._budget, self._filled = old._budget, old._filled

    def to_tell(self, name: str) -> bool:
        """Whether somebody is to hear of a refused name: once a minute of each, ten a second of all."""
        now = time.monotonic()
        if now - self._told.get(name, -_TELL_AGAIN) < _TELL_AGAIN:
            return False
        self._budget = min(_TELL_BURST, self._budget + (now - self._filled) * _TELL_PACE)
        self._filled = now
        if self._budget < 1:
            return False
        self._budget -= 1
        if len(self._told) >= _MOST_REFUSED:
            del self._told[next(iter(self._told))]
        self._told.pop(name, None)
        self._told[name] = now
        return True

    def matching(self, name: str) -> list[dict[str, Any]]:
        return [rule for rule in self.rules if rule["name"] and _matches(rule["name"], name)]


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("*."):
        return name.endswith(pattern[1:])
    return name == pattern


class Pins:
    """All containers under control."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        """``tell`` hears of refused names: container, name."""
        self._tell = tell
        self._controls: dict[str, _Control] = {}
        self._nft: Nft | None = None

    def control(
        self, container: str, table: str, sources: list[str], rules: list[dict[str, Any]] | None
    ) -> None:
        """Put a container under control; ``rules`` None ends it."""
        if rules is None:
            self._controls.pop(container, None)
            return
        old = self._controls.get(container)
        self._controls[container] = new = _Control(table, sources, rules)
        if old is not None:
            new.inherit(old)

    def release(self, container: str) -> None:
        """The container is gone."""
        self._controls.pop(container, None)

    def allows(self, container: str, name: str) -> bool:
        """Whether the container may ask for a name; refusals are counted."""
        control = self._controls.get(container)
        if control is None or control.matching(name):
            return True
        if name in control.refused or len(control.refused) < _MOST_REFUSED:
            control.refused[name] = control.refused.get(name, 0) + 1
        if control.to_tell(name):
            self._tell(container, name)
        return False

    def refused(self, container: str) -> dict[str, int]:
        """The names that were refused, with their number."""
        control = self._controls.get(container)
        return dict(control.refused) if control is not None else {}

    def learn(self, container: str, name: str, message: bytes) -> None:
        """Open the addresses of an answer, before the asker hears it."""
        control = self._controls.get(container)
        if control is None:
            return
        try:
            found = list(wire.addresses(message))
        except ValueError:
            return
        commands = [
            _element(control, source, address, ttl, rule)
            for address, ttl in found
            for source in control.sources
            if (":" in source) == (":" in address)
            for rule in control.matching(name)
        ]
        if commands:
            self._run("".join(commands))

    def _run(self, commands: str) -> None:
        from sampan.kernel.nft import Nft, NftError

        if self._nft is None:
            self._nft = Nft()
        try:
            self._nft.run(commands)
        except NftError:
            return  # the table is being mended: what was asked for stays closed, and is asked for again


def _element(control: _Control, source: str, address: str, ttl: int, rule: dict[str, Any]) -> str:
    version = 6 if ":" in address else 4
    timeout = min(max(ttl, _SHORTEST), _LONGEST)
    pair = f"{source} . {address}"
    if rule["port"]:
        name, key = f"pinport{version}", f"{pair} . {rule['protocol']} . {rule['port']}"
    else:
        name, key = f"pin{version}", pair
    # A timeout can't be changed: the old element goes first. `add` before `delete` makes both always succeed.
    head = f"element inet {control.table} {name} {{ {key}"
    return f"add {head} }}\ndelete {head} }}\nadd {head} timeout {timeout}s }}\n"

"""What happens in an engine, told to whoever listens, and kept for those who ask later.

``publish`` never waits: an event goes to the subscribers at once and to the database in a batch soon after
(at the latest at ``close``). A subscriber that falls behind loses its oldest events, not the engine's memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from sampan.storage.db import Database

HISTORY = 4096
"""How many past events are kept, counted over all types."""
_BACKLOG = 4096
_SAVE_AFTER = 0.1
_PREFIX_ACTIONS = frozenset(("health_status", "exec_create", "exec_start"))

_SCHEMA = [
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, body TEXT NOT NULL)",
    "CREATE INDEX events_by_time ON events (time_ns)",
]


class Event(msgspec.Struct, frozen=True):
    """Something that happened to an object: ``container``/``start`` and the like. ``time_ns`` since 1970."""

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]
    scope: str
    time_ns: int


class EventFilter:
    """Which events a subscriber wants, by dockerd's rules. Names it doesn't know filter nothing."""

    _BY_NAME = ("container", "plugin", "volume", "network", "daemon", "service", "node", "secret", "config")

    def __init__(self, filters: Mapping[str, list[str]] | None = None) -> None:
        self._filters = {name: values for name, values in (filters or {}).items() if values}

    def __call__(self, event: Event) -> bool:
        """Whether the event is wanted."""
        return (
            self._exact("type", event.type)
            and self._exact("scope", event.scope)
            and self._action(event.action)
            and all(self._names(name, event) for name in self._BY_NAME)
            and self._image(event)
            and self._labels(event.attributes)
        )

    def _exact(self, name: str, value: str) -> bool:
        return name not in self._filters or value in self._filters[name]

    def _prefix(self, name: str, value: str) -> bool:
        return name not in self._filters or any(value.startswith(wanted) for wanted in self._filters[name])

    def _action(self, action: str) -> bool:
        if _PREFIX_ACTIONS.intersection(self._filters.get("event", ())):
            return self._prefix("event", action)
        return self._exact("event", action)

    def _names(self, name: str, event: Event) -> bool:
        if name not in self._filters:
            return True
        own_name = event.attributes.get("name", "")
        return self._prefix(name, event.actor_id) or bool(own_name and self._prefix(name, own_name))

    def _image(self, event: Event) -> bool:
        if "image" not in self._filters:
            return True
        name = event.attributes.get("name" if event.type == "image" else "image", "")
        candidates = {event.actor_id, name, _without_tag(event.actor_id), _without_tag(name)}
        return not candidates.isdisjoint(self._filters["image"])

    def _labels(self, attributes: Mapping[str, str]) -> bool:
        for wanted in self._filters.get("label", ()):
            key, mark, value = wanted.partition("=")
            if key not in attributes or (mark and attributes[key] != value):
                return False
        return True


def _without_tag(reference: str) -> str:
    head, slash, last = reference.rpartition("/")
    return head + slash + last.partition(":")[0]


class EventBus:
    """Publishes events, keeps the last ``HISTORY`` of them in the database."""

    def __init__(self, db: Database) -> None:
        db.migrate("events", _SCHEMA)
        self._db = db
        self._subscribers: set[_Subscriber] = set()
        self._unsaved: list[Event] = []
        self._saving: asyncio.Task[None] | None = None
        self._last_ns = 0

    @property
    def listeners(self) -> int:
        """How many subscribers there are now."""
        return len(self._subscribers)

    def publish(
        self,
        type: str,
        action: str,
        actor_id: str,
        attributes: Mapping[str, str] | None = None,
        scope: str = "local",
    ) -> Event:
        """Tell everybody. Call it on the event loop's thread; times never go backwards."""
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        event = Event(type, action, actor_id, dict(attributes or {}), scope, self._last_ns)
        self._unsaved.append(event)
        for subscriber in self._subscribers:
            subscriber.offer(event)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save_soon())
        return event

    async def _save_soon(self) -> None:
        await asyncio.sleep(_SAVE_AFTER)
        while self._unsaved:
            batch = list(self._unsaved)
            await asyncio.to_thread(self._save, batch)
            del self._unsaved[: len(batch)]

    def _save(self, batch: list[Event]) -> None:
        with self._db.transaction() as tx:
            for event in batch:
                body = msgspec.json.encode(event).decode()
                tx.execute("INSERT INTO events (time_ns, body) VALUES (?, ?)", (event.time_ns, body))
            tx.execute("DELETE FROM events WHERE seq <= (SELECT MAX(seq) FROM events) - ?", (HISTORY,))

    def history(self, since_ns: int = 0, until_ns: int | None = None) -> list[Event]:
        """The kept events of that time, oldest first (reads the database: call it in a thread)."""
        unsaved = list(self._unsaved)
        with self._db.transaction() as tx:
            rows = tx.execute(
                "SELECT body FROM events WHERE time_ns >= ? AND time_ns <= ? ORDER BY seq",
                (since_ns, until_ns if until_ns is not None else (1 << 63) - 1),
            ).fetchall()
        found = [msgspec.json.decode(row[0], type=Event) for row in rows]
        newest = found[-1].time_ns if found else 0
        found += [
            event
            for event in unsaved
            if event.time_ns > newest
            and event.time_ns >= since_ns
            and (until_ns is None or event.time_ns <= until_ns)
        ]
        return found

    async def subscribe(
        self,
        filters: Mapping[str, list[str]] | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> AsyncIterator[Event]:
        """Events as they come, after the kept ones from ``since`` on; ends at ``until``. Nanoseconds.

        With an ``until`` in the past there are only kept events. The subscription begins when the iterator
        is first asked.
        """
        wanted = EventFilter(filters)
        subscriber = _Subscriber(wanted)
        self._subscribers.add(subscriber)
        try:
            newest = 0
            if since is not None or until is not None:
                for event in await asyncio.to_thread(self.history, since or 0, until):
                    newest = event.time_ns
                    if wanted(event):
                        yield event
            while (event_or_end := await subscriber.next(until)) is not None:
                if event_or_end.time_ns > newest:
                    yield event_or_end
        finally:
            self._subscribers.discard(subscriber)

    async def close(self) -> None:
        """Write what isn't written yet."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait((self._saving,))
        if self._unsaved:
            batch, self._unsaved = self._unsaved, []
            await asyncio.to_thread(self._save, batch)


class _Subscriber:
    """One listener's queue."""

    def __init__(self, wanted: EventFilter) -> None:
        self._wanted = wanted
        self._queue: deque[Event] = deque(maxlen=_BACKLOG)
        self._arrival = asyncio.Event()

    def offer(self, event: Event) -> None:
        if self._wanted(event):
            self._queue.append(event)
            self._arrival.set()

    async def next(self, until_ns: int | None) -> Event | None:
        """The next event; None when ``until_ns`` is reached."""
        while not self._queue:
            self._arrival.clear()
            try:
                async with asyncio.timeout(_seconds_left(until_ns)):
                    await self._arrival.wait()
            except TimeoutError:
                return None
        event = self._queue.popleft()
        return None if until_ns is not None and event.time_ns > until_ns else event


def _seconds_left(until_ns: int | None) -> float | None:
    return None if until_ns is None else max(0.0, (until_ns - time.time_ns()) / 1e9)


def docker_event(event: Event, *, legacy: bool) -> dict[str, object]:
    """The event as the API shows it; ``legacy`` (before 1.52) adds ``status``, ``id`` and ``from``."""
    found: dict[str, object] = {}
    if legacy and event.type in ("container", "image"):
        found = {"status": event.action}
        if event.actor_id:
            found["id"] = event.actor_id
        if event.attributes.get("image"):
            found["from"] = event.attributes["image"]
    actor = {"ID": event.actor_id, "Attributes": event.attributes}
    return found | {
        "Type": event.type,
        "Action": event.action,
        "Actor": actor,
        "scope": event.scope,
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }

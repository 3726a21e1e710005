"""Telling others what was pushed, pulled, mounted and deleted: the reference registry's notifications.

https://distribution.github.io/distribution/about/notifications/: an envelope of events, POSTed as JSON. Other
than there, the queue lies on disk: an event is stored before the request that caused it is answered, and
removed when its endpoint took it. So it is told after a crash, too, in order, and perhaps twice (by the same id).
The thread that sends never holds a client up; beyond a limit the oldest events are dropped.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from sampan import errors
from sampan.registryd.connection import Request
from sampan.storage.db import Database

log = logging.getLogger("sampan.registry")

MEDIA_TYPE = "application/vnd.docker.distribution.events.v1+json"
DATABASE = "events.db"
LIMIT = 100_000  # events that wait for one endpoint, about a kilobyte each
_BATCH = 100
_TIMEOUT = 5.0
_PAUSES = (0.1, 0.5, 2.0, 10.0, 60.0)
_LONGEST = 600.0  # seconds that an endpoint may ask us to wait
_CONTENT = frozenset((400, 413, 415, 422))  # what is sent is refused: trying again is of no use
_SCHEMA = (
    "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, event BLOB NOT NULL)",
    "CREATE INDEX events_by_endpoint ON events (endpoint, id)",
)


class Target(NamedTuple):
    """What an event is about; ``size`` in bytes."""

    repository: str
    digest: str
    media_type: str
    size: int
    tag: str = ""


class Queue:
    """The events that wait for endpoints, by the endpoint's key. Every method may be called from any thread.

    A commit survives the death of the process; loss of power may cost the last ones, as pulls shall not wait
    for the disk.
    """

    def __init__(self, place: Path, limit: int = LIMIT) -> None:
        """``place`` is the database's file, ``:memory:`` for one that ends with the process."""
        self._db = Database(place)
        self._db.migrate("events", _SCHEMA)
        self._limit = limit
        rows = self._db.query("SELECT endpoint, count(*) FROM events GROUP BY endpoint")
        self._counts: dict[str, int] = dict(rows)

    def add(self, keys: Sequence[str], event: bytes) -> int:
        """Append an event for each of these endpoints; how many older ones had to go."""
        dropped = 0
        with self._db.transaction() as tx:
            for key in keys:
                tx.execute("INSERT INTO events (endpoint, event) VALUES (?, ?)", (key, event))
                self._counts[key] = self._counts.get(key, 0) + 1
                if self._counts[key] > self._limit:
                    oldest = "SELECT min(id) FROM events WHERE endpoint = ?"
                    tx.execute(f"DELETE FROM events WHERE id = ({oldest})", (key,))
                    self._counts[key] -= 1
                    dropped += 1
        return dropped

    def first(self, key: str, count: int) -> list[tuple[int, bytes]]:
        """The oldest events of an endpoint with their numbers."""
        statement = "SELECT id, event FROM events WHERE endpoint = ? ORDER BY id LIMIT ?"
        return self._db.query(statement, (key, count))

    def remove(self, key: str, until: int) -> None:
        """Forget an endpoint's events up to this number."""
        with self._db.transaction() as tx:
            gone = tx.execute("DELETE FROM events WHERE endpoint = ? AND id <= ?", (key, until)).rowcount
            self._counts[key] = self._counts.get(key, 0) - gone

    def keep(self, keys: Sequence[str]) -> int:
        """Forget what waits for other endpoints than these; how many events."""
        marks = ",".join("?" * len(keys))
        return self._db.execute(f"DELETE FROM events WHERE endpoint NOT IN ({marks})", keys)

    def close(self) -> None:
        """Close the database; what waits stays."""
        self._db.close()


class Events:
    """Delivers to endpoints, each with a thread of its own."""

    def __init__(self, urls: Sequence[str], headers: Sequence[str] = (), place: Path | None = None) -> None:
        """``headers`` are ``Name: value`` lines for every delivery (an ``Authorization``).

        ``place`` is where the queue lies, None for one in memory. Without URLs nothing is made there.
        """
        self._endpoints: dict[str, _Endpoint] = {}
        self._source = {"addr": socket.gethostname(), "instanceID": str(uuid.uuid4())}
        if not urls:
            return
        pairs = [line.partition(":") for line in headers]
        fields = {name.strip(): value.strip() for name, _, value in pairs}
        self._queue = Queue(place or Path(":memory:"))
        by_key = {_key(url): url for url in urls}
        if dropped := self._queue.keep(list(by_key)):
            log.warning("dropped %d events that waited for endpoints which are no longer given", dropped)
        self._endpoints = {key: _Endpoint(self._queue, key, url, fields) for key, url in by_key.items()}

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._endpoints)

    def tell(self, action: str, request: Request, target: Target) -> None:
        """Queue an event: ``push``, ``pull``, ``mount`` or ``delete``. What was done stays done without it."""
        if not self._endpoints:
            return
        event = msgspec.json.encode(self._event(action, request, target))
        try:
            dropped = self._queue.add(list(self._endpoints), event)
        except (errors.SampanError, sqlite3.Error) as error:
            log.error("the %s of %s can't be told: %s", action, target.repository, error)
            return
        if dropped:
            log.warning("too many events wait: %d dropped", dropped)
        for endpoint in self._endpoints.values():
            endpoint.wake()

    def _event(self, action: str, request: Request, target: Target) -> dict[str, Any]:
        host = request.headers.get("host")
        kind = "manifests" if target.media_type.endswith("json") or target.tag else "blobs"
        path = f"/v2/{target.repository}/{kind}/{target.digest or target.tag}"
        what = {
            "mediaType": target.media_type,
            "size": target.size,
            "length": target.size,
            "digest": target.digest,
            "repository": target.repository,
            "url": f"{'https' if request.secure else 'http'}://{host}{path}",
            "tag": target.tag,
        }
        asked = {
            "id": str(uuid.uuid4()),
            "addr": request.peer,
            "host": host,
            "method": request.method,
            "useragent": request.headers.get("user-agent"),
        }
        return {
            "id": str(uuid.uuid4()),
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
            "action": action,
            "target": {key: value for key, value in what.items() if value != ""},
            "request": asked,
            "actor": {"name": request.user} if request.user else {},
            "source": self._source,
        }

    def close(self, grace: float = 3.0) -> None:
        """Deliver what is queued, at most for ``grace`` seconds; the rest is told after the next start."""
        deadline = time.monotonic() + grace
        for endpoint in self._endpoints.values():
            endpoint.end()
        for endpoint in self._endpoints.values():
            endpoint.join(deadline)
        if self._endpoints:
            self._queue.close()


def _key(url: str) -> str:
    """What stands for an endpoint on disk: its URL may hold a secret."""
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _shown(url: str) -> str:
    """A URL for the log."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Endpoint:
    """One URL and the thread that sends to it: the oldest first, nothing before the oldest was taken."""

    def __init__(self, queue: Queue, key: str, url: str, fields: dict[str, str]) -> None:
        self._queue, self._key, self._url = queue, key, url
        self._fields = {"Content-Type": MEDIA_TYPE, **fields}
        self._changed = threading.Event()
        self._changed.set()  # something may wait since the last run
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"events-{os.getpid()}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to send."""
        self._changed.set()

    def end(self) -> None:
        """Send what is there, then end."""
        self._ending.set()
        self._changed.set()

    def join(self, deadline: float) -> None:
        """Wait for the thread, until a moment of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        import urllib3

        pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)
        ending = False
        while not ending:
            self._changed.wait()
            self._changed.clear()
            ending = self._ending.is_set()  # before sending: what was told until then goes out
            try:
                self._send_all(pool)
            except sqlite3.ProgrammingError:
                return  # the queue was closed: the grace is over
            except (errors.SampanError, sqlite3.Error) as error:
                log.error("events to %s: the queue failed: %s", _shown(self._url), error)
                self._ending.wait(_PAUSES[-1])
                self._changed.set()

    def _send_all(self, pool: Any) -> None:
        """Send until nothing waits."""
        failures, count = 0, _BATCH
        while batch := self._queue.first(self._key, count):
            status, problem, pause = self._deliver(pool, [msgspec.Raw(event) for _, event in batch])
            if status in _CONTENT and len(batch) > 1:
                count = 1  # the others may be taken
                continue
            count = _BATCH
            if not problem or status in _CONTENT:
                self._queue.remove(self._key, batch[-1][0])
                failures = 0
            if problem:
                log.warning("events to %s: %s", _shown(self._url), problem)
            if problem and status not in _CONTENT:
                pause = max(pause, _PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
                if self._ending.wait(pause):
                    time.sleep(_PAUSES[0])

    def _deliver(self, pool: Any, events: list[msgspec.Raw]) -> tuple[int, str, float]:
        """Send; the status, what went wrong ("" for nothing), and how many seconds the endpoint wants to be
        left alone.
        """
        import urllib3

        body = msgspec.json.encode({"events": events})
        try:
            answer = pool.request("POST", self._url, body=body, headers=self._fields, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            return 0, str(error), 0.0
        status: int = answer.status
        if status < 300:
            return status, "", 0.0
        asked = answer.headers.get("Retry-After", "")
        pause = min(_LONGEST, float(asked)) if asked.isascii() and asked.isdigit() else 0.0
        return status, f"status {status}", pause

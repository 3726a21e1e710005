"""Telling others what was pushed, pulled, mounted and deleted: the reference registry's notifications.

https://distribution.github.io/distribution/about/notifications/: an envelope of events, POSTed as JSON. The
thread that sends never holds a client up: what can't be delivered waits in a queue, and the oldest is dropped
when that is full.
"""

from __future__ import annotations

import datetime
import logging
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from sampan.registryd.connection import Request

log = logging.getLogger("sampan.registry")

MEDIA_TYPE = "application/vnd.docker.distribution.events.v1+json"
_QUEUE = 10_000
_BATCH = 100
_TIMEOUT = 5.0
_PAUSES = (0.1, 0.5, 2.0, 10.0)


class Target(NamedTuple):
    """What an event is about; ``size`` in bytes."""

    repository: str
    digest: str
    media_type: str
    size: int
    tag: str = ""


class Events:
    """Delivers to endpoints, each with a queue and thread of its own."""

    def __init__(self, urls: Sequence[str], headers: Sequence[str] = ()) -> None:
        """``headers`` are ``Name: value`` lines for every delivery (an ``Authorization``)."""
        pairs = [line.partition(":") for line in headers]
        fields = {name.strip(): value.strip() for name, _, value in pairs}
        self._endpoints = [_Endpoint(url, fields) for url in urls]
        self._source = {"addr": socket.gethostname(), "instanceID": str(uuid.uuid4())}

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._endpoints)

    def tell(self, action: str, request: Request, target: Target) -> None:
        """Queue an event: ``push``, ``pull``, ``mount`` or ``delete``."""
        if not self._endpoints:
            return
        event = self._event(action, request, target)
        for endpoint in self._endpoints:
            endpoint.put(event)

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
        """Deliver what is queued, at most for ``grace`` seconds."""
        deadline = time.monotonic() + grace
        for endpoint in self._endpoints:
            endpoint.close(deadline)


class _Endpoint:
    """One URL, its queue and its thread."""

    def __init__(self, url: str, fields: dict[str, str]) -> None:
        self._url, self._fields = url, {"Content-Type": MEDIA_TYPE, **fields}
        self._queue: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name=f"events-{os.getpid()}", daemon=True)
        self._thread.start()

    def put(self, event: dict[str, Any]) -> None:
        with self._changed:
            if len(self._queue) >= _QUEUE:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append(event)
            self._changed.notify()

    def close(self, deadline: float) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        import urllib3

        pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)
        failures = 0
        while True:
            with self._changed:
                while not self._queue and not self._ending:
                    self._changed.wait()
                if not self._queue:
                    return
                batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            problem = self._deliver(pool, batch)
            if not problem:
                failures = 0
                continue
            log.warning("events to %s: %s (%d were dropped so far)", self._url, problem, self._dropped)
            with self._changed:
                self._queue.extendleft(reversed(batch))
                pause = _PAUSES[0 if self._ending else min(failures, len(_PAUSES) - 1)]
                self._changed.wait(pause)
            failures += 1

    def _deliver(self, pool: Any, batch: list[dict[str, Any]]) -> str:
        """Send; what went wrong, "" for nothing. A 4xx says that trying again is of no use: dropped."""
        import urllib3

        body = msgspec.json.encode({"events": batch})
        try:
            status = pool.request("POST", self._url, body=body, headers=self._fields, redirect=False).status
        except urllib3.exceptions.HTTPError as error:
            return str(error)
        if 400 <= status < 500 and status not in (408, 429):
            log.warning("events to %s: refused with status %d, dropped %d", self._url, status, len(batch))
            return ""
        return "" if status < 400 else f"status {status}"

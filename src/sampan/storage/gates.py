"""Locks by name: what several threads want at once is made by one of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gates:
    """A lock for each name that somebody holds or waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """One thread at a time goes through with ``name``."""
        with self._lock:
            gate, users = self._gates.get(name) or (threading.Lock(), 0)
            self._gates[name] = (gate, users + 1)
        try:
            with gate:
                yield
        finally:
            with self._lock:
                users = self._gates[name][1] - 1
                if users:
                    self._gates[name] = (gate, users)
                else:
                    del self._gates[name]

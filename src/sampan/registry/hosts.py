"""What one engine keeps between its pulls and pushes: open connections, and how each host wants to be spoken to.

No credentials are kept. A connection is taken again only while the certificates laid down for its host, and the
proxies, are what they were.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from sampan.proxies import Proxies
from sampan.registry.pools import Pools

LIFE = 60.0  # seconds


class Hosts:
    """Connections by host. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.bases: dict[str, tuple[str, float]] = {}
        """By host the address that it was last found at, and until when that is believed (time.monotonic())."""
        self.asked: dict[str, tuple[str, float]] = {}
        """By address what it asked for (``WWW-Authenticate``), and until when that is believed."""
        self._lock = threading.Lock()
        self._pools: dict[object, tuple[Pools, float]] = {}

    def pools(self, host: str, *, verify: bool, certificates: tuple[Path, ...]) -> Pools:
        """Connections to a host. OSError or ssl.SSLError when a certificate file can't be used."""
        self.drop_idle()
        proxies = Proxies.of_environment()
        key = (host, verify, repr(proxies), tuple(_state(place / host) for place in certificates))
        with self._lock:
            found, _ = self._pools.get(key, (None, 0.0))
        if found is None:
            found = Pools(host, verify=verify, certificates=certificates, proxies=proxies)
        with self._lock:
            self._pools[key] = found, _now()
        return found

    def drop_idle(self) -> None:
        """Close what was not asked for in a minute."""
        now = _now()
        with self._lock:
            gone = [key for key, (_, used) in self._pools.items() if now - used >= LIFE]
            closing = [self._pools.pop(key)[0] for key in gone]
            if not self._pools:
                self.bases.clear()
                self.asked.clear()
        for pools in closing:
            pools.close()


def _now() -> float:
    """Seconds, those in which the machine slept among them: then the other side has forgotten connections."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _state(place: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells whether a folder of certificates has changed."""
    try:
        found = [(path.name, path.stat()) for path in sorted(place.iterdir())]
    except OSError:
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)

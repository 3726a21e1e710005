"""``sampand``'s entry: asyncio comes first, without ``ssl``.

asyncio imports ``ssl`` only for its own TLS, which sampan doesn't use (``api.tls`` stands on memory buffers);
that module and what it brings take 4 MB of an idle engine. It is imported where TLS is really asked for.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, cast

if "ssl" not in sys.modules and "asyncio" not in sys.modules:
    _modules = cast(MutableMapping[str, Any], sys.modules)
    _modules["ssl"] = None  # "import ssl" fails, for which asyncio is prepared
    try:
        import asyncio  # noqa: F401
    finally:
        del _modules["ssl"]

from sampan.daemon.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

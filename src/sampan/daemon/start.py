"""``sampand``'s entry: what would bring OpenSSL into an idle engine is imported first, without it.

asyncio imports ``ssl`` only for its own TLS, which sampan doesn't use (``api.tls`` stands on memory buffers);
``hashlib`` has functions of its own, good enough for names and keys. OpenSSL takes 7 MB of an idle engine. It is
imported where TLS is really asked for, and by ``storage.digest`` where content is hashed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import MutableMapping
from typing import Any, cast


def _import_without(module: str, *hidden: str) -> None:
    """Import ``module``, which is prepared for the failure of "import" of what is hidden from it."""
    if any(name in sys.modules for name in (module, *hidden)):
        return
    modules = cast(MutableMapping[str, Any], sys.modules)
    for name in hidden:
        modules[name] = None
    try:
        importlib.import_module(module)
    finally:
        for name in hidden:
            del modules[name]


_import_without("asyncio", "ssl")
_import_without("secrets", "_hashlib")  # and with it hashlib and hmac

from sampan.daemon.main import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())

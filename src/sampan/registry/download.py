"""A file from any web server, for ``docker import URL``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import urllib3

from sampan import errors
from sampan.proxies import Proxies
from sampan.registry.faults import unreachable
from sampan.registry.pools import Pools


@contextmanager
def download(url: str) -> Iterator[tuple[Callable[[int], bytes], int]]:
    """``read(n)`` over what ``url`` (http or https) gives, and its length in bytes, 0 for unknown.

    InvalidParameter for another kind of address, SystemFailure when the server can't be reached, doesn't
    answer 200, or breaks off.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.InvalidParameter(f"can't import from {url}", hint="Give an http:// or https:// address.")
    pools = Pools(parts.netloc, verify=True, certificates=(), proxies=Proxies.of_environment())
    try:
        response = pools.request("GET", url, preload_content=False, redirect=True, retries=urllib3.Retry(3))
    except urllib3.exceptions.HTTPError as error:
        raise unreachable("GET", url, error, parts.netloc) from error
    try:
        if response.status != 200:
            raise errors.SystemFailure(f'Get "{url}": the server answered {response.status}')
        length = response.headers.get("Content-Length", "")

        def read(size: int) -> bytes:
            try:
                return response.read(size, decode_content=False)
            except urllib3.exceptions.HTTPError as error:
                raise errors.SystemFailure(f'Get "{url}": {error}') from error

        yield read, int(length) if length.isdigit() else 0
    finally:
        response.close()

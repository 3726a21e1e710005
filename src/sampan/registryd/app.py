"""From a request to its answer: who asks, what for, and how refusals look."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from sampan import errors
from sampan.api.query import Query, parse_query, unescape
from sampan.registryd import names
from sampan.registryd.access import Access
from sampan.registryd.connection import Gone, Reply, Request
from sampan.registryd.reading import Reading
from sampan.registryd.refusals import Refusal, of_error
from sampan.registryd.writing import Writing

log = logging.getLogger("sampan.registry")

COMMON = {"Docker-Distribution-API-Version": "registry/2.0", "X-Content-Type-Options": "nosniff"}
JSON = "application/json"
_ROUTE = re.compile(
    r"/v2/(?P<name>.+)/(?:"
    r"manifests/(?P<manifest>[^/]+)|(?P<uploads>blobs/uploads/?)|blobs/uploads/(?P<upload>[^/]+)|blobs/(?P<blob>[^/]+)|"
    r"(?P<tags>tags/list)|referrers/(?P<referrers>[^/]+))"
)
_READS = frozenset(("GET", "HEAD"))

Handler: TypeAlias = Callable[[Request, str, str], Reply]
"""What answers: gets the request, the repository, and the rest of the path."""


class Application:
    """Answers requests: reads from ``reading``, writes by ``writing`` (None: a registry to read only)."""

    def __init__(self, reading: Reading, writing: Writing | None, access: Access, why_not: str = "") -> None:
        self._access, self._reading, self._writing = access, reading, writing
        self._why_not = why_not
        read = {
            "manifest": reading.manifest,
            "blob": reading.blob,
            "tags": reading.tags,
            "referrers": reading.referrers,
        }
        self._handlers: dict[tuple[str, str], Handler] = {
            (kind, method): handler for kind, handler in read.items() for method in _READS
        }
        if writing is not None:
            self._handlers |= {
                ("manifest", "PUT"): writing.put_manifest,
                ("manifest", "DELETE"): writing.delete_manifest,
                ("blob", "DELETE"): writing.delete_blob,
                ("uploads", "POST"): writing.begin,
                ("upload", "GET"): writing.status,
                ("upload", "HEAD"): writing.status,
                ("upload", "PATCH"): writing.append,
                ("upload", "PUT"): writing.finish,
                ("upload", "DELETE"): writing.cancel,
            }

    def __call__(self, request: Request) -> Reply:
        """The answer. Gone passes through."""
        try:
            reply = self._answer(request)
        except Gone:
            raise
        except errors.SampanError as error:
            reply = _refused(of_error(error))
        except OSError as error:
            reply = _refused(_disk(error))
        except Exception as error:
            log.exception("%s %s", request.method, request.target[:500])
            reply = _refused(Refusal("UNKNOWN", f"internal error: {type(error).__name__}"))
        reply.fields = {**COMMON, **reply.fields}
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s %s: %d", request.peer, request.method, request.target[:500], reply.status)
        return reply

    def _answer(self, request: Request) -> Reply:
        path, _, query = request.target.partition("?")
        if "://" in path:  # RFC 9112 section 3.2.2
            path = "/" + path.partition("://")[2].partition("/")[2]
        try:
            request.path = unescape(path)
            request.query = Query(parse_query(query)) if query else request.query
        except errors.InvalidParameter as error:
            raise Refusal("NAME_INVALID", error.message) from error
        if request.path in ("/", "/v2"):
            return Reply(200) if request.path == "/" else Reply(301, {"Location": "/v2/"})
        if request.path == self._access.token_path:
            return self._access.token(request)
        self._access.check(request)
        if request.path == "/v2/":
            return self._only_read(request, lambda _: Reply(200, {"Content-Type": JSON}, b"{}"))
        if request.path == "/v2/_catalog":
            return self._only_read(request, self._reading.catalog)
        if request.path == "/v2/_sampan/registry/usage":
            return self._only_read(request, self._reading.usage)
        return self._routed(request)

    def _only_read(self, request: Request, handler: Callable[[Request], Reply]) -> Reply:
        if request.method not in _READS:
            raise _not_allowed(request, _READS, "")
        return handler(request)

    def _routed(self, request: Request) -> Reply:
        match = _ROUTE.fullmatch(request.path)
        if match is None:
            raise Refusal("NAME_UNKNOWN", "404 page not found: no such address in a registry")
        kind = str(match.lastgroup)
        handler = self._handlers.get((kind, request.method))
        repository = names.repository(match["name"])
        if handler is None:
            allowed = [method for group, method in self._handlers if group == kind]
            raise _not_allowed(request, allowed, self._why_not)
        return handler(request, repository, match[kind])


def _not_allowed(request: Request, allowed: Iterable[str], why: str) -> Refusal:
    message = why or f"the operation is unsupported: {request.method[:20]} can't be done here"
    return Refusal("UNSUPPORTED", message, headers={"Allow": ", ".join(sorted(allowed))})


def _refused(refusal: Refusal) -> Reply:
    if refusal.status >= 500:
        log.error("%s", refusal)
    return Reply(refusal.status, {"Content-Type": JSON, **refusal.headers}, refusal.body())


def _disk(error: OSError) -> Refusal:
    status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500
    return Refusal("UNKNOWN", f"the registry's storage failed: {error.strerror or error}", status=status)

"""From method and path to a handler: the table of all routes, and matching as Docker's router does it."""

from __future__ import annotations

import importlib
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.api import versions
from sampan.api.http import Request, Response, Route, json_response
from sampan.api.query import Query, parse_query, unescape

_PARAMETER = re.compile(r"\{(\w+)\}")


def not_found() -> Response:
    """The router's own 404: without Docker's header fields."""
    response = json_response({"message": "page not found"}, 404)
    response.common = False
    return response


def clean_path(path: str) -> str:
    """``path`` without empty and dot parts, as Go's router canonicalises it; a trailing slash stays."""
    if path == "*":
        return path
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith("/") and clean != "/" else clean


@dataclass(frozen=True, slots=True)
class _Pattern:
    expression: re.Pattern[str]
    route: Route


MODULES = (
    "system",
    "events",
    "images",
    "auth",
    "plugins",
    "swarm",
    "session",
    "containers",
    "exec",
    "volumes",
    "networks",
    "build",
)
"""The resource modules of this package; each has a list ``ROUTES``."""


def all_routes() -> list[Route]:
    """Every route of the API, joined from the resource modules (imported only now: start-up is light)."""
    found: list[Route] = []
    for name in MODULES:
        found += importlib.import_module(f"sampan.api.{name}").ROUTES
    return found


class Router:
    """Finds the route of a request: fixed paths first, then patterns in the order they were added."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[tuple[str, str], Route] = {}
        self._patterns: dict[tuple[str, str], list[_Pattern]] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        if "{" not in route.pattern:
            self._fixed[route.method, route.pattern] = route
            return
        expression = _PARAMETER.sub(r"(?P<\1>.+)", route.pattern.replace(".", r"\."))
        key = route.method, route.pattern.split("/", 2)[1]
        self._patterns.setdefault(key, []).append(_Pattern(re.compile(expression, re.DOTALL), route))

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and the values of its parameters, or None. ``path`` has no version."""
        route = self._fixed.get((method, path))
        if route is not None:
            return route, {}
        first = path.split("/", 2)[1] if path.startswith("/") else ""
        for pattern in self._patterns.get((method, first), ()):
            found = pattern.expression.fullmatch(path)
            if found:
                return pattern.route, found.groupdict()
        return None

    def resolve(self, request: Request) -> Route | Response:
        """Fill in the request's path, version, parameters and query; its route, or the answer that ends it.

        InvalidParameter for escapes that are none.
        """
        raw_path, mark, raw_query = request.target.partition("?")
        path = unescape(raw_path)
        clean = clean_path(path)
        if clean != path:
            return _moved(clean, mark + raw_query)
        text, path = versions.split_version(path)
        request.path = path
        if request.method == "OPTIONS":
            return self._versioned(request, text) or Response(200)
        found = self.match(request.method, path)
        if found is None:
            return not_found()
        refused = self._versioned(request, text)
        if refused is not None:
            return refused
        route, request.params = found
        if request.version < route.since:
            return not_found()
        if raw_query:
            request.query = Query(parse_query(raw_query))
        return route

    def _versioned(self, request: Request, text: str) -> Response | None:
        if not text:
            return None
        request.version = versions.parse_version(text)
        return versions.refusal(text, request.version)


def _moved(path: str, query: str) -> Response:
    location = "".join(c if " " < c < "\x7f" and c != "%" else _quote(c) for c in path)
    return Response(301, headers={"Location": location + query}, common=False)


def _quote(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))

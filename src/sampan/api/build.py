"""``POST /build`` and ``/build/prune``: Docker's classic build endpoint, and what this engine adds to it.

Additions (docs/build.md): query ``why=1`` explains cache misses, ``check=1`` only lints, ``graph=1`` sends the
events of the graph, ``nocachefilter`` names stages to build anew, ``outputs`` sends files back as an archive; the
header ``X-Sampan-Secrets`` (base64url of a JSON object, each value base64)
gives contents for ``RUN --mount=type=secret``; query ``ssh`` names a connection of
``POST /build/agents``, which lends the client's SSH agents.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator, Coroutine
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import msgspec

from sampan import errors
from sampan.api import jsonsyntax
from sampan.api.http import Answer, HijackedConnection, Request, Response, Route, Upgrade, json_response
from sampan.api.query import parse_int
from sampan.api.streams import progress
from sampan.build.durations import parse_duration
from sampan.build.options import BuildOptions, parse_platform
from sampan.engine.containers.timestamps import parse_filter_time
from sampan.runtime.config import HostConfig

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

SECRETS_HEADER = "x-sampan-secrets"
_HOST_NUMBERS = {
    "memory": "Memory",
    "memswap": "MemorySwap",
    "cpushares": "CpuShares",
    "cpuperiod": "CpuPeriod",
    "cpuquota": "CpuQuota",
    "shmsize": "ShmSize",
}
_HOST_TEXTS = {"cpusetcpus": "CpusetCpus", "cpusetmems": "CpusetMems", "cgroupparent": "CgroupParent"}


async def build(engine: Engine, request: Request) -> Answer:
    """Build an image from an archive in the body, or from the URL ``remote``."""
    options = _options(request)
    query = request.query
    body: AsyncIterator[bytes] | None = request.body
    if options.remote:
        body = None
    quiet, why, graph = (query.bool(name) for name in ("q", "why", "graph"))
    objects = engine.builder.build(body, options, why=why, quiet=quiet, graph=graph)
    return await _unless_gone(request, progress(objects))


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer; a client that goes away before it begins (a remote context takes its time) ends the build."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(request.disconnected.wait())
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ConnectionResetError("client disconnected")
        return work.result()
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def _options(request: Request) -> BuildOptions:
    query = request.query
    _refuse(request)
    options = BuildOptions(
        tags=query.list("t"),
        dockerfile=query.get("dockerfile"),
        remote=query.get("remote"),
        target=query.get("target"),
        args=_object(query.get("buildargs"), "build args", (str, type(None))),
        labels=_object(query.get("labels"), "labels", (str,)),
        no_cache=query.bool("nocache"),
        no_cache_filter=tuple(_strings(query.get("nocachefilter"), "no-cache-filter")),
        pull=query.bool("pull"),
        cache_from=_strings(query.get("cachefrom"), "cache-from"),
        network=query.get("networkmode"),
        platform=query.get("platform"),
        squash=query.bool("squash"),
        outputs=_outputs(query.get("outputs")),
        secrets=_secrets(request.headers.get(SECRETS_HEADER)),
        auth=_registry_config(request.headers.get("x-registry-config")),
        check=query.bool("check"),
        ssh=query.get("ssh"),
    )
    if options.platform:
        parse_platform(options.platform)
    options.host = _host(request)
    return options


def _refuse(request: Request) -> None:
    """What dockerd on Linux refuses before it reads the body."""
    query = request.query
    version = query.get("version")
    if version not in ("", "1", "2"):
        raise errors.InvalidParameter(f'invalid version "{version}"')
    if version == "2":
        raise errors.Unsupported(
            "BuildKit over the classic endpoint is not supported by this engine",
            hint="Leave out version=2: the classic builder here takes the whole Dockerfile language.",
        )
    if query.list("securityopt"):
        raise errors.InvalidParameter("security options are not supported on linux")
    isolation = query.get("isolation")
    if isolation and isolation.lower() != "default":
        raise errors.InvalidParameter(f'unsupported isolation: "{isolation}"')


def _host(request: Request) -> dict[str, Any]:
    """The limits of RUN as HostConfig fields. A number that is none counts as 0, as dockerd has it."""
    query = request.query
    host: dict[str, Any] = {}
    for name, field in _HOST_NUMBERS.items():
        try:
            number = parse_int(query.get(name) or "0")
        except (errors.SampanError, ValueError):
            number = 0
        if number:
            host[field] = number
    for name, field in _HOST_TEXTS.items():
        if query.get(name):
            host[field] = query.get(name)
    ulimits = _parsed(query.get("ulimits"), "ulimit settings")
    if ulimits:
        if not isinstance(ulimits, list) or not all(isinstance(one, dict) for one in ulimits):
            raise errors.InvalidParameter("error reading ulimit settings: a list of objects is expected")
        host["Ulimits"] = ulimits
    hosts = query.list("extrahosts")
    if hosts:
        host["ExtraHosts"] = [part for text in hosts for part in _strings_or_text(text)]
    try:
        msgspec.convert(host, HostConfig)
    except msgspec.ValidationError as error:
        raise errors.InvalidParameter(f"error reading ulimit settings: {error}") from None
    return host


def _strings_or_text(text: str) -> list[str]:
    """``extrahosts`` comes as JSON list from old clients and as repeated plain fields from new ones."""
    return _strings(text, "extra hosts") if text.startswith("[") else [text]


def _parsed(text: str, what: str) -> Any:
    if not text:
        return None
    data = text.encode("utf-8", "surrogateescape")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        fault = jsonsyntax.explain(data) or "invalid JSON"
        raise errors.InvalidParameter(f"error reading {what}: {fault}") from None


def _object(text: str, what: str, types: tuple[type, ...]) -> dict[str, Any]:
    found = _parsed(text, what) or {}
    values = list(found.values()) if isinstance(found, dict) else [found]
    wrong = [one for one in values if not isinstance(one, types) or not isinstance(found, dict)]
    if wrong:
        kind = "map[string]*string" if type(None) in types else "map[string]string"
        into = "string" if isinstance(found, dict) else kind
        raise errors.InvalidParameter(
            f"error reading {what}: json: cannot unmarshal {_kind(wrong[0])} into Go value of type {into}"
        )
    return dict(found)


def _kind(value: Any) -> str:
    """What a JSON value is called in Go's messages."""
    if isinstance(value, bool):
        return "bool"
    names: dict[type, str] = {dict: "object", list: "array", str: "string", int: "number", float: "number"}
    return names.get(type(value), "null")


def _strings(text: str, what: str) -> list[str]:
    found = _parsed(text, what) or []
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise errors.InvalidParameter(
            f"error reading {what}: json: cannot unmarshal into Go value of type []string"
        )
    return found


def _outputs(text: str) -> list[dict[str, Any]]:
    found = _parsed(text, "outputs") or []
    if not isinstance(found, list) or not all(isinstance(value, dict) for value in found):
        raise errors.InvalidParameter("error reading outputs: a list of objects is expected")
    for output in found:
        kind = str(output.get("Type") or output.get("type") or "image").lower()
        if kind not in ("image", "docker", "moby", "tar", "local"):
            raise errors.Unsupported(f"unknown output type {kind}", hint="Known are tar, local and image.")
    return found


def _registry_config(text: str) -> dict[str, Any]:
    """Credentials by registry. Anything unreadable counts as none, as dockerd has it."""
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _secrets(text: str) -> dict[str, bytes]:
    if not text:
        return {}
    try:
        found = msgspec.json.decode(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=dict[str, bytes]
        )
    except (binascii.Error, ValueError, msgspec.DecodeError):
        # Not even the parser's message may show what was sent.
        raise errors.InvalidParameter(
            "the X-Sampan-Secrets header can't be read",
            hint="It is base64url of a JSON object whose values are base64.",
        ) from None
    return found


async def agents(engine: Engine, request: Request) -> Answer:
    """Take a connection by which a client lends its SSH agents, as ``id``s, to builds that name it."""
    if not request.upgrade:
        raise errors.InvalidParameter("no upgrade proto in request")
    name, ids = token_hex(16), request.query.list("id") or ["default"]

    async def serve(connection: HijackedConnection) -> None:
        await engine.builder.agents.serve(name, ids, connection)

    headers = {"Connection": "Upgrade", "Upgrade": request.upgrade, "X-Sampan-Agents": name}
    return Upgrade(serve, 101, "UPGRADED", headers, True)


async def prune(engine: Engine, request: Request) -> Response:
    """Forget cache that isn't needed."""
    query = request.query
    from sampan.engine.buildcache import FILTERS, Choice

    filters = dict(query.filters(("until", "unused-for", *FILTERS)))
    until = filters.pop("until", []) + filters.pop("unused-for", [])
    if len(until) > 1:
        raise errors.InvalidParameter("more than one until filter specified")
    choice = Choice(
        everything=query.bool("all"),
        before=_moment(until[0]) if until else None,
        filters=filters,
        reserved=max(query.int("keep-storage"), query.int("reserved-space")),
        most=query.int("max-used-space"),
        free=query.int("min-free-space"),
    )
    return json_response(await engine.builder.prune(choice))


def _moment(text: str) -> float:
    """Seconds since 1970 of a Unix time, an RFC 3339 time, or a duration back from now."""
    now = time.time_ns()
    try:
        return parse_filter_time(text, now) / 1e9
    except (errors.SampanError, ValueError):
        return (now - parse_duration(text)) / 1e9


async def cancel(_engine: Engine, _request: Request) -> Response:
    """A build is cancelled by closing its connection; dockerd answers 200 to any id here, and so do we."""
    return Response(200)


ROUTES = [
    Route("POST", "/build", build),
    Route("POST", "/build/prune", prune),
    Route("POST", "/build/cancel", cancel),
    Route("POST", "/build/agents", agents),
]

"""The log driver of a container as its monitor gets it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampan import errors
from sampan.engine.containers import logremote
from sampan.engine.containers.record import Container
from sampan.engine.quotas import parse_size
from sampan.goregexp import Regexp

_FILE = frozenset(("max-size", "max-file", "compress"))
_MODE = frozenset(("mode", "max-buffer-size"))
_CACHE = frozenset(("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"))
OPTIONS = {
    "json-file": _FILE | _MODE | frozenset(logremote.CHOICE),
    "local": _FILE | _MODE | frozenset(logremote.CHOICE),
    "none": _MODE,
    **{kind: names | _MODE | _CACHE for kind, names in logremote.OPTIONS.items()},
}
_TRUTH = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}
DEFAULT_SIZE = 20 << 20
DEFAULT_FILES = 5
"""Logs are bounded by default: 100 MB a container."""

DEFAULT_BUFFER = 1 << 20


def check(kind: str, options: dict[str, str]) -> None:
    """What is refused at create. InvalidParameter in Docker's words."""
    if kind not in OPTIONS:
        raise errors.InvalidParameter(
            f'error looking up logging plugin {kind}: plugin "{kind}" not found',
            hint=f"known drivers: {', '.join(sorted(OPTIONS))}",
        )
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise errors.InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise errors.InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        try:
            size(options["max-buffer-size"])
        except ValueError as problem:
            raise errors.InvalidParameter(f"error parsing option max-buffer-size: {problem}") from None
    for name in options:
        if name not in OPTIONS[kind]:
            driver = "log driver local" if kind == "local" else f"{kind} log driver"
            raise errors.InvalidParameter(f"unknown log opt '{name}' for {driver}")
    logremote.check(kind, options)


def size(text: str) -> int:
    """Bytes of ``10m`` and the like, -1 for no bound. ValueError "invalid size: 'x'"."""
    return -1 if text == "-1" else parse_size(text)


def whole_number(text: str) -> int:
    """A number as Go reads it. ValueError in its words."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def truth(text: str) -> bool:
    """A boolean as Go reads it. ValueError in its words."""
    if text not in _TRUTH:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return _TRUTH[text]


def readable(container: Container) -> bool:
    """Whether ``docker logs`` has a file to read from."""
    log = container.host.log_config
    if log.type in logremote.OPTIONS:
        return not _TRUTH.get((log.config or {}).get("cache-disabled", ""), False)
    return log.type != "none"


def probe(container: Container) -> None:
    """Whether the driver can work, found at start as by dockerd; blocks. SystemFailure."""
    log = container.host.log_config
    if log.type in logremote.OPTIONS:
        logremote.probe(log.type, log.config or {})


def plan(container: Container, path: Path) -> dict[str, Any] | None:
    """The plan's ``log`` entry. SystemFailure for options that mean nothing, found at start as by dockerd."""
    kind = container.host.log_config.type or "json-file"
    options = container.host.log_config.config or {}
    if kind == "none":
        return None
    try:
        if kind in logremote.OPTIONS:
            return _piped(kind, options, container, path)
        file = _json_file(options, path) if kind == "json-file" else _local(options, path)
        return file | {"attrs": attributes(container, options)}
    except ValueError as problem:
        raise errors.SystemFailure(
            f"failed to create task for container: failed to initialize logging driver: {problem}"
        ) from None


def _json_file(options: dict[str, str], path: Path) -> dict[str, Any]:
    """The plan of driver json-file. ValueError in Docker's words."""
    largest, most = options.get("max-size"), options.get("max-file")
    bound = DEFAULT_SIZE if largest is None else size(largest)
    if bound == 0:
        raise ValueError("max-size must be a positive number")
    # With a size of the user's there is one file unless told otherwise.
    files = (DEFAULT_FILES if largest is None else 1) if most is None else whole_number(most)
    if files < 1:
        raise ValueError("max-file cannot be less than 1")
    compress = truth(options.get("compress", "false"))
    if compress and (files < 2 or bound < 0):
        raise ValueError("compress cannot be true when max-file is less than 2 or max-size is not set")
    return {
        "driver": "json-file",
        "path": str(path),
        "max_size": bound,
        "max_file": files,
        "compress": compress,
    }


def _local(options: dict[str, str], path: Path, prefix: str = "") -> dict[str, Any]:
    """The plan of driver local; ``prefix`` is that of its options' names. ValueError in Docker's words."""
    bound = _value(options, prefix, "max-size", size, DEFAULT_SIZE)
    files = _value(options, prefix, "max-file", whole_number, DEFAULT_FILES)
    try:
        compress = truth(options.get(f"{prefix}compress", "true"))
    except ValueError as problem:
        raise ValueError(f"error reading compress log option: {problem}") from None
    if bound == 0:
        raise ValueError("max size should be a positive number")
    if files < 0:
        raise ValueError("max file count cannot be less than 0")
    if compress and files < 2:
        raise ValueError("compression cannot be enabled when max file count is 1")
    return {"driver": "local", "path": str(path), "max_size": bound, "max_file": files, "compress": compress}


def _value(
    options: dict[str, str], prefix: str, name: str, parse: Callable[[str], int], otherwise: int
) -> int:
    text = options.get(prefix + name)
    try:
        return otherwise if text is None else parse(text)
    except ValueError as problem:
        raise ValueError(f"invalid value for {name}: {text}: {problem}") from None


def _piped(kind: str, options: dict[str, str], container: Container, path: Path) -> dict[str, Any]:
    """A helper that ships lines, with a file beside it that ``docker logs`` reads."""
    tag = expand_tag(options.get("tag") or "{{.ID}}", container)
    noted = attributes(container, {name: text for name, text in options.items() if name != "tag"})
    file: dict[str, Any] = {"driver": "none"}
    if not truth(options.get("cache-disabled", "false")):
        file = _local(options, path, "cache-") | {"attrs": noted}
    return {
        "driver": "pipe",
        "command": logremote.helper(kind, options, container, tag, noted),
        "blocking": options.get("mode") != "non-blocking",
        "buffer": size(options["max-buffer-size"]) if "max-buffer-size" in options else DEFAULT_BUFFER,
        "file": file,
    }


def attributes(container: Container, options: dict[str, str]) -> dict[str, str]:
    """Labels and variables that the options ask to note with each line. ValueError."""
    labels = container.config.labels or {}
    env = dict(entry.partition("=")[::2] for entry in container.config.env or ())
    found = _chosen(labels, options.get("labels", ""), options.get("labels-regex", ""))
    found |= _chosen(env, options.get("env", ""), options.get("env-regex", ""))
    if options.get("tag"):
        found["tag"] = expand_tag(options["tag"], container)
    return found


def _chosen(values: dict[str, str], names: str, pattern: str) -> dict[str, str]:
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    expression = Regexp(pattern) if pattern else None
    return {
        key: value
        for key, value in values.items()
        if key in wanted or (expression and expression.search(key))
    }


def expand_tag(template: str, container: Container) -> str:
    """A log tag with its ``{{.ID}}`` and the like filled in. ValueError for what isn't known."""
    image = container.image.removeprefix("sha256:")
    facts = {
        "ID": container.short_id,
        "FullID": container.id,
        "Name": container.name,
        "ImageName": container.config.image,
        "ImageID": image[:12],
        "ImageFullID": container.image,
        "Command": shlex.join([container.path, *container.args]),
        "Hostname": container.config.hostname,
        "DaemonName": "docker",
        "ContainerID": container.id,
        "ContainerName": f"/{container.name}",
        "ContainerImageName": container.config.image,
        "ContainerImageID": container.image,
    }

    def fact(match: re.Match[str]) -> str:
        if match.group(1) not in facts:
            name = match.group(1)
            where = f'template: log-tag:1:{match.start() + 2}: executing "log-tag" at <.{name}>'
            raise ValueError(f"{where}: can't evaluate field {name} in type *logger.Info")
        return facts[match.group(1)]

    text = re.sub(r"\{\{-?\s*\.?(.*?)\s*-?\}\}", fact, template)
    if "{{" in text:
        raise ValueError("template: log-tag:1: unclosed action")
    return text

"""From the command line and daemon.json to one set of settings, with dockerd's errors for contradictions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from sampan import errors
from sampan.daemon import options
from sampan.daemon.networking import check_networks
from sampan.daemon.options import BY_FLAG, BY_KEY, BY_SHORT, HARMLESS, UNSUPPORTED, Option
from sampan.engine.config import RELOADABLE, AddressPool, EngineConfig, Limit
from sampan.engine.quotas import default_size

DEFAULT_CONFIG_FILE = Path("/etc/sampan/daemon.json")
DEFAULT_HOST = "unix:///run/sampan.sock"
LEVELS = ("debug", "info", "warn", "error", "fatal")

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``sampand`` was told: the engine's part and the daemon's own."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    config_file: Path = DEFAULT_CONFIG_FILE
    hosts: tuple[str, ...] = (DEFAULT_HOST,)
    group: str = "docker"
    pidfile: Path | None = None
    log_level: str = "info"
    log_format: str = "text"
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    validate: bool = False
    version: bool = False
    help: bool = False


def load(arguments: Sequence[str]) -> Settings:
    """Settings from the arguments and from the file that they name. InvalidParameter for what is wrong."""
    flags = parse_flags(arguments)
    path = Path(flags.get("config_file", DEFAULT_CONFIG_FILE))
    return _build(flags, read_file(path, required="config_file" in flags), path)


def reload(settings: Settings, arguments: Sequence[str]) -> Settings:
    """Read the file again (SIGHUP): the settings with the reloadable fields changed. InvalidParameter."""
    fresh = load(arguments)
    changes = {name: getattr(fresh.engine, name) for name in RELOADABLE}
    return replace(
        settings,
        engine=replace(settings.engine, **changes),
        log_level=fresh.log_level,
        pidfile=settings.pidfile,
    )


# the command line ---------------------------------------------------------------------------------


def parse_flags(arguments: Sequence[str]) -> Values:
    """Flags as ``--flag value``, ``--flag=value``, ``-H value``, ``-Hvalue``; booleans stand alone."""
    values: Values = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            raise errors.InvalidParameter(f'"sampand" accepts no arguments: {word}', hint=_SEE_HELP)
        option, text = _split(word)
        if text is None:
            if option.kind == options.BOOL:
                text = "true"
            elif not rest:
                raise errors.InvalidParameter(f"flag needs an argument: {word}", hint=_SEE_HELP)
            else:
                text = rest.pop(0)
        _store(values, option, text, f"--{option.flag}")
    return values


_SEE_HELP = "See 'sampand --help'."


def _split(word: str) -> tuple[Option, str | None]:
    """The option that a word names, and the value that it carries itself."""
    if word.startswith("--"):
        name, mark, value = word[2:].partition("=")
        if name in UNSUPPORTED:
            _refuse_unsupported(name, value if mark else None, f"--{name}")
            return Option(name, options.BOOL if not mark else options.STRING, "", target="_ignored"), value
        if name not in BY_FLAG:
            raise errors.InvalidParameter(f"unknown flag: --{name}", hint=_SEE_HELP)
        return BY_FLAG[name], value if mark else None
    letter, value = word[1], word[2:]
    if letter not in BY_SHORT:
        raise errors.InvalidParameter(f"unknown shorthand flag: '{letter}' in {word}", hint=_SEE_HELP)
    if BY_SHORT[letter].kind == options.BOOL and value and not value.startswith("="):
        raise errors.InvalidParameter(f"unknown shorthand flag: '{value[0]}' in {word}", hint=_SEE_HELP)
    return BY_SHORT[letter], value.removeprefix("=") if value else None


def _refuse_unsupported(name: str, value: object, where: str) -> None:
    if isinstance(value, str) and value in ("true", "false"):
        value = value == "true"
    if value not in HARMLESS.get(name, ()):
        raise errors.Unsupported(f"{where} is not supported: {UNSUPPORTED[name]}")


def _store(values: Values, option: Option, text: str, where: str) -> None:
    parsed = _FROM_TEXT[option.kind](text, where)
    if option.kind == options.MAP:
        key, _, value = text.partition("=")
        values.setdefault(option.field, {})[key] = value or "true"
    elif option.kind in (options.LIST, options.POOLS):
        values[option.field] = (*values.get(option.field, ()), *parsed)
    elif option.kind == options.ULIMITS:
        values.setdefault(option.field, {}).update(parsed)
    elif option.kind == options.NETWORKS:
        driver, name, value = parsed
        values.setdefault(option.field, {}).setdefault(driver, {})[name] = value
    else:
        values[option.field] = parsed


def _bad(text: str, where: str, reason: str) -> errors.InvalidParameter:
    return errors.InvalidParameter(f'invalid argument "{text}" for "{where}" flag: {reason}')


def _bool(text: str, where: str) -> bool:
    words = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
    if text.lower() not in words:
        raise _bad(text, where, f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return words[text.lower()]


def _int(text: str, where: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise _bad(text, where, f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def _size(text: str, where: str) -> int:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?", text.lower())
    if not found:
        raise _bad(text, where, f"invalid size: '{text}'")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def _pool(text: str, where: str) -> tuple[AddressPool, ...]:
    parts = dict(part.partition("=")[::2] for part in text.split(","))
    if set(parts) != {"base", "size"} or not parts["size"].isdigit():
        raise _bad(text, where, "want base=CIDR,size=N")
    return (AddressPool(parts["base"], int(parts["size"])),)


def _network_option(text: str, where: str) -> tuple[str, str, str]:
    driver, first, rest = text.partition("=")
    name, second, value = rest.partition("=")
    if not (driver and first and name and second):
        raise _bad(text, where, "want driver=name=value")
    return driver, name, value


def _ulimit(text: str, where: str) -> dict[str, Limit]:
    found = re.fullmatch(r"(\w+)=(-?[0-9]+)(?::(-?[0-9]+))?", text)
    if not found:
        raise _bad(text, where, f"invalid ulimit argument: {text}")
    soft = int(found.group(2))
    return {found.group(1): Limit(soft, int(found.group(3) or soft))}


_FROM_TEXT: dict[str, Callable[[str, str], Any]] = {
    options.STRING: lambda text, where: text,
    options.BOOL: _bool,
    options.INT: _int,
    options.SIZE: _size,
    options.LIST: lambda text, where: (text,),
    options.MAP: lambda text, where: text,
    options.POOLS: _pool,
    options.ULIMITS: _ulimit,
    options.NETWORKS: _network_option,
}


# the file -----------------------------------------------------------------------------------------


def read_file(path: Path, *, required: bool) -> Values:
    """Settings from daemon.json; none when the default file isn't there. InvalidParameter for bad content."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if required:
            raise errors.InvalidParameter(
                _file_error(path, f"open {path}: no such file or directory")
            ) from None
        return {}
    except OSError as error:
        raise errors.InvalidParameter(_file_error(path, f"open {path}: {error.strerror}")) from error
    if not data.strip():
        return {}
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise errors.InvalidParameter(_file_error(path, str(error))) from None
    if not isinstance(found, dict):
        raise errors.InvalidParameter(_file_error(path, "the file must hold one JSON object"))
    return _from_keys(found, path)


def _file_error(path: Path, reason: str) -> str:
    return f"unable to configure the daemon with file {path}: {reason}"


def _from_keys(found: dict[str, Any], path: Path) -> Values:
    proxies, builder = found.pop("proxies", {}), found.pop("builder", {})
    if not isinstance(proxies, dict) or not all(isinstance(value, str) for value in proxies.values()):
        raise errors.InvalidParameter(_file_error(path, '"proxies" should be an object of strings'))
    unknown = sorted(key for key in found if key not in BY_KEY and key not in UNSUPPORTED)
    unknown += sorted(key for key in proxies if key not in options.PROXIES)
    if unknown:
        reason = f"the following directives don't match any configuration option: {', '.join(unknown)}"
        raise errors.InvalidParameter(_file_error(path, reason))
    values: Values = {BY_FLAG[key].field: value for key, value in proxies.items()} | _build_cache(
        builder, path
    )
    for key, value in found.items():
        if key in UNSUPPORTED:
            _refuse_unsupported(key, value, f'"{key}" in {path}')
            continue
        option = BY_KEY[key]
        try:
            values[option.field] = _FROM_JSON[option.kind](value)
        except (TypeError, ValueError, KeyError) as error:
            reason = f'"{key}" should be {_WANTED[option.kind]}, not {msgspec.json.encode(value).decode()}'
            raise errors.InvalidParameter(_file_error(path, reason)) from error
    return values


def _build_cache(builder: Any, path: Path) -> Values:
    """The bound of the build cache as dockerd has it: ``{"gc": {"enabled": …, "defaultKeepStorage": "9GB"}}``."""
    gc = builder.get("gc", {}) if isinstance(builder, dict) else None
    if not isinstance(gc, dict) or not isinstance(gc.get("enabled", True), bool):
        raise errors.InvalidParameter(
            _file_error(path, '"builder" should be {"gc": {"enabled": true or false, …}}')
        )
    others = sorted({*builder} - {"gc"}) + sorted({*gc} - {*options.BUILD_GC})
    if others:
        raise errors.Unsupported(
            f'"builder" in {path}: {", ".join(others)} not supported',
            hint=f"gc takes {', '.join(options.BUILD_GC)}.",
        )
    if not gc.get("enabled", True):
        return {"build_cache_size": 0}
    try:
        sizes = [_json_size(gc[name]) for name in options.BUILD_GC[1:] if name in gc]
    except (TypeError, errors.InvalidParameter):
        raise errors.InvalidParameter(_file_error(path, '"builder": want a size such as "20GB"')) from None
    return {"build_cache_size": min(sizes)} if sizes else {}


def _exactly(type_: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not type_:
            raise TypeError
        return value

    return check


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError
    return tuple(value)


def _json_size(value: Any) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise TypeError
    return _size(value, "default-shm-size")


def _json_map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(item, (str, bool)) for item in value.values()):
        raise TypeError
    return value


def _json_ulimits(value: Any) -> dict[str, Limit]:
    return {name: Limit(int(item["Soft"]), int(item["Hard"])) for name, item in _exactly(dict)(value).items()}


def _json_networks(value: Any) -> dict[str, dict[str, str]]:
    for given in _exactly(dict)(value).values():
        if not isinstance(given, dict) or not all(isinstance(item, str) for item in given.values()):
            raise TypeError
    return dict(value)


def _json_pools(value: Any) -> tuple[AddressPool, ...]:
    return tuple(AddressPool(item["base"], int(item["size"])) for item in _exactly(list)(value))


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    options.STRING: _exactly(str),
    options.BOOL: _exactly(bool),
    options.INT: _exactly(int),
    options.SIZE: _json_size,
    options.LIST: _strings,
    options.MAP: _json_map,
    options.POOLS: _json_pools,
    options.ULIMITS: _json_ulimits,
    options.NETWORKS: _json_networks,
}
_WANTED = {
    options.STRING: "a string",
    options.BOOL: "true or false",
    options.INT: "a number",
    options.SIZE: 'a size such as "64m"',
    options.LIST: "a list of strings",
    options.MAP: "an object of strings",
    options.POOLS: 'a list of {"base": CIDR, "size": N}',
    options.ULIMITS: 'an object of {"Name": …, "Hard": N, "Soft": N}',
    options.NETWORKS: 'an object of {"driver": {"name": "value"}}',
}


# both together ------------------------------------------------------------------------------------


def _build(flags: Values, from_file: Values, path: Path) -> Settings:
    flags.pop("_ignored", None)
    _check_conflicts(flags, from_file, path)
    values = {**from_file, **flags}
    if "features" in values:
        values["features"] = {name: _truth(value) for name, value in values["features"].items()}
    for name in ("data_root", "exec_root", "pidfile", "config_file"):
        if name in values:
            values[name] = Path(os.path.abspath(values[name]))
    if values.get("debug") and "log_level" not in values:
        values["log_level"] = "debug"
    names = {item.name for item in fields(EngineConfig)}
    engine = EngineConfig(**{name: value for name, value in values.items() if name in names})
    settings = Settings(engine=engine, **{name: value for name, value in values.items() if name not in names})
    _check(settings)
    return settings


def _truth(value: object) -> bool:
    return value is True or str(value).lower() == "true"


def _check_conflicts(flags: Values, from_file: Values, path: Path) -> None:
    both = sorted(set(flags) & set(from_file))
    if both:
        by_field = {option.field: option for option in options.OPTIONS}
        told = ", ".join(
            f"{by_field[name].file_key or by_field[name].flag}: (from flag: {_shown(flags[name])}, "
            f"from file: {_shown(from_file[name])})"
            for name in both
        )
        reason = (
            f"the following directives are specified both as a flag and in the configuration file: {told}"
        )
        raise errors.InvalidParameter(_file_error(path, reason), hint="Say each in one of the two places.")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{' '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _check(settings: Settings) -> None:
    engine = settings.engine
    if settings.log_level not in LEVELS:
        raise errors.InvalidParameter(
            f'invalid logging level: "{settings.log_level}"', hint=f"one of {', '.join(LEVELS)}"
        )
    if settings.log_format not in ("text", "json"):
        raise errors.InvalidParameter(f"invalid log format: {settings.log_format}", hint="text or json")
    for label in engine.labels:
        if "=" not in label or label.startswith("="):
            raise errors.InvalidParameter(f"bad attribute format: {label}", hint="labels are key=value")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts", "mtu"):
        if getattr(engine, name) < 0:
            shown = name.replace("_", " ").removeprefix("max concurrent ")
            raise errors.InvalidParameter(f"invalid max {shown}: {getattr(engine, name)}")
    default_size(engine.storage_opts)
    for mirror in engine.registry_mirrors:
        _check_mirror(mirror)
    if engine.default_ipc_mode not in ("shareable", "private"):
        raise errors.InvalidParameter(f'IPC mode "{engine.default_ipc_mode}" can\'t be the default')
    if engine.default_cgroupns_mode not in ("", "host", "private"):
        raise errors.InvalidParameter(
            f'Default cgroup namespace mode "{engine.default_cgroupns_mode}" is invalid. '
            'Use "host" or "private"'
        )
    check_networks(engine)


def _check_mirror(mirror: str) -> None:
    """A mirror of Docker Hub is a bare http(s) origin, as dockerd wants it."""
    parts = urlsplit(mirror)
    reason = ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        reason = "unsupported scheme: must use either 'https://' or 'http://'"
    elif parts.path not in ("", "/") or parts.query or parts.fragment:
        reason = "path, query, or fragment at end of the URI"
    elif parts.username is not None:
        reason = "username/password not allowed in URI"
    if reason:
        raise errors.InvalidParameter(f'invalid mirror: {reason} "{mirror}"')

"""Flags with a grammar of their own: how their text is checked and converted.

Each converter raises ValueError with the reason as Docker words it; the flag parser adds which flag.
"""

from __future__ import annotations

import os

from sampan.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
SYSCTL_NAMES = frozenset(
    {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"}
    | {"kernel.shmmni", "kernel.shm_rmid_forced"}
)


def convert(kind: str, text: str) -> Any:
    """Convert by kind; see the table at the end."""
    return _CONVERTERS[kind](text)


def environment(text: str) -> str:
    """``NAME=value``, or ``NAME`` for the value it has here (nothing when it has none)."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if equals or name not in os.environ:
        return text
    return f"{name}={os.environ[name]}"


def label(text: str) -> str:
    """``key=value`` or ``key``."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def host_entry(text: str) -> str:
    """``host:ip`` or ``host=ip`` as ``host:ip``; the address may be in brackets or ``host-gateway``."""
    if "=" in text:
        name, _, address = text.partition("=")
    else:
        name, colon, address = text.partition(":")
        if not colon:
            raise ValueError(f'bad format for add-host: "{text}"')
    if not name or not address:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway" and not is_ip(address):
        raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def is_ip(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address."""
    import _socket

    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    try:
        _socket.inet_pton(family, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def ip_address(text: str) -> str:
    """An IP address."""
    if not is_ip(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return text.strip()


def dns_search(text: str) -> str:
    """A search domain, or ``.`` for none."""
    name = text.strip()
    if name == ".":
        return name
    parts = name.split(".")
    if not all(
        part and part.replace("-", "").replace("_", "").isalnum() and len(part) < 64 for part in parts
    ):
        raise ValueError(f"{text} is not a valid domain")
    return name


def attachment(text: str) -> str:
    """stdin, stdout or stderr."""
    name = text.lower()
    if name not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return name


def link(text: str) -> str:
    """``name[:alias]``."""
    parts = text.split(":")
    if not text:
        raise ValueError("empty string specified for links")
    if len(parts) > 2 or not parts[0]:
        raise ValueError(f"bad format for links: {text}")
    return text


def sysctl(text: str) -> str:
    """A kernel parameter that lives in a namespace."""
    name = text.partition("=")[0]
    allowed = name in SYSCTL_NAMES or name.startswith(("net.", "fs.mqueue."))
    if not allowed or "=" not in text:
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def decimal(text: str) -> int:
    """CPUs, in billionths."""
    try:
        number = _fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    nanos = number * 1_000_000_000
    if nanos != int(nanos):
        raise ValueError("value is too precise")
    return int(nanos)


def _fraction(text: str) -> Any:
    from fractions import Fraction

    return Fraction(text)


def swap(text: str) -> int:
    """Bytes, or -1 for no limit."""
    return -1 if text == "-1" else units.parse_size(text)


def unsigned16(text: str) -> int:
    """0 to 65535."""
    return _unsigned(text, 16)


def unsigned(text: str) -> int:
    """0 to 2^64-1."""
    return _unsigned(text, 64)


def _unsigned(text: str, bits: int) -> int:
    try:
        value = int(text)
        if text.startswith(("-", "+")):
            raise ValueError
    except ValueError:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax') from None
    if value >= 1 << bits:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return value


def go_duration(text: str) -> int:
    """Nanoseconds."""
    return units.parse_duration(text)


def ulimit(text: str) -> dict[str, Any]:
    """``name=soft[:hard]`` as the API has it; -1 is unlimited."""
    name, equals, numbers = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = numbers.split(":")
    if len(parts) > 2:
        raise ValueError(
            f"too many limit value arguments - {numbers}, can only have up to two, `soft[:hard]`"
        )
    try:
        soft = int(parts[0])
        hard = int(parts[1]) if len(parts) > 1 else soft
    except ValueError as error:
        bad = next(part for part in parts if not part.lstrip("-").isdigit())
        raise ValueError(f'strconv.ParseInt: parsing "{bad}": invalid syntax') from error
    if hard != -1 and (soft == -1 or soft > hard):
        shown = "unlimited" if soft == -1 else str(soft)
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {shown} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def _device_value(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def throttle_bytes(text: str) -> dict[str, Any]:
    """``/dev/x:bytes`` with units."""
    path, value = _device_value(text)
    try:
        return {"Path": path, "Rate": units.parse_size(value)}
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def throttle_count(text: str) -> dict[str, Any]:
    """``/dev/x:operations``."""
    path, value = _device_value(text)
    if not value.isdigit():
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(value)}


def weight_device(text: str) -> dict[str, Any]:
    """``/dev/x:weight``."""
    path, value = _device_value(text)
    if not value.isdigit() or (int(value) and not 10 <= int(value) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(value)}


def device_rule(text: str) -> str:
    """``c|b|a major:minor rwm``."""
    parts = text.split(" ")
    good = len(parts) == 3 and parts[0] in ("a", "b", "c")
    if good:
        major, colon, minor = parts[1].partition(":")
        numbers = all(number == "*" or number.isdigit() for number in (major, minor))
        good = bool(colon) and numbers and 0 < len(parts[2]) <= 3 and set(parts[2]) <= set("rwm")
    if not good:
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def gpu_request(text: str) -> dict[str, Any]:
    """``all``, a number, or ``count=…,device=…,driver=…,capabilities=…,options=…``."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Options": {}}
    request["Capabilities"] = [["gpu"]]
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", field
        if key == "count":
            if value != "all" and not value.lstrip("-").isdigit():
                raise ValueError(
                    f'invalid count ({value}): value must be either "all" or an integer: '
                    f'strconv.Atoi: parsing "{value}": invalid syntax'
                )
            request["Count"] = -1 if value == "all" else int(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = dict(item.partition("=")[::2] for item in csv_fields(value))
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if not request["Count"] and request["DeviceIDs"] is None:
        request["Count"] = 1
    return request


def csv_fields(text: str) -> list[str]:
    """One line of comma-separated values; a field may be quoted, quotes inside are doubled."""
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"parse error on line 1: {error}") from None


def filter_pair(text: str) -> tuple[str, str]:
    """``name=value``."""
    if "=" not in text:
        raise ValueError("bad format of filter (expected name=value)")
    name, _, value = text.partition("=")
    return name.strip().lower(), value.strip()


def tag(text: str) -> str:
    """An image name, checked by the engine."""
    if not text or text != text.strip():
        raise ValueError("invalid reference format")
    return text


def _mount(text: str) -> dict[str, Any]:
    from sampan.cli import mounts

    return mounts.parse(text)


def _network(text: str) -> dict[str, Any]:
    from sampan.cli import endpoints

    return endpoints.parse(text)


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "add-host": host_entry,
    "attach-list": attachment,
    "bytes": units.parse_size,
    "decimal": decimal,
    "device-rule": device_rule,
    "dns": ip_address,
    "dns-search": dns_search,
    "duration": go_duration,
    "env": environment,
    "filter": filter_pair,
    "gpu-request": gpu_request,
    "ip-list": ip_address,
    "label": label,
    "link": link,
    "map": str,
    "mount": _mount,
    "network": _network,
    "opts": str,
    "secret": str,
    "swap": swap,
    "sysctl": sysctl,
    "tag-list": tag,
    "throttle-bytes": throttle_bytes,
    "throttle-count": throttle_count,
    "uint": unsigned,
    "uint16": unsigned16,
    "ulimit": ulimit,
    "weight-device": weight_device,
}

"""Log drivers that send lines elsewhere: the options of syslog and journald, and what their helper is told."""

from __future__ import annotations

import errno
import os
from typing import Any
from urllib.parse import urlsplit

from sampan import errors
from sampan.engine.containers.record import Container
from sampan.runtime import logship

JOURNAL = "/run/systemd/journal/socket"
_SYSLOG_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "security", "console", "solaris-cron"),
    *(f"local{number}" for number in range(8)),
)
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_TLS = ("syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify")
CHOICE = ("labels", "labels-regex", "env", "env-regex", "tag")
OPTIONS = {
    "syslog": frozenset((*CHOICE, "syslog-address", "syslog-facility", "syslog-format", *_TLS)),
    "journald": frozenset(CHOICE),
}


def check(kind: str, options: dict[str, str]) -> None:
    """Values that mean nothing. InvalidParameter in Docker's words."""
    if kind == "syslog":
        address(options.get("syslog-address", ""))
        facility(options.get("syslog-facility", ""))
        if options.get("syslog-format", "") not in _FORMATS:
            raise errors.InvalidParameter(
                "Invalid syslog format", hint=f"Known are {', '.join(_FORMATS[1:])}."
            )


def address(text: str) -> tuple[str, str, int]:
    """``proto://host:port`` or ``unix[gram]:///path`` as (protocol, host or path, port)."""
    if not text:
        found = next((path for path in _SYSLOG_SOCKETS if os.path.exists(path)), _SYSLOG_SOCKETS[0])
        return "unixgram", found, 0
    parts = urlsplit(text)
    if parts.scheme in ("unix", "unixgram") and parts.path:
        if not os.path.exists(parts.path):
            raise errors.InvalidParameter(f"stat {parts.path}: no such file or directory")
        return parts.scheme, parts.path, 0
    if parts.scheme not in ("udp", "tcp", "tcp+tls") or not parts.netloc:
        raise errors.InvalidParameter(f"syslog-address should be in form proto://address, got {text}")
    try:
        return parts.scheme, parts.hostname or "localhost", parts.port or 514
    except ValueError:
        raise errors.InvalidParameter(f"address {parts.netloc}: invalid port") from None


def facility(text: str) -> int:
    """The number of a facility; daemon when none is named."""
    if not text:
        return _FACILITIES.index("daemon")
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isdecimal() and int(text) < len(_FACILITIES):
        return int(text)
    raise errors.InvalidParameter("invalid syslog facility", hint=f"Known are {', '.join(_FACILITIES)}.")


def probe(kind: str, options: dict[str, str]) -> None:
    """Whether the receiver is there, as Docker finds out at start; blocks. SystemFailure."""
    try:
        if kind == "syslog":
            logship.connect(*address(options.get("syslog-address", "")), _tls(options)).close()
        elif kind == "journald" and not os.path.exists(JOURNAL):
            raise FileNotFoundError("journald is not enabled on this host")
    except (OSError, errors.InvalidParameter) as problem:
        reason = (
            problem.message if isinstance(problem, errors.SampanError) else _unreachable(problem, options)
        )
        wrong_kind = isinstance(problem, OSError) and problem.errno == errno.EPROTOTYPE
        raise errors.SystemFailure(
            f"failed to create task for container: failed to initialize logging driver: {reason}",
            hint="The address of a datagram socket begins with unixgram://." if wrong_kind else "",
        ) from problem


def _unreachable(problem: OSError, options: dict[str, str]) -> str:
    """The kernel's word as Go has it; what others say (TLS, a resolver) as it is."""
    if problem.errno is None or problem.strerror != os.strerror(problem.errno):
        return str(problem)
    scheme, host, port = address(options.get("syslog-address", ""))
    where = host if scheme.startswith("unix") else f"{host}:{port}"
    return f"dial {scheme.removesuffix('+tls')} {where}: connect: {problem.strerror.lower()}"


def _tls(options: dict[str, str]) -> dict[str, Any]:
    return {
        "ca": options.get("syslog-tls-ca-cert", ""),
        "cert": options.get("syslog-tls-cert", ""),
        "key": options.get("syslog-tls-key", ""),
        # Docker looks only whether the option is there at all.
        "skip_verify": "syslog-tls-skip-verify" in options,
    }


def helper(
    kind: str, options: dict[str, str], container: Container, tag: str, attributes: dict[str, str]
) -> list[str]:
    """The command of the process that ships the container's lines."""
    if kind == "syslog":
        return logship.command(
            {
                "kind": "syslog",
                "address": address(options.get("syslog-address", "")),
                "facility": facility(options.get("syslog-facility", "")),
                "format": options.get("syslog-format", ""),
                "tag": tag,
                "tls": _tls(options),
            }
        )
    fields = {
        "CONTAINER_ID": container.short_id,
        "CONTAINER_ID_FULL": container.id,
        "CONTAINER_NAME": container.name,
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": container.config.image,
        "SYSLOG_IDENTIFIER": tag,
    }
    fields |= {_field_name(key): value for key, value in attributes.items()}
    return logship.command({"kind": "journald", "path": JOURNAL, "fields": fields})


def _field_name(key: str) -> str:
    """A key as journald takes it: capitals, digits, underscores, no underscore first."""
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in key.upper())
    return name.lstrip("_")

"""One run of the registry server, from its settings to the last closed socket."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan import __version__, errors
from sampan.daemon import logs, systemd
from sampan.registryd.access import Access, Users
from sampan.registryd.app import Application
from sampan.registryd.content import Source
from sampan.registryd.events import DATABASE as EVENTS
from sampan.registryd.events import Events
from sampan.registryd.links import usage as usage_of
from sampan.registryd.reading import Reading
from sampan.registryd.repositories import DATABASE, Collector, Lives, Repositories
from sampan.registryd.server import MOST, Server
from sampan.registryd.writing import Writing
from sampan.storage.db import Database
from sampan.storage.rootlock import RootLock

log = logging.getLogger("sampan.registry")

_BACKLOG = 1024
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Settings:
    """What the command line said. Exactly one kind: own repositories, ``mirror`` or ``share``."""

    data: Path
    listen: Sequence[str] = ("127.0.0.1:5000",)
    tls_cert: str = ""
    tls_key: str = ""
    htpasswd: str = ""
    anonymous: bool = False
    read_only: bool = False
    mirror: str = ""
    mirror_user: str = ""
    mirror_password_file: str = ""
    share: bool = False
    lives: Lives = field(default_factory=Lives)
    collect_every: float = 3600.0
    notify: Sequence[str] = ()
    notify_headers: Sequence[str] = ()
    connections: int = MOST
    log_level: str = "info"


def usage(data: Path) -> list[dict[str, Any]]:
    """What each repository of a data directory takes; its server may be running (InvalidParameter)."""
    if not (data / DATABASE).is_file():
        raise errors.InvalidParameter(f"{data} is no registry's data: there is no {DATABASE}")
    with contextlib.closing(Database(data / DATABASE)) as db:
        return usage_of(db)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reads users and certificate again, SIGUSR1 collects at once.

    InvalidParameter and SystemFailure for what keeps it from starting.
    """
    _check(settings)
    logs.set_up(settings.log_level, "text")
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # threads inherit it: only _until_end takes them
    with contextlib.ExitStack() as undo:
        tls = _tls(settings)
        users = Users(Path(settings.htpasswd)) if settings.htpasswd else None
        sockets = _listen(settings.listen)
        for listening in sockets:
            undo.callback(listening.close)
        source, collector = _source(settings, undo)
        place = (
            None if settings.share else settings.data / EVENTS
        )  # an engine's data root isn't ours to write to
        events = Events(settings.notify, settings.notify_headers, place)
        undo.callback(events.close)
        writable = isinstance(source, Repositories) and not (settings.read_only or settings.mirror)
        writing = Writing(source, events) if isinstance(source, Repositories) and writable else None
        access = Access(users, anonymous=settings.anonymous)
        application = Application(Reading(source, events), writing, access, _why_not(settings))
        server = Server(application, tls=tls, most=settings.connections)
        for listening in sockets:
            server.listen(listening)
        _say_ready(sockets, tls is not None)
        _until_end(settings, server, users, collector)
        server.close()
    return 0


def _check(settings: Settings) -> None:
    if settings.share and settings.mirror:
        raise errors.InvalidParameter("--share and --mirror exclude each other")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise errors.InvalidParameter("--tls-cert and --tls-key belong together")
    if settings.anonymous and not settings.htpasswd:
        raise errors.InvalidParameter("--anonymous-pull needs --htpasswd: without users everybody may do all")
    if settings.mirror and "://" not in settings.mirror:
        raise errors.InvalidParameter(
            f"--mirror {settings.mirror} is no URL", hint="For example https://registry-1.docker.io"
        )
    for url in settings.notify:
        if not url.startswith(("http://", "https://")):
            raise errors.InvalidParameter(f"--notify {url}: not a URL that begins with http:// or https://")
    for line in settings.notify_headers:
        if ":" not in line or "\n" in line:
            raise errors.InvalidParameter(f"--notify-header {line!r}: not of the form 'Name: value'")


def _why_not(settings: Settings) -> str:
    """Why this registry can't be written to, "" when it can."""
    if settings.share:
        return "this registry shows an engine's images: push to the engine, or to another registry"
    if settings.mirror:
        return f"this registry mirrors {settings.mirror}: push there"
    return "this registry is read-only" if settings.read_only else ""


def _source(settings: Settings, undo: contextlib.ExitStack) -> tuple[Source, Collector | None]:
    if settings.share:
        from sampan.registryd.share import Share

        share = Share(settings.data)
        undo.callback(share.close)
        return share, None
    with contextlib.suppress(OSError):  # the lock, below, says what is wrong
        settings.data.mkdir(mode=0o700, parents=True)  # images may be private, on this machine, too
    root_lock = RootLock(settings.data)
    undo.callback(root_lock.close)
    repositories = _mirror(settings) if settings.mirror else Repositories(settings.data, settings.lives)
    undo.callback(repositories.close)
    collector = Collector(repositories, settings.collect_every)
    undo.callback(collector.close)
    return repositories, collector


def _mirror(settings: Settings) -> Repositories:
    from urllib.parse import urlsplit

    from sampan.registry.auth import Credentials
    from sampan.registry.transport import Settings as TransportSettings
    from sampan.registry.transport import Transport
    from sampan.registryd.mirror import Mirror

    password = ""
    if settings.mirror_password_file:
        try:
            password = Path(settings.mirror_password_file).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.InvalidParameter(f"can't read {settings.mirror_password_file}: {error}") from error
    credentials = Credentials(settings.mirror_user, password) if settings.mirror_user else None
    quick = TransportSettings(tries=2, patience=2.0)  # what is kept is better than a long wait
    domain = urlsplit(settings.mirror).netloc
    transport = Transport(domain, credentials, quick, mirror=settings.mirror)
    return Mirror(settings.data, settings.lives, transport)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    cert, key = settings.tls_cert, settings.tls_key
    try:
        for place in (cert, key):
            Path(place).read_bytes()  # OpenSSL's error names no file
        context.load_cert_chain(cert, key, password="")  # or it would ask at the terminal
    except ssl.SSLError as error:
        other = error.reason == "KEY_VALUES_MISMATCH"
        fault = (
            f"{key} isn't the key of {cert}"
            if other
            else f"no certificate in {cert} or no key in {key} (PEM)"
        )
        raise errors.InvalidParameter(f"could not load X509 key pair: {fault}") from error
    except OSError as error:
        raise errors.InvalidParameter(f"could not load X509 key pair: {error}") from error
    return context


def _listen(addresses: Sequence[str]) -> list[socket.socket]:
    """Bind every address, or none (InvalidParameter, SystemFailure)."""
    with contextlib.ExitStack() as undo:
        found: list[socket.socket] = []
        for address in addresses:
            for listening in _bind(address):
                undo.callback(listening.close)
                found.append(listening)
        undo.pop_all()
    return found


def _bind(address: str) -> list[socket.socket]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise errors.InvalidParameter(f"--listen {address}: not of the form ADDRESS:PORT")
    host = host.removeprefix("[").removesuffix("]")
    flags = socket.AI_PASSIVE
    try:
        places = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=flags)
    except OSError as error:
        raise errors.InvalidParameter(f"--listen {address}: {error.strerror}") from error
    found: list[socket.socket] = []
    for family, kind, protocol, _, where in dict.fromkeys(places):
        listening = socket.socket(family, kind, protocol)
        found.append(listening)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listening.bind(where)
            listening.listen(_BACKLOG)
        except OSError as error:
            for one in found:
                one.close()
            raise errors.SystemFailure(f"can't listen on {address}: {error.strerror}") from error
    return found


def _say_ready(sockets: Sequence[socket.socket], tls: bool) -> None:
    names = []
    for listening in sockets:
        host, port = listening.getsockname()[:2]
        host = f"[{host}]" if listening.family == socket.AF_INET6 else host
        names.append(f"{'https' if tls else 'http'}://{host}:{port}")
    sys.stdout.write(f"sampan registry {__version__} ready on {', '.join(names)} (pid {os.getpid()})\n")
    sys.stdout.flush()
    systemd.notify(f"READY=1\nMAINPID={os.getpid()}")


def _until_end(settings: Settings, server: Server, users: Users | None, collector: Collector | None) -> None:
    while True:
        number = signal.sigwait(_SIGNALS)
        if number == signal.SIGHUP:
            _reload(settings, server, users)
        elif number == signal.SIGUSR1:
            if collector is not None:
                collector.now()
        else:
            return


def _reload(settings: Settings, server: Server, users: Users | None) -> None:
    try:
        if users is not None:
            users.reload()
        server.tls = _tls(settings)
    except errors.SampanError as error:
        log.error("nothing was reloaded: %s", error)
    else:
        log.info("users and certificate were reloaded")

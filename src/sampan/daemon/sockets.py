"""The sockets that the daemon listens on: unix, tcp, and those that systemd hands over (fd://)."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan import errors
from sampan.daemon.settings import Settings

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("sampan.daemon")

BACKLOG = 1024
SYSTEMD_FIRST_FD = 3
_PLAIN_PORT, _TLS_PORT = 2375, 2376


@dataclass
class Listener:
    """A bound, listening socket; ``path`` is the file to remove at the end, ``tls`` what guards it."""

    socket: socket.socket
    name: str
    path: Path | None = None
    tls: ssl.SSLContext | None = None
    inode: int = field(default=0)

    def close(self) -> None:
        """Close, and remove the socket's file if it is still ours."""
        self.socket.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                if self.path.stat().st_ino == self.inode:
                    self.path.unlink()


def open_all(settings: Settings) -> list[Listener]:
    """Bind every host of the settings, or none of them. InvalidParameter, SystemFailure."""
    tls = tls_context(settings)
    with contextlib.ExitStack() as undo:
        listeners: list[Listener] = []
        for host in settings.hosts:
            for listener in _open(host, settings, tls):
                undo.callback(listener.close)
                listeners.append(listener)
        undo.pop_all()
    return listeners


def _open(host: str, settings: Settings, tls: ssl.SSLContext | None) -> list[Listener]:
    scheme, mark, rest = host.partition("://")
    if not mark:
        scheme, rest = ("unix", host) if host.startswith("/") else ("tcp", host)
    if scheme == "unix":
        return [_unix(Path(rest or "/run/sampan.sock"), settings.group)]
    if scheme == "tcp":
        return _tcp(rest, tls)
    if scheme == "fd":
        return _inherited(rest, tls)
    raise errors.InvalidParameter(
        f"Invalid bind address protocol: {host}", hint="unix://PATH, tcp://ADDRESS:PORT or fd://"
    )


def _unix(path: Path, group: str) -> Listener:
    _remove_stale(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    old = os.umask(0o777)
    try:
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise errors.SystemFailure(f"can't listen on unix://{path}: {error.strerror or error}") from error
    finally:
        os.umask(old)
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, 0 if os.geteuid() == 0 else -1, _gid(group))
    os.chmod(path, 0o660)
    listening.listen(BACKLOG)
    return Listener(listening, f"unix://{path}", path, inode=path.stat().st_ino)


def _gid(group: str) -> int:
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody serves any more. SystemFailure when somebody does, or it's another file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise errors.SystemFailure(
            f"can't listen on unix://{path}: there is a file that is no socket",
            hint="Move that file away or choose another -H.",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise errors.SystemFailure(f"can't listen on unix://{path}: {error}") from error
    raise errors.SystemFailure(
        f"can't listen on unix://{path}: another daemon is serving it",
        hint="Stop that one or choose another -H.",
    )


def _tcp(rest: str, tls: ssl.SSLContext | None) -> list[Listener]:
    address, port = _split_address(rest, _TLS_PORT if tls else _PLAIN_PORT)
    if tls is None and address not in ("127.0.0.1", "localhost", "::1"):
        log.warning(
            "tcp://%s is served without TLS: whoever reaches it is root on this machine; use --tlsverify",
            rest,
        )
    try:
        found = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise errors.InvalidParameter(f"Invalid bind address tcp://{rest}: {error}") from error
    listeners: list[Listener] = []
    for family, kind, protocol, _, where in dict.fromkeys(found):
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listening.bind(where)
        except OSError as error:
            listening.close()
            for other in listeners:
                other.close()
            raise errors.SystemFailure(f"can't listen on tcp://{rest}: {error.strerror}") from error
        listening.listen(BACKLOG)
        name = "[{}]:{}" if family == socket.AF_INET6 else "{}:{}"
        listeners.append(Listener(listening, "tcp://" + name.format(*listening.getsockname()[:2]), tls=tls))
    return listeners


def _split_address(rest: str, default_port: int) -> tuple[str, int]:
    rest = rest.rstrip("/")
    if rest.startswith("["):
        address, _, tail = rest[1:].partition("]")
        port = tail.removeprefix(":")
    else:
        address, _, port = rest.partition(":")
    if port and not (port.isdigit() and int(port) < 65536):
        raise errors.InvalidParameter(f"Invalid bind address format: tcp://{rest}")
    return address, int(port) if port else default_port


def _inherited(rest: str, tls: ssl.SSLContext | None) -> list[Listener]:
    """The sockets of systemd's protocol, sd_listen_fds(3): all of them, or the one that ``rest`` names."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise errors.InvalidParameter(
            "no sockets found via socket activation: make sure the service was started by systemd"
        )
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    listeners = []
    for index in range(count):
        name = names[index] if index < len(names) else ""
        if rest in ("", "*", name, str(index + SYSTEMD_FIRST_FD)):
            listening = socket.socket(fileno=SYSTEMD_FIRST_FD + index)
            listening.set_inheritable(False)
            guard = tls if listening.family != socket.AF_UNIX else None
            listeners.append(Listener(listening, f"fd://{SYSTEMD_FIRST_FD + index}", tls=guard))
    if not listeners:
        raise errors.InvalidParameter(f"failed to find the socket fd://{rest} among the {count} inherited")
    return listeners


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS side of tcp sockets, or None. InvalidParameter for files that can't be used."""
    if not (settings.tls or settings.tlsverify):
        return None
    if not settings.tlscert or not settings.tlskey:
        raise errors.InvalidParameter("TLS needs --tlscert and --tlskey")
    if settings.tlsverify and not settings.tlscacert:
        raise errors.InvalidParameter("--tlsverify needs --tlscacert")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tlscert, settings.tlskey)
        if settings.tlsverify:
            context.load_verify_locations(settings.tlscacert)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise errors.InvalidParameter(f"could not load X509 key pair: {error}") from error
    return context

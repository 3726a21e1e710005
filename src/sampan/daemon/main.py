"""``sampand``: read the settings, take the data root, open the engine, serve until told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from sampan import __version__, errors
from sampan.daemon import settings as settings_module
from sampan.daemon.options import OPTIONS
from sampan.daemon.settings import Settings

if TYPE_CHECKING:
    from sampan.api.listener import Server
    from sampan.engine.engine import Engine
    from sampan.storage.rootlock import RootLock

log = logging.getLogger("sampan.daemon")
_ENOUGH = 3  # signals that ask for the end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        settings = settings_module.load(words)
    except errors.SampanError as error:
        sys.stderr.write(f"sampand: {error}\n")
        return 1
    if settings.help:
        sys.stdout.write(_usage())
        return 0
    if settings.version:
        sys.stdout.write(f"sampand version {__version__}\n")
        return 0
    if settings.validate:
        sys.stdout.write("configuration OK\n")
        return 0
    from sampan.daemon import logs
    from sampan.kernel import memory

    memory.use_one_arena()
    memory.keep(16 << 20)  # what is free goes back in quiet moments, see daemon.quiet
    logs.set_up(settings.log_level, settings.log_format)
    _set_proxies(settings)
    try:
        return _run(Daemon(settings, words).run())
    except errors.SampanError as error:
        sys.stderr.write(f"sampand: {error}\n")
        return 1


def _set_proxies(settings: settings_module.Settings) -> None:
    """The configuration's proxies win over the environment's, as in dockerd; who asks reads the environment."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        value = getattr(settings, name)
        if not value:
            continue
        for variable in (name.upper(), name):
            if os.environ.get(variable, value) != value:
                log.warning("%s of the environment gives way to the configuration's", variable)
            os.environ[variable] = value


def _run(main_coroutine: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where it is installed, else on asyncio's own loop; the process ends with it."""
    factory = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop

        factory = new_event_loop
    runner = asyncio.Runner(loop_factory=factory)
    try:
        code = runner.run(main_coroutine)
    except BaseException:
        runner.close()
        raise
    # All is closed. A thread that the kernel still holds, in a large tree or on a server that is down, isn't
    # waited for: what it does may be cut off anywhere.
    logging.shutdown()
    os._exit(code)


def _usage() -> str:
    lines = [
        "Usage:  sampand [OPTIONS]",
        "",
        "A container engine that speaks Docker's protocols.",
        "",
        "Options:",
    ]
    for option in sorted(OPTIONS, key=lambda option: option.flag):
        short = f"-{option.short}, " if option.short else "    "
        kind = "" if option.kind == "bool" else f" {option.kind}"
        lines.append(f"  {short}--{option.flag + kind:<32} {option.help}")
    return "\n".join(lines) + "\n"


class Daemon:
    """One run of the daemon, from the lock on the data root to the last closed socket."""

    def __init__(self, settings: Settings, arguments: Sequence[str]) -> None:
        self._settings = settings
        self._arguments = arguments
        self._end = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Raises the error that kept the daemon from starting."""
        from sampan.daemon import pidfile, sockets
        from sampan.storage.rootlock import RootLock

        if os.geteuid() != 0:  # in a user namespace whoever is root there may try
            raise errors.SystemFailure("sampand needs to be started with root privileges", hint="Use sudo.")
        with contextlib.ExitStack() as undo:
            root_lock = RootLock(self._settings.engine.data_root)
            undo.callback(root_lock.close)
            if self._settings.pidfile is not None:
                pidfile.write(self._settings.pidfile)
                undo.callback(pidfile.remove, self._settings.pidfile)
            listeners = sockets.open_all(self._settings)
            for listener in listeners:
                undo.callback(listener.close)
            self._handle_signals()
            await self._serve(listeners, root_lock)
        return 0

    async def _serve(self, listeners: Sequence[Any], root_lock: RootLock) -> None:
        from sampan.api.app import Application
        from sampan.api.listener import Server
        from sampan.daemon.quiet import Quiet
        from sampan.engine.engine import Engine

        engine = await Engine.open(self._settings.engine, root_lock)
        try:
            quiet = Quiet()
            server = Server(Application(engine), quiet.answered)
            for listener in listeners:
                await server.listen(listener.socket, listener.tls)
            self._engine = engine
            self._say_ready([listener.name for listener in listeners])
            await self._end.wait()
            await self._stop(server)
            quiet.close()
        finally:
            await engine.close()

    def _say_ready(self, names: Sequence[str]) -> None:
        from sampan.daemon import systemd

        sys.stdout.write(f"sampand {__version__} ready on {', '.join(names)} (pid {os.getpid()})\n")
        sys.stdout.flush()
        systemd.notify(f"READY=1\nMAINPID={os.getpid()}")

    async def _stop(self, server: Server) -> None:
        from sampan.daemon import systemd

        log.info("ending")
        systemd.notify("STOPPING=1")
        server.refuse()
        if self._engine is not None:
            await self._engine.begin_end()
        await server.close()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    _engine: Engine | None = None
    _asked = 0

    def _on_end(self) -> None:
        """SIGTERM or SIGINT; the third one waits for nobody any more, as with dockerd. Nothing is lost by that."""
        self._end.set()
        self._asked += 1
        if self._asked == _ENOUGH:
            log.warning("ending at once: asked for %d times", _ENOUGH)
            os._exit(1)

    def _reload(self) -> None:
        """SIGHUP: read the file again; what is wrong in it changes nothing and is said in the log."""
        from sampan.daemon import logs, systemd

        # systemd's Type=notify-reload wants the time of CLOCK_MONOTONIC with it, sd_notify(3)
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            fresh = settings_module.reload(self._settings, self._arguments)
        except errors.SampanError as error:
            log.error("the configuration was not reloaded: %s", error)
        else:
            self._settings = fresh
            logs.set_level(fresh.log_level)
            if self._engine is not None:
                self._engine.reload(fresh.engine)
            log.info("the configuration was reloaded")
        systemd.notify("READY=1")


if __name__ == "__main__":
    sys.exit(main())

"""What a verb is, and what every verb gets: output, the user's configuration, a client of the engine."""

from __future__ import annotations

import os

from sampan.cli.errors import ArgumentError, CLIError, OutputClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sampan.cli.flags import Option, Options
    from sampan.client.config import Config
    from sampan.client.endpoint import Endpoint
    from sampan.client.engine import Client

    Function = Callable[["CLI", Options, list[str]], int]

MANY = -1


class Command:
    """One verb: its words, flags and function.

    ``arguments`` is (least, most), most MANY for any number. ``explain`` looks at the flags of a call with
    the wrong number and says what may have been meant.
    """

    __slots__ = ("arguments", "explain", "function", "interspersed", "options", "summary", "words")

    def __init__(
        self,
        function: Function,
        words: str,
        summary: str,
        arguments: tuple[int, int],
        options: Sequence[Option] = (),
        *,
        interspersed: bool = True,
        explain: Callable[[Options], str] | None = None,
    ) -> None:
        self.explain = explain
        self.function = function
        self.words = words
        self.summary = summary
        self.arguments = arguments
        self.options = options
        self.interspersed = interspersed

    def check_count(self, cli: CLI, options: Options, count: int) -> None:
        """Raises ArgumentError, worded as Docker's, for too few or too many arguments."""
        least, most = self.arguments
        if count >= least and (most == MANY or count <= most):
            return
        name = f"{cli.program} {cli.path}"
        if most == 0:
            problem = f"'{name}' accepts no arguments"
        elif least == most:
            problem = f"'{name}' requires {plural(least)}"
        elif most == MANY:
            problem = f"'{name}' requires at least {plural(least)}"
        elif least == 0:
            problem = f"'{name}' requires at most {plural(most)}"
        else:
            problem = f"'{name}' requires at least {least} and at most {plural(most)}"
        hint = self.explain(options) if self.explain is not None else ""
        raise ArgumentError(f"{cli.program}: {problem}", hint=hint)


def plural(number: int) -> str:
    """``1 argument``, ``2 arguments``."""
    return f"{number} argument{'' if number == 1 else 's'}"


class Settings:
    """The global flags and the environment that they fall back on."""

    __slots__ = ("config_folder", "context", "debug", "environ", "host", "tls", "tls_files", "tls_verify")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.config_folder = ""
        self.host = ""
        self.context = ""
        self.debug = False
        self.tls: bool | None = None
        self.tls_verify: bool | None = None
        self.tls_files = {"ca": "", "cert": "", "key": ""}


class CLI:
    """The running command line. Nothing is read or connected before a verb asks for it."""

    def __init__(self, program: str, settings: Settings) -> None:
        self.program = program
        self.settings = settings
        self.path = ""
        self._config: Config | None = None
        self._client: Client | None = None

    @property
    def config(self) -> Config:
        """The user's config.json."""
        if self._config is None:
            from sampan.client import config

            self._config = config.Config.load(self.settings.config_folder or config.default_folder())
        return self._config

    @property
    def client(self) -> Client:
        """A client of the chosen engine."""
        if self._client is None:
            from sampan.client.engine import Client

            environ = self.settings.environ
            self._client = Client(
                self.endpoint(), version=environ.get("DOCKER_API_VERSION", ""), headers=self.config.headers()
            )
        return self._client

    def endpoint(self) -> Endpoint:
        """The chosen engine's address: -H, SAMPAN_HOST, DOCKER_HOST, the context, the default socket."""
        from sampan.cli import connect

        return connect.choose(self.settings, self.config)

    def close(self) -> None:
        """Drop the connections."""
        if self._client is not None:
            self._client.close()

    def new_client(self) -> Client:
        """A second client of the same engine, for a signal handler's or a thread's own calls."""
        from sampan.client.engine import Client

        return Client(self.client.endpoint, version=self.client.negotiate(), headers=self.config.headers())

    def write(self, text: str) -> None:
        """Print to stdout, exactly this text."""
        write_all(1, text.encode("utf-8", "surrogateescape"))

    def print(self, line: str) -> None:
        """Print a line to stdout."""
        self.write(line + "\n")

    def complain(self, line: str) -> None:
        """Print a line to stderr."""
        write_all(2, (line + "\n").encode("utf-8", "surrogateescape"))


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything. Raises OutputClosed when nobody reads."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BrokenPipeError:
            raise OutputClosed from None
        except BlockingIOError:
            import select

            select.select([], [descriptor], [])
        except OSError as error:
            if descriptor == 2:
                return
            raise CLIError(f"write error: {error.strerror}") from None

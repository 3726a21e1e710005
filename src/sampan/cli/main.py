"""The entry point of ``sampan``: global flags, the verb, its flags, errors and exit codes.

Start-up is what a user waits for, so nothing is imported here that a verb may not need; a test lists the
modules (tests/cli/test_startup.py).
"""

from __future__ import annotations

import sys

from sampan.cli import catalog, flags
from sampan.cli.command import CLI, Command, Settings
from sampan.cli.errors import ArgumentError, CLIError, FlagError, OutputClosed, text_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "sampan"
USAGE = "Usage:  {0} [OPTIONS] COMMAND [ARG...]\n\nRun '{0} --help' for more information"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    import os

    settings = Settings(os.environ)
    cli = CLI(PROGRAM, settings)
    try:
        return _guarded(cli, list(sys.argv[1:] if words is None else words))
    except OutputClosed:
        return _die_of(13)  # SIGPIPE, as any program whose reader went away
    except KeyboardInterrupt:
        return 130
    finally:
        cli.close()


def _guarded(cli: CLI, words: list[str]) -> int:
    try:
        return _dispatch(cli, words)
    except FlagError as error:
        cli.complain(f"{error}\n\n" + USAGE.format(cli.program))
        return error.exit_code
    except CLIError as error:
        if error.message:
            cli.complain(str(error))
        return error.exit_code
    except SampanError as error:
        if cli.settings.debug:
            raise
        cli.complain(text_of(error))
        return 1
    except OSError as error:
        if cli.settings.debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        cli.complain(f"{where}{error.strerror or error}")
        return 1


def _dispatch(cli: CLI, words: list[str]) -> int:
    words = _global_flags(cli, words)
    if not words:
        return _show_program(cli)
    if words[0] == "help":
        words = [*words[1:], "--help"] if len(words) > 1 else []
        if not words:
            return _show_program(cli)
    path, target = catalog.find(words)
    if not path:
        raise _unknown(cli.program, words)
    if not target:
        from sampan.cli import help as helps

        cli.write(helps.of_group(cli.program, path))
        return 0
    cli.path = path
    return _run(cli, load(target), words[path.count(" ") + 1 :])


def load(target: str) -> Command:
    """Import a verb: ``module:NAME`` below ``sampan.cli.verbs``."""
    module, _, name = target.partition(":")
    full = f"sampan.cli.verbs.{module}"
    __import__(full)
    command = getattr(sys.modules[full], name)
    assert isinstance(command, Command)
    return command


def _run(cli: CLI, command: Command, words: list[str]) -> int:
    try:
        options, arguments = flags.parse(command.options, words, interspersed=command.interspersed)
        command.check_count(cli, options, len(arguments))
        return command.function(cli, options, arguments)
    except flags.HelpAsked:
        from sampan.cli import help as helps

        cli.write(helps.of_command(cli, command))
        return 0
    except (FlagError, ArgumentError) as error:
        from sampan.cli import help as helps

        see = "See" if "at least" in error.message and "at most" not in error.message else "Run"
        cli.complain(
            f"{error}\n\n{helps.usage(cli, command)}\n\n"
            f"{see} '{cli.program} {cli.path} --help' for more information"
        )
        return error.exit_code


def _show_program(cli: CLI) -> int:
    from sampan.cli import help as helps

    cli.write(helps.of_program(cli.program))
    return 0


def _global_flags(cli: CLI, words: list[str]) -> list[str]:
    """Take the flags before the verb off; returns the words from the verb on."""
    if not words or not words[0].startswith("-"):
        return words
    from sampan.cli import help as helps

    try:
        options, rest = flags.parse(helps.GLOBAL_OPTIONS, words, interspersed=False)
    except flags.HelpAsked:
        return []
    if options.flag("version"):
        return ["version", "--short"]
    settings = cli.settings
    settings.config_folder = options.text("config")
    settings.context = options.text("context")
    settings.debug = options.flag("debug")
    hosts = options.all("host")
    if len(hosts) > 1:
        raise CLIError("please specify only one -H")
    settings.host = str(hosts[0]) if hosts else ""
    if "tls" in options.given:
        settings.tls = options.flag("tls")
    if "tlsverify" in options.given:
        settings.tls_verify = options.flag("tlsverify")
    settings.tls_files = {kind: options.text(f"tls{kind}") for kind in ("cert", "key")}
    settings.tls_files["ca"] = options.text("tlscacert")
    return rest


def _unknown(program: str, words: list[str]) -> CLIError:
    from sampan.cli.suggest import nearest

    if words[0] in catalog.SWARM:
        return CLIError(
            f"'{program} {words[0]}' manages clusters, which this engine does not",
            hint="Docker's own client can still ask: docker " + " ".join(words),
        )
    group = catalog.GROUPS.get(words[0])
    if group is not None:
        guess = nearest(words[1], group[0])
        hint = f"Did you mean '{program} {words[0]} {guess}'?\n" if guess else ""
        return CLIError(
            f"{program}: unknown command: {program} {words[0]} {words[1]}\n\n"
            f"Usage:  {program} {words[0]}\n\n{hint}Run '{program} {words[0]} --help' for more information"
        )
    guess = nearest(words[0], [*catalog.COMMON, *catalog.GROUPS, *catalog.TOP])
    hint = f"Did you mean '{program} {guess}'?\n" if guess else ""
    return CLIError(
        f"{program}: unknown command: {program} {words[0]}\n\n{hint}"
        f"Run '{program} --help' for more information"
    )


def _die_of(number: int) -> int:
    """End by a signal, so that a shell sees why."""
    import os
    import signal

    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


if __name__ == "__main__":
    sys.exit(main())

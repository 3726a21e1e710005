"""Docker Content Trust, which this command line doesn't do: asked for, it is refused, never ignored."""

from __future__ import annotations

from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.command import CLI
    from sampan.cli.flags import Options

_OFF = frozenset({"", "0", "f", "F", "false", "FALSE", "False"})


def check(cli: CLI, options: Options) -> None:
    """Raises CLIError when signed images are wanted: ``--disable-content-trust=false``, DOCKER_CONTENT_TRUST=1.

    As with docker the flag outdoes the environment.
    """
    wanted = cli.settings.environ.get("DOCKER_CONTENT_TRUST", "") not in _OFF
    if "disable-content-trust" in options.given:
        wanted = not options.flag("disable-content-trust")
    if wanted:
        raise CLIError(
            "content trust is not supported: signatures of images aren't looked at",
            hint="Name the image by its digest, which is checked, or unset DOCKER_CONTENT_TRUST.",
        )

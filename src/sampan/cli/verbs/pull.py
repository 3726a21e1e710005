"""``pull``."""

from __future__ import annotations

from sampan.cli import names, pulling, trust
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def pull(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Fetch an image, print its name."""
    image = arguments[0]
    name = names.parse(image)
    every, quiet = options.flag("all-tags"), options.flag("quiet")
    if every and (name.tag or name.digest):
        raise CLIError("tag can't be used with --all-tags/-a")
    platform = options.text("platform")
    if options.flag("all-platforms"):
        if platform:
            raise CLIError("--platform can't be used with --all-platforms")
        platform = "all"
    trust.check(cli, options)
    if not every and not name.tag and not name.digest and not quiet:
        cli.print("Using default tag: latest")
    pulling.pull(cli, image, platform=platform, quiet=quiet, every=every)
    cli.print(f"{name.domain}/{name.path}" if every else _full(name))
    return 0


def _full(name: names.Name) -> str:
    tail = f"@{name.digest}" if name.digest else f":{name.tag or 'latest'}"
    return f"{name.domain}/{name.path}{tail}"


PULL = Command(
    pull,
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Fetch an image from a registry",
    (1, 1),
    (
        ("all-platforms", "", "bool", False, "Fetch what an index holds for every platform"),
        ("all-tags", "a", "bool", False, "Fetch all tags"),
        ("disable-content-trust", "", "bool", True, "Skip image verification"),
        ("platform", "", "string", "", "Fetch this platform's image"),
        ("quiet", "q", "bool", False, "Print the name only"),
    ),
)

"""``push``."""

from __future__ import annotations

from sampan.cli import names, platforms, progress, trust
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError
from sampan.client import credentials
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def push(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Send an image; the registry's login goes along."""
    name = names.parse(arguments[0])
    if options.flag("all-tags") and name.tag:
        raise CLIError("tag can't be used with --all-tags/-a")
    trust.check(cli, options)
    quiet = options.flag("quiet")
    tag = "" if options.flag("all-tags") else name.tag or "latest"
    if not options.flag("all-tags") and not name.tag and not quiet:
        cli.print(f"Using default tag: {tag}")
    headers = credentials.headers(cli.config, name.domain) or {"X-Registry-Auth": credentials.encode({})}
    stream = cli.client.stream(
        "POST",
        path_of("images", name.repository) + "/push",
        {"tag": tag or None, **platforms.query([options.text("platform")])},
        headers=headers,
    )
    if not quiet:
        notes: list[str] = []
        try:
            progress.show(stream, 1, lambda aux: notes.extend(_note(aux)))
        finally:
            for note in notes:
                cli.complain(note)
        return 0
    for item in stream:
        if "error" in item:
            progress.show([item], 1)
    cli.print(f"{name.domain}/{name.path}:{tag}" if tag else f"{name.domain}/{name.path}")
    return 0


def _note(aux: dict[str, Any]) -> list[str]:
    """What docker's client says when only one image of an index went."""
    if not aux.get("manifestPushedInsteadOfIndex"):
        return []
    whole, part = aux["originalIndex"]["digest"], aux["selectedManifest"]["digest"]
    text = "Not all multiplatform-content is present and only the available single-platform image was pushed"
    return [f"\n Info -> {text}\n         {whole} -> {part}"]


PUSH = Command(
    push,
    "[OPTIONS] NAME[:TAG]",
    "Send an image to a registry",
    (1, 1),
    (
        ("all-tags", "a", "bool", False, "Send all tags"),
        ("disable-content-trust", "", "bool", True, "Skip image signing"),
        ("platform", "", "string", "", "Send this platform's image"),
        ("quiet", "q", "bool", False, "Print the name only"),
    ),
)

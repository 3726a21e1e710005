"""``import``: an image from a tar archive of a file system."""

from __future__ import annotations

from sampan.cli import archives, names, progress
from sampan.cli.command import CLI, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def import_image(cli: CLI, options: Options, arguments: list[str]) -> int:
    """From a file, a URL (which the engine fetches), or stdin; prints the new image's id."""
    source = arguments[0]
    remote = source.startswith(("http://", "https://"))
    if len(arguments) > 1:
        names.parse(arguments[1])
    query = {
        "fromSrc": source if remote else "-",
        "repo": arguments[1] if len(arguments) > 1 else None,
        "message": options.text("message") or None,
        "changes": options.all("change") or None,
        "platform": options.text("platform") or None,
    }
    if remote:
        progress.show(cli.client.stream("POST", "/images/create", query), 1)
        return 0
    with archives.reading(source) as pieces:
        stream = cli.client.stream(
            "POST", "/images/create", query, body=pieces, headers={"Content-Type": "application/x-tar"}
        )
        progress.show(stream, 1)
    return 0


IMPORT = Command(
    import_image,
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Make an image from a tar archive of a file system",
    (1, 2),
    (
        ("change", "c", "list", "", "Apply a Dockerfile instruction"),
        ("message", "m", "string", "", "Say why, in the image's history"),
        ("platform", "", "string", "", "Platform of the content (linux/arm64)"),
    ),
)

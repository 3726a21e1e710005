"""Pulling and pushing, for the verbs and for ``run`` of a missing image."""

from __future__ import annotations

from sampan.cli import names, progress
from sampan.client import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.command import CLI


def pull(
    cli: CLI, image: str, *, platform: str = "", quiet: bool = False, descriptor: int = 1, every: bool = False
) -> None:
    """Have the engine fetch an image. Raises CLIError, APIError."""
    name = names.parse(image)
    tag = name.digest or name.tag or ("" if every else "latest")
    query = {"fromImage": name.repository, "tag": tag or None, "platform": platform or None}
    headers = credentials.headers(cli.config, name.domain)
    stream = cli.client.stream("POST", "/images/create", query, headers=headers)
    if quiet:
        for item in stream:
            if "error" in item or "errorDetail" in item:
                progress.show([item], descriptor)
    else:
        progress.show(stream, descriptor)

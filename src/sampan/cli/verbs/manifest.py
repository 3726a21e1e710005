"""``manifest``: images of several platforms under one name, in a registry."""

from __future__ import annotations

from sampan import jsontext
from sampan.cli import remote
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.images.reference import Reference


def _parse(text: str) -> Reference:
    from sampan.images.reference import Reference

    return Reference.parse(text).with_default_tag()


def inspect(cli: CLI, options: Options, arguments: list[str]) -> int:
    """A list in the making, or what a registry has under the name."""
    from sampan.cli.manifestlists import Lists
    from sampan.registry import fetch, index

    lists = Lists(cli.config)
    if len(arguments) == 2:
        name, wanted = _parse(arguments[0]), _parse(arguments[1])
        found = [one for one in lists.members(name) if one.name == wanted]
        if not found:
            raise CLIError(f"No such manifest: {wanted.familiar} in {name.familiar}")
        raw = found[0].raw
    else:
        name = _parse(arguments[0])
        if lists.exists(name):
            raw = index.encode([one.entry for one in lists.members(name)])
        else:
            raw = fetch.resolve(remote.connect(cli, name, insecure=options.flag("insecure")), name).raw
    document = jsontext.loads(raw.decode())
    if options.flag("verbose"):
        document = _with_descriptor(name, raw, document)
    cli.write(jsontext.dumps(document, 4, escape=False) + "\n")
    return 0


def _with_descriptor(name: Reference, raw: bytes, document: Any) -> Any:
    from sampan.images.manifest import media_type_of
    from sampan.storage import digest as digests

    descriptor = {"mediaType": media_type_of(raw), "digest": digests.of(raw), "size": len(raw)}
    return {"Ref": name.canonical, "Descriptor": descriptor, "Manifest": document}


def create(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Begin a list, or with ``--amend`` add to one."""
    from sampan.cli.manifestlists import Lists, Member
    from sampan.registry import index

    name, lists = _parse(arguments[0]), Lists(cli.config)
    if lists.exists(name) and not options.flag("amend"):
        raise CLIError("refusing to amend an existing manifest list with no --amend flag")
    members = []
    for text in arguments[1:]:
        image = _parse(text)
        transport = remote.connect(cli, image, insecure=options.flag("insecure"))
        members.append(Member(image, *index.entry(transport, image)))
    for member in members:  # only when all were found: a list is made whole or not at all
        lists.put(name, member)
    cli.print(f"Created manifest list {name.canonical}")
    return 0


def annotate(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Say more of an image in a list."""
    from sampan.cli.manifestlists import Lists
    from sampan.images.manifest import Platform

    name, image, lists = _parse(arguments[0]), _parse(arguments[1]), Lists(cli.config)
    found = next((one for one in lists.members(name) if one.name == image), None)
    if found is None:
        raise CLIError(f"manifest for image {image.familiar} does not exist in {name.familiar}")
    platform = found.entry.platform or Platform()
    platform.os = options.text("os") or platform.os
    platform.architecture = options.text("arch") or platform.architecture
    platform.variant = options.text("variant") or platform.variant
    platform.os_version = options.text("os-version") or platform.os_version
    platform.os_features = options.all("os-features") or platform.os_features
    found.entry.platform = platform
    lists.put(name, found)
    return 0


def push(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Put a list into its registry; prints its digest."""
    from sampan.cli.manifestlists import Lists
    from sampan.registry import index

    name, lists = _parse(arguments[0]), Lists(cli.config)
    members = lists.members(name)
    transport = remote.connect(cli, name, insecure=options.flag("insecure"))
    cli.print(index.push(transport, name, [(one.name, one.entry, one.raw) for one in members]))
    if options.flag("purge"):
        lists.remove(name)
    return 0


def remove(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Forget lists in the making."""
    from sampan.cli.manifestlists import Lists

    for text in arguments:
        Lists(cli.config).remove(_parse(text))
    return 0


_INSECURE = ("insecure", "", "bool", False, "Allow plain HTTP and unknown certificates")
INSPECT = Command(
    inspect,
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    "Show a manifest or manifest list",
    (1, 2),
    (_INSECURE, ("verbose", "v", "bool", False, "With its descriptor")),
)
CREATE = Command(
    create,
    "MANIFEST_LIST MANIFEST [MANIFEST...]",
    "Begin a manifest list of images in a registry",
    (2, MANY),
    (("amend", "a", "bool", False, "Add to a list that exists"), _INSECURE),
)
ANNOTATE = Command(
    annotate,
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    "Say more of an image in a manifest list",
    (2, 2),
    (
        ("arch", "", "string", "", "Its architecture"),
        ("os", "", "string", "", "Its operating system"),
        ("os-features", "", "list", [], "Features of the operating system that it needs"),
        ("os-version", "", "string", "", "Version of the operating system"),
        ("variant", "", "string", "", "Variant of the architecture"),
    ),
)
PUSH = Command(
    push,
    "[OPTIONS] MANIFEST_LIST",
    "Put a manifest list into its registry",
    (1, 1),
    (_INSECURE, ("purge", "p", "bool", False, "Forget the list here afterwards")),
)
RM = Command(remove, "MANIFEST_LIST [MANIFEST_LIST...]", "Forget manifest lists that were begun", (1, MANY))

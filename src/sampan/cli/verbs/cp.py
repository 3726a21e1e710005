"""``cp``: files between a container and this machine."""

from __future__ import annotations

import os
import stat

from sampan import jsontext
from sampan.cli import archives, unpack
from sampan.cli.command import CLI, Command, write_all
from sampan.cli.errors import CLIError
from sampan.client import tarstream
from sampan.client.engine import path_of
from sampan.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.cli.flags import Options

GO_DIRECTORY, GO_LINK = 1 << 31, 1 << 27
LINKS = 40


def copy(cli: CLI, options: Options, arguments: list[str]) -> int:
    """One side is ``CONTAINER:PATH``, the other a path here, or ``-`` for a tar archive."""
    source_name, source = split(arguments[0])
    target_name, target = split(arguments[1])
    if source_name and target_name:
        raise CLIError(
            "copying between containers is not supported", hint="Pipe it: sampan cp A:x - | sampan cp - B:"
        )
    if not source_name and not target_name:
        raise CLIError("must specify at least one container source")
    if not source or not target:
        raise CLIError(f"{'source' if not source else 'destination'} can not be empty")
    if source_name:
        return _out_of(cli, options, source_name, source, target)
    return _into(cli, options, source, target_name, target)


def split(text: str) -> tuple[str, str]:
    """Container and path; a path here begins with ``/``, ``.`` or has no colon."""
    if text.startswith(("/", ".")):
        return "", text
    name, colon, path = text.partition(":")
    return (name, path) if colon else ("", text)


def _stat(cli: CLI, name: str, path: str) -> dict[str, Any]:
    """The engine's facts about a path in a container. Raises APIError (404 when it isn't there)."""
    import binascii

    target = path_of("containers", name) + "/archive"
    try:
        response = cli.client.open("HEAD", target, {"path": path})
    except APIError as error:
        if error.status == 404:
            cli.client.call("GET", path_of("containers", name) + "/json")
            raise APIError(f"Could not find the file {path} in container {name}", 404) from None
        raise
    header = response.headers.get("x-docker-container-path-stat", "")
    found: dict[str, Any] = jsontext.loads(binascii.a2b_base64(header))
    return found


def _absolute(path: str) -> str:
    """Below the container's root, its trailing slash or dot kept: they say what is meant."""
    keep = path.endswith(("/", "/.")) or path == "."
    cleaned = os.path.normpath("/" + path.lstrip("/"))
    if not keep or cleaned == "/":
        return cleaned
    return f"{cleaned}/." if path.endswith(".") else f"{cleaned}/"


def _out_of(cli: CLI, options: Options, name: str, source: str, target: str) -> int:
    path = _absolute(source)
    if target != "-":
        parent = os.path.dirname(os.path.abspath(target)) or "/"
        if not os.path.isdir(parent):
            raise CLIError(f'invalid output path: directory "{os.path.dirname(target)}" does not exist')
    if options.flag("follow-link"):
        facts = _stat(cli, name, path)
        if facts["mode"] & GO_LINK:
            linked = facts["linkTarget"]
            path = linked if linked.startswith("/") else os.path.join(os.path.dirname(path), linked)
    try:
        response = cli.client.open("GET", path_of("containers", name) + "/archive", {"path": path})
    except APIError as error:
        raise APIError(error.message, error.status) from None
    if target == "-":
        archives.check_output("")
        for piece in response.chunks():
            write_all(1, piece)
        return 0
    import binascii

    facts = jsontext.loads(binascii.a2b_base64(response.headers["x-docker-container-path-stat"]))
    folder, rename = _destination(path, facts, target)
    unpack.unpack(response.chunks(), folder, rename, owners=options.flag("archive") and os.geteuid() == 0)
    cli.client.release(response)
    return 0


def _destination(source: str, facts: dict[str, Any], target: str) -> tuple[str, tuple[str, str]]:
    """Where to unpack, and how the archive's first name is to be called there (docker cp's rules)."""
    is_folder = bool(facts["mode"] & GO_DIRECTORY)
    contents_only = source.endswith("/.")
    name = "." if contents_only else os.path.basename(source.rstrip("/")) or str(facts["name"])
    full = os.path.abspath(target)
    if os.path.isdir(full):
        return full, (name, "" if contents_only else name)
    if os.path.lexists(full) and is_folder:
        raise CLIError("cannot copy directory", hint=f"{full} is there already and is no directory.")
    if target.endswith("/") and not is_folder:
        raise CLIError("no such directory", hint=f"Make it first: mkdir {target}")
    if contents_only:
        os.makedirs(full)
        return full, (name, "")
    return os.path.dirname(full), (name, os.path.basename(full))


def _into(cli: CLI, options: Options, source: str, name: str, target: str) -> int:
    path = _absolute(target)
    path, facts = _existing(cli, name, path)
    is_folder = facts is not None and bool(facts["mode"] & GO_DIRECTORY)
    if source == "-":
        if not is_folder:
            raise CLIError(f'destination "{name}:{path}" must be a directory')
        with archives.reading("-") as pieces:
            _send(cli, options, name, path, pieces)
        return 0
    follow = options.flag("follow-link")
    info = _local(source, follow=follow or source.endswith("/"))
    from_folder = stat.S_ISDIR(info.st_mode)
    contents_only = from_folder and (source.endswith("/.") or source == ".")
    base = os.path.basename(os.path.abspath(source))
    if is_folder:
        folder, entry = path, "" if contents_only else base
    elif facts is not None and from_folder:
        raise CLIError("cannot copy directory", hint=f"{name}:{path} is there already and is no directory.")
    elif facts is None and path.endswith("/") and not from_folder:
        raise CLIError("no such directory", hint=f"Make it first: sampan exec {name} mkdir {path}")
    else:
        clean = path.rstrip("/.") or "/"
        folder, entry = os.path.dirname(clean), os.path.basename(clean)
    _send(cli, options, name, folder, tarstream.joined(_pack(source, entry, follow=follow)))
    return 0


def _local(source: str, *, follow: bool) -> os.stat_result:
    try:
        return os.stat(source) if follow else os.lstat(source)
    except OSError as error:
        raise CLIError(f"lstat {os.path.abspath(source)}: {(error.strerror or '').lower()}") from None


def _existing(cli: CLI, name: str, path: str) -> tuple[str, dict[str, Any] | None]:
    """The destination and the facts about it, through links; None when it isn't there yet."""
    for _ in range(LINKS):
        try:
            facts = _stat(cli, name, path)
        except APIError as error:
            if error.status != 404 or not error.message.startswith("Could not find"):
                raise
            return path, None
        if not facts["mode"] & GO_LINK:
            return path, facts
        linked = str(facts["linkTarget"])
        path = linked if linked.startswith("/") else os.path.join(os.path.dirname(path.rstrip("/")), linked)
    raise CLIError(f"too many links in {path}")


def _pack(source: str, entry: str, *, follow: bool) -> Iterator[bytes]:
    tree = tarstream.Tree(owners=True)
    root = os.path.abspath(source)
    if entry:
        yield from tree.entry(root, entry, follow=follow or source.endswith("/"))
    if os.path.isdir(root) and (follow or source.endswith(("/", "/.")) or not os.path.islink(root)):
        yield from _folder(tree, root, f"{entry}/" if entry else "")
    yield tarstream.END


def _folder(tree: tarstream.Tree, folder: str, prefix: str) -> Iterator[bytes]:
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        yield from tree.entry(path, prefix + name)
        if os.path.isdir(path) and not os.path.islink(path):
            yield from _folder(tree, path, f"{prefix}{name}/")


def _send(cli: CLI, options: Options, name: str, folder: str, pieces: Iterator[bytes]) -> None:
    query: dict[str, Any] = {"path": folder, "noOverwriteDirNonDir": "true"}
    if options.flag("archive"):
        query["copyUIDGID"] = "true"
    headers = {"Content-Type": "application/x-tar"}
    cli.client.call("PUT", path_of("containers", name) + "/archive", query, body=pieces, headers=headers)


CP = Command(
    copy,
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files between a container and this machine",
    (2, 2),
    (
        ("archive", "a", "bool", False, "Keep owners and groups"),
        ("follow-link", "L", "bool", False, "Follow a link in the source path"),
        ("quiet", "q", "bool", False, "Accepted for docker's sake"),
    ),
)

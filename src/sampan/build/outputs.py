"""What a build can give besides an image in the store: a squashed image, its files as an archive, checks."""

from __future__ import annotations

import base64
import copy
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sampan.build import roots
from sampan.build.cache import Hit
from sampan.build.diagnostics import frame
from sampan.build.image import Image
from sampan.build.instructions import Dockerfile
from sampan.build.lint import Finding
from sampan.build.rootfs import RootFs
from sampan.errors import Unsupported
from sampan.kernel import xattr
from sampan.storage.layers import LayerStore, chain_ids
from sampan.storage.pack import Options, Packer
from sampan.storage.removal import remove_tree

INLINE_CACHE = "sampan.cache.v1"
"""The key of an image document under which it carries its build cache."""
_CHUNK = 192 << 10
_OPAQUE = "trusted.overlay.opaque"


def check_result(file: Dockerfile, findings: list[Finding]) -> dict[str, Any]:
    """The answer of a check: findings with their code frames."""
    found = [
        {
            "RuleName": finding.rule,
            "Detail": finding.message,
            "Url": finding.url,
            "Line": finding.span.first,
            "Frame": frame(file.name, file.lines, finding.span),
        }
        for finding in findings
    ]
    return {"id": "sampan.check", "aux": {"Warnings": found}}


def chunk(data: bytes) -> dict[str, Any]:
    """A piece of an output archive as an object of the stream."""
    return {"id": "sampan.output", "aux": {"Data": base64.b64encode(data).decode()}}


def kind_of(output: dict[str, Any]) -> str:
    """The type of an output, in lower case."""
    return str(output.get("Type") or output.get("type") or "image").lower()


def wants_image(wanted: list[dict[str, Any]]) -> bool:
    """Whether the result is to be an image in the store: it is, unless only its files are asked for."""
    return not wanted or any(kind_of(output) not in ("tar", "local") for output in wanted)


def archive(image: Image, layers: LayerStore, output: dict[str, Any]) -> Iterator[bytes]:
    """The pieces of what ``output`` (``Type``, ``Attrs``) asks for; none for an image.

    Raises Unsupported for a type that this engine doesn't write.
    """
    kind = kind_of(output)
    if kind in ("image", "docker", "moby"):
        return
    if kind not in ("tar", "local"):
        raise Unsupported(
            f"unknown output type {kind}", hint="Known are tar, local and image; docker save writes images."
        )
    if image.chain is None:
        return
    with roots.opened(layers.lowers(image.chain), "the image") as root:
        packer = Packer(Options())
        pending = b""
        for piece in packer.tree(root.fd):
            pending += piece
            while len(pending) >= _CHUNK:
                yield pending[:_CHUNK]
                pending = pending[_CHUNK:]
        yield pending + packer.end()


def with_inline_cache(image: Image, results: dict[str, Hit]) -> Image:
    """The image with the keys of its steps in its document, for ``--cache-from`` elsewhere."""
    document = copy.deepcopy(image.document)
    chains = set(chain_ids(document["rootfs"]["diff_ids"]))
    document[INLINE_CACHE] = [
        {"key": key, "chain": hit.chain or "", "created": hit.created, "description": hit.description}
        for key, hit in results.items()
        if hit.chain is None or hit.chain in chains
    ]
    return Image(document, image.chain, image.base_reference)


def inline_cache(document: dict[str, Any]) -> dict[str, Hit]:
    """The keys that an image carries; what isn't in form is passed over."""
    found = {}
    rows = document.get(INLINE_CACHE)
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and all(isinstance(row.get(k), str) for k in ("key", "chain", "created")):
            found[row["key"]] = Hit(row["chain"] or None, row["created"], str(row.get("description") or ""))
    return found


def squash(image: Image, base_layers: int, layers: LayerStore, directory: Path) -> Image:
    """The image with all layers above the first ``base_layers`` merged into one."""
    diff_ids = image.document["rootfs"]["diff_ids"]
    chain = chain_ids(diff_ids)
    if len(chain) - base_layers < 2:
        return image
    base = chain[base_layers - 1] if base_layers else None
    directory.mkdir(mode=0o700, parents=True)
    upper, work = layers.make_upper(base, directory)
    with RootFs(layers.lowers(base), upper, work) as rootfs:
        for name in chain[base_layers:]:
            _apply(layers.directory(name) / "diff", rootfs.fd)
    layer = layers.adopt(base, upper)
    document = copy.deepcopy(image.document)
    document["rootfs"]["diff_ids"] = [*diff_ids[:base_layers], layer.diff_id]
    seen = 0
    for entry in document["history"]:
        if not entry.get("empty_layer"):
            seen += 1
            if seen > base_layers:
                entry["empty_layer"] = True
    comment = f"merge {image.id} to {chain[base_layers - 1] if base_layers else 'scratch'}"
    document["history"].append({"created": document["created"], "comment": comment})
    return Image(document, layer.chain_id, image.base_reference)


def _apply(source: Path, target: int) -> None:
    """Apply an overlay directory to the merged directory ``target``: whiteouts remove, the rest replaces."""
    for entry in sorted(os.scandir(source), key=lambda one: one.name):
        found = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind != stat.S_IFDIR or xattr.read(os.fsencode(entry.path), _OPAQUE) == b"y":
            _remove(target, entry.name)
        if kind == stat.S_IFCHR and found.st_rdev == 0:
            continue
        if kind == stat.S_IFDIR:
            _apply_directory(Path(entry.path), target, entry.name, found)
        else:
            _copy_leaf(entry.path, target, entry.name, found)


def _apply_directory(source: Path, target: int, name: str, found: os.stat_result) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=target)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=target, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=target)
            os.mkdir(name, 0o700, dir_fd=target)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
    try:
        _apply(source, fd)
        os.fchown(fd, found.st_uid, found.st_gid)
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
        _attributes(str(source), fd)
        os.utime(fd, ns=(found.st_mtime_ns, found.st_mtime_ns))
    finally:
        os.close(fd)


def _copy_leaf(source: str, target: int, name: str, found: os.stat_result) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), name, dir_fd=target)
    elif kind == stat.S_IFREG:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        with open(source, "rb") as file, os.fdopen(fd, "wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    _attributes(source, xattr.at(target, os.fsencode(name)))
    os.utime(name, ns=(found.st_mtime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _attributes(source: str, target: int | bytes) -> None:
    for key, value in xattr.read_all(os.fsencode(source)).items():
        if not key.startswith(("trusted.overlay.", "user.overlay.")):
            xattr.write(target, key, value)


def _remove(target: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        remove_tree(f"/proc/self/fd/{target}/{name}")
    else:
        os.unlink(name, dir_fd=target)

"""Image names on the command line: default tag, domain, what people see."""

from __future__ import annotations

from sampan.cli.errors import CLIError

HUB = "docker.io"
_PATH = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_TAG = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Name:
    """A parsed image name: domain, path, tag, digest."""

    __slots__ = ("digest", "domain", "path", "tag")

    def __init__(self, domain: str, path: str, tag: str, digest: str) -> None:
        self.domain, self.path, self.tag, self.digest = domain, path, tag, digest

    @property
    def repository(self) -> str:
        """As people write it: without docker.io/library/."""
        if self.domain != HUB:
            return f"{self.domain}/{self.path}"
        return self.path.removeprefix("library/")


def parse(text: str) -> Name:
    """Parse a name. Raises CLIError with Docker's words."""
    rest, at, digest = text.partition("@")
    head, slash, tail = rest.rpartition("/")
    tail, colon, tag = tail.partition(":")
    repository = head + slash + tail
    domain, path = split_domain(repository)
    if path.lower() != path:
        raise CLIError(f"invalid reference format: repository name ({path}) must be lowercase")
    good = path and all(part and _PATH.issuperset(part) and part[0].isalnum() for part in path.split("/"))
    if colon and not (tag and len(tag) <= 128 and _TAG.issuperset(tag) and tag[0] not in ".-"):
        good = False
    if at and not (digest.partition(":")[2] and len(digest) > 10):
        good = False
    if not good:
        raise CLIError("invalid reference format", hint=_mend(text))
    return Name(domain, path, tag, digest)


def _mend(text: str) -> str:
    return f"{text!r} is no image name; one looks like name:tag or host:5000/team/name:tag."


def split_domain(repository: str) -> tuple[str, str]:
    """Registry and path; a name without a registry is Docker Hub's."""
    first, slash, rest = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        if first in ("index.docker.io", HUB):
            return HUB, rest if "/" in rest else f"library/{rest}"
        return first, rest
    return HUB, repository if slash else f"library/{repository}"


def familiar(text: str) -> str:
    """The name with its tag, ``latest`` where none is given."""
    name = parse(text)
    if name.digest:
        return f"{name.repository}@{name.digest}"
    return f"{name.repository}:{name.tag or 'latest'}"

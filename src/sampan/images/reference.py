"""Names of images: Docker's grammar, normal and familiar forms, and the words of its errors.

``busybox`` is short for ``docker.io/library/busybox:latest``. The grammar is the one of the reference
implementation of the distribution project; messages are those that clients show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from sampan.errors import InvalidParameter
from sampan.storage import digest as digests

DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_NAME_LIMIT = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_HOST})/({_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?")
_TAG_ONLY = re.compile(_TAG)
_SERVER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\])(?::([0-9]{1,6}))?")
_HEX_ID = re.compile(r"[0-9a-f]{64}")

INVALID = "invalid reference format"


@dataclass(frozen=True, order=True)
class Reference:
    """A repository and what of it: ``tag``, ``digest``, both, or neither ("" each)."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @classmethod
    @lru_cache(maxsize=256)  # a list of containers asks for the same ones again and again
    def parse(cls, text: str) -> Reference:
        """``text`` with ``latest`` where neither tag nor digest is given (InvalidParameter)."""
        return cls.parse_bare(text).with_default_tag()

    @classmethod
    def parse_bare(cls, text: str) -> Reference:
        """``text`` as it stands: without a tag it means the whole repository (InvalidParameter)."""
        if _HEX_ID.fullmatch(text):
            raise InvalidParameter(
                f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )
        domain, rest = _split_domain(text)
        name = rest.partition(":")[0]
        if name.lower() != name:
            raise InvalidParameter(f"{INVALID}: repository name ({name}) must be lowercase")
        match = _REFERENCE.fullmatch(f"{domain}/{rest}")
        if match is None:
            raise InvalidParameter(INVALID)
        if len(match[2]) > _NAME_LIMIT:
            raise InvalidParameter(f"repository name must not be more than {_NAME_LIMIT} characters")
        if match[4]:
            digests.parse(match[4])
        return cls(match[1], match[2], match[3] or "", match[4] or "")

    @property
    def name(self) -> str:
        """The repository in full: ``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: ``busybox``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        return rest if "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """As people write it, with tag and digest: ``busybox:latest``."""
        return self.familiar_name + self._suffix()

    @property
    def canonical(self) -> str:
        """In full, with tag and digest."""
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """The same with the tag ``latest`` when it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    def with_tag(self, tag: str) -> Reference:
        """The same repository with another tag (InvalidParameter "invalid tag format")."""
        if not _TAG_ONLY.fullmatch(tag):
            raise InvalidParameter("invalid tag format")
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> Reference:
        """The same repository, named by digest only."""
        return replace(self, tag="", digest=digests.parse(digest))

    def __str__(self) -> str:
        return self.familiar


def is_host(text: str) -> bool:
    """Whether ``text`` names a server: ``host``, ``host:port``, ``[address]:port`` (wider than a name's domain)."""
    match = _SERVER.fullmatch(text)
    return match is not None and int(match[1] or 0) < 65536


def _split_domain(text: str) -> tuple[str, str]:
    """The registry's host and the rest; what has no host belongs to Docker Hub."""
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, rest = DEFAULT_DOMAIN, text
    elif first == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    else:
        domain = first
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest


def from_parts(name: str, tag: str = "") -> Reference:
    """``fromImage`` and ``tag`` of the API: the tag, which may be a digest, wins over ``name``'s."""
    bare = Reference.parse_bare(name)
    if not tag:
        return bare
    return bare.with_digest(tag) if ":" in tag else bare.with_tag(tag)

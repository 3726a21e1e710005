"""Whom a container's process runs as: ``user[:group]`` looked up in the container's own passwd and group.

Reads the files itself, inside the container's root or below a descriptor of it: libc's NSS would load libraries of
the image.
passwd(5), group(5); words and rules are Docker's.
"""

from __future__ import annotations

import os
import stat

from sampan.kernel import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PASSWD = "/etc/passwd"
GROUP = "/etc/group"
_HIGHEST_ID = (1 << 31) - 1
_MOST_BYTES = 16 << 20
_RANGE = f"uids and gids must be in range 0-{_HIGHEST_ID}"


class IdentityError(Exception):
    """The user or group isn't there; the text is for people."""


class Identity:
    """Resolved ids: uid, gid, supplementary groups (the primary first, as Docker sets them) and home."""

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def resolve(name: str, extra_groups: Sequence[str | int] = (), root: int | None = None) -> Identity:
    """Look ``user[:group]`` up in /etc/passwd and /etc/group of the root directory ``root``, or of the present one.

    Numbers needn't be in the files. Raises IdentityError with Docker's words.
    """
    user_name, _, group_name = name.partition(":")
    accounts = _entries(PASSWD, 7, root)
    groups = _entries(GROUP, 4, root)
    uid, gid, home, login = _user(user_name, accounts)
    members: list[int] = []
    if group_name:
        gid = _group(group_name, groups)
    elif login:
        members = [int(g[2]) for g in groups if login in g[3].split(",")]
    added = [_additional(str(extra), groups) for extra in extra_groups]
    return Identity(uid, gid, list(dict.fromkeys([gid, *members, *added])), home)


def home_of(uid: int) -> str:
    """Home directory of ``uid`` in /etc/passwd, "/" without an entry."""
    for account in _entries(PASSWD, 7):
        if int(account[2]) == uid:
            return account[5] or "/"
    return "/"


def _user(name: str, accounts: list[list[str]]) -> tuple[int, int, str, str]:
    number = _number(name or "0")
    for account in accounts:
        if (int(account[2]) == number) if number is not None else (account[0] == name):
            return int(account[2]), int(account[3]), account[5] or "/", account[0]
    if number is None:
        raise IdentityError(f"unable to find user {name}: no matching entries in passwd file")
    return _in_range(number), 0, "/", ""


def _group(name: str, groups: list[list[str]]) -> int:
    number = _number(name)
    if number is not None:
        return _in_range(number)
    for group in groups:
        if group[0] == name:
            return int(group[2])
    raise IdentityError(f"unable to find group {name}: no matching entries in group file")


def _additional(name: str, groups: list[list[str]]) -> int:
    for group in groups:
        if name in (group[0], group[2]):
            return int(group[2])
    number = _number(name)
    if number is None:
        raise IdentityError(f"Unable to find group {name}: no matching entries in group file")
    return _in_range(number)


def _number(text: str) -> int | None:
    digits = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if digits.isascii() and digits.isdigit() else None


def _in_range(number: int) -> int:
    if not 0 <= number <= _HIGHEST_ID:
        raise IdentityError(_RANGE)
    return number


def _entries(path: str, columns: int, root: int | None = None) -> list[list[str]]:
    """Lines of a colon-separated file with a numeric third field; [] when it is missing or no plain file."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags) if root is None else paths.open_in_root(root, path, flags)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        text = os.read(fd, _MOST_BYTES).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
    rows = []
    for line in text.split("\n"):
        fields = line.strip().split(":")
        fields += [""] * (columns - len(fields))
        if fields[2].isascii() and fields[2].isdigit() and (columns == 4 or fields[3].isdigit()):
            rows.append(fields)
    return rows

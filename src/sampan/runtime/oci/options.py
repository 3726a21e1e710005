"""Mount options of ``mounts[].options``: names that the specification lists become flags, the rest is data.

config.md, Linux mount options; mount(8); mount_setattr(2) for the recursive ones.
"""

from __future__ import annotations

from sampan.errors import InvalidParameter
from sampan.kernel import mounts as m

MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_SILENT = 32768
MS_POSIXACL = 1 << 16
MS_I_VERSION = 1 << 23
MS_LAZYTIME = 1 << 25

# name: (set, clear) of mount(2)'s flags
_FLAGS = {
    "defaults": (0, 0),
    "ro": (m.MS_RDONLY, 0),
    "rw": (0, m.MS_RDONLY),
    "suid": (0, m.MS_NOSUID),
    "nosuid": (m.MS_NOSUID, 0),
    "dev": (0, m.MS_NODEV),
    "nodev": (m.MS_NODEV, 0),
    "exec": (0, m.MS_NOEXEC),
    "noexec": (m.MS_NOEXEC, 0),
    "sync": (m.MS_SYNCHRONOUS, 0),
    "async": (0, m.MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0),
    "remount": (m.MS_REMOUNT, 0),
    "mand": (MS_MANDLOCK, 0),
    "nomand": (0, MS_MANDLOCK),
    "atime": (0, m.MS_NOATIME),
    "noatime": (m.MS_NOATIME, 0),
    "diratime": (0, m.MS_NODIRATIME),
    "nodiratime": (m.MS_NODIRATIME, 0),
    "bind": (m.MS_BIND, 0),
    "rbind": (m.MS_BIND | m.MS_REC, 0),
    "relatime": (m.MS_RELATIME, 0),
    "norelatime": (0, m.MS_RELATIME),
    "strictatime": (m.MS_STRICTATIME, 0),
    "nostrictatime": (0, m.MS_STRICTATIME),
    "lazytime": (MS_LAZYTIME, 0),
    "nolazytime": (0, MS_LAZYTIME),
    "iversion": (MS_I_VERSION, 0),
    "noiversion": (0, MS_I_VERSION),
    "silent": (MS_SILENT, 0),
    "loud": (0, MS_SILENT),
    "acl": (MS_POSIXACL, 0),
    "noacl": (0, MS_POSIXACL),
    "nosymfollow": (m.MS_NOSYMFOLLOW, 0),
    "symfollow": (0, m.MS_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": m.MS_PRIVATE,
    "shared": m.MS_SHARED,
    "slave": m.MS_SLAVE,
    "unbindable": m.MS_UNBINDABLE,
}
# name: (set, clear) of mount_setattr(2)'s attributes, for the whole tree
_ATTRIBUTES = {
    "rro": (m.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, m.MOUNT_ATTR_RDONLY),
    "rnosuid": (m.MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, m.MOUNT_ATTR_NOSUID),
    "rnodev": (m.MOUNT_ATTR_NODEV, 0),
    "rdev": (0, m.MOUNT_ATTR_NODEV),
    "rnoexec": (m.MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, m.MOUNT_ATTR_NOEXEC),
    "rnodiratime": (m.MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, m.MOUNT_ATTR_NODIRATIME),
    "rrelatime": (0, m.MOUNT_ATTR__ATIME),
    "rnorelatime": (m.MOUNT_ATTR_STRICTATIME, m.MOUNT_ATTR__ATIME),
    "rnoatime": (m.MOUNT_ATTR_NOATIME, m.MOUNT_ATTR__ATIME),
    "ratime": (0, m.MOUNT_ATTR__ATIME),
    "rstrictatime": (m.MOUNT_ATTR_STRICTATIME, m.MOUNT_ATTR__ATIME),
    "rnostrictatime": (0, m.MOUNT_ATTR__ATIME),
    "rnosymfollow": (m.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, m.MOUNT_ATTR_NOSYMFOLLOW),
}
_EXTENSIONS = ("tmpcopyup", "idmap", "ridmap")


def names() -> list[str]:
    """Every option that is known by name, sorted (features.md, mountOptions)."""
    recursive = [f"r{name}" for name in _PROPAGATION]
    return sorted([*_FLAGS, *_PROPAGATION, *recursive, *_ATTRIBUTES, *_EXTENSIONS])


class Options:
    """Options taken apart.

    ``flags`` and ``cleared`` are MS_*, ``propagation`` one MS_* kind or 0 (``propagation_recursive`` beside),
    ``add`` and ``remove`` recursive MOUNT_ATTR_*, ``data`` is for the file system.
    """

    __slots__ = (
        *("add", "cleared", "copy_up", "data", "flags", "idmap", "idmap_recursive"),
        *("propagation", "propagation_recursive", "remove"),
    )

    def __init__(self, words: list[str]) -> None:
        self.flags = self.cleared = self.propagation = self.add = self.remove = 0
        self.propagation_recursive = self.copy_up = self.idmap = self.idmap_recursive = False
        data: list[str] = []
        for word in words:
            if not self._take(word):
                data.append(word)
        self.data = ",".join(data)

    def _take(self, word: str) -> bool:
        if word in _FLAGS:
            on, off = _FLAGS[word]
            self.flags = self.flags & ~off | on
            self.cleared = self.cleared & ~on | off
        elif word in _PROPAGATION or (word[:1] == "r" and word[1:] in _PROPAGATION):
            self.propagation = _PROPAGATION[word.removeprefix("r") if word not in _PROPAGATION else word]
            self.propagation_recursive = word not in _PROPAGATION
        elif word in _ATTRIBUTES:
            on, off = _ATTRIBUTES[word]
            self.add = self.add & ~off | on
            self.remove = self.remove & ~on | off
        elif word == "tmpcopyup":
            self.copy_up = True
        elif word in ("idmap", "ridmap"):
            self.idmap, self.idmap_recursive = True, word == "ridmap"
        else:
            return False
        return True

    @property
    def bind(self) -> bool:
        """Whether it is a bind mount."""
        return bool(self.flags & m.MS_BIND)

    @property
    def recursive(self) -> bool:
        """Whether the mounts below the source come along."""
        return bool(self.flags & m.MS_REC)

    def tree_attributes(self) -> tuple[int, int]:
        """A bind mount's MOUNT_ATTR_* to set and to clear on its top, from the plain flags."""
        add, remove = m.attributes(self.flags)
        cleared, _ = m.attributes(self.cleared & ~(m.MS_NOATIME | m.MS_STRICTATIME | m.MS_RELATIME))
        return add, remove | cleared & ~add


def check(path: str, kind: str, options: Options) -> None:
    """What can't go together. InvalidParameter naming ``path``, the mount's place in config.json."""
    if options.bind and options.data:
        raise InvalidParameter(
            f"{path}.options: bind mounts cannot have any filesystem-specific options applied: {options.data}"
        )
    if options.copy_up and kind != "tmpfs":
        raise InvalidParameter(f"{path}.options: tmpcopyup is for tmpfs only")
    if options.idmap and not options.bind:
        raise InvalidParameter(f"{path}.options: idmap is for bind mounts only")

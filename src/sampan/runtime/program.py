"""Finding the program to execute and its working directory, inside the container's root."""

from __future__ import annotations

import errno
import os
import stat

from sampan.kernel import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN = 200  # characters of a variable
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ProgramError(Exception):
    """The program can't be executed; ``errno`` tells why, the text is Docker's."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.errno = number


def find(name: str, environment: Mapping[str, str]) -> str:
    """Path of the program ``name`` for the present user, through PATH when it has no slash.

    Raises ProgramError (ENOENT, EACCES, EISDIR).
    """
    if "/" in name:
        _check(name)
        return name
    for directory in environment.get("PATH", DEFAULT_PATH).split(":") if name else ():
        candidate = f"{directory or '.'}/{name}"
        try:
            _check(candidate)
        except ProgramError:
            continue
        if not candidate.startswith("/"):
            text = f'exec: "{name}": cannot run executable found relative to current directory'
            raise ProgramError(errno.EACCES, text)
        return candidate
    raise ProgramError(errno.ENOENT, f'exec: "{name}": executable file not found in $PATH')


def null_byte(environment: Mapping[str, str]) -> ProgramError:
    """What to say of a NUL in a variable, or else in an argument: neither can be handed over."""
    for name, value in environment.items():
        entry = f"{name}={value}"
        if "\0" in entry:
            shown = entry[:_SHOWN].replace("\0", "\\x00")
            return ProgramError(
                errno.EINVAL, f'environment variable value can\'t contain null(\\x00): "{shown}"'
            )
    return ProgramError(errno.EINVAL, "")


def _check(path: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        words = (error.strerror or "").lower()
        raise ProgramError(error.errno or 0, f'exec: "{path}": stat {path}: {words}') from None
    if stat.S_ISDIR(found.st_mode):
        raise ProgramError(errno.EISDIR, f'exec: "{path}": is a directory: permission denied')
    # Root may "access" a file without any x bit through faccessat in some cases; execve needs one.
    if not found.st_mode & 0o111 or not os.access(path, os.X_OK, effective_ids=True):
        raise ProgramError(errno.EACCES, f'exec: "{path}": permission denied')


def make_working_directory(root: int, path: str) -> None:
    """Make the missing parts of ``path`` below the descriptor ``root``, as root, mode 0755."""
    try:
        os.close(paths.make_directories(root, path or "/"))
    except NotADirectoryError:
        raise ProgramError(errno.ENOTDIR, f"Cannot mkdir: {path} is not a directory") from None
    except OSError as error:
        if error.errno != errno.EROFS:  # the change of directory will tell
            raise


def change_directory(path: str, *, later: bool) -> bool:
    """Go to ``path``; False when it isn't allowed and ``later``, as its user, may try again.

    ValueError: it isn't absolute. OSError: it isn't there, or outside the root.
    """
    if not path.startswith("/"):
        raise ValueError("Cwd must be an absolute path")
    try:
        os.chdir(path)
    except PermissionError:
        if not later:
            raise
        return False
    # A working directory outside the root would be a way out: getcwd(2) shows it as unreachable.
    if not os.getcwd().startswith("/"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return True

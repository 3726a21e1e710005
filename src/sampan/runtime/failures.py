"""Why a process could not be started: a step and an errno become the message that Docker's clients know.

The docker command derives its exit code (125, 126, 127) from words in these messages, so they are kept.
"""

from __future__ import annotations

import errno
import os

from sampan.errors import StartFailure

_CONTAINER = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: "
)
_EXEC = "OCI runtime exec failed: exec failed: unable to start container process: "

_UNKNOWN = 128  # Docker's State.ExitCode when no program ran and none of the codes below fits
_NOT_EXECUTABLE = 126
_NOT_FOUND = 127
_HIGH = "Beyond its own limits the engine needs CAP_SYS_RESOURCE; fs.nr_open bounds nofile for everybody."
_HINTS = {
    errno.ENOENT: "Is its interpreter (the #! line or the ELF loader) in the image?",
    errno.ENOEXEC: "The program is for another architecture, or a script without a #! line.",
}


def start_failure(kind: str, step: str, number: int, detail: object, text: str) -> StartFailure:
    """The error for a failure that a monitor reported; ``kind`` is the plan's ("container" or "exec")."""
    prefix = _EXEC if kind == "exec" else _CONTAINER
    if step == "user" and not number:
        return StartFailure(text, exit_code=_NOT_EXECUTABLE if kind == "exec" else _UNKNOWN, status=500)
    if step == "make cwd" and text.startswith("Cannot mkdir"):
        return StartFailure(text, exit_code=_UNKNOWN, status=500)
    if step == "program":
        code = _NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE
        return StartFailure(prefix + text, exit_code=code, status=400)
    if step == "exec" and text.startswith("environment variable"):
        return StartFailure(prefix + text, exit_code=_UNKNOWN, status=500)
    if step == "exec":
        code = _NOT_FOUND if number == errno.ENOENT else _NOT_EXECUTABLE
        message = f"{prefix}exec {detail}: {_words(number)}"
        return StartFailure(message, exit_code=code, status=400, hint=_HINTS.get(number, ""))
    if step == "chdir" and not number:
        return StartFailure(prefix + text, exit_code=_NOT_EXECUTABLE, status=400)
    if step == "chdir":
        return _directory_failure(prefix, number, str(detail))
    if step == "mount" and isinstance(detail, tuple):
        return _mount_failure(prefix, number, detail, text)
    if step == "killed":
        return _killed(prefix, detail)
    if step == "rlimit":
        message = f"{prefix}error setting rlimits for ready process: error setting rlimit type {detail}: "
        return StartFailure(message + _words(number), exit_code=_UNKNOWN, status=500, hint=_HIGH)
    what = f"{step} {detail}".strip()
    reason = text if not number else _words(number) + (f" ({text})" if text and text != str(detail) else "")
    return StartFailure(f"{prefix}{what}: {reason}", exit_code=_UNKNOWN, status=500, hint=_hint(step, number))


def _words(number: int) -> str:
    return os.strerror(number).lower()


def _directory_failure(prefix: str, number: int, path: str) -> StartFailure:
    code = _NOT_FOUND if number == errno.ENOENT else _NOT_EXECUTABLE
    message = f'{prefix}chdir to cwd ("{path}") set in config.json failed: {_words(number)}'
    return StartFailure(message, exit_code=code, status=400)


def _mount_failure(prefix: str, number: int, mount: tuple[str, str], text: str) -> StartFailure:
    source, target = mount
    message = f'{prefix}error mounting "{source}" to rootfs at "{target}": mount src={source}, dst={target}'
    message += f": {_words(number)}"
    if text and text not in (source, target):
        message += f" ({text})"
    if number == errno.ENOTDIR:
        message += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? "
            "Check if the specified host path exists and is the expected type"
        )
    known = number in (errno.ENOTDIR, errno.ENOENT, errno.EACCES)
    code = {errno.ENOENT: _NOT_FOUND, errno.EACCES: _NOT_EXECUTABLE}.get(number, _UNKNOWN)
    return StartFailure(message, exit_code=code, status=400 if known else 500)


def _killed(prefix: str, status: object) -> StartFailure:
    message = f"{prefix}the process was killed while it was set up (status {status})"
    return StartFailure(
        message,
        exit_code=_UNKNOWN,
        status=500,
        hint="A memory limit below about 6 MB is too small to start in.",
    )


def _hint(step: str, number: int) -> str:
    if number == errno.EPERM:
        return "The engine lacks a privilege for this: does it run as root, outside of another container?"
    if step == "cgroup":
        return "The control group may have been removed, or a cpuset without cpus was given."
    return ""

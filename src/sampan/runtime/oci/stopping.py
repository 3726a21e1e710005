"""``kill``, ``delete``, ``pause``, ``resume``; and ``checkpoint``, ``restore``, which are refused."""

from __future__ import annotations

from sampan.errors import Conflict, InvalidParameter, NotFound, Unsupported
from sampan.runtime.oci import lifecycle, store
from sampan.runtime.oci.running import one_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sampan.runtime.oci.context import Context

# Linux's numbers on all architectures but alpha, mips, parisc and sparc: signal(7).
_NAMES = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE"),
    *("ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ"),
    *("VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS"),
)
_OTHER_NAMES = {"IOT": 6, "CLD": 17, "POLL": 29, "RTMIN": 34, "RTMAX": 64}
_LAST = 64


def signal_number(text: str) -> int:
    """``9``, ``KILL``, ``SIGKILL``, ``RTMIN+3``. InvalidParameter in runc's words."""
    if text.isdecimal():
        number = int(text)
    else:
        name = text.upper().removeprefix("SIG")
        base, _, more = name.partition("+")
        number = _NAMES.index(name) + 1 if name in _NAMES else _OTHER_NAMES.get(base, 0)
        number += int(more) if more.isdecimal() and base == "RTMIN" else 0
    if not (0 <= number <= _LAST and (number or text == "0")):
        raise InvalidParameter(f'unknown signal "{text}"')
    return number


def kill(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``kill ID [SIGNAL]``."""
    if len(rest) not in (1, 2):
        raise InvalidParameter('sampan-runtime: "kill" requires a container id and at most one signal')
    number = signal_number(rest[1] if len(rest) > 1 else "TERM")
    lifecycle.kill(store.load(context.root, rest[0]), number, everyone=options["all"])
    return 0


def delete(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``delete ID``; several ids are taken too."""
    if not rest:
        raise InvalidParameter('sampan-runtime: "delete" requires a container id')
    for identifier in rest:
        try:
            container = store.load(context.root, identifier)
        except NotFound:
            if options["force"]:
                continue
            raise
        lifecycle.delete(container, context.log, force=options["force"])
    return 0


def pause(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``pause ID``."""
    container = store.load(context.root, one_id(rest, "pause"))
    if container.status() not in ("running", "created"):
        raise Conflict("container not running or created")
    container.group.freeze()
    return 0


def resume(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``resume ID``."""
    container = store.load(context.root, one_id(rest, "resume"))
    if not container.alive() or not container.group.frozen():
        raise Conflict("container not paused")
    container.group.thaw()
    return 0


def refuse_checkpoint(context: Context, options: dict[str, Any], rest: list[str]) -> NoReturn:
    """``checkpoint``."""
    raise Unsupported("checkpoint: saving running containers (CRIU) isn't supported")


def refuse_restore(context: Context, options: dict[str, Any], rest: list[str]) -> NoReturn:
    """``restore``."""
    raise Unsupported("restore: containers can't be restored from a checkpoint (CRIU)")

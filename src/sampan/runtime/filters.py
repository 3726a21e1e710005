"""The ``linux.seccomp`` section of an OCI spec as a BPF program (config-linux.md, Seccomp).

Import-light: the runtime's command line loads it for every container.
"""

from __future__ import annotations

from sampan.errors import InvalidParameter, Unsupported
from sampan.kernel import seccomp as compiler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Section = dict[str, Any]

ACTIONS = {
    "SCMP_ACT_KILL": compiler.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": compiler.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": compiler.ACT_KILL_PROCESS,
    "SCMP_ACT_TRAP": compiler.ACT_TRAP,
    "SCMP_ACT_ERRNO": compiler.ACT_ERRNO,
    "SCMP_ACT_TRACE": compiler.ACT_TRACE,
    "SCMP_ACT_LOG": compiler.ACT_LOG,
    "SCMP_ACT_ALLOW": compiler.ACT_ALLOW,
}
_EPERM = 1


def check_action(action: str) -> None:
    """Unsupported for user notification, InvalidParameter for what is no action."""
    if action == "SCMP_ACT_NOTIFY":
        raise Unsupported("seccomp: SCMP_ACT_NOTIFY (user notification) isn't supported")
    if action not in ACTIONS:
        raise InvalidParameter(f"Decoding seccomp profile failed: unknown action {action!r}")


def compile_section(section: Section) -> bytes:
    """Compile an OCI ``linux.seccomp`` section; see :func:`sampan.kernel.seccomp.compile_filter`.

    Raises Unsupported for user notification, InvalidParameter for unknown actions and operators.
    """
    if section.get("listenerPath"):
        raise Unsupported("seccomp: listenerPath (user notification) isn't supported")
    default = _action(section["defaultAction"], section.get("defaultErrnoRet"))
    rules = []
    for entry in section.get("syscalls") or ():
        action = _action(entry["action"], entry.get("errnoRet"))
        conditions = tuple(_condition(item) for item in entry.get("args") or ())
        rules += [compiler.Rule(name, action, conditions) for name in entry["names"]]
    architectures = section.get("architectures") or [compiler.native_architecture()]
    return compiler.compile_filter(default, architectures, rules)


def _action(name: str, errno_return: int | None) -> int:
    check_action(name)
    action = ACTIONS[name]
    if action in (compiler.ACT_ERRNO, compiler.ACT_TRACE):
        return action | (_EPERM if errno_return is None else errno_return & 0xFFFF)
    return action


def _condition(item: dict[str, Any]) -> tuple[int, int, int, int]:
    if item.get("op") not in compiler.COMPARISONS:
        raise InvalidParameter(f"seccomp: unknown operator {item.get('op')!r}")
    return item["index"], compiler.COMPARISONS[item["op"]], item["value"], item.get("valueTwo", 0)

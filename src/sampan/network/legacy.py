"""The host's rules of iptables-legacy, which are foreign, too, but stand beside nftables and not in it.

They are shown as nftables would show them, so that one judgement is made of both. What has to be added to
them (see ``foreign``) is added by the host's own iptables-legacy.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from sampan.kernel import xtables

log = logging.getLogger(__name__)
TABLE = "iptables-legacy"
"""What stands in the place of the table's name. No table of nftables is called so: its names have no dash."""

LOCK = "/run/xtables.lock"
"""What every iptables-legacy opens: no other sign tells of a change."""

_COMMANDS = {"ip": "iptables", "ip6": "ip6tables"}


def objects() -> list[dict[str, Any]]:
    """The filter tables in the form of libnftables-json(5); a rule's handle is its number in the chain."""
    found: list[dict[str, Any]] = []
    for family in _COMMANDS:
        try:
            chains = xtables.read(family)
        except OSError as failure:
            log.warning("the rules of %s can't be read: %s", command(family), failure)
            continue
        for chain in chains:
            place = {"family": family, "table": TABLE}
            base = {"type": "filter", "hook": chain.name.lower(), "policy": chain.policy}
            found.append({"chain": {**place, "name": chain.name, **(base if chain.policy else {})}})
            for number, rule in enumerate(chain.rules, 1):
                shown = {**place, "chain": chain.name, "handle": number, "expr": _expression(rule)}
                found.append({"rule": shown})
    return found


def fingerprint() -> tuple[int, ...]:
    """Numbers that tell whether the filter tables have changed; zeros where there are none."""
    with contextlib.suppress(OSError):
        return tuple(xtables.fingerprint(family) for family in _COMMANDS)
    return ()


def _expression(rule: xtables.Rule) -> list[dict[str, Any]]:
    expression: list[dict[str, Any]] = []
    for key, value in (("iifname", rule.inside), ("oifname", rule.outside)):
        if value:
            expression.append({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": value}})
    if rule.invalid:
        state = {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}
        expression.append({"match": state})
    if not rule.plain and not expression:
        expression.append({"match": {"op": "==", "left": {"xt": None}, "right": None}})
    if rule.jump:
        expression.append({"jump": {"target": rule.verdict}})
    elif rule.verdict:
        expression.append({rule.verdict.lower(): None})
    return expression


def command(family: str) -> str:
    """The program that changes these rules: iptables-legacy where it has that name, else iptables."""
    name = f"{_COMMANDS[family]}-legacy"
    return name if shutil.which(name) else _COMMANDS[family]


def lay_text(name: str, chain: str, bridges: Sequence[str], before: int = 0) -> str:
    """Lines for iptables-restore: our chain ``name``, and the jump to it before a rule's number or at the end."""
    lines = [f":{name} - [0:0]"]
    for bridge in bridges:
        lines.append(f"-A {name} -i {bridge} -j ACCEPT")
        lines.append(f"-A {name} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    place = f"-I {chain} {before}" if before else f"-A {chain}"
    lines.append(f'{place} -m comment --comment "sampan: {name}" -j {name}')
    return "\n".join(lines) + "\n"


def lift_text(name: str, chains: Sequence[str]) -> str:
    """Lines that take our chain, and the jumps to it in these chains, away."""
    lines = [f'-D {chain} -m comment --comment "sampan: {name}" -j {name}' for chain in chains]
    return "\n".join([*lines, f"-F {name}", f"-X {name}"]) + "\n"


def change(family: str, text: str) -> bool:
    """Have iptables-legacy make a change, all of it or nothing; whether it could."""
    program = f"{command(family)}-restore"
    if not _is_legacy(program):
        return False
    done = _run([program, "--noflush", "--wait", "2"], f"*filter\n{text}COMMIT\n")
    if done.returncode:
        log.warning("%s: %s", program, done.stderr.strip())
    return not done.returncode


def _run(words: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program that changes nothing where it takes too long, which is a failure like others."""
    try:
        return subprocess.run(
            words, input=text, check=False, capture_output=True, timeout=10, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired as failure:
        return subprocess.CompletedProcess(words, 1, "", str(failure))


def _is_legacy(program: str) -> bool:
    """Whether a program is there and changes the legacy tables: plain iptables may be that of nftables."""
    if shutil.which(program) is None:
        return False
    if "-legacy" in program:
        return True
    shown = _run([program, "--version"])
    return not shown.returncode and "nf_tables" not in shown.stdout

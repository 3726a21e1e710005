"""The host's own firewall: what in it could matter to published ports and to what containers send out.

Read only. The one thing ever added to it: where a foreign forward chain drops, a jump to a chain of ours in
the same table, tagged by a comment, that accepts what our bridges send and the answers to it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.kernel.nft import Nft, NftError
from sampan.network.firewall import PREFIX

_IP_FAMILIES = ("ip", "ip6", "inet")
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of somebody else."""

    family: str
    table: str
    name: str
    policy: str

    @property
    def place(self) -> str:
        """How nft calls it."""
        return f"{self.family} {self.table} {self.name}"


@dataclass(slots=True)
class Ways:
    """What the host's firewall holds that could matter."""

    input_blocks: list[Chain] = field(default_factory=list)
    forward_blocks: list[Chain] = field(default_factory=list)

    def advice(self) -> str:
        """What to tell the user whose published port a host rule may keep closed."""
        chain = self.input_blocks[0]
        return (
            f"The host's firewall (nftables chain {chain.place}) decides who reaches published ports. "
            f"To open one: nft insert rule {chain.place} tcp dport PORT accept "
            "(or: ufw allow PORT/tcp; firewall-cmd --add-port=PORT/tcp)"
        )


def examine(nft: Nft) -> Ways:
    """Look at the whole ruleset. NftError when it can't be read."""
    return judge(nft.query("list ruleset"))


def judge(objects: Iterable[dict[str, Any]]) -> Ways:
    """What in a ruleset (libnftables-json(5)) drops or rejects in the hooks input and forward. Pure.

    A chain blocks by its policy, or by a rule of its own or of a chain it leads to. Rules that only drop
    invalid packets don't count.
    """
    chains: dict[Key, dict[str, Any]] = {}
    rules: dict[Key, list[dict[str, Any]]] = {}
    for item in objects:
        if "chain" in item:
            chain = item["chain"]
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif "rule" in item:
            rule = item["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    ways = Ways()
    for key, chain in chains.items():
        if key[0] not in _IP_FAMILIES or key[1].startswith(PREFIX):
            continue
        target = {"input": ways.input_blocks, "forward": ways.forward_blocks}.get(chain.get("hook", ""))
        if target is None or chain.get("type") != "filter":
            continue
        if chain.get("policy") == "drop" or _blocks(key, rules, set()):
            target.append(Chain(*key, chain.get("policy", "accept")))
    return ways


def _blocks(key: Key, rules: dict[Key, list[dict[str, Any]]], seen: set[Key]) -> bool:
    if key in seen:
        return False
    seen.add(key)
    for rule in rules.get(key, ()):
        statements = rule.get("expr", [])
        final = any(name in statement for statement in statements for name in ("drop", "reject"))
        if final and not _only_invalid(statements):
            return True
        for statement in statements:
            for verb in ("jump", "goto"):
                if verb in statement and _blocks((*key[:2], statement[verb]["target"]), rules, seen):
                    return True
            if "vmap" in statement and _map_blocks(statement["vmap"], key, rules, seen):
                return True
    return False


def _only_invalid(statements: Sequence[dict[str, Any]]) -> bool:
    for statement in statements:
        match = statement.get("match", {})
        if match.get("left") == {"ct": {"key": "state"}} and match.get("right") in ("invalid", ["invalid"]):
            return True
    return False


def _map_blocks(
    vmap: dict[str, Any], key: Key, rules: dict[Key, list[dict[str, Any]]], seen: set[Key]
) -> bool:
    """A verdict map: a named one isn't looked into, and counts as blocking."""
    data = vmap.get("data")
    if not isinstance(data, dict):
        return True
    for entry in data.get("set", []):
        verdict = entry[1] if isinstance(entry, list) else {}
        if "drop" in verdict and entry[0] != "invalid":
            return True
        for verb in ("jump", "goto"):
            if verb in verdict and _blocks((*key[:2], verdict[verb]["target"]), rules, seen):
                return True
    return False


def own_jumps(objects: Iterable[dict[str, Any]], comment: str) -> list[tuple[str, int]]:
    """Our jumps in foreign chains: (family table chain, handle)."""
    return [
        (f"{item['rule']['family']} {item['rule']['table']} {item['rule']['chain']}", item["rule"]["handle"])
        for item in objects
        if item.get("rule", {}).get("comment") == comment
    ]


def jump_text(chain: Chain, name: str, comment: str, bridges: Sequence[str], before: int = 0) -> str:
    """Commands that make our chain ``name`` in the table of a foreign one, and the jump to it.

    With ``before`` the jump goes before the rule of that handle: the foreign chain's last word.
    """
    place = f"{chain.family} {chain.table} {name}"
    names = ", ".join(f'"{bridge}"' for bridge in bridges)
    # Plain matches only: iptables can't read a table with rules that it doesn't know.
    lines = [f"add chain {place}", f"flush chain {place}"]
    lines.append(f"add rule {place} iifname {{ {names} }} accept")
    lines.append(f"add rule {place} oifname {{ {names} }} ct state established,related accept")
    jump = f'jump {name} comment "{comment}"'
    if before:
        lines.append(f"insert rule {chain.place} position {before} {jump}")
    else:
        lines.append(f"add rule {chain.place} {jump}")
    return "\n".join(lines) + "\n"


def lay_jumps(nft: Nft, table: str, blocking: Sequence[Chain], bridges: Sequence[str]) -> None:
    """Have exactly the jumps that are needed: one in each blocking chain, none without bridges."""
    comment = f"sampan: {table}"
    objects = nft.query("list ruleset")
    commands = [f"delete rule {place} handle {handle}\n" for place, handle in own_jumps(objects, comment)]
    commands += _stale_chains(objects, table)
    if bridges:
        commands += [
            jump_text(chain, table, comment, bridges, _last_word(objects, chain, comment))
            for chain in blocking
        ]
    if commands:
        with contextlib.suppress(NftError):
            nft.run("".join(commands))


def _stale_chains(objects: Iterable[dict[str, Any]], name: str) -> list[str]:
    return [
        f"flush chain {chain['family']} {chain['table']} {name}\n"
        f"delete chain {chain['family']} {chain['table']} {name}\n"
        for chain in (item["chain"] for item in objects if "chain" in item)
        if chain["name"] == name and chain["table"] != name
    ]


def _last_word(objects: Iterable[dict[str, Any]], chain: Chain, comment: str) -> int:
    """The handle of the chain's last rule when that ends everything that came so far (drop or reject all)."""
    rules = [
        item["rule"]
        for item in objects
        if "rule" in item
        and (item["rule"]["family"], item["rule"]["table"], item["rule"]["chain"])
        == (chain.family, chain.table, chain.name)
        and item["rule"].get("comment") != comment
    ]
    if not rules:
        return 0
    statements = json.dumps(rules[-1].get("expr", []))
    if '"match"' not in statements and ('"drop"' in statements or '"reject"' in statements):
        return int(rules[-1]["handle"])
    return 0

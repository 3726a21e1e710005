"""The host's own firewall: what in it could matter to published ports and to what containers send out.

Rules of nftables, of iptables (which are the same today) and of iptables-legacy. Read only. The one thing ever
added to it: where a foreign forward chain drops, a jump to a chain of ours in the same table, tagged by a
comment, that accepts what our bridges send and the answers to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.kernel.nft import Nft, NftError
from sampan.network import legacy
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

    @property
    def legacy(self) -> bool:
        """Whether it is one of iptables-legacy."""
        return self.table == legacy.TABLE

    @property
    def title(self) -> str:
        """How it is called in messages."""
        return (
            f"{legacy.command(self.family)} chain {self.name}"
            if self.legacy
            else f"nftables chain {self.place}"
        )


@dataclass(slots=True)
class Ways:
    """What the host's firewall holds that could matter."""

    input_blocks: list[Chain] = field(default_factory=list)
    forward_blocks: list[Chain] = field(default_factory=list)

    # Of the latter, those that drop whatever none of their rules let through.
    forward_shut: list[Chain] = field(default_factory=list)

    def advice(self) -> list[str]:
        """What to tell the user whose published port a host rule may keep closed; nothing if none does."""
        if self.input_blocks:
            chain = self.input_blocks[0]
            own = (
                f"{legacy.command(chain.family)} -I INPUT -p tcp --dport PORT -j ACCEPT"
                if chain.legacy
                else f"nft insert rule {chain.place} tcp dport PORT accept"
            )
            command = f"{own} (or: ufw allow PORT/tcp; firewall-cmd --add-port=PORT/tcp)"
        elif self.forward_shut:
            chain = self.forward_shut[0]
            command = _opening(chain)
        else:
            return []
        return [
            f"The host's firewall ({chain.title}) decides who reaches published ports from outside. "
            f"To open one: {command}"
        ]


def examine(nft: Nft) -> Ways:
    """Look at the whole ruleset. NftError when it can't be read."""
    return judge(_all(nft))


def _all(nft: Nft) -> list[dict[str, Any]]:
    return nft.query("list ruleset") + legacy.objects()


def judge(objects: Iterable[dict[str, Any]]) -> Ways:
    """What in a ruleset (libnftables-json(5)) drops or rejects in the hooks input and forward. Pure.

    A chain blocks by its policy, or by a rule of its own or of a chain it leads to. Rules that only drop
    invalid packets don't count.
    """
    chains: dict[Key, dict[str, Any]] = {}
    rules: dict[Key, list[dict[str, Any]]] = {}
    known = list(objects)
    for item in known:
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
    ways.forward_shut = [
        chain for chain in ways.forward_blocks if chain.policy == "drop" or _last_word(known, chain)
    ]
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


@dataclass(frozen=True, slots=True)
class Jump:
    """What there is of ours in a foreign table: jumps (chain, handle), bridges let out and back."""

    place: str
    jumps: tuple[tuple[str, int], ...]
    out: frozenset[str]
    back: frozenset[str]


def laid(objects: Sequence[dict[str, Any]], name: str) -> dict[str, Jump]:
    """What there is of ours in foreign tables, by "family table"; ``name`` is our table's and chain's."""
    found: dict[str, tuple[list[tuple[str, int]], set[str], set[str]]] = {}
    for item in objects:
        chain = item.get("chain")
        if chain and chain["name"] == name and chain["table"] != name:
            found.setdefault(f"{chain['family']} {chain['table']}", ([], set(), set()))
    for item in objects:
        rule = item.get("rule")
        if rule is None or f"{rule['family']} {rule['table']}" not in found:
            continue
        jumps, out, back = found[f"{rule['family']} {rule['table']}"]
        for statement in rule.get("expr", []):
            if statement.get("jump", {}).get("target") == name:
                jumps.append((rule["chain"], rule["handle"]))
            if rule["chain"] == name and "match" in statement:
                key = statement["match"]["left"].get("meta", {}).get("key")
                {"iifname": out, "oifname": back}.get(key, set()).add(str(statement["match"]["right"]))
    return {
        place: Jump(place, tuple(jumps), frozenset(out), frozenset(back))
        for place, (jumps, out, back) in found.items()
    }


def lay_jumps(nft: Nft, table: str, blocking: Sequence[Chain], bridges: Sequence[str]) -> list[Chain]:
    """Have exactly the jumps that are needed: one in each blocking chain, none without bridges.

    What is right already isn't touched: every change wakes up whoever watches the rules, us included.
    Returns the chains that no jump could be laid in: legacy ones, where their program is missing.
    """
    objects = _all(nft)
    present, names = laid(objects, table), frozenset(bridges)
    wanted = {f"{chain.family} {chain.table}": chain for chain in blocking} if bridges else {}
    commands: list[str] = []
    for place, jump in present.items():
        chain = wanted.get(place)
        right = chain and [name for name, _handle in jump.jumps] == [chain.name]
        if right and jump.out == names and jump.back == names:
            del wanted[place]
            continue
        if place.endswith(f" {legacy.TABLE}"):
            family = place.partition(" ")[0]
            legacy.change(family, legacy.lift_text(table, [name for name, _handle in jump.jumps]))
            continue
        commands += [f"delete rule {place} {name} handle {handle}\n" for name, handle in jump.jumps]
        commands.append(f"flush chain {place} {table}\ndelete chain {place} {table}\n")
    modern = [chain for chain in wanted.values() if not chain.legacy]
    for chain in modern:
        commands.append(jump_text(chain, table, bridges, _last_word(objects, chain)))
    if commands:
        with contextlib.suppress(NftError):
            nft.run("".join(commands))
            for chain in modern:
                if _for_iptables(chain):
                    _let_answers_back(chain, table, bridges)
    return [chain for chain in wanted.values() if chain.legacy and not _lay_legacy(chain, table, bridges)]


def _lay_legacy(chain: Chain, table: str, bridges: Sequence[str]) -> bool:
    """The jump in a chain of iptables-legacy, by its program; whether that could be done."""
    before = _last_word(legacy.objects(), chain)  # its number, after what has been taken away
    return legacy.change(chain.family, legacy.lay_text(table, chain.name, bridges, before))


def closed(chains: Iterable[Chain]) -> list[str]:
    """What to tell the user whose containers can't send because no jump could be laid in these chains."""
    return [
        f"What containers send out may be dropped by {chain.title}, which only iptables-legacy can change; "
        f"it is missing here. To open it: {legacy.command(chain.family)} -A {chain.name} -i BRIDGE -j ACCEPT, and "
        "the same for answers: -o BRIDGE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        for chain in chains
    ]


def jump_text(chain: Chain, name: str, bridges: Sequence[str], before: int = 0) -> str:
    """Commands that make our chain ``name`` in the table of a foreign one, and the jump to it.

    With ``before`` the jump goes before the rule of that handle: the foreign chain's last word.
    """
    place = f"{chain.family} {chain.table} {name}"
    lines = [f"add chain {place}", *(f'add rule {place} iifname "{bridge}" accept' for bridge in bridges)]
    if not _for_iptables(chain):
        lines += [
            f'add rule {place} oifname "{bridge}" ct state established,related accept' for bridge in bridges
        ]
    jump = f'jump {name} comment "sampan: {name}"'
    if before:
        lines.append(f"insert rule {chain.place} position {before} {jump}")
    else:
        lines.append(f"add rule {chain.place} {jump}")
    return "\n".join(lines) + "\n"


def _for_iptables(chain: Chain) -> bool:
    """Whether iptables reads this table: it knows few of nft's own matches, and gives up at any other."""
    here = (chain.family in ("ip", "ip6"), chain.table, chain.name) == (True, "filter", "FORWARD")
    return here and shutil.which(_program(chain)) is not None


def _opening(chain: Chain) -> str:
    """The command that lets connections to a published port through a forward chain."""
    if chain.legacy or _for_iptables(chain):
        program = legacy.command(chain.family) if chain.legacy else _program(chain).removesuffix("-restore")
        return f"{program} -I FORWARD -p tcp -m conntrack --ctstate DNAT --ctorigdstport PORT -j ACCEPT"
    return f"nft insert rule {chain.place} meta l4proto tcp ct status dnat ct original proto-dst PORT accept"


def _program(chain: Chain) -> str:
    """The program that writes iptables' rules to nftables: plain iptables may be the legacy one."""
    kind = "iptables" if chain.family == "ip" else "ip6tables"
    plain = shutil.which(f"{kind}-restore") or ""
    return f"{kind}-nft-restore" if "legacy" in os.path.realpath(plain) else f"{kind}-restore"


def _let_answers_back(chain: Chain, name: str, bridges: Sequence[str]) -> None:
    rules = "".join(
        f"-A {name} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n" for bridge in bridges
    )
    subprocess.run(
        [_program(chain), "--noflush", "--wait", "2"],
        input=f"*filter\n{rules}COMMIT\n".encode(),
        check=False,
        capture_output=True,
        timeout=5,
    )


def _last_word(objects: Iterable[dict[str, Any]], chain: Chain) -> int:
    """The handle of the chain's last rule when that ends everything that came so far (drop or reject all)."""
    rules = [
        item["rule"]
        for item in objects
        if "rule" in item
        and (item["rule"]["family"], item["rule"]["table"], item["rule"]["chain"])
        == (chain.family, chain.table, chain.name)
        and not item["rule"].get("comment", "").startswith("sampan: ")
    ]
    if not rules:
        return 0
    statements = json.dumps(rules[-1].get("expr", []))
    if '"match"' not in statements and ('"drop"' in statements or '"reject"' in statements):
        return int(rules[-1]["handle"])
    return 0

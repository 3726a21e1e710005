"""The host's own firewall: what in it could matter to published ports and to what containers send out.

Rules of nftables, of iptables (which are the same today) and of iptables-legacy. Read only. The one thing ever
added to it: where a foreign forward chain drops, a jump to a chain of ours in the same table, tagged by a
comment, that accepts what our bridges send and the answers to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.kernel.nft import Nft, NftError
from sampan.network import legacy
from sampan.network.firewall import PREFIX
from sampan.network.tabletext import DNAT_PRIORITY

_IP_FAMILIES = ("ip", "ip6", "inet")
Key = tuple[str, str, str]
Rules = dict[Key, list[dict[str, Any]]]
_PLAIN = frozenset({"counter", "log", "drop", "reject", "accept", "return", "jump", "goto", "notrack"})
_VERDICTS = frozenset({"drop", "reject", "accept", "return", "jump", "goto", "queue"})
_OURS = "sampan: "  # how the comments of our rules in foreign chains begin


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
    """What in a ruleset (libnftables-json(5)) drops or rejects on the way in, and on the way through. Pure.

    A chain blocks by its policy, or by a rule of its own or of a chain it leads to. Rules that only drop
    invalid packets don't count.
    """
    known = list(objects)
    rules = _by_chain(known)
    ways = Ways()
    for chain in (item["chain"] for item in known if "chain" in item):
        key = (chain["family"], chain["table"], chain["name"])
        if key[0] not in _IP_FAMILIES or key[1].startswith(PREFIX):
            continue
        target = {"input": ways.input_blocks, "forward": ways.forward_blocks}.get(_hook(chain))
        if target is None or chain.get("type") != "filter":
            continue
        if chain.get("policy") == "drop" or _blocks(key, rules, set()):
            target.append(Chain(*key, chain.get("policy", "accept")))
    ways.forward_shut = [
        chain for chain in ways.forward_blocks if chain.policy == "drop" or _last_word(rules, chain)
    ]
    return ways


def _hook(chain: dict[str, Any]) -> str:
    """The hook of a chain, "" for none: what sees packets after our DNAT is meant for local services, too."""
    hook = str(chain.get("hook", ""))
    return "input" if hook == "prerouting" and chain.get("prio", DNAT_PRIORITY) > DNAT_PRIORITY else hook


def _by_chain(objects: Iterable[dict[str, Any]]) -> Rules:
    rules: Rules = {}
    for item in objects:
        if "rule" in item:
            rule = item["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(
                {**rule, "expr": _with_rejects(rule.get("expr", []))}
            )
    return rules


def _with_rejects(statements: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A rule's statements with those that iptables wrote for itself, as far as they matter: its REJECT.

    Older versions of nft don't tell what such a statement is: where a verdict is missing, it may be one.
    """
    found: list[dict[str, Any]] = []
    for statement in statements:
        extension = statement.get("xt", {})
        if extension and (extension.get("type"), extension.get("name")) == ("target", "REJECT"):
            found.append({"reject": None})
        else:
            found.append(statement)
    unknown = any(statement.get("xt", {}) is None for statement in statements)
    return [*found, {"reject": None}] if unknown and not any(set(one) & _VERDICTS for one in found) else found


def _blocks(key: Key, rules: Rules, seen: set[Key]) -> bool:
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


def _map_blocks(vmap: dict[str, Any], key: Key, rules: Rules, seen: set[Key]) -> bool:
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
    rules = _by_chain(objects)
    present, names = laid(objects, table), frozenset(bridges)
    wanted = {f"{chain.family} {chain.table}": chain for chain in blocking} if bridges else {}
    commands: list[str] = []
    for place, jump in present.items():
        chain = wanted.get(place)
        right = chain and [name for name, _handle in jump.jumps] == [chain.name]
        reached = right and chain and _comes_before(rules, chain, jump.jumps[0][1], _last_word(rules, chain))
        if reached and jump.out == names and jump.back == names:
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
        commands.append(jump_text(chain, table, bridges, _last_word(rules, chain)))
    if commands:
        with contextlib.suppress(NftError):
            nft.run("".join(commands))
            for chain in modern:
                if _for_iptables(chain):
                    _let_answers_back(chain, table, bridges)
    return [chain for chain in wanted.values() if chain.legacy and not _lay_legacy(chain, table, bridges)]


def _lay_legacy(chain: Chain, table: str, bridges: Sequence[str]) -> bool:
    """The jump in a chain of iptables-legacy, by its program; whether that could be done."""
    before = _last_word(_by_chain(legacy.objects()), chain)  # its number, after what has been taken away
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
    with contextlib.suppress(subprocess.TimeoutExpired):  # the next change of rules is the next try
        subprocess.run(
            [_program(chain), "--noflush", "--wait", "2"],
            input=f"*filter\n{rules}COMMIT\n".encode(),
            check=False,
            capture_output=True,
            timeout=10,
        )


def _last_word(rules: Rules, chain: Chain) -> int:
    """The handle of the rule at which a chain, or one that it leads to, drops whatever has come so far; 0 for none.

    firewalld's leads to a chain that ends so; what stands before speaks of other interfaces, or of ours by name.
    """
    key = (chain.family, chain.table, chain.name)
    for rule in rules.get(key, ()):
        decided = _decides(rule, rules, frozenset({key}))
        if decided is not None:
            return int(rule["handle"]) if decided else 0
    return 0


def _decides(rule: dict[str, Any], rules: Rules, seen: frozenset[Key]) -> bool | None:
    """Whether a rule drops everything that comes to it (True), or lets it pass (False); None: it goes on."""
    statements = rule.get("expr", [])
    if rule.get("comment", "").startswith(_OURS) or any(set(one) - _PLAIN for one in statements):
        return None
    for statement in statements:
        if "drop" in statement or "reject" in statement:
            return True
        if "accept" in statement or "return" in statement:
            return False
        for verb in ("jump", "goto"):
            if verb in statement:
                target = (rule["family"], rule["table"], statement[verb]["target"])
                if target not in seen and _drops_all(target, rules, seen | {target}):
                    return True
                return None if verb == "jump" else False
    return None


def _drops_all(key: Key, rules: Rules, seen: frozenset[Key]) -> bool:
    decided = (_decides(rule, rules, seen) for rule in rules.get(key, ()))
    return next((one for one in decided if one is not None), False)


def _comes_before(rules: Rules, chain: Chain, jump: int, last: int) -> bool:
    """Whether packets come to our jump before the chain's last word."""
    handles = [int(rule["handle"]) for rule in rules[chain.family, chain.table, chain.name]]
    return not last or handles.index(jump) < handles.index(last)

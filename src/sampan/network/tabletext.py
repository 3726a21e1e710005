"""The text of an engine's nftables table: its sets and chains, in nft's language.

What it says, hook by hook:

- ``guard`` (prerouting, raw): nothing on our bridges may speak to the host's 127.0.0.0/8, which
  ``route_localnet`` would else open, and nothing at all from a wire to ports published there.
- ``prerouting``, ``output`` (dstnat): the short cut to published ports. Bindings on 127.0.0.1 are in the
  output hook alone, so that a neighbour who sends to 127.0.0.1 finds nothing. Without the short cut both are
  empty, and the listener that holds the port answers.
- ``postrouting`` (srcnat): what leaves by other interfaces gets the host's address; hairpin and loopback
  connections get the bridge's.
- ``forward``: drops only. Bridges can't reach each other, internal ones nothing, and only published ports can
  be reached from outside. An accept here overrides nobody else's drop.
- ``input``, ``forward``: containers under egress control reach what is allowed for them, and no more.
- ``input``: internal networks don't reach the listeners of published ports, which lead to other networks.
"""

from __future__ import annotations

FAMILY = "inet"
DNAT_PRIORITY = -101

_SETS = """
  set bridges { type ifname; }
  set internal { type ifname; }
  set same { type ifname . ifname; }
  set trusted { type ifname . ifname; }
  set near { type ipv4_addr . inet_proto . inet_service; }
  set held { type inet_proto . inet_service; }
"""
_SETS_OF_FAMILY = """
  set own{v} {{ type {addr} . ifname; flags interval; }}
  set masq{v} {{ type {addr}; flags interval; }}
  map snat{v} {{ type {addr} : {addr}; flags interval; }}
  set open{v} {{ type ifname; }}
  set routed{v} {{ type ifname; }}
  set reach{v} {{ type {addr} . inet_proto . inet_service; }}
  set direct{v} {{ type {addr} . inet_proto . inet_service; }}
  map any{v} {{ type inet_proto . inet_service : {addr} . inet_service; }}
  map to{v} {{ type {addr} . inet_proto . inet_service : {addr} . inet_service; }}
  set egress{v} {{ type {addr}; }}
  set allow{v} {{ type {addr} . {addr}; flags interval; }}
  set allowport{v} {{ type {addr} . {addr} . inet_proto . inet_service; flags interval; }}
  set linked{v} {{ type {addr} . {addr} . inet_proto . inet_service; }}
  set pin{v} {{ type {addr} . {addr}; size 65536; flags timeout; }}
  set pinport{v} {{ type {addr} . {addr} . inet_proto . inet_service; size 65536; flags timeout; }}
  set refused{v} {{ type {addr} . {addr} . inet_proto . inet_service;
    size 16384; flags dynamic,timeout; counter; }}
  set told{v} {{ type {addr} . {addr} . inet_proto . inet_service; size 16384; flags dynamic,timeout; }}
  set pace{v} {{ type {addr}; size 16384; flags dynamic,timeout; }}
"""
# Of egress: TCP is refused by a reset, for an ICMP error that comes back while connect(2) still holds its socket
# is passed over, and heard when the first packet is repeated, a second later.
_CHAINS = """
  chain guard { type filter hook prerouting priority raw; policy accept;
    ip daddr 127.0.0.0/8 goto guarded
  }
  chain guarded {
    iifname @bridges drop
    iifname != "lo" ip daddr . meta l4proto . th dport @near drop
  }
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @to4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @to6
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any4
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @any6
  }
  chain prerouting { type nat hook prerouting priority DNAT; policy accept;
  }
  chain output { type nat hook output priority DNAT; policy accept;
  }
  chain postrouting { type nat hook postrouting priority 99; policy accept;
    ip saddr . oifname @own4 ct status dnat masquerade
    ip6 saddr . oifname @own6 ct status dnat masquerade
    ip saddr 127.0.0.0/8 oifname @bridges masquerade
    oifname @bridges return
    snat ip to ip saddr map @snat4
    snat ip6 to ip6 saddr map @snat6
    ip saddr @masq4 masquerade
    ip6 saddr @masq6 masquerade
  }
  chain egress {
    ip saddr . ip daddr @allow4 accept
    ip6 saddr . ip6 daddr @allow6 accept
    ip saddr . ip daddr . meta l4proto . th dport @allowport4 accept
    ip6 saddr . ip6 daddr . meta l4proto . th dport @allowport6 accept
    ip saddr . ip daddr @pin4 accept
    ip6 saddr . ip6 daddr @pin6 accept
    ip saddr . ip daddr . meta l4proto . th dport @pinport4 accept
    ip6 saddr . ip6 daddr . meta l4proto . th dport @pinport6 accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept
    meta l4proto { 1, 58 } goto refuse_icmp
    update @refused4 { ip saddr . ip daddr . meta l4proto . th dport timeout 1d }
    update @refused6 { ip6 saddr . ip6 daddr . meta l4proto . th dport timeout 1d }
    jump tell
    meta l4proto 6 reject with tcp reset
    reject with icmpx admin-prohibited
  }
  chain refuse_icmp {
    update @refused4 { ip saddr . ip daddr . meta l4proto . th sport timeout 1d }
    update @refused6 { ip6 saddr . ip6 daddr . meta l4proto . th sport timeout 1d }
    jump tell
    reject with icmpx admin-prohibited
  }
  chain tell {
  }
  chain forward { type filter hook forward priority filter - 1; policy accept;
    ct state established,related accept
    oifname @internal iifname . oifname != @same drop
    iifname @internal iifname . oifname != @same drop
    iifname . oifname @same accept
    ip saddr . ip daddr . meta l4proto . th dport @linked4 accept
    ip saddr @egress4 jump egress
    ip6 saddr @egress6 jump egress
    oifname @bridges ct status dnat accept
    MARK
    meta nfproto ipv4 oifname @open4 accept
    meta nfproto ipv6 oifname @open6 accept
    ip daddr . meta l4proto . th dport @reach4 accept
    ip6 daddr . meta l4proto . th dport @reach6 accept
    iifname . oifname @trusted ip daddr . meta l4proto . th dport @direct4 accept
    iifname . oifname @trusted ip6 daddr . meta l4proto . th dport @direct6 accept
    ip protocol 1 oifname @routed4 accept
    meta l4proto 58 oifname @routed6 accept
    oifname @bridges drop
  }
  chain input { type filter hook input priority filter - 1; policy accept;
    ct state established,related accept
    iifname @internal meta l4proto . th dport @held drop
    ip saddr @egress4 jump egress
    ip6 saddr @egress6 jump egress
  }
"""
# Containers under egress control go by the listener: their rules are about the address that they ask.
_SHORT_CUT = {
    "prerouting": (
        "ip saddr @egress4 return",
        "ip6 saddr @egress6 return",
        "meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8 jump publish",
        "meta nfproto ipv6 fib daddr type local jump publish",
    ),
    "output": (
        "meta nfproto ipv4 fib daddr type local jump publish",
        "meta nfproto ipv6 fib daddr type local ip6 daddr != ::1 jump publish",
    ),
}
# What was refused is told to whoever listens to the group: a destination once a minute, ten a second of one
# address. ICMP has no ports: type and code stand in their place.
_TELL = """flush chain {place}
add rule {place} meta l4proto {{ 1, 58 }} goto tell_icmp
"""
_TELL_RULE = (
    "add rule {place} {ip} saddr . {ip} daddr . meta l4proto . th {field} != @told{v}"
    " add @pace{v} {{ {ip} saddr timeout 1m limit rate 10/second burst 20 packets }}"
    " add @told{v} {{ {ip} saddr . {ip} daddr . meta l4proto . th {field} timeout 1m }}"
    " log group {group} snaplen 64\n"
)


def tell_text(table: str, group: int) -> str:
    """Commands that have refused connections told to a group of nfnetlink_log."""
    home = f"{FAMILY} {table}"
    text = f"add chain {home} tell_icmp\nflush chain {home} tell_icmp\n"
    text += _TELL.format(place=f"{home} tell")
    for chain, part in (("tell", "dport"), ("tell_icmp", "sport")):
        for version, ip in ((4, "ip"), (6, "ip6")):
            text += _TELL_RULE.format(place=f"{home} {chain}", ip=ip, v=version, field=part, group=group)
    return text


def table_text(table: str, mark: str = "") -> str:
    """The whole empty table, in nft's language. What ``mark`` matches reaches ports that aren't published."""
    families = "".join(_SETS_OF_FAMILY.format(v=version, addr=f"ipv{version}_addr") for version in (4, 6))
    accepted = f"oifname @bridges {mark} accept" if mark else ""
    chains = _CHAINS.replace("DNAT", str(DNAT_PRIORITY)).replace("MARK", accepted)
    return f"table {FAMILY} {table} {{{_SETS}{families}{chains}}}\n"


def short_cut_text(table: str, on: bool) -> str:
    """Commands that lay the short cut to published ports, or take it away."""
    lines = []
    for chain, rules in _SHORT_CUT.items():
        lines.append(f"flush chain {FAMILY} {table} {chain}")
        if on:
            lines += [f"add rule {FAMILY} {table} {chain} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"

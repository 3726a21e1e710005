"""The switchboard: one small process per engine that answers published ports and names, and outlives it.

It holds the sockets of all published ports (their reservation, and the way in where the short cut through
nftables isn't laid) and those of the resolver at 127.0.0.11 of every container on a user-defined network. A
killed engine takes none of that away; a flood of queries or connections never reaches the engine.
"""

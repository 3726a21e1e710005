"""Sockets of a container's network namespace, made by a process outside: its only thread goes in and back."""

from __future__ import annotations

import os
import socket


def socket_inside(netns: int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A non-blocking socket of the namespace behind a descriptor. OSError."""
    from sampan.kernel.namespaces import CLONE_NEWNET, setns

    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(netns, CLONE_NEWNET)
        try:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)

"""Network interfaces, and noticing when they change.

On Linux the kernel tells over a netlink socket, so that an idle node polls nothing; where that is not to be
had, the list is read every POLL_S.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import NamedTuple

import psutil
import trio

POLL_S = 15.0
SETTLE_S = 0.5
INTERFACES_MAX = 16
# linux/rtnetlink.h: RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x10 | 0x100


class Interface(NamedTuple):
    """An interface that is up; `number` is the kernel's index.

    Link-local IPv6 addresses are left out: others cannot dial them by address alone.
    """

    name: str
    number: int
    loopback: bool
    ipv4: tuple[str, ...]
    ipv6: tuple[str, ...]


def interfaces() -> list[Interface]:
    """Interfaces that are up and have an address, by name; at most INTERFACES_MAX."""
    stats = psutil.net_if_stats()
    found = []
    for name, entries in sorted(psutil.net_if_addrs().items()):
        if name not in stats or not stats[name].isup:
            continue
        try:
            number = socket.if_nametoindex(name)
        except OSError:
            continue
        v4 = [entry.address for entry in entries if entry.family == socket.AF_INET]
        v6 = [
            entry.address for entry in entries if entry.family == socket.AF_INET6 and "%" not in entry.address
        ]
        if v4 or v6:
            loopback = all(ipaddress.ip_address(address).is_loopback for address in v4 + v6)
            found.append(Interface(name, number, loopback, tuple(sorted(v4)), tuple(sorted(v6))))
    return found[:INTERFACES_MAX]


async def watch(on_change: Callable[[], None], read: Callable[[], list[Interface]] = interfaces) -> None:
    """Call `on_change` after each change of interfaces or addresses, until cancelled."""
    sock = _netlink()
    before = read()
    try:
        while True:
            if sock is None:
                await trio.sleep(POLL_S)
            else:
                with contextlib.suppress(OSError):  # ENOBUFS: more changes than the buffer holds
                    await sock.recv(65536)
                # A change comes as several messages; an address is usable a moment later.
                await trio.sleep(SETTLE_S)
            now = read()
            if now != before:
                before = now
                on_change()
    finally:
        if sock is not None:
            sock.close()


def _netlink() -> trio.socket.SocketType | None:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    except (AttributeError, OSError):
        return None
    try:
        sock.bind((0, _GROUPS))
    except OSError:
        sock.close()
        return None
    return trio.socket.from_stdlib_socket(sock)

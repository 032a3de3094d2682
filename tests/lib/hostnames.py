"""Names that mean what a test says, so that none waits for a name server, or for a network to be there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio


class Names(trio.abc.HostnameResolver):
    """Knows loopback, and what is put into `known`."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {"localhost": ["127.0.0.1"]}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        self.asked.append(name)
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in self.known[name]
        ]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


@contextmanager
def no_network() -> Iterator[Names]:
    """In the trio run of a test: names are resolved by what it says alone."""
    names = Names()
    before = trio.socket.set_custom_hostname_resolver(names)
    try:
        yield names
    finally:
        trio.socket.set_custom_hostname_resolver(before)

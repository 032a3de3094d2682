"""Members found by DNS names.

    seed.example.org            its A and AAAA records are members, at the usual port
    seed.example.org:4001       at this port
    _mesh._tcp.example.org      its SRV records name hosts and ports
    dnsaddr:example.org         TXT records "dnsaddr=/ip4/.../tcp/.../p2p/..." at _dnsaddr.example.org, as
                                libp2p has them

A and AAAA go through the system's resolver, so /etc/hosts and the like count. Names that fail are reported
one by one and asked again sooner.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import cast

import trio

from mesh.discovery import dns, resolver
from mesh.discovery.base import Bell, Found, OnFound
from mesh.errors import ConfigError, MeshError, Unreachable, UsageError
from mesh.net.address import Address, parse, text_of

NAMES_MAX = 64
ADDRESSES_MAX = 64
RESOLVE_S = 10.0
RETRY_S = 5.0


class DnsNames:
    """Resolves names, again every `interval_s`, and sooner while one of them fails.

    Args:
        port: taken where a name gives none.

    Raises:
        ConfigError: a name that cannot be one.
    """

    name = "dns"

    def __init__(self, names: Sequence[str], *, port: int, interval_s: float, rng: random.Random) -> None:
        if len(names) > NAMES_MAX:
            raise ConfigError(f"discovery.dns has {len(names)} names, at most {NAMES_MAX}")
        for entry in names:
            _check(entry)
        self.troubles: dict[str, str] = {}
        self._names = list(names)
        self._port = port
        self._interval_s = interval_s
        self._rng = rng
        self._bell = Bell()

    async def run(self, found: OnFound) -> None:
        """Report what the names resolve to."""
        retry_s = RETRY_S
        while True:
            async with trio.open_nursery() as nursery:
                for entry in self._names:
                    nursery.start_soon(self._resolve, entry, found)
            retry_s = min(retry_s * 2, self._interval_s) if self.troubles else RETRY_S
            wait_s = retry_s if self.troubles else self._interval_s
            if await self._bell.wait(wait_s * self._rng.uniform(0.9, 1.1)):
                retry_s = RETRY_S

    def poke(self) -> None:
        self._bell.ring()

    async def _resolve(self, entry: str, found: OnFound) -> None:
        try:
            with trio.fail_after(RESOLVE_S):
                addresses = await self._addresses(entry)
        except trio.TooSlowError:
            self.troubles[entry] = f"no answer in {RESOLVE_S:g} s"
            return
        except MeshError as error:
            self.troubles[entry] = error.message
            return
        self.troubles.pop(entry, None)
        for address in addresses[:ADDRESSES_MAX]:
            found(Found(self.name, text_of(address.host, address.port), address.public))

    async def _addresses(self, entry: str) -> list[Address]:
        if entry.startswith("dnsaddr:"):
            name = f"_dnsaddr.{entry.removeprefix('dnsaddr:')}"
            records = await resolver.lookup(name, dns.TXT, self._rng)
            named = [address for record in records for address in _dnsaddrs(record)]
        elif entry.startswith("_"):
            records = await resolver.lookup(entry, dns.SRV, self._rng)
            named = [Address("dns", ".".join(target), port) for port, target in map(_srv, records)]
        else:
            named = [Address("dns", *_host_port(entry, self._port))]
        return [
            address._replace(host=ip) for address in named for ip in await _ips(address.host, address.kind)
        ]


def _srv(record: dns.Resource) -> tuple[int, dns.Name]:
    port, target = cast(tuple[int, dns.Name], record.data)
    return port, target


def _check(entry: str) -> None:
    host, _ = _host_port(entry.removeprefix("dnsaddr:"), 1)
    labels = host.rstrip(".").split(".")
    if not host or len(host) > 253 or not all(0 < len(label.encode()) < 64 for label in labels):
        raise ConfigError(f"discovery.dns: {entry[:80]!r} is not a host name", "e.g. seed.example.org:4001")


def _host_port(entry: str, default: int) -> tuple[str, int]:
    host, colon, port = entry.rpartition(":")
    if not colon:
        return entry, default
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise ConfigError(f"discovery.dns: {port[:20]!r} in {entry[:80]!r} is not a port")
    return host, int(port)


def _dnsaddrs(record: dns.Resource) -> list[Address]:
    text = b"".join(part for part in record.data if isinstance(part, bytes)).decode("utf-8", "replace")
    try:
        return [parse(text.removeprefix("dnsaddr="))] if text.startswith("dnsaddr=") else []
    except UsageError:
        return []  # of a transport that we do not speak


async def _ips(host: str, kind: str) -> list[str]:
    """The addresses of a name through the system's resolver.

    Raises:
        Unreachable: it has none, or nobody could be asked.
    """
    if kind in ("ip4", "ip6"):
        return [host]
    family = {"dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}.get(kind, trio.socket.AF_UNSPEC)
    try:
        infos = await trio.socket.getaddrinfo(host, None, family=family, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreachable(f"{host} cannot be resolved: {reason}") from None
    return list(dict.fromkeys(str(info[4][0]) for info in infos if "%" not in str(info[4][0])))

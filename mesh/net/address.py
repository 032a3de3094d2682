"""Addresses as libp2p writes them (multiaddr), as far as a node uses them.

/ip4/192.0.2.7/tcp/7946           /ip6/2001:db8::7/tcp/7946
/dns/node.example/tcp/7946        also /dns4 and /dns6: resolved when dialled
…/p2p/12D3KooW…                   may follow: the peer id expected there
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from mesh.errors import UsageError
from mesh.identity.keys import public_of

_HINT = "an address looks like /ip4/192.0.2.7/tcp/7946"
_TEXT_MAX = 512


class Address(NamedTuple):
    """One parsed address. `kind` is ip4, ip6, dns, dns4 or dns6; `public` the key expected there, or None."""

    kind: str
    host: str
    port: int
    public: bytes | None = None


def parse(text: str) -> Address:
    """Parse a multiaddr.

    Raises:
        UsageError: naming the text, when it is not an address we can dial or listen on.
    """
    parts = text.split("/") if len(text) <= _TEXT_MAX else []
    if len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp" or (len(parts) == 7 and parts[5] != "p2p"):
        raise UsageError(f"{text[:80]!r} is not an address of ours", _HINT)
    kind, host, port = parts[1], parts[2], parts[4]
    try:
        if kind in ("ip4", "ip6"):
            host = str(ipaddress.IPv4Address(host) if kind == "ip4" else ipaddress.IPv6Address(host))
        elif kind not in ("dns", "dns4", "dns6") or not host or len(host) > 253 or not host.isprintable():
            raise ValueError
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
            raise ValueError
    except ValueError:
        raise UsageError(f"{text[:80]!r} is not an address of ours", _HINT) from None
    return Address(kind, host, int(port), public_of(parts[6]) if len(parts) == 7 else None)


def text_of(ip: str, port: int) -> str:
    """The multiaddr of an IP address (text) and a TCP port."""
    return f"/{'ip6' if ':' in ip else 'ip4'}/{ip.split('%')[0]}/tcp/{port}"


def group_of(ip: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 that one IPv6 customer is given."""
    if ":" not in ip:
        return ip
    raw = ipaddress.IPv6Address(ip.split("%")[0])
    if raw.ipv4_mapped:
        return str(raw.ipv4_mapped)
    return raw.packed[:8].hex()

"""What this node publishes of itself: its member record, renewed when anything in it changes.

The certificate says who it is; addresses and card are its own word. The record is durable and replicated to
every node, so that a member that was never met can be dialled and shown.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

import psutil

import mesh
from mesh.config import Config
from mesh.core.log import Log
from mesh.core.record import Kind, Record

ADDRESSES_MAX = 16


def member_path(aid: bytes) -> str:
    """Where a member's record lives."""
    return f"member/{aid.hex()}"


def interface_addresses() -> list[tuple[str, str]]:
    """(family, address) of every usable interface: "ip4" and "ip6", loopback and link-local left out."""
    found = []
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            text = entry.address.partition("%")[0]
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                continue  # a hardware address
            if not (address.is_loopback or address.is_link_local or address.is_multicast):
                found.append((f"ip{address.version}", text))
    return sorted(found)


def announced(listened: Iterable[str], extra: Iterable[str]) -> list[str]:
    """The multiaddrs others may dial: what is configured, then what we listen on with wildcards filled in."""
    result = list(extra)
    interfaces = None
    for address in listened:
        _, family, ip, transport, port, *_ = address.split("/")
        if not ipaddress.ip_address(ip).is_unspecified:
            result.append(address)
            continue
        if interfaces is None:
            interfaces = interface_addresses()
        result += [f"/{kind}/{ip}/{transport}/{port}" for kind, ip in interfaces if kind == family]
    return list(dict.fromkeys(result))[:ADDRESSES_MAX]


def card(config: Config, labels: dict[str, str], facts: dict[str, Any]) -> dict[str, Any]:
    """The node card: facts measured on this device, overridden by what is configured."""
    node = config.node
    own: dict[str, Any] = {
        "kind": node.kind,
        "tier": node.tier,
        "region": node.region,
        "provider": node.provider,
        "site": node.site,
        "timezone": node.timezone,
        "location": list(node.location) or None,
        "cpu_cores": node.cpu_cores or None,
        "memory_bytes": node.memory_bytes or None,
        "storage_bytes": node.storage_bytes or None,
        "bandwidth_mbit_s": node.bandwidth_mbit_s or None,
        "base_latency_ms": node.base_latency_ms or None,
        "capabilities": list(node.capabilities) or None,
        "endpoints": dict(node.endpoints) or None,
    }
    merged = {**facts, **{name: value for name, value in own.items() if value not in (None, "")}}
    merged["labels"] = {**labels, **node.labels}
    merged["software"] = mesh.__version__
    return merged


def own_slot(log: Log, aid: bytes) -> Record | None:
    """Our member record as it is stored."""
    return next((rec for rec in log.slots(member_path(aid)) if rec.aid == aid and rec.kind == Kind.ALL), None)

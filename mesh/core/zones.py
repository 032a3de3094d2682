"""What one zone tells the others of its services: for each name how many can be called, and a few to try.

    record at `svc-summary/<zone>/<bucket>` (scope mesh, kind all, by the zone's first gateway)
    {name: [usable, all, [[id, owner, version, protocol, type, weight, tier, tags, capabilities, host, port],
                          ...]]}

Names are spread over BUCKETS records, so that a change of one service rewrites a small one. Of each name the
best BEST instances are named: usable, heaviest, then by id, so that nothing moves while nothing changes. Load
and round trips are not told: they would change all the time, and the zone's gateway knows them better. Host
and port are those of its first endpoint, as its owner's node reaches it: nobody elsewhere connects to them,
but the port is the one that programs expect behind the service's name.

Readers believe a member of that zone, and it only about services whose id fits its owner, itself of the zone:
what a lying gateway can do is to leave out, or to name what its owner then refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mesh.core.health import Health
from mesh.core.record import AID_BYTES
from mesh.core.registry import PROTOCOLS, TIERS, Endpoint, Instance, Service, name_ok, service_id, version_ok
from mesh.core.words import host_of, port_of, words_of
from mesh.errors import UsageError

PREFIX = "svc-summary/"
BUCKETS = 16
BEST = 3
NAMES_MAX = 256
WEIGHT_MAX = 1000


def bucket_of(name: str) -> str:
    """The bucket that a name is in, one hexadecimal digit."""
    return hashlib.blake2b(name.encode(), digest_size=1, person=b"mesh-zone-names").hexdigest()[0]


def path_of(zone: str, bucket: str) -> str:
    """Where a zone's gateway tells of the names of a bucket."""
    return f"{PREFIX}{zone}/{bucket}"


def zone_of(path: str) -> tuple[str, str]:
    """(zone, bucket) of a path."""
    zone, _, bucket = path.removeprefix(PREFIX).rpartition("/")
    return zone, bucket


def summary(names: Iterable[tuple[str, Iterable[Instance]]]) -> dict[str, Any]:
    """The value of a record: of each name with its instances in the zone."""
    value: dict[str, Any] = {}
    for name, instances in names:
        listed = [each for each in instances if not each.summary]
        usable = [each for each in listed if each.usable]
        if listed and len(value) < NAMES_MAX:
            best = sorted(usable, key=lambda each: (each.draining, -each.service.weight, each.service.id))
            value[name] = [len(usable), len(listed), [_told(each.service) for each in best[:BEST]]]
    return value


def _told(service: Service) -> list[Any]:
    return [
        service.id,
        service.owner,
        service.version,
        service.protocol,
        service.type,
        service.weight,
        service.tier,
        list(service.tags),
        list(service.capabilities),
        service.endpoints[0].host if service.endpoints else "",
        service.endpoints[0].port if service.endpoints else 0,
    ]


def read(value: Any, zone: str, public_of: Callable[[bytes], bytes | None]) -> Mapping[str, list[Service]]:
    """The services that a record names; what cannot be read, or does not fit its owner, is left out.

    Args:
        public_of: key of a member of that zone, None for everyone else.
    """
    found: dict[str, list[Service]] = {}
    for name, word in value.items() if isinstance(value, dict) else ():
        if len(found) >= NAMES_MAX or not isinstance(name, str) or not name_ok(name):
            continue
        told = word[2] if isinstance(word, list) and len(word) > 2 and isinstance(word[2], list) else []
        services = [_read(name, each, zone, public_of) for each in told[:BEST]]
        kept = [each for each in services if each is not None]
        if kept:
            found[name] = kept
    return found


def _read(name: str, told: Any, zone: str, public_of: Callable[[bytes], bytes | None]) -> Service | None:
    if not isinstance(told, list) or len(told) < 9:
        return None
    id_, owner, version, protocol, type_, weight, tier, tags, capabilities = told[:9]
    public = public_of(owner) if isinstance(owner, bytes) and len(owner) == AID_BYTES else None
    if public is None or not isinstance(version, str) or not version_ok(version):
        return None
    if id_ != service_id(name, version, public) or protocol not in PROTOCOLS:
        return None
    if tier not in ("", *TIERS) or not isinstance(weight, int) or not 0 <= weight <= WEIGHT_MAX:
        return None
    try:
        return Service(
            id=id_,
            name=name,
            version=version,
            owner=owner,
            endpoints=_endpoints(protocol, told[9:11]),
            protocol=protocol,
            type=type_ if isinstance(type_, str) and type_.isprintable() and len(type_) <= 64 else "",
            weight=weight,
            tier=tier,
            tags=words_of("service", "tags", tags, 32),
            capabilities=words_of("service", "capabilities", capabilities, 32),
            zone=zone,
        )
    except UsageError:
        return None


def _endpoints(protocol: str, told: list[Any]) -> tuple[Endpoint, ...]:
    """None where an older gateway did not tell, or there is none."""
    if len(told) < 2 or not told[1]:
        return ()
    return (Endpoint(protocol, host_of("service", told[0]), port_of("service", told[1])),)


def instance(service: Service, *, alive: bool, labels: Mapping[str, str]) -> Instance:
    """A service of another zone as it is called: through that zone's gateway."""
    return Instance(service, Health.HEALTHY, alive=alive, labels=labels, summary=True)

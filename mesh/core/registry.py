"""Services: what is offered, by whom, and in which state. The shared shapes, and how a spec is read.

    record at `svc/<aid>/<id>` (scope zone, kind all, by the node <aid>): one service on one node
    id = first 16 hex digits of BLAKE2b(name 00 version 00 owner's public key, then its colour if it has one)

A record counts only if its author is the <aid> of its path and the id fits its content, so nobody can
register in another's name, and nobody can overwrite another's: a different owner gives a different id.
What it means is a pure fold over the record, the member table and the owner's word on health:

    lives       while its owner's node does: the one lease of the node is the heartbeat of all its services
    lost        its owner is dead, asleep or has left, for less than the service's TTL by the reader's clock
    expired     … for longer. Nothing has to be deleted for that: whoever reads leaves it out
    health      `health/<aid>` (scope live) names the services that are not plainly healthy

Of one owner's records the first OWNER_SERVICES_MAX count, in the order of their ids, so that a member that
registers ten thousand costs everybody the same bounded amount and every node leaves out the same ones.

A spec is what people write: a table of a TOML file, a JSON object, or flags of a command. Errors name the
field, its value and what is allowed. Check definitions stay on the owner's node (`core/checks.py`); others
are told their kinds only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mesh.core.checks import CHECKS_MAX, OF_ENDPOINTS, Check, parse_check
from mesh.core.health import HEALTH_PREFIX, Health, Word, worst
from mesh.core.words import host_of, mapping_of, number_of, port_of, refuse_unknown, text_of, words_of
from mesh.errors import PeerError, UsageError

__all__ = [
    "HEALTH_PREFIX",
    "PREFIX",
    "Endpoint",
    "Health",
    "Instance",
    "Service",
    "Spec",
    "Word",
    "health_of",
    "parse",
    "path_of",
    "read",
    "service_id",
    "value_of",
    "worst",
]

PREFIX = "svc/"
OWNER_SERVICES_MAX = 1024
ENDPOINTS_MAX, TAGS_MAX, META_MAX, CAPABILITIES_MAX = 16, 32, 32, 32
CALLER_META = "caller"
CALLERS = HEADER, PROXY_V2 = "header", "proxy-v2"
TTL_S, TTL_S_MIN, TTL_S_MAX = 30.0, 1.0, 86_400.0
WEIGHT, WEIGHT_MAX = 100, 1000
VERSION = "1"
ID_HEX = 16
PROTOCOLS = ("tcp", "tls", "http", "https", "grpc", "ws", "wss")
TIERS = ("device", "edge", "region", "cloud")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.+_-]{0,62}[0-9A-Za-z])?")
_ID = re.compile(rf"[0-9a-f]{{{ID_HEX}}}")
_URL = re.compile(r"(?P<protocol>[a-z]+)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@]+):(?P<port>[0-9]{1,5})/?")


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One place of a service, as its owner's node reaches it."""

    protocol: str
    host: str
    port: int


class Service(msgspec.Struct, frozen=True):
    """One service on one node, as everybody knows it.

    Attributes:
        owner: aid of the node that offers it.
        type: a free word that traffic rules can ask for, e.g. inference.
        checks: kinds of its checks.
        tier: of the service; empty: its node's.
        colour, generation: of the workload that it is of, see `core/bluegreen.py`; generation 0: of none.
        zone: the owner's certified zone.
    """

    id: str
    name: str
    version: str
    owner: bytes
    endpoints: tuple[Endpoint, ...]
    protocol: str = "tcp"
    type: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = {}
    ttl_s: float = TTL_S
    weight: int = WEIGHT
    checks: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    tier: str = ""
    colour: str = ""
    generation: int = 0
    zone: str = ""


class Instance(msgspec.Struct, frozen=True):
    """A service as one node sees it now.

    Attributes:
        alive: its owner's node is.
        changed_ms: mesh time since when it has this health, 0 unknown.
        why: what the check that decided said.
        load: share of the owner's processor in use, 0 to 1, at the time of the fold.
        labels: the owner's, with name, zone and tier among them.
        draining: the owner is asked to give work away: take another one if there is one.
        summary: only known from its zone's summary, so it is called through that zone's gateway.
    """

    service: Service
    health: Health
    alive: bool
    changed_ms: int = 0
    why: str = ""
    load: float | None = None
    labels: Mapping[str, str] = {}
    draining: bool = False
    summary: bool = False

    @property
    def usable(self) -> bool:
        """Whether calls may be sent to it."""
        return self.alive and self.health.usable

    @property
    def tier(self) -> str:
        """Its own tier, else its node's."""
        return self.service.tier or self.labels.get("tier", "device")


class Spec(msgspec.Struct, frozen=True):
    """What was asked to be registered; `checks` are whole here."""

    name: str
    version: str = VERSION
    endpoints: tuple[Endpoint, ...] = ()
    protocol: str = "tcp"
    type: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = {}
    ttl_s: float = TTL_S
    weight: int = WEIGHT
    checks: tuple[Check, ...] = ()
    capabilities: tuple[str, ...] = ()
    tier: str = ""
    colour: str = ""
    generation: int = 0

    def service(self, public: bytes, zone: str = "") -> Service:
        """The service that the node with this 32-byte key offers by it."""
        return Service(
            id=service_id(self.name, self.version, public, self.colour),
            owner=public[:16],
            checks=tuple({check.group: check.kind for check in self.checks}.values()),
            colour=self.colour,
            generation=self.generation,
            zone=zone,
            **{name: getattr(self, name) for name in _SHARED},
        )


_SHARED = (
    "name",
    "version",
    "endpoints",
    "protocol",
    "type",
    "tags",
    "meta",
    "ttl_s",
    "weight",
    "capabilities",
    "tier",
)
_FIELDS = (*_SHARED, "checks", "host", "port")
_EMPTY = Service("", "", "", b"", ())
# What a record leaves out when it has its default.
_OPTIONAL = Service.__struct_fields__[5:-1]


def service_id(name: str, version: str, public: bytes, colour: str = "") -> str:
    """The id that a service of this name and version has on the node with this 32-byte key."""
    content = name.encode() + b"\0" + version.encode() + b"\0" + public + colour.encode()
    return hashlib.blake2b(content, digest_size=ID_HEX // 2).hexdigest()


def path_of(service: Service) -> str:
    """Where a service's record lives."""
    return f"{PREFIX}{service.owner.hex()}/{service.id}"


def name_ok(name: str) -> bool:
    """Whether a name can be a service's: one DNS label in lower case."""
    return _NAME.fullmatch(name) is not None


def version_ok(version: str) -> bool:
    """Whether a version can be a service's."""
    return _VERSION.fullmatch(version) is not None


def id_ok(text: str) -> bool:
    """Whether a text has the form of a service's id."""
    return _ID.fullmatch(text) is not None


# -- what people write ------------------------------------------------------------------------------------


def parse(raw: Any) -> Spec:
    """Read a spec that somebody registers.

    Raises:
        UsageError: naming the field, its value and what is allowed.
    """
    spec = _parse(raw)
    if (caller := spec.meta.get(CALLER_META, HEADER)) not in CALLERS:  # else nobody would be told who calls
        what = f"service {spec.name}: meta.{CALLER_META} {caller!r:.80} is unknown"
        raise UsageError(what, f"one of {', '.join(CALLERS)}")
    return spec


def _parse(raw: Any) -> Spec:
    if not isinstance(raw, dict):
        raise UsageError("a service is a table (an object) of fields", f"known: {', '.join(_FIELDS)}")
    name = check_name(raw.get("name", ""))
    where = f"service {name}"
    refuse_unknown(where, raw, _FIELDS)
    version = text_of(where, "version", raw.get("version", VERSION))
    if not version_ok(version):
        raise UsageError(
            f"{where}: version {version!r:.80} is not allowed",
            "1 to 64 letters, digits, '.', '+', '_' and '-', such as 1.4.2",
        )
    protocol = _protocol(where, raw.get("protocol", "tcp"))
    endpoints = _endpoints(where, raw, protocol)
    if "protocol" not in raw and endpoints:
        protocol = endpoints[0].protocol
    tier = raw.get("tier", "")
    if tier != "" and tier not in TIERS:
        raise UsageError(f"{where}: tier {tier!r:.80} is unknown", f"one of {', '.join(TIERS)}")
    return Spec(
        name=name,
        version=version,
        endpoints=endpoints,
        protocol=protocol,
        type=text_of(where, "type", raw.get("type", ""), chars_max=64),
        tags=words_of(where, "tags", raw.get("tags", []), TAGS_MAX),
        meta=mapping_of(where, "meta", raw.get("meta", {}), META_MAX),
        ttl_s=number_of(where, "ttl_s", raw.get("ttl_s", TTL_S), TTL_S_MIN, TTL_S_MAX, "s"),
        weight=int(number_of(where, "weight", raw.get("weight", WEIGHT), 0, WEIGHT_MAX, whole=True)),
        checks=_checks(where, raw.get("checks", []), endpoints),
        capabilities=words_of(where, "capabilities", raw.get("capabilities", []), CAPABILITIES_MAX),
        tier=tier,
    )


def check_name(name: Any) -> str:
    """Refuse what cannot be a service's name.

    Raises:
        UsageError: it is no DNS label.
    """
    if not isinstance(name, str) or not name_ok(name):
        what = "has no name" if name == "" else f"name {name!r:.80} is not allowed"
        raise UsageError(
            f"the service {what}" if name == "" else f"service {what}",
            "1 to 63 lower case letters, digits and '-', because it is a DNS label: NAME.mesh",
        )
    return name


def _protocol(where: str, value: Any) -> str:
    if value not in PROTOCOLS:
        raise UsageError(f"{where}: protocol {value!r:.80} is unknown", f"one of {', '.join(PROTOCOLS)}")
    return str(value)


def _endpoints(where: str, raw: Mapping[str, Any], protocol: str) -> tuple[Endpoint, ...]:
    listed = raw.get("endpoints", [])
    if "port" in raw:
        if listed:
            raise UsageError(f"{where}: both port and endpoints are given", "one of the two")
        listed = [{"host": raw.get("host", "127.0.0.1"), "port": raw["port"]}]
    elif "host" in raw:
        raise UsageError(f"{where}: host is given without port")
    if not isinstance(listed, list | tuple) or not 1 <= len(listed) <= ENDPOINTS_MAX:
        raise UsageError(
            f"{where} needs a port, or 1 to {ENDPOINTS_MAX} endpoints",
            'port = 8080, or endpoints = ["http://127.0.0.1:8080"]',
        )
    found = [_endpoint(where, each, protocol) for each in listed]
    return tuple(dict.fromkeys(found))


def _endpoint(where: str, raw: Any, protocol: str) -> Endpoint:
    if isinstance(raw, str):
        match = _URL.fullmatch(raw)
        if match is None:
            raise UsageError(f"{where}: endpoint {raw!r:.80} cannot be read", "PROTOCOL://HOST:PORT")
        raw = {
            "protocol": match["protocol"],
            "host": match["host"].strip("[]"),
            "port": int(match["port"]),
        }
    if not isinstance(raw, dict):
        raise UsageError(f"{where}: endpoint {raw!r:.80} is neither a URL nor a table")
    refuse_unknown(f"{where}: endpoint", raw, Endpoint.__struct_fields__)
    return Endpoint(
        _protocol(where, raw.get("protocol", protocol)),
        host_of(where, raw.get("host", "127.0.0.1")),
        port_of(where, raw.get("port")),
    )


def _checks(where: str, raw: Any, endpoints: tuple[Endpoint, ...]) -> tuple[Check, ...]:
    if not isinstance(raw, list | tuple) or len(raw) > CHECKS_MAX:
        raise UsageError(f"{where}: checks is a list of at most {CHECKS_MAX} tables")
    found = []
    for number, each in enumerate(raw, 1):
        own = (
            not isinstance(each, dict)
            or each.get("kind") not in OF_ENDPOINTS
            or {"host", "port"} & each.keys()
        )
        for at in endpoints[:1] if own else endpoints:
            check = parse_check(f"{where}: check {number}", each, at.host, at.port)
            found.append(msgspec.structs.replace(check, group=number))
    return tuple(found)


# -- what records hold ------------------------------------------------------------------------------------


def value_of(service: Service) -> dict[str, Any]:
    """The value of a service's record. Fields with their default are left out."""
    value: dict[str, Any] = {
        "name": service.name,
        "version": service.version,
        "endpoints": [[each.protocol, each.host, each.port] for each in service.endpoints],
    }
    for name in _OPTIONAL:
        held = getattr(service, name)
        if held != getattr(_EMPTY, name):
            value[name] = list(held) if isinstance(held, tuple) else held
    return value


def read(path: str, value: Any, public: bytes, zone: str = "") -> Service:
    """Read a record that the node with this key wrote. Fields that a newer version adds are ignored.

    Raises:
        PeerError: it is malformed, of another owner, or its id does not fit its content.
    """
    owner, _, id_ = path.removeprefix(PREFIX).partition("/")
    if owner != public[:16].hex() or not id_ok(id_):
        raise PeerError(f"service at {path!r:.120}: not a place of this author")
    if not isinstance(value, dict):
        raise PeerError(f"service at {path!r:.120}: not a map")
    known = {name: value[name] for name in _SHARED if name in value}
    try:
        parts = Endpoint.__struct_fields__
        known["endpoints"] = [
            dict(zip(parts, each[: len(parts)], strict=True)) for each in value.get("endpoints", ())
        ]
        service = msgspec.structs.replace(_parse(known), **_of_workload(value)).service(public, zone)
        kinds = words_of("service", "checks", value.get("checks", []), CHECKS_MAX)
    except (UsageError, TypeError, ValueError) as error:
        raise PeerError(f"service at {path!r:.120}: {error}") from None
    if service.id != id_:
        raise PeerError(f"service at {path!r:.120}: its id does not fit {service.name} {service.version}")
    return msgspec.structs.replace(service, checks=kinds)


def _of_workload(value: Mapping[str, Any]) -> dict[str, Any]:
    """Colour and generation; UsageError."""
    generation = value.get("generation", 0)
    if not isinstance(generation, int) or not 0 <= generation < 1 << 60:
        raise UsageError(f"generation {generation!r:.40} is none")
    colour = text_of("service", "colour", value.get("colour", ""), chars_max=16)
    return {"colour": colour, "generation": generation}


def health_of(service: Service, said: Mapping[str, Word] | None) -> Word:
    """What counts for a service.

    Args:
        said: its owner's words, None when there are none: then a service that has checks is unknown.
    """
    if not service.checks and (said is None or service.id not in said):
        return Word(Health.HEALTHY, 0)
    if said is None:
        return Word(Health.UNKNOWN, 0)
    return said.get(service.id) or Word(Health.HEALTHY, 0)

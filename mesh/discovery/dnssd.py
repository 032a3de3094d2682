"""How a node is described in DNS-SD (RFC 6763), and read back. No sockets here.

    _mesh._tcp.local                       PTR   every node of every mesh: what avahi-browse lists
    _1f2e3d4c._sub._mesh._tcp.local        PTR   the nodes of one mesh: what its members ask for
    <peer id>._mesh._tcp.local             SRV   port and host      TXT  id=<peer id> mesh=1f2e3d4c
    mesh-0123456789abcdef.local            A, AAAA

The mesh's first 8 hex digits only spare members of other meshes; who belongs is decided by certificates.
Names are made from the key and so are unique without the probing of RFC 6762 section 8.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple, cast

from mesh.discovery import dns
from mesh.discovery.dns import Name, Packet, Question, Resource
from mesh.errors import MeshError
from mesh.identity.keys import peer_id_of, public_of

SERVICE: Name = ("_mesh", "_tcp", "local")
TYPES: Name = ("_services", "_dns-sd", "_udp", "local")
TTL_S = 4500
HOST_TTL_S = 120
ADDRESSES_MAX = 8


class Instance(NamedTuple):
    """A node as it was announced. `ttl_s` 0: it said goodbye."""

    public: bytes
    port: int
    addresses: tuple[str, ...]
    ttl_s: int


class Description:
    """The names of one node.

    Args:
        mesh_id: 16 bytes.
        public: the node's key, 32 bytes.
    """

    def __init__(self, mesh_id: bytes, public: bytes) -> None:
        self.mesh = mesh_id.hex()[:8]
        self.peer_id = peer_id_of(public)
        self.public = public
        self.subtype: Name = (f"_{self.mesh}", "_sub", *SERVICE)
        self.instance: Name = (self.peer_id, *SERVICE)
        self.host: Name = (f"mesh-{public[:8].hex()}", "local")

    def records(self, addresses: Sequence[str], port: int) -> tuple[list[Resource], list[Resource]]:
        """The answers and the additional records that describe this node at IP addresses and a port."""
        text = (f"id={self.peer_id}".encode(), f"mesh={self.mesh}".encode())
        answers = [
            Resource(SERVICE, dns.PTR, TTL_S, self.instance),
            Resource(self.subtype, dns.PTR, TTL_S, self.instance),
        ]
        extra = [
            Resource(self.instance, dns.SRV, HOST_TTL_S, (port, self.host), True),
            Resource(self.instance, dns.TXT, TTL_S, text, True),
        ]
        for address in addresses[:ADDRESSES_MAX]:
            kind = dns.AAAA if ":" in address else dns.A
            extra.append(Resource(self.host, kind, HOST_TTL_S, address, True))
        return answers, extra

    def announcement(self, addresses: Sequence[str], port: int) -> bytes:
        """What is multicast unasked, and as the answer to every question about us."""
        answers, extra = self.records(addresses, port)
        return dns.pack(answers=answers, extra=extra, flags=dns.RESPONSE | dns.AUTHORITATIVE)

    def goodbye(self) -> bytes:
        """What is multicast at a stop: these names are no longer there."""
        answers, extra = self.records((), 0)
        gone = [record._replace(ttl_s=0) for record in (*answers, *extra)]
        return dns.pack(answers=gone, flags=dns.RESPONSE | dns.AUTHORITATIVE)

    def types(self) -> bytes:
        """The answer to who asks what services there are."""
        answer = Resource(TYPES, dns.PTR, TTL_S, SERVICE)
        return dns.pack(answers=[answer], flags=dns.RESPONSE | dns.AUTHORITATIVE)

    def direct(self, query: Packet, addresses: Sequence[str], port: int) -> bytes:
        """The answer to a one-shot query from another port than 5353 (RFC 6762 section 6.7)."""
        answers, extra = self.records(addresses, port)
        asked = [question for question in query.questions if self.concerns(question)]
        plain = [record._replace(ttl_s=min(record.ttl_s, 10), flush=False) for record in (*answers, *extra)]
        told = [record for record in plain if any(_fits(record, question) for question in asked)]
        rest = [record for record in plain if record not in told]
        return dns.pack(asked, told, rest, flags=dns.RESPONSE | dns.AUTHORITATIVE, ident=query.ident)

    def question(self, known: Sequence[bytes]) -> bytes:
        """Ask for the nodes of this mesh; those in `known` (public keys) need not answer."""
        answers = [Resource(self.subtype, dns.PTR, TTL_S, (peer_id_of(public), *SERVICE)) for public in known]
        return dns.pack([Question(self.subtype, dns.PTR)], answers)

    def concerns(self, question: Question) -> bool:
        """Whether a question is about this node."""
        for name, kinds in (
            (SERVICE, (dns.PTR,)),
            (self.subtype, (dns.PTR,)),
            (self.instance, (dns.SRV, dns.TXT)),
            (self.host, (dns.A, dns.AAAA)),
        ):
            if dns.same(question.name, name) and question.type in (*kinds, dns.ANY):
                return True
        return False

    def knows_us(self, packet: Packet) -> bool:
        """Whether a query lists us among the known answers, with at least half the time to live left."""
        return any(
            record.type == dns.PTR
            and record.ttl_s >= TTL_S // 2
            and dns.same(cast(Name, record.data), self.instance)
            for record in packet.known
        )

    def read(self, packet: Packet) -> list[Instance]:
        """Other nodes of this mesh in a response. What is incomplete or malformed is left out."""
        found = []
        for record in packet.records:
            if record.type == dns.TXT and dns.same(record.name[1:], SERVICE):
                instance = self._instance(packet, record)
                if instance is not None and instance.public != self.public:
                    found.append(instance)
        return found

    def _instance(self, packet: Packet, text: Resource) -> Instance | None:
        words = dict(
            string.decode("utf-8", "replace").partition("=")[::2]
            for string in cast(tuple[bytes, ...], text.data)
        )
        if words.get("mesh") != self.mesh:
            return None
        try:
            public = public_of(words.get("id", ""))
        except MeshError:
            return None
        for record in packet.records:
            if record.type == dns.SRV and dns.same(record.name, text.name):
                port, host = cast(tuple[int, Name], record.data)
                addresses = tuple(_addresses(packet, host))
                return Instance(public, port, addresses, min(text.ttl_s, record.ttl_s))
        return None


def _fits(record: Resource, question: Question) -> bool:
    return dns.same(record.name, question.name) and question.type in (record.type, dns.ANY)


def _addresses(packet: Packet, host: Name) -> list[str]:
    found = []
    for record in packet.records:
        if record.type in (dns.A, dns.AAAA) and dns.same(record.name, host):
            address = ipaddress.ip_address(cast(str, record.data))
            if not (address.is_multicast or address.is_unspecified or address.is_link_local):
                found.append(str(address))
    return found[:ADDRESSES_MAX]

"""DNS on loopback (RFC 1035, over UDP and TCP): `NAME.mesh` is where this device reaches the service.

    A      the loopback address of the service's listener        SRV    its port; also `_NAME._tcp.mesh`
    AAAA   of a listener on ::1; else empty                      others refused: we are nobody's resolver

A service that `proxy.imports` names has its listener there. Any other gets one when it is first asked for: an
address of its own in `proxy.dns_network`, by the hash of its name, and on it the port that the service has at
home, so that `psql -h orders.mesh` needs no other word. So it is for services of other zones, whose gateways
tell their ports: the address is this device's, and calls go on through that zone's gateway. The TTL is short,
and shorter when an instance ails: addresses stay, but whether a name is there at all may change. A name that
nobody offers is "no such name". That there is nothing holds for 2 s: such an answer carries the SOA that says
so (RFC 2308), or resolvers between would ask again each time, or go by their own word for how long. A service
that can have no address here (something else has its port on all of them) is a failure, not a missing name.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import trio

from mesh.agent import pipes
from mesh.agent.picking import Picked
from mesh.agent.routing import Router
from mesh.config import Proxy as Settings
from mesh.core.registry import name_ok
from mesh.discovery import dns
from mesh.errors import Failed, MeshError, PeerError

if TYPE_CHECKING:
    from mesh.agent.proxy import Proxy

log = logging.getLogger(__name__)

TTL_HEALTHY_S, TTL_AILING_S = 30, 2
FAILED, NO_NAME, REFUSED = 2, 3, 5
UDP_BYTES_MAX = 512
LISTENERS_MAX = 256
_TCP_IDLE_S = 10.0
_TCP_CONNECTIONS_MAX = 32
_TRIES = 8
# The zone is made up on each device by itself: no server to ask for it, nobody to write to, nothing to copy.
_AUTHORITY = dns.Authority(("localhost",), ("nobody", "invalid"), 1, 3600, 1200, 86_400, TTL_AILING_S)


class Names:
    """See the module."""

    def __init__(self, proxy: Proxy, router: Router, settings: Settings, nursery: trio.Nursery) -> None:
        self._proxy = proxy
        self._router = router
        self._settings = settings
        self._nursery = nursery
        self._made: dict[str, tuple[str, int]] = {}

    async def run(
        self,
        host: str,
        port: int,
        *,
        task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer until cancelled; tells where."""
        listener = pipes.listen(host, port)
        port = listener.getsockname()[1]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as udp:
            try:
                await udp.bind((host, port))
            except OSError as error:
                listener.close()
                raise Failed(f"cannot listen on udp {host}:{port}: {error.strerror}") from None
            log.info("proxy.dns: %s:%d", host, port)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipes.serve, listener, self._over_tcp, _TCP_CONNECTIONS_MAX)
                task_status.started((host, port))
                while True:
                    data, sender = await udp.recvfrom(4096)
                    if answer := self.answer(data, UDP_BYTES_MAX):
                        try:
                            await udp.sendto(answer, sender)
                        except OSError as error:  # it came from port 0, or nothing may go there
                            log.debug("an answer cannot be sent: %s", error.strerror)

    async def _over_tcp(self, pipe: pipes.TcpPipe) -> None:
        held = b""
        while True:
            while len(held) < 2 or len(held) < 2 + int.from_bytes(held[:2], "big"):
                data = b""
                with trio.move_on_after(_TCP_IDLE_S):
                    data = await pipe.receive()
                if not data:
                    return
                held += data
            size = 2 + int.from_bytes(held[:2], "big")
            answer = self.answer(held[2:size], 65_535)
            held = held[size:]
            if not answer:
                return
            await pipe.send(len(answer).to_bytes(2, "big") + answer)

    # -- answering --------------------------------------------------------------------------------------

    def answer(self, data: bytes, size_max: int) -> bytes:
        """The answer to a packet, b"" for what is not a question."""
        try:
            packet = dns.parse(data)
        except PeerError:
            return b""
        if packet.is_response or len(packet.questions) != 1:
            return b""
        question = packet.questions[0]
        flags = dns.RESPONSE | dns.AUTHORITATIVE | (packet.flags & dns.RECURSION_DESIRED)
        name = self._service(question.name)
        records: list[dns.Resource] = []
        if name is None:
            flags = flags & ~dns.AUTHORITATIVE | REFUSED
        elif len(question.name) == 1 and question.type in (dns.SOA, dns.ANY):
            records = [self._authority(question.name)]
        elif [label.lower() for label in question.name[:-1]] in ([], ["_tcp"]):
            pass  # no such name would mean none below it either (RFC 8020)
        elif (rows := self._rotation(name)) is None:
            flags |= NO_NAME
        elif (at := self._at(name, rows)) is None:
            flags |= FAILED
        else:
            ailing = any(row.candidate.avoid for row in rows)
            records = self._records(question, name, *at, TTL_AILING_S if ailing else TTL_HEALTHY_S)
        try:
            nothing = not records and flags & 0xF in (0, NO_NAME)
            authority = [self._authority(question.name[-1:])] if nothing else []
            answer = dns.pack([question], records, authority=authority, flags=flags, ident=packet.ident)
        except (AssertionError, ValueError):
            return b""  # a question that can be read and not be written, such as labels that are not UTF-8
        if len(answer) > size_max:
            return dns.pack([question], flags=flags | dns.TRUNCATED, ident=packet.ident)
        return answer

    @staticmethod
    def _authority(domain: dns.Name) -> dns.Resource:
        return dns.Resource(domain, dns.SOA, _AUTHORITY.minimum_s, _AUTHORITY)

    def _service(self, name: dns.Name) -> str | None:
        """The service a name means, "" for none at all, None where it is not in our domain."""
        labels = [label.lower() for label in name]
        if not labels or labels[-1] != self._settings.domain:
            return None
        if len(labels) == 3 and labels[1] == "_tcp" and labels[0].startswith("_"):
            labels = [labels[0][1:], labels[2]]
        return labels[0] if len(labels) == 2 and name_ok(labels[0]) else ""

    def _rotation(self, name: str) -> Sequence[Picked] | None:
        """The instances of a service; None if nobody offers it."""
        try:
            return self._router.rotation(name) if name else None
        except MeshError:
            return None

    def _at(self, name: str, rows: Sequence[Picked]) -> tuple[str, int] | None:
        """Address and port of a service on this device; None where it can have none."""
        at = self._proxy.imports().get(name) or self._made.get(name)
        if at is not None:
            return at
        ports = [each.port for row in rows for each in row.instance.service.endpoints]
        return self._make(name, ports[0]) if ports else None

    def _make(self, name: str, port: int) -> tuple[str, int] | None:
        """Open a listener for a service that is asked for the first time."""
        from mesh.agent.proxy import network_of

        if not self._settings.dns_network or len(self._made) >= LISTENERS_MAX:
            return None
        network = network_of(self._settings.dns_network)
        for attempt in range(_TRIES):
            digest = blake2b(name.encode(), key=bytes([attempt]), digest_size=8).digest()
            host = str(network[1 + int.from_bytes(digest, "big") % max(1, network.num_addresses - 2)])
            try:
                listener = pipes.listen(host, port)
            except Failed as error:
                log.warning("%s.%s: %s", name, self._settings.domain, error.message)
                continue
            self._proxy.open_import(self._nursery, name, listener)
            self._made[name] = host, port
            log.info("%s.%s is %s:%d", name, self._settings.domain, host, port)
            return host, port
        return None

    def _records(
        self, question: dns.Question, name: str, host: str, port: int, ttl_s: int
    ) -> list[dns.Resource]:
        kind = dns.AAAA if ":" in host else dns.A
        if question.type == dns.SRV:
            target = (name, self._settings.domain)
            return [dns.Resource(question.name, dns.SRV, ttl_s, (port, target))]
        if question.type in (kind, dns.ANY):
            return [dns.Resource(question.name, kind, ttl_s, host)]
        return []

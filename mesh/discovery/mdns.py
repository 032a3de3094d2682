"""Members on the LAN, by multicast DNS (RFC 6762) on trio sockets: no threads, nothing blocks the loop.

At a start, and whenever the network changed: announce twice, ask after 1, 3, 9 … s, up to once in ten
minutes. A question about us is answered once within a second, 20 to 120 ms after it came, so that many
nodes do not answer at the same instant. At a stop we say goodbye.

One socket per IP version hears all interfaces and sends through each in turn. Only what was sent to the
multicast address is heard, so nobody beyond the link can speak to us here; what is told is a hint.
"""

from __future__ import annotations

import errno
import logging
import random
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import trio

from mesh.discovery import dns
from mesh.discovery.base import Bell, Found, OnFound
from mesh.discovery.dnssd import TTL_S, TYPES, Description, Instance
from mesh.discovery.interfaces import Interface, interfaces
from mesh.errors import Failed, PeerError
from mesh.net.address import parse, text_of

log = logging.getLogger(__name__)

PORT = 5353
GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"
PACKET_BYTES_MAX = 9000
PACKETS_PER_S_MAX = 200
DIRECT_PER_S_MAX = 10
KNOWN_MAX = 512
KNOWN_ASKED_MAX = 20
ASK_FIRST_S, ASK_FACTOR, ASK_LAST_S = 1.0, 3.0, 600.0
REPEAT_S = 60.0
POKED_S = 0.5
GOODBYE_S = 0.3
# linux/in.h and linux/in6.h; Python 3.11 has no name for the first.
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)


class _Place(NamedTuple):
    """One interface with one IP version: where a packet came from, or goes to."""

    version: int
    interface: int


class _Known(NamedTuple):
    instance: Instance
    told_at: float
    until: float


class Mdns:
    """Finds and is found on every LAN this machine is on.

    Args:
        listened: multiaddrs we listen on; asked again when the network changed.
        read: the interfaces; given in tests.
        port: given in tests.

    Attributes:
        dropped: packets not read: malformed, or too many.
    """

    name = "mdns"

    def __init__(
        self,
        mesh_id: bytes,
        public: bytes,
        listened: Callable[[], Sequence[str]],
        rng: random.Random,
        *,
        read: Callable[[], list[Interface]] = interfaces,
        port: int = PORT,
    ) -> None:
        self.troubles: dict[str, str] = {}
        self.dropped = 0
        self._about = Description(mesh_id, public)
        self._listened = listened
        self._rng = rng
        self._read = read
        self._port = port
        self._bell = Bell()
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._places: dict[_Place, tuple[str, ...]] = {}
        self._service_port = 0
        self._joined: set[_Place] = set()
        self._labels: dict[_Place, str] = {}
        self._sockets: dict[int, trio.socket.SocketType] = {}
        self._answer_at: dict[_Place, float] = {}
        self._answered_at: dict[_Place, float] = {}
        self._answer_due = trio.Event()
        self._budget = _Budget(PACKETS_PER_S_MAX)
        self._direct = _Budget(DIRECT_PER_S_MAX)

    def poke(self) -> None:
        self._bell.ring()

    async def run(self, found: OnFound) -> None:
        """Announce, ask and listen until cancelled; then say goodbye.

        Raises:
            Failed: no socket can be opened for either IP version.
        """
        self._open()
        try:
            async with trio.open_nursery() as nursery:
                for version in self._sockets:
                    nursery.start_soon(self._listen, version, found)
                nursery.start_soon(self._answer)
                await self._speak()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + GOODBYE_S, shield=True):
                await self._send_all(self._about.goodbye())
            for sock in self._sockets.values():
                sock.close()
            self._sockets.clear()
            self._joined.clear()
            self._known.clear()

    # -- sockets ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        for version, make in ((4, _socket4), (6, _socket6)):
            try:
                self._sockets[version] = trio.socket.from_stdlib_socket(make(self._port))
                self.troubles.pop(f"IPv{version}", None)
            except OSError as error:
                self.troubles[f"IPv{version}"] = error.strerror or str(error)
        if not self._sockets:
            raise Failed(f"mDNS cannot listen on UDP port {self._port}: {self.troubles}")

    def _refresh(self) -> None:
        """Join the group on new interfaces; learn which addresses to announce where."""
        listened = [parse(address) for address in self._listened()]
        self._service_port = listened[0].port if listened else 0
        ips = {address.host for address in listened}
        every = self._read()
        lans = [interface for interface in every if not interface.loopback] or every
        local = ips and all(ip == "::1" or ip.startswith("127.") for ip in ips)
        self._places = {}
        self.troubles = {key: why for key, why in self.troubles.items() if key in ("IPv4", "IPv6")}
        for interface in [one for one in every if one.loopback] if local else lans:
            for version, addresses in ((4, interface.ipv4), (6, interface.ipv6)):
                place = _Place(version, interface.number)
                if version in self._sockets and self._join(place, interface.name):
                    self._places[place] = tuple(
                        address for address in addresses if _any(version) in ips or address in ips
                    )
        self._joined &= set(self._places)

    def _join(self, place: _Place, name: str) -> bool:
        if place in self._joined:
            return True
        sock = self._sockets[place.version]
        try:
            if place.version == 4:
                request = struct.pack("@4s4si", socket.inet_aton(GROUP4), bytes(4), place.interface)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            else:
                request = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", place.interface)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError as error:
            # In use: joined before the interface went away and came back.
            if error.errno != errno.EADDRINUSE:
                self.troubles[f"{name} IPv{place.version}"] = error.strerror or str(error)
                return False
        self._joined.add(place)
        self._labels[place] = f"{name} IPv{place.version}"
        return True

    async def _send(self, place: _Place, data: bytes, to: tuple[str, int] | None = None) -> None:
        sock = self._sockets.get(place.version)
        if sock is None:
            return
        try:
            if place.version == 4:
                info = struct.pack("@i4s4s", place.interface, bytes(4), bytes(4))
                await sock.sendmsg(
                    [data], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, to or (GROUP4, self._port)
                )
            else:
                info = bytes(16) + struct.pack("@I", place.interface)
                address = (*(to or (GROUP6, self._port)), 0, place.interface)
                await sock.sendmsg([data], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0, address)
            self.troubles.pop(self._labels[place], None)
        except OSError as error:
            self.troubles[self._labels[place]] = error.strerror or str(error)

    async def _send_all(self, data: bytes) -> None:
        for place in list(self._places):
            await self._send(place, data)

    # -- speaking ---------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        while True:
            self._refresh()
            await self._announce()
            await trio.sleep(self._rng.uniform(0.02, 0.12))
            await self._ask_until_poked()

    async def _ask_until_poked(self) -> None:
        wait_s = ASK_FIRST_S
        while True:
            now = trio.current_time()
            for public, known in list(self._known.items()):
                if known.until <= now:
                    del self._known[public]
            fresh = [public for public, known in self._known.items() if known.until - now > TTL_S / 2]
            await self._send_all(self._about.question(fresh[-KNOWN_ASKED_MAX:]))
            if await self._bell.wait(wait_s):
                await trio.sleep(POKED_S)
                return
            if wait_s == ASK_FIRST_S:
                await self._announce()
            wait_s = min(wait_s * ASK_FACTOR, ASK_LAST_S)

    async def _announce(self) -> None:
        for place, addresses in list(self._places.items()):
            if addresses and self._service_port:
                self._answered_at[place] = trio.current_time()
                await self._send(place, self._about.announcement(addresses, self._service_port))

    async def _answer(self) -> None:
        """Send the answers that are due."""
        while True:
            self._answer_due = trio.Event()
            due = min(self._answer_at.values(), default=float("inf"))
            with trio.move_on_at(due):
                await self._answer_due.wait()
            now = trio.current_time()
            for place in [place for place, at in self._answer_at.items() if at <= now]:
                del self._answer_at[place]
                if addresses := self._places.get(place):
                    self._answered_at[place] = now
                    await self._send(place, self._about.announcement(addresses, self._service_port))

    # -- hearing ----------------------------------------------------------------------------------------

    async def _listen(self, version: int, found: OnFound) -> None:
        sock = self._sockets[version]
        while True:
            try:
                data, ancillary, _, source = await sock.recvmsg(PACKET_BYTES_MAX, 256)
            except OSError as error:
                self.troubles[f"IPv{version}"] = error.strerror or str(error)
                await trio.sleep(1.0)
                continue
            self.troubles.pop(f"IPv{version}", None)
            now = trio.current_time()
            place = _arrived(version, ancillary)
            if place not in self._places or not self._budget.take(now):
                self.dropped += place in self._places
                continue
            try:
                packet = dns.parse(data)
            except PeerError:
                self.dropped += 1
                continue
            if packet.is_response:
                self._heard(packet, now, found)
            else:
                host, port = cast(tuple[Any, ...], source)[:2]
                await self._asked(packet, place, (host, port), now)

    def _heard(self, packet: dns.Packet, now: float, found: OnFound) -> None:
        for instance in self._about.read(packet):
            known = self._known.pop(instance.public, None)
            if instance.ttl_s == 0:
                continue
            told_at = known.told_at if known and known.instance == instance else float("-inf")
            if now - told_at >= REPEAT_S:
                told_at = now
                for address in instance.addresses:
                    found(Found(self.name, text_of(address, instance.port), instance.public))
            self._known[instance.public] = _Known(instance, told_at, now + TTL_S)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)

    async def _asked(self, packet: dns.Packet, place: _Place, source: tuple[str, int], now: float) -> None:
        addresses = self._places[place]
        if not addresses or not self._service_port:
            return
        if any(dns.same(question.name, TYPES) for question in packet.questions):
            await self._send(place, self._about.types())
        if not any(map(self._about.concerns, packet.questions)):
            return
        if source[1] != self._port:
            if self._direct.take(now):
                await self._send(place, self._about.direct(packet, addresses, self._service_port), source)
        elif place not in self._answer_at and not self._about.knows_us(packet):
            soonest = self._answered_at.get(place, float("-inf")) + 1.0
            self._answer_at[place] = max(now, soonest) + self._rng.uniform(0.02, 0.12)
            self._answer_due.set()


class _Budget:
    """At most `per_s` in any whole second."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._second = -1
        self._taken = 0

    def take(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._taken = int(now), 0
        self._taken += 1
        return self._taken <= self._per_s


def _any(version: int) -> str:
    return "0.0.0.0" if version == 4 else "::"


def _socket4(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        _share(sock)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock


def _socket6(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        _share(sock)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        sock.bind(("::", port))
    except OSError:
        sock.close()
        raise
    return sock


def _share(sock: socket.socket) -> None:
    """Others on this machine (avahi, systemd-resolved, other agents) listen on the port too."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _arrived(version: int, ancillary: Sequence[tuple[int, int, bytes]]) -> _Place:
    """The place a packet came in at; interface 0 unless it was sent to the multicast address."""
    for level, kind, data in ancillary:
        if version == 4 and (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            interface, _, to = struct.unpack("@i4s4s", data[:12])
            return _Place(4, interface if to == socket.inet_aton(GROUP4) else 0)
        if version == 6 and (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            (interface,) = struct.unpack("@I", data[16:20])
            return _Place(6, interface if data[:16] == socket.inet_pton(socket.AF_INET6, GROUP6) else 0)
    return _Place(version, 0)

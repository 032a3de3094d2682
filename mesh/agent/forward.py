"""Connections to services, carried between agents: both ends of `/mesh/svc/1` (its head: `wire/forward.py`).

The called side decides. It lets in whom the policy grants the verb `call` on the service's name, and connects
only to endpoints of services that it has registered itself: no head can name an address. The program behind
the service may ask to be told who calls, by the service's `meta`:

    caller = "proxy-v2"   a PROXY protocol v2 header (haproxy, doc/proxy-protocol.txt) goes before the bytes:
                          the program's address where it has one, and a TLV 0xE0 with the calling node's id
    caller = "header"     for http: each request gets `X-Mesh-Caller: NAME ID`; one that a caller wrote itself
                          is removed
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import trio

from mesh.agent import pipes
from mesh.agent.callstream import error_of, failure_of
from mesh.agent.lasting import sparing
from mesh.agent.peers import Peers
from mesh.agent.pipes import Pipe
from mesh.core.policy import CALL
from mesh.core.registry import CALLER_META, HEADER, PROXY_V2, Endpoint, Service
from mesh.errors import Denied, Failed, MeshError, NotFound, PeerError, TimedOut, Unreachable
from mesh.identity.keys import peer_id_of
from mesh.net.base import Stream
from mesh.observe.counters import Counters
from mesh.wire import forward as wire
from mesh.wire import protocols
from mesh.wire.forward import Open, Opened, Refused

log = logging.getLogger(__name__)

HEAD_S = 10.0
CONNECT_S_MAX = 30.0
SERVED_MAX = 1024
SERVED_PER_PEER_MAX = 256
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_TLV_NODE = 0xE0

Opener = Callable[[bytes, str, float], Awaitable[Stream]]


class Caller(NamedTuple):
    """Who is at the other end: a node, and the address of the program there as its agent saw it."""

    public: bytes
    name: str
    host: str = ""
    port: int = 0

    @property
    def id(self) -> str:
        return peer_id_of(self.public)


class Offers(Protocol):
    """What this node offers, and how it finds others of its zone for a call that passes through."""

    def own(self, id_: str) -> Service | None:
        """A service of ours by its id."""
        ...

    def may_relay(self, aid: bytes) -> bool:
        """Whether a node passes calls on for others: it is a gateway of another zone's callers."""
        ...

    async def pass_on(self, head: Open, caller: Caller, deadline_s: float) -> tuple[Pipe, str]:
        """A connection to an instance of our zone for a caller of another one, and its id."""
        ...


class Web(Protocol):
    """Relays HTTP and says who calls; see `mesh/agent/http.py`."""

    async def __call__(self, near: Pipe, far: Pipe, caller: Caller) -> None: ...


class Forward:
    """Both ends.

    Args:
        public: our own key.
        opener: opens a stream of a protocol to a member within a deadline in seconds.
        web: for services that want to be told of callers by a header.
    """

    def __init__(
        self,
        public: bytes,
        peers: Peers,
        opener: Opener,
        offers: Offers,
        counters: Counters,
        web: Web,
        *,
        idle_s: Callable[[], float],
    ) -> None:
        self._public = public
        self._peers = peers
        self._opener = opener
        self._offers = offers
        self._counters = counters
        self._web = web
        self._idle_s = idle_s
        self._serving: Counter[bytes] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks of connections to our own services, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    # -- calling ----------------------------------------------------------------------------------------

    async def open(self, public: bytes, head: Open, deadline_s: float) -> tuple[Pipe, str]:
        """A connection to a service on a node, and the id of its instance.

        Raises:
            Unreachable, TimedOut: no way to the node, or its service does not answer.
            Denied: the service is not for us.
            NotFound: the node does not offer it (any more).
        """
        if public == self._public:
            return await self._open_here(head, deadline_s)
        stream: Stream | None = None
        stands = False
        try:
            with trio.move_on_after(max(0.0, deadline_s)):
                stream = await self._opener(public, protocols.SVC, deadline_s)
                await stream.send(wire.pack(head))
                answer, early = await _head(stream)
                if isinstance(answer, Opened):
                    stands = True
                    self._counters["services.out"] += 1
                    return pipes.with_early(stream, early), answer.id
                if isinstance(answer, Refused):
                    raise error_of(answer)
                raise PeerError("an answer that is none")
        except PeerError as error:
            raise Unreachable(f"{self._named(public)} broke the protocol: {error.message}") from None
        finally:
            if stream is not None and not stands:
                with trio.CancelScope(shield=True):
                    await stream.reset()
        raise TimedOut(f"{self._named(public)} did not connect {head.name} within {deadline_s:.1f} s")

    async def _open_here(self, head: Open, deadline_s: float) -> tuple[Pipe, str]:
        origin = self._peers.public_of(head.caller) if head.caller else self._public
        if origin is None:
            raise Denied("the node that the call began at is not a member")
        caller = Caller(origin, self._peers.name_of(origin[:16]), head.host, head.port)
        service, pipe = await self._connect(head, caller, deadline_s)
        self._counters["services.here"] += 1
        if service.meta.get(CALLER_META) != HEADER:
            return pipe, service.id
        near, far = socket.socketpair()
        inner, outer = pipes.TcpPipe(near), pipes.TcpPipe(far)
        self._nursery.start_soon(sparing, self._tell, inner, pipe, caller)
        return outer, service.id

    async def _tell(self, near: Pipe, far: Pipe, caller: Caller) -> None:
        try:
            await self._web(near, far, caller)
        except Exception as error:
            log.info("connection to a local service ended", extra={"error": str(error)})

    def _named(self, public: bytes) -> str:
        return self._peers.name_of(public[:16]) or peer_id_of(public)

    # -- being called -----------------------------------------------------------------------------------

    async def accept(self, stream: Stream) -> None:
        """Handler of the protocol: serve one connection until it ends."""
        public = stream.public
        if self._serving[public] >= SERVED_PER_PEER_MAX or self._serving.total() >= SERVED_MAX:
            await stream.send(wire.pack(Refused("failed", "too many connections at once", "try again")))
            return
        self._serving[public] += 1
        try:
            await self._serve(stream)
        except PeerError as error:
            self._counters["services.malformed"] += 1
            log.info("stream reset", extra={"peer": peer_id_of(public), "error": error.message})
        except Unreachable as error:
            log.debug("connection of %s ended: %s", peer_id_of(public), error.message)
        finally:
            await stream.reset()
            self._serving[public] -= 1
            if not self._serving[public]:
                del self._serving[public]

    async def _serve(self, stream: Stream) -> None:
        with trio.move_on_after(HEAD_S) as patience:
            head, early = await _head(stream)
        if patience.cancelled_caught:
            return
        if not isinstance(head, Open):
            raise PeerError("a connection must begin with its head")
        deadline_s = min(max(head.deadline_ms, 0) / 1000, CONNECT_S_MAX)
        far: Pipe | None = None
        try:
            try:
                caller = self._caller(stream.public, head)
                if head.id:
                    service, far = await self._connect(head, caller, deadline_s)
                    opened, told = service.id, service.meta.get(CALLER_META) == HEADER
                else:
                    far, opened = await self._offers.pass_on(head, caller, deadline_s)
                    told = False
            except MeshError as error:
                self._counters["services.refused"] += 1
                failure = failure_of(error)
                await stream.send(wire.pack(Refused(failure.code, failure.message[:500], failure.hint[:200])))
                return
            self._counters["services.in"] += 1
            await stream.send(wire.pack(Opened(opened)))
            near = pipes.with_early(stream, early)
            if told:
                await self._web(near, far, caller)
            else:
                await pipes.relay(near, far, idle_s=self._idle_s())
        finally:
            if far is not None:
                await far.reset()

    def _caller(self, public: bytes, head: Open) -> Caller:
        """Who calls. Another node's word for it counts from gateways only."""
        aid = public[:16]
        if head.caller:
            if not self._offers.may_relay(aid):
                raise Denied(f"{self._named(public)} may not pass calls on", "only gateways of a zone may")
            origin = self._peers.public_of(head.caller)
            if origin is None:
                raise Denied("the node that the call began at is not a member")
            public, aid = origin, origin[:16]
        name = self._peers.name_of(aid)
        if not self._peers.may(aid, CALL, head.name):
            raise Denied(
                f"{name or peer_id_of(public)} may not call {head.name[:80]!r}",
                "an admin can grant it: the verb `call` in the policy",
            )
        return Caller(public, name, head.host[:255], head.port if 0 <= head.port < 65536 else 0)

    async def _connect(self, head: Open, caller: Caller, deadline_s: float) -> tuple[Service, Pipe]:
        if caller.public == self._public and not self._peers.may(caller.public[:16], CALL, head.name):
            raise Denied(f"this node may not call {head.name[:80]!r}", "an admin can grant it with a policy")
        service = self._offers.own(head.id)
        if service is None or service.name != head.name:
            raise NotFound(f"{head.name[:80]} is not offered here (any more)")
        pipe = await _first(service.endpoints, deadline_s)
        if service.meta.get(CALLER_META) == PROXY_V2:
            try:
                await pipe.send(proxy_header(caller))
            except BaseException:
                await pipe.reset()
                raise
        return service, pipe


async def _head(stream: Stream) -> tuple[wire.HeadMessage, bytes]:
    reader = wire.HeadReader()
    while data := await stream.receive():
        found = reader.feed(data)
        if found is not None:
            return found
    raise Unreachable("the stream ended before its head")


async def _first(endpoints: Sequence[Endpoint], deadline_s: float) -> pipes.TcpPipe:
    """The first endpoint that answers; each gets its share of what time is left."""
    end = trio.current_time() + deadline_s
    last: MeshError = Failed("the service has no endpoint")
    for left, endpoint in zip(range(len(endpoints), 0, -1), endpoints, strict=True):
        share_s = max(0.05, (end - trio.current_time()) / left)
        try:
            return await pipes.connect(endpoint.host, endpoint.port, share_s)
        except Unreachable as error:
            last = error
    raise last


def proxy_header(caller: Caller) -> bytes:
    """A PROXY v2 header: the address of the program that calls, if it has one, and its node."""
    tlv_value = caller.id.encode()
    tlv = struct.pack("!BH", _TLV_NODE, len(tlv_value)) + tlv_value
    try:
        source = ipaddress.ip_address(caller.host)
    except ValueError:
        # UNSPEC: receivers take the connection's own address, and may read the TLV.
        return _SIGNATURE + struct.pack("!BBH", 0x21, 0x00, len(tlv)) + tlv
    family = 0x11 if source.version == 4 else 0x21
    here = ipaddress.ip_address("127.0.0.1" if source.version == 4 else "::1")
    body = source.packed + here.packed + struct.pack("!HH", caller.port, 0) + tlv
    return _SIGNATURE + struct.pack("!BBH", 0x21, family, len(body)) + body

"""What a host does with connections, whatever carries them: admits, keeps, replaces and ends them, and
hands their streams to handlers. `mesh.net.host` puts it on sockets, `mesh.net.memory` into one process.

In py-libp2p 0.8.1, and here:

- an exception in a stream handler, a reset by the peer too, ends the host. `_serve`: it is logged, that
  stream is reset, and nothing else happens;
- an accepted connection keeps its slot until shutdown, so the 251st in the life of a process is refused
  for ever. A slot is the connection itself and goes with it;
- a dial takes 250 ms, one failure bans the peer for 60 s, a silent peer costs 120 s. `dial`: one try,
  one deadline, no memory;
- a background task dials every address it ever heard of. Nothing is dialled but by `dial`;
- two ends that dial at once get two connections. `_take_in`: the lower key's dial stays, and a later
  connection replaces one that its other end has forgotten;
- leaving the host leaks sockets and tasks. `run`: goodbye to all, shielded, then the tasks;
- the limits are those of a public DHT server. `HostLimits`: set on purpose.

The gate says of each key whether it is a member's. Strangers, who may ask to join, share a few places
for a short time and reach only the handlers open to them; members' places are never taken by them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from mesh.errors import Denied, Failed, MeshError, PeerError, TimedOut, Unreachable, UsageError
from mesh.identity.keys import peer_id_of
from mesh.net import address
from mesh.net.base import Admission, Connection, Gate, Handler, HostLimits, Key
from mesh.net.channel import Sealed
from mesh.net.connection import MuxConnection
from mesh.net.relay import PROTOCOL, Relay
from mesh.net.stream import MuxStream
from mesh.net.wire import Wire

_logger = logging.getLogger("mesh.net")
Callback = Callable[[Connection], None]
DRAIN_S = 600.0
DRAIN_LOOK_S = 0.5


class HostBase(ABC):
    """See `mesh.net.base.Host`; the abstract methods are what carries the connections.

    Args:
        gate: asked with a public key and the ip, right after each handshake and at every `recheck`.

    Attributes:
        on_connected: called when a connection becomes that of its peer.
        on_disconnected: called when it no longer is: ended, or replaced.
        counts: how often what happened, by name.
    """

    def __init__(self, key: Key, gate: Gate, limits: HostLimits | None) -> None:
        self.public = key.public
        self.peer_id = peer_id_of(key.public)
        self.limits = limits or HostLimits()
        self.on_connected: Callback | None = None
        self.on_disconnected: Callback | None = None
        self.counts: Counter[str] = Counter()
        self._gate = gate
        self._handlers: dict[str, Handler] = {}
        self._for_strangers: set[str] = set()
        self._peers: dict[bytes, MuxConnection] = {}
        self._all: set[MuxConnection] = set()
        self._dials = trio.CapacityLimiter(self.limits.dials_max)
        self._nursery: trio.Nursery | None = None
        self._addresses: list[str] = []
        self.relay = Relay(self)
        self.handle(PROTOCOL, self.relay.serve)

    @abstractmethod
    def _open(self) -> list[Callable[[], Awaitable[None]]]:
        """Bind to the addresses, set `_addresses`, and return what is to run to accept connections."""

    @abstractmethod
    async def _connect(self, to: address.Address) -> Wire: ...

    @abstractmethod
    async def _outbound(self, wire: Wire, expected: bytes | None) -> Sealed:
        """The dialler's part of the handshake."""

    @abstractmethod
    async def _inbound(self, wire: Wire, gate: Callable[[bytes], None]) -> Sealed:
        """The listener's part; the gate raises Denied."""

    # -- life -------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """The multiaddrs listened on, with their real ports, without /p2p."""
        return list(self._addresses)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled, then say goodbye to everybody.

        Raises:
            Failed, Denied, UsageError: an address cannot be listened on; says which and why.
        """
        accepting = self._open()
        inside = trio.CancelScope(shield=True)
        doors = trio.CancelScope()

        ready = trio.Event()

        async def serve() -> None:
            with inside:
                async with trio.open_nursery() as self._nursery, trio.open_nursery() as doorway:
                    with doors:
                        for task in accepting:
                            doorway.start_soon(task)
                        ready.set()
                        await trio.sleep_forever()
                    doorway.cancel_scope.cancel()
                    await trio.sleep_forever()

        async with trio.open_nursery() as outside:
            try:
                # Not `outside.start`: cancelled meanwhile, it would wait for a task that is shielded.
                outside.start_soon(serve)
                await ready.wait()
                task_status.started()
                await trio.sleep_forever()
            finally:
                # First the goodbyes, then the tasks: a task cancelled first would take its connection
                # with it, and the peer would see a crash.
                doors.cancel()
                with trio.CancelScope(shield=True):
                    await self._say_goodbye()
                inside.cancel()

    async def _say_goodbye(self) -> None:
        with trio.move_on_after(self.limits.close_s):
            async with trio.open_nursery() as nursery:
                for connection in list(self._all):
                    nursery.start_soon(connection.close, "this node stops")
        for connection in list(self._all):
            connection.mux.fail("this node stops")

    def _start(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._nursery is None:
            raise Failed("this host does not run")
        self._nursery.start_soon(task, *args)

    # -- what users of the host call ----------------------------------------------------------------------

    def handle(self, protocol: str, handler: Handler, *, strangers: bool = False) -> None:
        """Serve a protocol. `strangers`: also to peers that are not members (yet)."""
        self._handlers[protocol] = handler
        if strangers:
            self._for_strangers.add(protocol)

    async def dial(self, where: str, public: bytes | None, *, deadline_s: float) -> Connection:
        """Connect to a peer, once, at one address, even if a connection with it is up.

        Args:
            where: multiaddr.
            public: the key expected there; None: that in the address, or else whichever answers.

        Returns:
            The peer's connection: this one, or the one that it yielded to.

        Raises:
            UsageError: not an address, or our own key.
            Refused: nobody listens there (a kind of Unreachable).
            Unreachable: nothing answers, or it does not let us in.
            Denied: another key answers, or our gate refuses it.
            TimedOut: not done by the deadline.
        """
        target = address.parse(where)
        expected = public or target.public
        if expected == self.public:
            raise UsageError(f"{where} is this node itself")
        with trio.move_on_after(max(0.0, deadline_s)):
            async with self._dials:
                return await self._dial(target, expected)
        raise TimedOut(f"{where} did not answer within {deadline_s:g} s")

    async def _dial(self, target: address.Address, expected: bytes | None) -> MuxConnection:
        if sum(connection.outbound for connection in self._all) >= self.limits.outbound_max:
            raise Failed(f"already {self.limits.outbound_max} outbound connections")
        wire = await self._connect(target)
        return await self._greet(wire, expected, f"{target.host}:{target.port}")

    async def dial_via(self, via: bytes, public: bytes, *, deadline_s: float) -> MuxConnection:
        """Connect to a peer through a third that is connected with both (see `relay`).

        Raises:
            Unreachable: we are not connected with `via`, or it not with the peer, or it carries no more.
            Denied, TimedOut, UsageError: as `dial`.
        """
        if public in (self.public, via):
            raise UsageError("a relay is for reaching a third node")
        with trio.move_on_after(max(0.0, deadline_s)):
            wire = await self.relay.ask(await self.open(via, PROTOCOL, deadline_s=deadline_s), public)
            return await self._greet(wire, public, peer_id_of(public))
        raise TimedOut(f"{peer_id_of(public)} did not answer through {peer_id_of(via)} in {deadline_s:g} s")

    async def take_in_relayed(self, wire: Wire) -> None:
        """A peer reaches us through a relay: its handshake, and then for as long as it stays."""
        try:
            with trio.fail_after(self.limits.handshake_s):
                connection = await self._enter(wire)
            await connection.wait_closed()
        finally:
            wire.close_now()

    async def _greet(self, wire: Wire, expected: bytes | None, name: str) -> MuxConnection:
        try:
            sealed = await self._outbound(wire, expected)
            return self._take_in(wire, sealed, self._judge(sealed.public, wire))
        except PeerError as error:
            wire.close_now()
            raise Unreachable(
                f"{name} does not talk to us: {error.message}",
                "is it a node of this mesh, and does it count us as a member?",
            ) from None
        except BaseException:
            wire.close_now()
            raise

    async def open(self, public: bytes, protocol: str, *, deadline_s: float) -> MuxStream:
        """A new stream on the connection with a peer. Costs nothing until first used: a peer that does
        not speak the protocol shows at the first `receive`.

        Raises:
            Unreachable: there is no connection.
            TimedOut: all streams to it are in use.
        """
        connection = self._peers.get(public)
        if connection is None:
            raise Unreachable(f"not connected with {peer_id_of(public)}")
        return await connection.open(protocol, deadline_s=deadline_s)

    def connection(self, public: bytes) -> MuxConnection | None:
        """The connection with a peer, if any."""
        return self._peers.get(public)

    def connections(self) -> list[MuxConnection]:
        """The connection of every connected peer, oldest first."""
        return list(self._peers.values())

    async def close_peer(self, public: bytes) -> None:
        """Close the connection with a peer, if any."""
        connection = self._peers.get(public)
        if connection is not None:
            await connection.close()

    def recheck(self) -> None:
        """Ask the gate again about everybody: who was removed is cut off, who has joined is a member."""
        for connection in list(self._all):
            verdict = self._gate(connection.public, connection.wire.remote[0])
            if verdict is Admission.REFUSED:
                self.counts["cut_off"] += 1
                connection.mux.fail("no longer admitted")
            else:
                self._admit(connection, verdict)

    # -- taking connections in ----------------------------------------------------------------------------

    def _judge(self, public: bytes, wire: Wire) -> Admission:
        verdict = Admission.REFUSED if public == self.public else self._gate(public, wire.remote[0])
        if verdict is Admission.REFUSED:
            self.counts["refused"] += 1
            raise Denied(f"{peer_id_of(public)} is not admitted")
        return verdict

    async def _enter(self, wire: Wire) -> MuxConnection:
        """Do the handshake of a connection that came in, and keep it if it may stay."""
        sealed = await self._inbound(wire, lambda public: self._make_place(public, self._judge(public, wire)))
        # Asked again: the peer may have been removed while it finished the handshake.
        return self._take_in(wire, sealed, self._judge(sealed.public, wire))

    def _make_place(self, public: bytes, verdict: Admission) -> None:
        inbound = [each for each in self._all if not each.outbound and each.admission is verdict]
        if verdict is Admission.STRANGER:
            if len(inbound) >= self.limits.strangers_max:
                self.counts["strangers_gave_way"] += 1
                min(inbound, key=lambda each: each.opened_at).mux.fail("other strangers want to join")
        elif len(inbound) >= self.limits.inbound_max and public not in self._peers:
            self.counts["full"] += 1
            raise Denied(f"already {self.limits.inbound_max} inbound connections")

    def _take_in(self, wire: Wire, sealed: Sealed, verdict: Admission) -> MuxConnection:
        connection = MuxConnection(
            wire, sealed, self.limits, start=self._start, accept=self._accept, ended=self._ended
        )
        self._admit(connection, verdict)
        held = self._peers.get(connection.public)
        if held is not None and self._yields(connection, held):
            self.counts["yielded"] += 1
            connection.mux.say_goodbye()
            connection.mux.fail("another connection is up")
            return held
        self._all.add(connection)
        self._peers[connection.public] = connection
        if held is not None:
            self.counts["replaced"] += 1
            if held.relayed and not connection.relayed:
                self._start(self._drain, held)
            else:
                held.mux.say_goodbye()
                held.mux.fail("replaced by a newer connection")
        self.counts["outbound" if connection.outbound else "inbound"] += 1
        self._start(self._hold, connection)
        self._tell(self.on_connected, connection)
        return connection

    def _yields(self, new: MuxConnection, held: MuxConnection) -> bool:
        """Whether a new connection is the surplus one: relayed beside a direct one, or one of two that both
        ends dialled at once.

        Who comes through a relay long after the direct connection was made has given that one up: the way
        is dead, though we may not have noticed yet.
        """
        if new.relayed != held.relayed:
            fresh = new.opened_at - held.opened_at < self.limits.simultaneous_s
            return new.relayed and (new.outbound or fresh)
        if new.outbound == held.outbound or new.opened_at - held.opened_at >= self.limits.simultaneous_s:
            return False
        opener = self.public if new.outbound else new.public
        return opener != min(self.public, new.public)

    async def _drain(self, connection: MuxConnection) -> None:
        """A direct connection has replaced a relayed one: what is open on that may come to its end."""
        with trio.move_on_after(DRAIN_S):
            while connection.mux.stream_count and not connection.closed:
                await trio.sleep(DRAIN_LOOK_S)
        await connection.close("replaced by a direct connection")

    def _admit(self, connection: MuxConnection, verdict: Admission) -> None:
        connection.admission = verdict
        stranger = verdict is Admission.STRANGER
        connection.mux.streams_max = self.limits.stranger_streams_max if stranger else self.limits.streams_max

    async def _hold(self, connection: MuxConnection) -> None:
        async with trio.open_nursery() as nursery:
            if connection.admission is Admission.STRANGER and not connection.outbound:
                nursery.start_soon(self._send_off, connection)
            try:
                await connection.mux.run()
            except Exception:
                _logger.exception("connection with %s", connection.peer_id)
            nursery.cancel_scope.cancel()

    async def _send_off(self, connection: MuxConnection) -> None:
        await trio.sleep(self.limits.stranger_s)
        if connection.admission is Admission.STRANGER:
            self.counts["strangers_timed_out"] += 1
            connection.mux.fail("it stayed a stranger")

    def _ended(self, connection: MuxConnection) -> None:
        if connection in self._all:
            self._all.remove(connection)
            if self._peers.get(connection.public) is connection:
                del self._peers[connection.public]
            _logger.debug("connection with %s ended: %s", connection.peer_id, connection.why)
            self._tell(self.on_disconnected, connection)

    def _tell(self, callback: Callback | None, connection: MuxConnection) -> None:
        if callback is not None:
            try:
                callback(connection)
            except Exception:
                _logger.exception("callback about %s", connection.peer_id)

    # -- serving streams ----------------------------------------------------------------------------------

    def _accept(self, connection: MuxConnection, stream: MuxStream) -> None:
        self._start(self._serve, connection, stream)

    async def _serve(self, connection: MuxConnection, stream: MuxStream) -> None:
        """Run the handler of one stream. Whatever it raises ends that stream and nothing else."""
        stranger = connection.admission is Admission.STRANGER
        try:
            with trio.fail_after(self.limits.negotiate_s):
                await stream.accept(self._for_strangers if stranger else self._handlers)
            await self._handlers[stream.protocol](stream)
            await connection.mux.linger(stream)
            return
        except (MeshError, trio.TooSlowError) as error:
            self.counts["streams_failed"] += 1
            _logger.debug("stream %s of %s: %s", stream.protocol, connection.peer_id, error)
        except Exception:
            self.counts["handlers_raised"] += 1
            _logger.exception("handler of %s, called by %s", stream.protocol, connection.peer_id)
        finally:
            if not (stream.fin_sent and stream.error is None):
                await stream.reset()

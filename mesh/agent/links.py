"""Which links are up, and keeping up those that are wanted.

The overlay says who should be linked with us; here each is dialled until it is, with full-jitter backoff
(1, 2, 4 … 30 s). A link in nobody's interest is closed after a minute. While no link is up at all, or a
wanted member cannot be reached at its known addresses, what discovery found is dialled too: that is how
a new device meets its first member.

A link that comes up twice (both ends dialled at once) is kept once: the one opened by the lower id. A
second link opened by the same end replaces the first, whose process is gone; so does one that goes through a
relay where the first does not, or the reverse: the host has judged which connection counts (`ways.py`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

import trio

from mesh.agent.lasting import lasting, sparing
from mesh.agent.session import DENIED, Hooks, Session, TurnedAway, Wire, read_hello, say_hello
from mesh.agent.targets import Dial, Latest, Targets
from mesh.agent.ways import DIAL_DEADLINE_S, Ways, race
from mesh.core.vitals import DialResult
from mesh.errors import Denied, MeshError, PeerError, TimedOut, Unreachable, leaves
from mesh.identity.certs import OutOfDate
from mesh.identity.keys import peer_id_of
from mesh.net.address import parse
from mesh.net.base import Host, Refused
from mesh.wire import frames, messages, protocols

log = logging.getLogger(__name__)

DIALS_MAX = 32
RELAY_AFTER_S = 3.0
UNWANTED_AFTER_S = 60.0
LASTING_S = 5.0
DROPPED_AGAIN_S = (0.0, 0.02, 0.04, 0.08)
ADDRESSES_MAX = 8
FAILED_MAX = 256


class Links:
    """All links of one node.

    Args:
        me: our aid.
        addresses_of: known multiaddrs of a member, best first.
        public_of_member: public key of an aid, or None.
        seen_by: who is linked with a member, as far as we were told.

    Attributes:
        failures, failed_at: (peer id or) address dialled -> why, and when, its last dial failed.
        worked: aid -> the address at which it answered.
    """

    def __init__(
        self,
        me: bytes,
        hooks: Hooks,
        addresses_of: Callable[[bytes], Iterable[str]],
        public_of_member: Callable[[bytes], bytes | None],
        seen_by: Callable[[bytes], Collection[bytes]],
        rng: random.Random,
    ) -> None:
        self._host: Host
        self._me = me
        self._hooks = hooks
        self._addresses_of = addresses_of
        self._public_of = public_of_member
        self.sessions: dict[bytes, Session] = {}
        self.ways = Ways(addresses_of, self._carriers, seen_by, rng)
        self._targets = Targets(me, public_of_member, rng)
        self._unwanted_since: dict[bytes, float] = {}
        self._moved = trio.Event()
        self._slots = trio.CapacityLimiter(DIALS_MAX)
        self.failures, self.failed_at = Latest[str](FAILED_MAX), Latest[tuple[float, str]](FAILED_MAX)
        self.worked: dict[bytes, str] = {}

    def use(self, host: Host) -> None:
        """The host is made after the links, because loading it takes most of a start."""
        self._host = host
        self.ways.use(host)

    # -- what others say --------------------------------------------------------------------------------

    @property
    def wanted(self) -> frozenset[bytes]:
        """The overlay's neighbours."""
        return self._targets.wanted

    def want(self, aids: Iterable[bytes]) -> None:
        """The overlay's neighbours changed."""
        wanted = frozenset(aids) - {self._me}
        if wanted != self.wanted:
            self._targets.wanted = wanted
            self._moved.set()

    def found(self, public: bytes | None, address: str) -> None:
        """Discovery found somebody at an address; who, may not be known."""
        if self._targets.found(public, address):
            self._moved.set()

    def dial_now(self, aid: bytes) -> None:
        """Dial a member whether the overlay wants it or not, and forget its backoff: it was heard of.

        This is how the sides of a split meet again: each holds the other for dead.
        """
        if aid not in self.sessions:
            self._targets.seek(aid, trio.current_time())
            self._moved.set()

    def vouch(self, aid: bytes, host: str, port: int) -> None:
        """A member's agent answered by datagram from here: an address of its own, if it names this, works.

        An agent listens to streams and datagrams on one port, so a later refusal there means that it is gone,
        also to those whom it has always dialled itself.
        """
        if aid in self.worked:
            return
        for address in self._addresses_of(aid):
            with suppress(MeshError):
                where = parse(address)
                if (where.host, where.port) == (host, port):
                    self.worked[aid] = address
                    return

    def forget(self, aid: bytes) -> None:
        """It is no member any more."""
        self._targets.drop(aid)
        self.worked.pop(aid, None)

    async def close(self, aid: bytes, why: str) -> None:
        """End a link and its connection."""
        session = self.sessions.get(aid)
        if session is not None:
            await session.end(why)
            await self._host.close_peer(session.wire.public)

    # -- keeping up -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Dial what is wanted and not up; end what is up and not wanted. Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._moved = trio.Event()
                now = trio.current_time()
                due = now + UNWANTED_AFTER_S
                for target, dial in self._targets.due(self.sessions, self._host.addresses, now):
                    if dial.running:
                        continue
                    if dial.next_at <= now:
                        dial.running = True
                        nursery.start_soon(sparing, self._dial, target, dial)
                    else:
                        due = min(due, dial.next_at)
                due = min(due, self._end_unwanted(nursery, now))
                with trio.move_on_at(due):
                    await self._moved.wait()

    def _end_unwanted(self, nursery: trio.Nursery, now: float) -> float:
        due = float("inf")
        for aid in list(self.sessions):
            if aid in self.wanted:
                self._unwanted_since.pop(aid, None)
                continue
            since = self._unwanted_since.setdefault(aid, now)
            if since + UNWANTED_AFTER_S <= now and self.wanted & self.sessions.keys():
                self._unwanted_since.pop(aid)
                nursery.start_soon(sparing, self.close, aid, "not wanted by the overlay")
            else:
                due = min(due, max(since + UNWANTED_AFTER_S, now + 1.0))
        return due

    async def _dial(self, target: bytes | str, dial: Dial) -> None:
        name = target if isinstance(target, str) else peer_id_of(target)
        try:
            async with self._slots:
                if isinstance(target, str):
                    await self._meet(target)
                else:
                    await self.connect(target)
            self.failures.pop(name, None)
        except MeshError as error:
            self.failures[name] = error.message
            log.debug("dialling %s failed: %s", name, error.message)
        finally:
            self._targets.tried(dial, trio.current_time())
            self._moved.set()

    async def _meet(self, address: str) -> None:
        """Dial an address of which only the place is known; the handshake says who lives there."""
        with self._judged(address):
            connection = await self._host.dial(address, None, deadline_s=DIAL_DEADLINE_S)
            aid = connection.public[:16]
            if aid == self._me:
                self._targets.ourselves(address)
                await connection.close("this is ourselves")
            elif aid not in self.sessions:
                await self._link(connection.public, address)

    @contextmanager
    def _judged(self, address: str) -> Iterator[None]:
        """Keep how the last dial of an address ended, for whoever asks why nobody is met there."""
        self.failed_at.pop(address, None)
        try:
            yield
        except MeshError as error:
            self.failed_at[address] = (trio.current_time(), error.message)
            raise

    async def _link(self, public: bytes, address: str | None) -> None:
        """Say hello on a connection that stands, and hold the link in the background.

        That goes on when the caller's time is up: the other end, which may be slow to answer, takes a new
        link for the one that counts once it is greeted, and one that was given up here would cost both.
        """
        greeted = trio.Event()
        errors: list[MeshError] = []

        async def begin() -> None:
            try:
                wire = await self._host.open(public, protocols.LINK, deadline_s=DIAL_DEADLINE_S)
                session = await self._greet(wire, dialled=True)
            except MeshError as error:
                errors.append(error)
                return
            finally:
                greeted.set()
            if address is not None:
                self.worked[session.aid] = address
            await self._hold(session)

        self._nursery.start_soon(sparing, begin)
        await greeted.wait()
        if errors:
            raise errors[0]

    async def connect(self, public: bytes, *, anew: bool = False) -> None:
        """Connect with a member, at its known addresses or through another, and link with it.

        The ways to it race, not the links: of two links the other end would take the second for the one that
        counts, and the way that won would end that.

        Args:
            anew: make another connection and link even if one stands, and at its addresses only.

        Raises:
            Unreachable: no address answered.
            Denied: it answered, and refused us or was refused by us.
        """
        address: str | None = None

        async def directly() -> None:
            nonlocal address
            address = await self._dial_known(public, anew=anew)

        if anew:
            await directly()
        else:
            await race(directly, lambda: self.ways.relayed(public), RELAY_AFTER_S)
        if address is not None:
            with self._judged(address):
                await self._link(public, address)
        elif public[:16] not in self.sessions:
            await self._link(public, None)

    async def _dial_known(self, public: bytes, *, anew: bool) -> str | None:
        """Connect at the first address that answers; which, or None if a link has come up meanwhile."""
        addresses = list(dict.fromkeys([*self._addresses_of(public[:16]), *self._targets.found_at(public)]))
        last: MeshError = Unreachable(f"no address of {peer_id_of(public)} is known")
        for address in addresses[:ADDRESSES_MAX]:
            if public[:16] in self.sessions and not anew:
                return None
            try:
                with self._judged(address):
                    await self._host.dial(address, public, deadline_s=DIAL_DEADLINE_S)
                return address
            except Denied:
                raise
            except MeshError as error:
                last = error
        raise last

    def _carriers(self) -> list[bytes]:
        return [session.wire.public for session in self.sessions.values() if not session.relayed]

    async def _returned(self, public: bytes, address: str) -> None:
        """A direct way stands to somebody whom we reached through others: the link moves there."""
        session = self.sessions.get(public[:16])
        if session is not None and session.relayed:
            await self._link(public, address)

    async def _connect_at(self, public: bytes, address: str) -> None:
        with self._judged(address):
            await self._host.dial(address, public, deadline_s=DIAL_DEADLINE_S)
            await self._link(public, address)

    async def redial(self, aid: bytes, deadline_s: float) -> DialResult:
        """Dial a member once more, to know whether its agent answers.

        REFUSED only if the address that worked before refuses: the host is there, the agent is not. What its
        other addresses say is no evidence: a container's bridge has the same address on every computer.
        """
        public = self._public_of(aid)
        if public is None:
            return DialResult.TIMED_OUT
        address = self.worked.get(aid)
        with trio.move_on_after(max(0.0, deadline_s)):
            try:
                if address is not None:
                    result = await self._redial_at(public, address)
                    if result is not None:
                        return result
                await self.connect(public, anew=True)
                return DialResult.OK
            except MeshError as error:
                log.debug("redialling %s failed: %s", peer_id_of(public), error.message)
        return DialResult.TIMED_OUT

    async def _redial_at(self, public: bytes, address: str) -> DialResult | None:
        """Try one address; None if that tells nothing.

        A process that is killed closes its links some milliseconds before the socket it listens on, which
        meanwhile takes a connection up and drops it. So one that is dropped at once is tried again.
        """
        for pause_s in DROPPED_AGAIN_S:
            await trio.sleep(max(0.0, pause_s))
            try:
                await self._connect_at(public, address)
                return DialResult.OK
            except Refused:
                return DialResult.REFUSED
            except TimedOut:
                return None
            except Unreachable as error:
                log.debug("redialling %s at %s: %s", peer_id_of(public), address, error.message)
        return None

    # -- holding ----------------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the links that we dial, and keep dialling. Until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.run)
            self._nursery.start_soon(lasting, self.ways.keep_returning, self._returned)
            task_status.started()

    async def accept(self, wire: Wire) -> None:
        """Handler of the link protocol: returns when the link ends."""
        try:
            session = await self._greet(wire, dialled=False)
        except MeshError as error:
            log.info("refused a link from %s: %s", peer_id_of(wire.public), error.message)
            return
        await self._hold(session)

    async def _greet(self, wire: Wire, *, dialled: bool) -> Session:
        mine = self._hooks.hello()
        try:
            if dialled:
                await say_hello(wire, mine)
            hello, reader = await read_hello(wire, mine)
            await self._hooks.welcome(wire, hello)
            if not dialled:
                await say_hello(wire, self._hooks.hello())
        except BaseException as error:
            if isinstance(error, TurnedAway):
                self._hooks.turned_away(wire.public, error.bye)
            if isinstance(error, MeshError):
                await self._part(wire, error)
            else:
                with trio.CancelScope(shield=True):
                    await wire.reset()
            raise
        return Session(wire, hello, reader, dialled=dialled, now=trio.current_time())

    async def _part(self, wire: Wire, error: MeshError) -> None:
        try:
            if isinstance(error, Denied) and not isinstance(error, TurnedAway):
                proof, passing = self._hooks.proof_against(wire.public), isinstance(error, OutOfDate)
                bye = messages.Bye(DENIED + error.message[:200], proof, passing)
                await wire.send(frames.pack(messages.encode(bye)))
                await wire.close()
            else:
                await wire.reset()
        except MeshError:
            await wire.reset()

    def _yields(self, session: Session) -> bool:
        """Whether a new link must give way to the one that is up."""
        held = self.sessions.get(session.aid)
        if held is None or held.eof or held.dialled == session.dialled or held.relayed != session.relayed:
            return False
        opener = self._me if session.dialled else session.aid
        return opener != min(self._me, session.aid)

    async def _hold(self, session: Session) -> None:
        if self._yields(session):
            await session.end("another link is up")
            return
        await trio.lowlevel.checkpoint_if_cancelled()  # at a stop nobody is left to take up a new link
        held = self.sessions.get(session.aid)
        self.sessions[session.aid] = session
        if held is not None:
            self._hooks.link_down(held, "replaced")
            await held.wire.reset()
        why = "ended by the neighbour"
        try:
            self._hooks.link_up(session)
            session.wake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.write, lambda whole: self._pull(session, whole))
                await session.read(lambda body: self._hooks.frame(session, body))
                nursery.cancel_scope.cancel()
        except* PeerError as group:
            why = f"broke the protocol: {leaves(group)[0]!s}"
            log.warning("link with %s closed: it %s", peer_id_of(session.wire.public), why)
        except* MeshError as group:
            why = str(leaves(group)[0])
            session.eof = session.eof or any(isinstance(e, Unreachable) for e in leaves(group))
        except* Exception:
            # Whatever a neighbour said that nobody foresaw costs its link, and never the agent.
            why = "what it sent could not be handled here"
            log.exception("link with %s closed: %s", peer_id_of(session.wire.public), why)
        finally:
            if self.sessions.get(session.aid) is session:
                del self.sessions[session.aid]
                self._hooks.link_down(session, why)
                if trio.current_time() - session.since >= LASTING_S:
                    self._targets.forget(session.aid)  # else who refuses us would be dialled without a pause
                self._moved.set()
            with trio.CancelScope(shield=True):
                await session.wire.reset()

    def _pull(self, session: Session, whole: bool) -> list[bytes]:
        """What to send on a link; nothing on one that was replaced, it would be lost with it."""
        return self._hooks.pull(session.aid, whole) if self.sessions.get(session.aid) is session else []

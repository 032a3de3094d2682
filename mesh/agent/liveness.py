"""Carries out what `core/liveness.py` decides: probes by datagram and stream, redials, leases, accusations.

Actions are performed in their order. One of them, `PersistIncarnation`, must be on disk before those behind
it take effect, so they wait in line for that commit; nothing else here waits for a disk or the network.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import trio

from mesh.agent.author import Author, Statement
from mesh.agent.drive import Drive
from mesh.agent.lasting import sparing
from mesh.agent.links import Links
from mesh.agent.session import Session
from mesh.config import Config, timing
from mesh.core import lease as words
from mesh.core import vitals
from mesh.core.liveness import Liveness
from mesh.core.record import LIVE, Kind, Op, Record
from mesh.core.rings import Place
from mesh.core.vitals import LivenessConfig
from mesh.errors import MeshError, PeerError
from mesh.store.store import Store, Txn
from mesh.store.watch import Change
from mesh.wire import messages

log = logging.getLogger(__name__)

INCARNATION_META = "incarnation"
QUEUE_MAX = 4096
WAITING_MAX = 65_536
SUSPEND_S = 0.1
SLEPT_APART_S = 0.001  # of two readings of a clock: nothing came between
SLEPT_READS_MAX = 10


def liveness_of(config: Config) -> LivenessConfig:
    """The profile's numbers, those of the configuration put in their place."""
    times, membership = timing(config.membership), config.membership
    return msgspec.structs.replace(
        vitals.profile(membership.profile),
        interval_s=times.probe_interval_s,
        miss_s=times.miss_s,
        confirm_s=times.confirm_s,
        lease_s=times.lease_s,
        flap_window_s=membership.flap_window_s,
        flap_hold_s=membership.hold_down_s,
    )


class Datagrams(Protocol):
    """The part of `mesh.net.datagram.Datagrams` that probes need."""

    def send_nowait(self, public: bytes, address: tuple[str, int], payload: bytes) -> None: ...


def slept_s() -> float:
    """Seconds this computer was suspended since it booted, where the system tells; constant but for that.

    Read between two readings of the other clock, again if they are apart: a busy system may take the
    processor away just there, for longer than a suspend that counts.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return 0.0
    found = []
    for _ in range(SLEPT_READS_MAX):
        before = time.clock_gettime(time.CLOCK_MONOTONIC)
        booted = time.clock_gettime(boottime)
        apart = time.clock_gettime(time.CLOCK_MONOTONIC) - before
        found.append((apart, booted - before))
        if apart < SLEPT_APART_S:
            break
    return min(found)[1]


class Awake:
    """A liveness machine that is told of suspends before anything else: the loop's clock stood still too."""

    def __init__(self, machine: Liveness) -> None:
        self._machine = machine
        self._slept_s = slept_s()
        self.deadline = machine.deadline

    def handle(self, event: vitals.Event, now: float) -> list[vitals.Action]:
        return [*self._wake(now), *self._machine.handle(event, now)]

    def tick(self, now: float) -> list[vitals.Action]:
        return [*self._wake(now), *self._machine.tick(now)]

    def _wake(self, now: float) -> list[vitals.Action]:
        slept = slept_s()
        late, self._slept_s = slept - self._slept_s, slept
        return self._machine.handle(vitals.LoopLate(late), now) if late > SUSPEND_S else []


class Vitality:
    """The liveness of one node.

    Args:
        endpoint_of: where to send a member's datagrams, or None.
        public_of: public key of a member.
        capacity: load (0 to 1, or None) and free resources, for the lease.
        on_state: told of every change of a member's state.
        on_lease: told of every lease of another member: (aid, hlc, incarnation).
    """

    def __init__(
        self,
        config: LivenessConfig,
        me: bytes,
        mesh_id: bytes,
        place: Place,
        rng: random.Random,
        *,
        store: Store,
        author: Author,
        links: Links,
        endpoint_of: Callable[[bytes], tuple[str, int] | None],
        public_of: Callable[[bytes], bytes | None],
        capacity: Callable[[], tuple[float | None, dict[str, float]]],
        on_state: Callable[[vitals.StateChanged], None],
        on_lease: Callable[[bytes, int, int], None],
    ) -> None:
        self._me = me
        self._store = store
        self._author = author
        self._links = links
        self._endpoint_of = endpoint_of
        self._public_of = public_of
        self._capacity = capacity
        self._on_state = on_state
        self._on_lease = on_lease
        self._datagrams: Datagrams | None = None
        self._waiting: deque[vitals.Action] = deque(maxlen=WAITING_MAX)
        self._persisting = False
        self._nursery: trio.Nursery | None = None
        self._replied_from: dict[bytes, tuple[str, int]] = {}
        stored = store.meta(INCARNATION_META)
        incarnation = int.from_bytes(stored, "big") if stored else 0
        now = trio.current_time()
        self.machine = Liveness(config, me, mesh_id, place, rng, incarnation, now)
        self.drive = Drive(Awake(self.machine), self._perform)
        self._published_inc = 0
        self.status: tuple[words.Status, int | None] = (words.Status.UP, None)

    async def run(
        self, datagrams: Datagrams | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Judge and be judged, until cancelled."""
        self._datagrams = datagrams
        async with trio.open_nursery() as self._nursery:
            self._go_on()
            task_status.started()
            try:
                await self.drive.run()
            finally:
                self._nursery = None  # what is still heard begins nothing more

    # -- what comes in ----------------------------------------------------------------------------------

    def members_changed(self, joined: Iterable[tuple[bytes, Place]], removed: Iterable[bytes]) -> None:
        """The member table moved. A link may stand before its other end is known as a member."""
        joined = tuple(joined)
        removed = tuple(removed)
        for aid in removed:
            self._replied_from.pop(aid, None)
        self.drive.handle(vitals.MembersChanged(joined, removed))
        for aid, _ in joined:
            if aid in self._links.sessions:
                self.drive.handle(vitals.LinkUp(aid))
        self._links.want(self.machine.wanted())

    def datagram(self, aid: bytes, address: tuple[str, int], payload: bytes) -> None:
        """A sealed datagram of a member was opened."""
        try:
            probe = vitals.decode_probe(payload)
        except PeerError:
            return
        if probe is None:
            return
        if self._replied_from.get(aid) != address and len(self._replied_from) < QUEUE_MAX:
            self._replied_from[aid] = address
        self._links.vouch(aid, *address)
        self.drive.handle(vitals.DatagramHeard(aid, probe))

    def frame(self, session: Session, message: messages.Message | None) -> None:
        """A frame came on a held link, whatever it was; None: this version does not know."""
        probe = None
        if isinstance(message, messages.Probe):
            probe = vitals.decode_probe(message.payload)
        if probe is None and self.machine.frame(session.aid, trio.current_time()):
            self.drive.counts["FrameHeard"] += 1
            self.drive.nudge()
        else:
            self.drive.handle(vitals.FrameHeard(session.aid, probe))

    def link_up(self, session: Session) -> None:
        self.drive.handle(vitals.LinkUp(session.aid))

    def link_down(self, session: Session) -> None:
        self.drive.handle(vitals.LinkDown(session.aid, session.eof))

    def changed(self, changes: Iterable[Change]) -> None:
        """Records at `node/` in the live scope changed."""
        for change in changes:
            if change.scope == LIVE and change.path.startswith(words.PATH_PREFIX):
                try:
                    self._record(change)
                except PeerError as error:
                    log.debug("nonsense at %s by %s: %s", change.path, change.aid.hex(), error.message)

    def _record(self, change: Change) -> None:
        subject, rec = words.subject_of(change.path), change.record
        if rec is None or rec.op != Op.PUT:
            if subject != change.aid:
                self.drive.handle(vitals.AccusationWithdrawn(subject, change.aid))
        elif subject == change.aid:
            if subject != self._me:
                lease = words.decode_lease(rec.val)
                self._on_lease(subject, rec.hlc, lease.inc)
                self.drive.handle(vitals.LeaseArrived(subject, lease, rec.hlc))
        else:
            charge = words.decode_accusation(rec.val)
            self.drive.handle(vitals.AccusationArrived(subject, change.aid, charge.inc, charge.evidence))

    def is_urgent(self, rec: Record) -> bool:
        """Whether a live record is flooded past quiet links: accusations, and leases that refute one."""
        if not rec.path.startswith(words.PATH_PREFIX):
            return False
        if rec.path != words.path_of(rec.aid):
            return True
        if rec.aid == self._me:
            inc = rec.val.get("inc", 0) if isinstance(rec.val, dict) else 0
            fresh = inc != self._published_inc
            self._published_inc = inc
            return fresh
        member = self.machine.board.members.get(rec.aid)
        inc = rec.val.get("inc") if isinstance(rec.val, dict) else None
        return member is not None and isinstance(inc, int) and inc > member.inc

    def set_status(self, status: words.Status, until_ms: int | None = None) -> None:
        """Our own flag: up, cordon, drain, sleep or left."""
        self.status = (status, until_ms)
        self.drive.handle(vitals.StatusSet(status, until_ms))

    def say_again(self) -> None:
        """Publish the lease anew: a neighbour knows a newer one of ours than we do."""
        self.set_status(*self.status)

    # -- what goes out ----------------------------------------------------------------------------------

    def _perform(self, action: vitals.Action) -> None:
        if self._persisting or self._nursery is None:  # links and orders may come before `run`
            self._waiting.append(action)
        elif isinstance(action, vitals.PersistIncarnation):
            self._persisting = True
            self._nursery.start_soon(self._persist, action.inc)
        else:
            self._act(action)

    async def _persist(self, inc: int) -> None:
        def job(txn: Txn) -> None:
            txn.put_meta(INCARNATION_META, inc.to_bytes(8, "big"))

        try:
            await self._store.write(job, spare=True)
        except MeshError as error:
            # Without a disk the refutation is still better said; after a restart the node raises it again.
            log.error("the incarnation cannot be stored: %s", error.message)
        self._persisting = False
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and not self._persisting:
            self._perform(self._waiting.popleft())

    def _act(self, action: vitals.Action) -> None:
        match action:
            case vitals.SendDatagram(aid=aid, probe=probe):
                self._send_datagram(aid, probe)
            case vitals.SendFrame(aid=aid, probe=probe):
                session = self._links.sessions.get(aid)
                if session is not None:
                    session.send_nowait(messages.Probe(vitals.encode_probe(probe)))
            case vitals.PublishLease(lease=lease, ttl_s=ttl_s):
                self._publish(lease, ttl_s)
            case vitals.Accuse(subject=subject, inc=inc, evidence=evidence, ttl_s=ttl_s):
                value = words.encode_accusation(words.Accusation(inc, evidence))
                self._say(subject, Op.PUT, value, ttl_s)
            case vitals.Withdraw(subject=subject, ttl_s=ttl_s):
                self._say(subject, Op.VOID, None, ttl_s)
            case vitals.StateChanged():
                self._links.want(self.machine.wanted())
                self._on_state(action)
            case _:
                self._reach(action)

    def _reach(self, action: vitals.Action) -> None:
        assert self._nursery is not None
        match action:
            case vitals.Redial(aid=aid, deadline_s=deadline_s):
                self._nursery.start_soon(sparing, self._redial, aid, deadline_s)
            case vitals.DialNow(aid=aid, replace=replace):
                self._links.want(self.machine.wanted())
                if replace and aid in self._links.sessions:
                    self._nursery.start_soon(sparing, self._redial_quietly, aid)
                else:
                    self._links.dial_now(aid)
            case vitals.CloseLink(aid=aid, why=why):
                self._nursery.start_soon(sparing, self._links.close, aid, why)
            case _:
                raise AssertionError(action)

    def _send_datagram(self, aid: bytes, probe: vitals.AnyProbe) -> None:
        public, address = self._public_of(aid), self._replied_from.get(aid) or self._endpoint_of(aid)
        if self._datagrams is not None and public is not None and address is not None:
            self._datagrams.send_nowait(public, address, vitals.encode_probe(probe))

    def _publish(self, lease: words.Lease, ttl_s: float) -> None:
        load, free = self._capacity()
        value = words.encode_lease(words.Lease(lease.inc, lease.st, lease.until_ms, lease.steady, load, free))
        self._say(self._me, Op.PUT, value, ttl_s)

    def _say(self, subject: bytes, op: Op, value: object, ttl_s: float) -> None:
        ttl = int(ttl_s * 1000)
        self._author.say_live([Statement(words.path_of(subject), Kind.ALL, value, op, ttl)])

    async def _redial(self, aid: bytes, deadline_s: float) -> None:
        self.drive.handle(vitals.RedialFinished(aid, await self._links.redial(aid, deadline_s)))

    async def _redial_quietly(self, aid: bytes) -> None:
        await self._links.redial(aid, self.machine.config.miss_s * 2)

"""Carries out what `core/dissemination.py` decides: verifies, stores, and reports back.

    frame → decode → verify (off the loop when large) → machine → Apply → one writer job → Applied → machine

Deltas of one link are applied in their order, several to a commit; while a commit runs the reader goes on
verifying, and a full queue stops it reading: the stream's flow control is the backpressure on the peer.
Signatures are checked before anything else is believed; a bad one blames the link, never the author.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping

import msgspec
import trio

from mesh.agent.drive import Drive
from mesh.agent.holders import Holders
from mesh.agent.session import Session
from mesh.agent.subscribers import is_awaited
from mesh.core import dissemination as core
from mesh.core import record, sync, tidings
from mesh.core.log import AuthorState, Log
from mesh.core.record import LIVE, Record
from mesh.core.topics import HEARD_WEIGHT, Pace
from mesh.errors import MeshError, PeerError
from mesh.store.store import Store, Txn
from mesh.wire import messages
from mesh.wire.messages import Delta

log = logging.getLogger(__name__)

INLINE_VERIFY_MAX = 8
APPLY_QUEUE = 16
TAKES_S = 2.0
OWN_PARTS_MAX = 1_000_000
UNKNOWN_MAX = 1024


class Gate(msgspec.Struct, frozen=True):
    """What the directory of members knows, as dissemination asks it.

    Attributes:
        public_of: public key of a known author, or None.
        introduce: the public key inside an unknown author's own member record, or None.
        limits: quota, certificate and removal of an author, as `sync.receive` judges by them.
        urgent: whether a live record is flooded past quiet links.
    """

    public_of: Callable[[bytes], bytes | None]
    introduce: Callable[[Record], bytes | None]
    limits: Callable[[bytes], sync.Limits]
    urgent: Callable[[Record], bool]


class _Job(msgspec.Struct):
    delta: Delta
    records: list[Record]


class Spread:
    """Dissemination of one node.

    Args:
        wall_ms: mesh time, unix milliseconds.
        alarm: called with (kind, aid, text) when an author or a neighbour misbehaves.
        clash: called with (scope, one, other): two records of an author under one stamp.
        recover: takes back what a neighbour's whole answer about ourselves holds and we forgot.
        remembered: called with a scope: a neighbour holds exactly what we hold of ourselves.
        own_offered: called with (scope, records) when a neighbour knows of ourselves what we do not hold;
            returns from which stamp on to ask it for our own log, or None.
    """

    def __init__(
        self,
        store: Store,
        me: bytes,
        mesh_id: bytes,
        zone: str,
        gate: Gate,
        wall_ms: Callable[[], int],
        alarm: Callable[[str, bytes, str], None],
        own_offered: Callable[[str, sync.Own], int | None],
        clash: Callable[[str, Record, Record], None],
        recover: Callable[[str, list[Record], bool], Awaitable[object]],
        remembered: Callable[[str], None],
        fences: Mapping[str, int],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._me = me
        self._mesh_id = mesh_id
        self._zone = zone
        self._gate = gate
        self._wall_ms = wall_ms
        self._alarm = alarm
        self._own_offered = own_offered
        self._clash = clash
        self._recover = recover
        self._remembered = remembered
        self._own_parts: dict[tuple[bytes, str], list[Record]] = {}
        self._tags = {scope: record.scope_tag(scope, zone) for scope in record.SCOPES}
        self.machine = core.Dissemination(me, record.SCOPES, store.read, rng, fences=fences)
        self.drive = Drive(self.machine, self._perform)
        self._sessions: dict[bytes, Session] = {}
        self._queues: dict[bytes, trio.MemorySendChannel[_Job]] = {}
        self._resets: dict[tuple[bytes, str, bytes], sync.ResetParts] = {}
        self._frozen: set[bytes] = set()
        self._unknown: dict[tuple[str, bytes], bytes] = {}
        self._holders = Holders()
        self._todo: list[tuple[bytes, _Job]] = []
        self._pace = Pace()
        self._hurried = False
        self.counts: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tick the machine and apply what links bring, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self.drive.run()

    # -- links ------------------------------------------------------------------------------------------

    def link_up(self, session: Session) -> None:
        """A link is ready in both directions."""
        assert self._nursery is not None
        send, receive = trio.open_memory_channel[_Job](APPLY_QUEUE)
        self._sessions[session.aid] = session
        self._holders.link_up(session.aid)
        self._queues[session.aid] = send
        self._nursery.start_soon(self._apply_all, session.aid, receive)
        shared = self.machine.scopes if session.hello.zone == self._zone else (record.MESH,)
        roots = {scope: root for scope, root in session.hello.roots.items() if scope in shared}
        self.drive.handle(tidings.LinkUp(session.aid, roots, asks=not session.dialled))

    def link_down(self, session: Session) -> None:
        """A link ended; what it brought whole is still applied."""
        if self._sessions.get(session.aid) is session:
            del self._sessions[session.aid]
            self._queues.pop(session.aid).close()
            self._holders.link_down(session.aid)
            for key in [key for key in self._resets if key[0] == session.aid]:
                del self._resets[key]
            for own in [own for own in self._own_parts if own[0] == session.aid]:
                del self._own_parts[own]
            self.drive.handle(tidings.LinkDown(session.aid))

    async def frame(self, session: Session, message: messages.Message, body: bytes) -> None:
        """Take one message of a neighbour.

        Raises:
            PeerError: it broke the protocol in a way that ends the link.
        """
        if isinstance(message, Delta):
            await self._delta(session, message, body)
        else:
            self.drive.handle(tidings.Received(session.aid, message))

    async def _delta(self, session: Session, delta: Delta, body: bytes) -> None:
        if delta.scope not in self._tags or delta.aid in self._frozen:
            return
        records = await self._verified(session, delta)
        if records is None:
            return
        urgent = delta.scope == LIVE and any(self._gate.urgent(rec) for rec in records)
        verified = tidings.DeltaVerified(session.aid, delta, records, body, urgent)
        self._handle_live(verified, delta.scope, records)
        await self._drain()

    async def _drain(self) -> None:
        """Hand the jobs the machine decided on to the link's applier; waits when its queue is full.

        One that cannot be handed over, because its link ended or we did, is refused: the machine counts it as
        accepted, and would look for it nowhere else.
        """
        while self._todo:
            link, job = self._todo.pop(0)
            queue, handed = self._queues.get(link), False
            try:
                if queue is not None:
                    await queue.send(job)
                    handed = True
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                pass  # the link ended while its queue was full
            finally:
                if not handed:
                    self._refuse(link, [job])

    # -- verifying --------------------------------------------------------------------------------------

    async def _verified(self, session: Session, delta: Delta) -> list[Record] | None:
        public = self._gate.public_of(delta.aid) or self._introduced(delta)
        if public is None:
            self._unknown_author(session, delta)
            return None
        tag = self._tags[delta.scope]
        try:
            if len(delta.records) <= INLINE_VERIFY_MAX:
                return self._check(public, tag, delta)
            return await trio.to_thread.run_sync(self._check, public, tag, delta, limiter=_VERIFIERS)
        except _BadSignature as error:
            self.counts["bad_signature"] += 1
            self._alarm("bad_signature", session.aid, str(error))
            self.drive.handle(tidings.DeltaRefused(session.aid, delta.scope, delta.aid))
            raise PeerError(f"sent a record of {delta.aid.hex()} with a bad signature") from None
        except PeerError as error:
            self._frozen.add(delta.aid)
            self.counts["frozen_author"] += 1
            self._alarm("malformed_record", delta.aid, error.message)
            self.drive.handle(tidings.DeltaRefused(session.aid, delta.scope, delta.aid))
            return None

    def _check(self, public: bytes, tag: bytes, delta: Delta) -> list[Record]:
        for body, sig in delta.records:
            if not record.verify(public, self._mesh_id, tag, body, sig):
                raise _BadSignature(f"delta of {delta.aid.hex()} in scope {delta.scope}")
        return [record.parse(delta.aid, body, sig) for body, sig in delta.records]

    def _introduced(self, delta: Delta) -> bytes | None:
        """An unknown author introduces itself by its own member record inside the delta."""
        for body, sig in delta.records if delta.scope == record.MESH else ():
            try:
                rec = record.parse(delta.aid, body, sig)
            except PeerError:
                return None
            public = self._gate.introduce(rec)
            if public is not None:
                return public
        return None

    def _unknown_author(self, session: Session, delta: Delta) -> None:
        """Its member record has not arrived: ask for its log from the start, and for this scope later."""
        self.counts["unknown_author"] += 1
        self._unknown.pop((delta.scope, delta.aid), None)
        self._unknown[(delta.scope, delta.aid)] = session.aid
        if len(self._unknown) > UNKNOWN_MAX:  # the oldest may be of one that was removed
            del self._unknown[next(iter(self._unknown))]
        if delta.scope == record.MESH and delta.since > 0:
            session.send_nowait(messages.Want(record.MESH, delta.aid, 0))
        self.drive.handle(tidings.DeltaRefused(session.aid, delta.scope, delta.aid))

    def member_learned(self, aid: bytes) -> None:
        """An author became known: fetch what had to be refused before."""
        for scope in record.SCOPES:
            link = self._unknown.pop((scope, aid), None)
            session = self._sessions.get(link) if link else None
            if session is not None:
                state = self.machine.heads[scope].get(aid)
                session.send_nowait(messages.Want(scope, aid, state.head if state else 0))

    def author_gone(self, aid: bytes) -> None:
        """A removed author's slots are dropped: announce no more of it than is left (an admin's removals).

        To be called again when they are gone from the disk: what of it was on its way there when it was
        removed is reported afterwards, and would stay in the digest for ever.
        """
        self.drive.handle(tidings.AuthorGone(aid))
        for scope in (record.MESH, record.ZONE):
            with self._store.read(scope) as slots:
                state = slots.author(aid)
            if state.count:
                self.drive.handle(tidings.Applied(None, scope, aid, state))

    # -- applying ---------------------------------------------------------------------------------------

    def _perform(self, action: tidings.Action) -> None:
        match action:
            case tidings.Wakeup(link=link):
                if link in self._sessions:
                    self._sessions[link].hurry() if self._hurried else self._sessions[link].wake()
            case tidings.Apply(link=link, delta=delta, records=records):
                if delta.scope == LIVE:
                    self._apply_live(link, delta, records)
                else:
                    self._todo.append((link, _Job(delta, records)))
            case tidings.Acknowledged(link=link, scope=scope, aid=aid, head=head):
                self._holders.heard(link, (scope, aid), head)
            case tidings.Remembered(scope=scope):
                self._remembered(scope)

    def _apply_live(self, link: bytes, delta: Delta, records: list[Record]) -> None:
        limits = self._gate.limits(delta.aid)
        live = self._store.live
        with live.together():
            outcome = sync.receive(live, delta, records, now_ms=self._wall_ms(), limits=limits, me=self._me)
        self._report(link, delta, outcome)

    async def _apply_all(self, link: bytes, jobs: trio.MemoryReceiveChannel[_Job]) -> None:
        async for first in jobs:
            batch = [first]
            while len(batch) < APPLY_QUEUE:
                try:
                    batch.append(jobs.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            try:
                await self._apply(link, batch)
            except Exception:  # a record that nobody foresaw must not end the agent
                self.counts["apply_failed"] += 1
                log.exception("records that %s sent cannot be applied", link.hex())
                self._refuse(link, batch)

    async def _take_own(self, link: bytes, batch: list[_Job]) -> list[_Job]:
        """Part out answers about ourselves; returns the other jobs."""
        for job in [job for job in batch if job.delta.aid == self._me and not job.delta.pull]:
            key = (link, job.delta.scope)
            parts = self._own_parts.setdefault(key, [])
            parts += job.records
            if len(parts) > OWN_PARTS_MAX or not job.delta.more:
                await self._recover(job.delta.scope, self._own_parts.pop(key), job.delta.reset)
        return [job for job in batch if job.delta.aid != self._me or job.delta.pull]

    async def _apply(self, link: bytes, jobs: list[_Job]) -> None:
        batch = await self._take_own(link, jobs)
        if not batch:
            return
        now_ms = self._wall_ms()
        limits = {job.delta.aid: self._gate.limits(job.delta.aid) for job in batch}

        def work(txn: Txn) -> Generator[None, None, list[sync.Outcome]]:
            outcomes = []
            for job in batch:
                slots = txn.log(job.delta.scope)
                outcomes.append(self._receive(link, slots, job, now_ms, limits[job.delta.aid]))
                yield  # a long batch must not hold the loop
            return outcomes

        try:
            outcomes = await self._store.write(work, linger=True)
        except MeshError as error:
            log.error("cannot store what %s sent: %s", link.hex(), error.message)
            self._refuse(link, batch)
            return
        for job, outcome in zip(batch, outcomes, strict=True):
            self._report(link, job.delta, outcome)

    def _refuse(self, link: bytes, jobs: list[_Job]) -> None:
        for job in jobs:
            self.drive.handle(tidings.DeltaRefused(link, job.delta.scope, job.delta.aid))

    def _receive(self, link: bytes, slots: Log, job: _Job, now_ms: int, limits: sync.Limits) -> sync.Outcome:
        delta = job.delta
        parts = None
        if delta.reset:
            parts = self._resets.setdefault((link, delta.scope, delta.aid), sync.ResetParts())
        return sync.receive(
            slots, delta, job.records, now_ms=now_ms, limits=limits, reset_part=parts, me=self._me
        )

    def _report(self, link: bytes, delta: Delta, outcome: sync.Outcome) -> None:
        state = outcome.state
        if state.count and self._gate.limits(delta.aid).removed:
            with self._store.read(delta.scope) as slots:
                state = slots.author(delta.aid)  # dropped meanwhile, perhaps
        if not delta.more:
            self._resets.pop((link, delta.scope, delta.aid), None)
        if outcome.refused and outcome.refused != "removed":
            self.counts["refused"] += 1
            self._alarm("refused_records", delta.aid, outcome.refused)
        if outcome.clash is not None:
            self._clash(delta.scope, *outcome.clash)
        if outcome.own is not None:
            outcome.want = self._own_offered(delta.scope, outcome.own)
        urgent = delta.scope == LIVE and any(self._gate.urgent(rec) for rec in outcome.stored)
        self.drive.handle(
            tidings.Applied(
                link,
                delta.scope,
                delta.aid,
                state,
                delta.upto,
                outcome.want,
                urgent,
                outcome.mark_dirty,
                sync.correction(delta.scope, outcome),
                outcome.refused is not None and outcome.refused != "removed",
            )
        )

    def said(self, scope: str, records: list[Record], state: AuthorState) -> None:
        """Own records were committed (or, in the live scope, stored): push them."""
        urgent = scope == LIVE and any(self._gate.urgent(rec) for rec in records)
        self._handle_live(tidings.Applied(None, scope, self._me, state, urgent=urgent), scope, records)

    def _handle_live(self, event: tidings.Event, scope: str, records: list[Record]) -> None:
        """Give the machine an event; what links have to send for it leaves at once, if few come."""
        before, now = self._hurried, trio.current_time()
        awaited = sum(map(is_awaited, records)) if scope == LIVE else 0
        if awaited:
            own = isinstance(event, tidings.Applied)
            self._pace.note(awaited if own else HEARD_WEIGHT * awaited, now)
        self._hurried = awaited > 0 and self._pace.calm(now)
        self.drive.handle(event)
        self._hurried = before

    def taken(self) -> int | None:
        """Up to which stamp the slowest link has taken what we said in the live scope; None: all have.

        A link that takes nothing any more does not count: liveness will end it.
        """
        key, since = (LIVE, self._me), trio.current_time() - TAKES_S
        behind = [
            link.sent.get(key, 0)
            for aid, link in self.machine.links.items()
            if key in link.dirty and (session := self._sessions.get(aid)) and session.taken_at >= since
        ]
        return min(behind, default=None)

    # -- acknowledgements -------------------------------------------------------------------------------

    async def held_by(self, scope: str, hlc: int, count: int, timeout_s: float) -> int:
        """Wait until `count` neighbours hold our records up to `hlc` on disk; returns how many do in time."""

        def ask() -> bool:
            out: list[tidings.Action] = []
            asked = self.machine.ask_heads(scope, self._me, hlc, out)
            for action in out:
                self._perform(action)
            return asked > 0

        return await self._holders.wait((scope, self._me), hlc, count, timeout_s, ask)

    def holders(self, scope: str, aid: bytes, hlc: int) -> int:
        """How many linked neighbours are known to hold an author up to `hlc` on their disk."""
        return len(self._holders.told((scope, aid), hlc) | self.machine.holders(scope, aid, hlc))


class _BadSignature(Exception):
    """Never leaves this module."""


_VERIFIERS = trio.CapacityLimiter(2)

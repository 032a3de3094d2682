"""The replicated state of one simulated agent: the real machines, and a shell as thin as it can be.

`core/dissemination.py` decides what goes where, `core/sync.py` judges what comes, `core/fence.py`,
`core/collect.py` and `core/rewind.py` look after the own log; here is what a real agent does around them with
streams, LMDB and tasks (`agent/dissemination.py`, `agent/author.py`). Frames are the real bytes. Signatures
are keyed hashes of the same length, made and verified for every record, because Ed25519 would cost more than
all the rest and decides nothing. Every member is admitted and no quota is set: admission, removal and quotas
are the business of the random model (`sim/model`).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import msgspec

from mesh.core import sync, tidings
from mesh.core.clock import HybridClock, hlc_of
from mesh.core.collect import Statement, answer_strays
from mesh.core.fence import Fence
from mesh.core.floors import gc_floor, is_gc
from mesh.core.log import Log
from mesh.core.record import LIVE, MESH, SCOPES, Kind, Record, scope_tag
from mesh.core.rewind import rewind
from mesh.core.vitals import Rewound
from mesh.errors import PeerError
from mesh.sim import collection
from mesh.sim.disk import DURABLE, CheckedLog, Writer
from mesh.sim.lookout import FEW, Lookout
from mesh.wire.messages import Delta, Heads

if TYPE_CHECKING:
    from mesh.sim.node import Node

CEILING_AHEAD_MS = 10_000
APART_MS = 200
FRAME_HEAD = 4
Build = Callable[[Log], Sequence[Statement]]
Said = Callable[[list[Record]], None]


class Greeting(msgspec.Struct, frozen=True):
    """The part of a hello that matters here."""

    zone: str
    roots: dict[str, bytes]


class _Link(msgspec.Struct):
    """One neighbour: how long frames are gathered, when they last left, whether they are about to."""

    number: int
    flush_s: float
    flushed_at: float = -1.0
    flushing: bool = False


class Replica:
    """Logs, dissemination and the own pen of one life of a node."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self.node, self.fleet = node, node.fleet
        self.me = node.aid
        self._parts = node.fleet.parts
        disk = self.disk = node.disk
        self.tags = {scope: scope_tag(scope, node.place.zone) for scope in SCOPES}
        self.live = CheckedLog(self.fleet.checks, node.number, LIVE, self.tags[LIVE], node.aid)
        # Stamps in RAM beyond the ceiling are forgotten with it; who sees such sent back says them again.
        self.fleet.checks.set_back(self.tags[LIVE], node.aid, disk.ceiling)
        self.logs: dict[str, CheckedLog] = {**disk.logs, LIVE: self.live}
        self._snapshots = {scope: nullcontext[Log](log) for scope, log in self.logs.items()}
        self.writer = Writer(node.later)
        ceiling = disk.ceiling + rng.randrange(hlc_of(APART_MS)) if self._parts.keeps_ceiling else 0
        self.clock, self.live_clock = HybridClock(ceiling), HybridClock(ceiling)
        disk.fences = {
            scope: Fence.opened(log, self.me, disk.fences.get(scope), node.wall_ms(), rng.getrandbits(16))
            for scope, log in disk.logs.items()
        }
        fences = {scope: fence.hlc for scope, fence in disk.fences.items()} if self._parts.fenced else {}
        self.machine = self._parts.dissemination(
            self.me, SCOPES, self._read, rng, self.fleet.spread_config, fences
        )
        self.lookout, self.reads = Lookout(self), self._parts.reads()
        self._known = self.fleet.post.messages
        self._links: dict[bytes, _Link] = {}
        self._resets: dict[tuple[bytes, str, bytes], sync.ResetParts] = {}
        self._own_parts: dict[tuple[bytes, str], list[Record]] = {}
        self._wake_at = float("inf")
        self._depth = 0
        self.rewinding = False
        self._urgent: Delta | None = None

    @property
    def newest(self) -> int:
        """The highest stamp given out or seen."""
        return max(self.clock.last, self.live_clock.last)

    def _read(self, scope: str) -> AbstractContextManager[Log]:
        return self._snapshots[scope]

    # -- links ------------------------------------------------------------------------------------------

    def greeting(self) -> Greeting:
        """What our hello says now."""
        return Greeting(self.node.place.zone, {scope: self.machine.root(scope) for scope in SCOPES})

    def link_up(self, peer: bytes, number: int, hello: Greeting, *, first: bool = True) -> None:
        """A stream stands. `first`: the other end will know it later."""
        self.link_down(peer)
        line = self.fleet.net.line(self.node.number, number)
        self._links[peer] = _Link(number, tidings.flush_s(2 * line.latency_s))
        shared = SCOPES if hello.zone == self.node.place.zone else (MESH,)
        self.handle(tidings.LinkUp(peer, {scope: hello.roots[scope] for scope in shared}, asks=first))

    def link_down(self, peer: bytes) -> None:
        """A stream is over."""
        if self._links.pop(peer, None) is not None:
            self._resets = {key: parts for key, parts in self._resets.items() if key[0] != peer}
            self._own_parts = {key: recs for key, recs in self._own_parts.items() if key[0] != peer}
            self.lookout.link_down(peer)
            self.handle(tidings.LinkDown(peer))

    def frame(self, peer: bytes, body: bytes) -> None:
        """A frame of a neighbour."""
        if peer not in self._links:
            return
        message = self._known.get(body)
        if message is None:
            message = self.fleet.post.decode(body)
        if type(message) is Delta:
            self._delta(peer, message, body)
        elif message is not None:
            self.handle(tidings.Received(peer, message))
            if isinstance(message, Heads):
                self.lookout.compared(peer, message)

    def _delta(self, peer: bytes, delta: Delta, body: bytes) -> None:
        try:
            records = self.fleet.post.records(
                self.tags[delta.scope], delta, body, verify=self._parts.verifies
            )
        except PeerError:
            self.handle(tidings.DeltaRefused(peer, delta.scope, delta.aid))
            return
        urgent = delta.scope == LIVE and any(map(self.node.is_urgent, records))
        self._urgent = delta if urgent else None
        self.handle(tidings.DeltaVerified(peer, delta, records, body, urgent))

    def pump(self, peer: bytes) -> None:
        """Send what the machine has for a neighbour, if the stream takes it."""
        queued, link = self.machine.links.get(peer), self._links.get(peer)
        if queued is None or not (queued.control or queued.passing or queued.dirty):
            return
        if link is None or link.flushing:
            return
        pipe, now = self.node.pipes.get(link.number), self.fleet.world.now
        if pipe is None:
            return
        if len(queued.passing) + len(queued.control) + len(queued.dirty) > FEW:
            self.lookout.waits(queued)
        due = link.flushed_at + link.flush_s
        if now < due:
            link.flushing = True
            self.node.later(due - now, lambda: self._flush(peer, link))
            return
        flow = pipe.flows[self.node.number]
        while (queued.control or queued.passing or queued.dirty) and (
            (flow.free_at <= now and not flow.stalled) or flow.ready() or not self._parts.heeds_streams
        ):
            passed_on = list(queued.passing) if queued.passing else []
            bodies = self.machine.pull(peer)
            if not bodies:
                return
            self.lookout.leaves(peer, bodies, passed_on)
            link.flushed_at = now
            self.fleet.gauges.frames += len(bodies)
            self.fleet.gauges.messages += 1
            spoil = self.node.spoil
            if spoil is not None:
                bodies = [spoil(body) for body in bodies]
            flow.send("frames", bodies, sum(map(len, bodies)) + FRAME_HEAD * len(bodies))
            if flow.queue or flow.free_at > now:
                self.lookout.sent(flow)

    def _flush(self, peer: bytes, link: _Link) -> None:
        link.flushing = False
        if self._links.get(peer) is link:
            self.pump(peer)

    # -- the machine ------------------------------------------------------------------------------------

    def handle(self, event: tidings.Event) -> None:
        """Give the machine an event and do what it says."""
        self._perform(self.machine.handle(event, self.fleet.world.now))

    def _perform(self, actions: list[tidings.Action]) -> None:
        self._depth += 1
        awake: dict[bytes, None] = {}
        for action in actions:
            kind = type(action)
            if kind is tidings.Wakeup:
                awake[action.link] = None  # type: ignore[union-attr]
            elif kind is tidings.Apply:
                self._apply(action)  # type: ignore[arg-type]
            elif kind is tidings.Remembered and not self.disk.fences[action.scope].checked:  # type: ignore[union-attr]
                self.writer.submit(lambda scope=action.scope: self._confirm(scope), linger=True)  # type: ignore[misc,union-attr]
        for peer in awake:
            self.pump(peer)
        self._depth -= 1
        if not self._depth and self.machine.deadline() < self._wake_at:
            self._arm()

    def _arm(self) -> None:
        due = self.machine.deadline()
        if due < self._wake_at:
            self._wake_at = due
            self.node.later(max(0.0, due - self.fleet.world.now), lambda: self._wake(due))

    def _wake(self, due: float) -> None:
        if due != self._wake_at:
            return  # an earlier one has taken its place
        self._wake_at = float("inf")
        if self.machine.deadline() <= self.fleet.world.now:
            self._perform(self.machine.tick(self.fleet.world.now))
        else:
            self._arm()

    # -- applying ---------------------------------------------------------------------------------------

    def _apply(self, action: tidings.Apply) -> None:
        delta = action.delta
        if delta.scope == LIVE:
            self._report(action, self._receive(action))
        elif delta.aid == self.me and not delta.pull:
            key = (action.link, delta.scope)
            parts = self._own_parts.setdefault(key, [])
            parts += action.records
            if not delta.more:
                records = self._own_parts.pop(key)
                self.writer.submit(lambda: self._recover(delta.scope, records, delta.reset))
        else:
            self.writer.submit(lambda: self._store(action), linger=True)

    def _store(self, action: tidings.Apply) -> Callable[[], None]:
        outcome = self._receive(action)
        return lambda: self._report(action, outcome)

    def _receive(self, action: tidings.Apply) -> sync.Outcome:
        delta = action.delta
        key = (action.link, delta.scope, delta.aid)
        parts = self._resets.setdefault(key, sync.ResetParts()) if delta.reset else None
        outcome = self._parts.receive(
            self.logs[delta.scope],
            delta,
            action.records,
            now_ms=self.node.now_ms(),
            reset_part=parts,
            me=self.me,
            judge=self._parts.judge if delta.scope != LIVE else None,
        )
        if self._resets and not delta.more:
            self._resets.pop(key, None)
        return outcome

    def _report(self, action: tidings.Apply, outcome: sync.Outcome) -> None:
        delta = action.delta
        want = outcome.want if outcome.own is None else self._own_offered(delta.scope, outcome.own)
        clock = self.live_clock if delta.scope == LIVE else self.clock
        for rec in outcome.stored:
            clock.receive(rec.hlc)
        urgent = delta is self._urgent and any(map(self.node.is_urgent, outcome.stored))
        self.handle(
            tidings.Applied(
                action.link,
                delta.scope,
                delta.aid,
                outcome.state,
                delta.upto,
                want,
                urgent,
                outcome.mark_dirty,
                None if outcome.outdone is None else sync.correction(delta.scope, outcome),
                outcome.refused is not None and self._parts.patient,
            )
        )
        if outcome.stored:
            self.node.stored(delta.scope, outcome.stored, action.link)

    def _own_offered(self, scope: str, own: sync.Own) -> int | None:
        """A neighbour holds records of ours that we do not; returns from where to ask it for our own log."""
        if scope == LIVE:
            for rec in own.unknown:
                self.live_clock.receive(rec.hlc)
            for rec in [rec for rec in self.live.since(self.me, 0) if rec.kind != Kind.LOG]:
                again = Statement(rec.path, rec.kind, rec.val, rec.op, rec.ttl)
                self.say_live(again, urgent=False)
            return None
        trusted = self.disk.fences[scope].trusted(own, self.node.now_ms())
        strays = sync.Own([], [rec for rec in own.strays if rec not in trusted])
        if strays.strays and self._parts.answers_strays:
            self.say(scope, lambda log: answer_strays(log, strays, self.node.now_ms()), again=True)
        if not own.unknown and not trusted:
            return None
        floor = self.logs[scope].author(self.me).floor
        return 0 if trusted else own.since(floor)

    def _confirm(self, scope: str) -> None:
        self.disk.fences[scope].checked = True

    def _recover(self, scope: str, records: list[Record], reset: bool) -> Callable[[], None]:
        """A peer has told us all it knows of ourselves."""
        log, fence = self.logs[scope], copy.copy(self.disk.fences[scope])
        self.clock.receive(max((rec.hlc for rec in records), default=0))
        statements = fence.recover(log, self.me, records, reset=reset, now_ms=self.node.now_ms())
        self.disk.fences[scope] = fence
        self.machine.fences[scope] = fence.hlc
        said = self._write(scope, statements, again=True)
        return lambda: self._spoke(scope, said)

    # -- saying -----------------------------------------------------------------------------------------

    def say(self, scope: str, build: Build, said: Said | None = None, *, again: bool = False) -> None:
        """Write durable statements; `said` is called with the records once they are committed.

        Args:
            again: they repeat or withdraw what was said before, so nothing new is acknowledged.
        """

        def job() -> Callable[[], None]:
            records = self._write(scope, self._counted(scope, build), again=again)
            return lambda: self._spoke(scope, records, said)

        if self._parts.commits_first or said is None:
            self.writer.submit(job)
        else:
            self._say_first(scope, build, said)

    def _counted(self, scope: str, build: Build) -> list[Statement]:
        log, fence = self.logs[scope], self.disk.fences[scope]
        return [fence.counted(log, self.me, statement) for statement in build(log)]

    def _say_first(self, scope: str, build: Build, said: Said) -> None:
        """The broken way: the caller is answered, and the disk follows in its own time."""
        records = [self._sign(scope, statement, self.clock) for statement in self._counted(scope, build)]
        for rec in records:
            self.fleet.ledger.said(self.node, scope, rec, again=False)
        said(records)
        self.writer.submit(lambda: self._follow(scope, records), linger=True)

    def _follow(self, scope: str, records: list[Record]) -> Callable[[], None]:
        for rec in records:
            if rec.hlc > self.logs[scope].author(self.me).head:
                sync.write(self.logs[scope], rec)
        return lambda: self._spoke(scope, records)

    def _write(self, scope: str, statements: Sequence[Statement], *, again: bool) -> list[Record]:
        log, out = self.logs[scope], []
        for statement in statements:
            rec = self._sign(scope, statement, self.clock)
            self.fleet.ledger.said(self.node, scope, rec, again=again)
            sync.write(log, rec)
            out.append(rec)
        if self.clock.last > self.disk.ceiling:
            ahead = hlc_of(self.node.now_ms() + CEILING_AHEAD_MS)
            self.disk.ceiling = max(self.clock.last + hlc_of(1), ahead)
        return out

    def _spoke(self, scope: str, records: list[Record], said: Said | None = None) -> None:
        self.handle(tidings.Applied(None, scope, self.me, self.logs[scope].author(self.me)))
        if records:
            self.node.stored(scope, records, None)
        if said is not None:
            said(records)

    def say_live(self, statement: Statement, *, urgent: bool) -> None:
        """Write one statement of the live scope, at once and in RAM only."""
        rec = self._sign(LIVE, statement, self.live_clock)
        sync.write(self.live, rec)
        self.handle(tidings.Applied(None, LIVE, self.me, self.live.author(self.me), urgent=urgent))

    def _sign(self, scope: str, statement: Statement, clock: HybridClock) -> Record:
        rec = self.fleet.post.sign(self.me, self.tags[scope], clock.send(self.node.now_ms()), statement)
        self.fleet.checks.signed(self.tags[scope], rec, gc_floor(rec) if is_gc(rec) else 0)
        if is_gc(rec):
            collection.said(self.fleet.checks, self.logs[scope], self.tags[scope], rec, self.node.now_ms())
        return rec

    # -- duties -----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Drop what is past its ttl for good."""
        for scope, log in self.logs.items():
            if len(log):
                sync.sweep(log, self.node.now_ms(), live=scope == LIVE)

    def collect(self) -> None:
        """The daily duty of an author."""
        collector = self._parts.collector()
        for scope in DURABLE:
            fence = self.disk.fences[scope]
            if not self.fleet.company(self.node, scope):
                fence.alone()
            if not self._parts.fenced or fence.passed(self.node.now_ms()):
                self.say(scope, lambda log: collector.plan(log, self.me, self.node.now_ms()), again=True)

    def take_back_the_future(self) -> None:
        """Our clock was ahead beyond what others accept."""
        self.rewinding = True

        def job() -> Callable[[], None]:
            now_ms = self.node.now_ms()
            for scope in DURABLE:
                self.fleet.ledger.rewound(self.node, scope, hlc_of(now_ms))
                self.disk.logs[scope].taking_back = True
            said = {scope: rewind(self.logs[scope], self.me, now_ms) for scope in DURABLE}
            for scope in DURABLE:
                self.disk.logs[scope].taking_back = False
            self.clock.last = max(self.logs[scope].author(self.me).head for scope in DURABLE)
            for scope, statements in said.items():
                self.fleet.checks.set_back(self.tags[scope], self.me, self.logs[scope].author(self.me).head)
                self.disk.fences[scope].rewound(self.logs[scope], self.me, now_ms)
                self._write(scope, statements, again=True)
            self.disk.ceiling = max(self.clock.last + hlc_of(1), hlc_of(now_ms + CEILING_AHEAD_MS))
            for aid, _ in list(self.live.authors()):
                self.live.drop_author(aid)
            self.fleet.checks.set_back(self.tags[LIVE], self.me, 0)
            self.live_clock.last = 0
            return self._restart_links

        self.writer.submit(job)

    def _restart_links(self) -> None:
        self.rewinding = False
        self.machine.reload()
        self.node.feed(Rewound(hlc_of(self.node.now_ms())))
        self.node.close_all()

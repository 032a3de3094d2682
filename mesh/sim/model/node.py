"""One node of the model: the shell around the pure rules, as thin as it can be.

What a real agent does with LMDB, streams and tasks happens here in RAM and at once; every decision is the
real code's. Wrong variants of a rule come in as a `Policy`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mesh.core import folds, sync
from mesh.core.clock import HybridClock, unix_ms_of
from mesh.core.collect import (
    Collector,
    Statement,
    answer_strays,
    drop_removed,
    plan_removal,
    voids_before_drop,
)
from mesh.core.fence import Fence
from mesh.core.floors import GRACE_MS, member_path
from mesh.core.memory import MemoryLog
from mesh.core.receive import Judge, Outcome, ResetParts
from mesh.core.record import LIVE, MESH, ZONE, Kind, Record, SlotKey, scope_tag
from mesh.core.rewind import rewind
from mesh.errors import PeerError
from mesh.sim.model.truth import Place
from mesh.sim.model.wire import Answering, Message, Pull, Want
from mesh.wire.messages import Delta, Listing

KEPT_SCOPES = (MESH, ZONE)
QUOTA_SLOTS = 24


class Policy:
    """The rules a run plays by; a wrong variant overrides one of these."""

    judge: Judge | None = None
    collector: type[Collector] = Collector
    fenced = True
    answers_strays = True

    def passed_on(self, delta: Delta, outcome: Outcome, scope_tag: bytes) -> Delta | None:
        """What is forwarded of a delta just taken; None for nothing."""
        return delta if outcome.forward else None

    def sees(self, slots: list[Record], me: bytes, now_ms: int) -> dict[bytes, int]:
        """The `sees` of a new multi-value write."""
        return folds.sees_of(slots, me, slots[0].kind if slots else Kind.MV)

    def readable(self, records: list[Record], now_ms: int) -> list[Record]:
        """The slots of one path as folds get them."""
        return records


class Backup:
    """A copy of a store: logs, fences, clock ceiling."""

    def __init__(self, node: Node) -> None:
        self.zone = node.zone
        self.known = dict(node.known)
        self.logs = {scope: clone(node.logs[scope]) for scope in KEPT_SCOPES}
        self.fences = copy.deepcopy(node.fences)
        self.clock_last = node.clock.last


class Context(Protocol):
    """What a node needs of the world around it."""

    policy: Policy

    def send(self, sender: Node, to: int, message: Message) -> None: ...
    def neighbours(self, node: Node) -> list[int]: ...
    def opened(self, aid: bytes, tag: bytes, body: bytes, sig: bytes) -> Record: ...
    def signed(self, aid: bytes, tag: bytes, hlc: int, say: Statement) -> Record: ...
    def said(self, node: Node, scope: str, say: Statement, rec: Record, source: bytes | None) -> None: ...
    def stored(self, node: Node, sender: int, scope: str, old: Record, new: Record) -> None: ...
    def learned(self, node: Node, scope: str, records: list[Record]) -> None: ...
    def call(self, node: Node, to: int, scope: str, since: int) -> list[sync.Part] | None: ...
    def nonce(self) -> int: ...
    def fence_passed(self, node: Node, scope: str) -> None: ...
    def dropped_own(self, peer: int, node: Node, scope: str, records: list[Record]) -> None: ...
    def deceived(self, node: Node, scope: str) -> None: ...
    def company(self, node: Node, scope: str) -> bool: ...
    def trace(self, text: Callable[[], str]) -> None: ...


def clone(log: MemoryLog) -> MemoryLog:
    """An independent copy of a log."""
    twin = MemoryLog()
    for aid, state in log.authors():
        for rec in log.since(aid, 0):
            twin.put(rec)
        twin.set_marks(aid, head=state.head, floor=state.floor)
    return twin


def removed_path(aid: bytes) -> str:
    return f"removed/{aid.hex()}"


class Node:
    """One replica.

    Args:
        offset_ms: its clock's error.
    """

    def __init__(
        self, world: Context, index: int, aid: bytes, zone: str, admins: frozenset[bytes], offset_ms: int
    ) -> None:
        self.world = world
        self.index = index
        self.aid = aid
        self.zone = zone
        self.admins = admins
        self.offset_ms = offset_ms
        self.true_ms = 0
        self.online = True
        self.dead = False
        self.halted = False
        self.logs = {MESH: MemoryLog(), ZONE: MemoryLog(), LIVE: MemoryLog(fingerprints=False)}
        self.tags = {scope: scope_tag(scope, zone) for scope in (MESH, ZONE, LIVE)}
        self.clock = HybridClock()
        self.live_clock = HybridClock()
        self.fences = {scope: Fence() for scope in KEPT_SCOPES}
        self.until: dict[bytes, int] = {}
        self.removed: set[bytes] = set()
        self.known: dict[Place, int] = {}
        self.forget_links()

    def forget_links(self) -> None:
        """Everything that lives only as long as the process."""
        self.checked: set[tuple[int, str]] = set()
        self.sent: dict[tuple[int, str, bytes], int] = {}
        self.resets: dict[tuple[int, str, bytes], ResetParts] = {}
        self.asked: dict[tuple[int, str, bytes], set[int]] = {}
        self.sending: dict[tuple[int, str, bytes], sync.Part] = {}

    @property
    def now_ms(self) -> int:
        return self.true_ms + self.offset_ms

    @property
    def alive(self) -> bool:
        return not self.dead and not self.halted

    def place(self, scope: str) -> str:
        """The scope with its zone, as the oracle names it."""
        return scope if scope == MESH else scope + self.zone

    # -- saying -----------------------------------------------------------------------------------------

    def certified(self) -> bool:
        """Whether our certificate covers what we would say now."""
        until = self.until.get(self.aid, 0)
        return unix_ms_of(max(self.clock.last + 1, 0)) <= until and self.now_ms <= until

    def say(
        self,
        scope: str,
        statements: Sequence[Statement],
        *,
        quota: bool = False,
        source: bytes | None = None,
    ) -> list[Record]:
        """Write own statements; what the quota or the certificate forbids is left out.

        Args:
            source: whose records are said again, for the oracle.
        """
        out = []
        clock = self.live_clock if scope == LIVE else self.clock
        log = self.logs[scope]
        for say in statements:
            if not self.certified() and say.path != member_path(self.aid):
                continue
            if scope in self.fences and source is None:
                say = self.fences[scope].counted(log, self.aid, say)
            rec = self.world.signed(self.aid, self.tags[scope], clock.send(self.now_ms), say)
            limits = self.limits(self.aid) if quota else None
            before = log.get(rec.slot)
            if say.kind != Kind.LOG and before is not None and before.aid != self.aid:
                raise AssertionError("a slot has one writer")
            if scope != LIVE:
                self.world.said(self, scope, say, rec, source)
            if sync.write(log, rec, limits=limits).refused is None:
                out.append(rec)
        return out

    def refuses(self, scope: str, path: str, kind: int) -> bool:
        """Whether the own quota would refuse a new slot."""
        limits = self.limits(self.aid)
        slot = SlotKey(path, kind, self.aid)
        log = self.logs[scope]
        full = limits.slots_max is not None and log.author(self.aid).count >= limits.slots_max
        return full and log.get(slot) is None

    def renew(self, until_ms: int) -> None:
        """Publish a certificate; a renewal never ends before what it replaces.

        Else records in between, which some replicas took, are refused by those that know only the renewal.
        """
        until_ms = max(until_ms, self.until.get(self.aid, 0))
        self.until[self.aid] = until_ms
        self.say(MESH, [Statement(member_path(self.aid), Kind.ALL, {"until": until_ms})])

    def read(self, scope: str, path: str, kind: int) -> list[Record]:
        """The slots of a path as this node's rules read them."""
        return self.world.policy.readable(self.slots(scope, path, kind), self.now_ms)

    def slots(self, scope: str, path: str, kind: int) -> list[Record]:
        """The slots of a path whose authors have the right."""
        return [rec for rec in self.logs[scope].slots(path) if rec.kind == kind and self.counts(rec)]

    def counts(self, rec: Record) -> bool:
        """Whether the policy lets a record count."""
        return rec.path != "kv/ro" or rec.aid in self.admins

    # -- taking -----------------------------------------------------------------------------------------

    def limits(self, aid: bytes) -> sync.Limits:
        """What is accepted of an author."""
        admin = aid in self.admins
        return sync.Limits(
            slots_max=None if admin else QUOTA_SLOTS,
            until_ms=self.until.get(aid, 0),
            removed=aid in self.removed,
            admin=admin,
        )

    def take(self, sender: int, delta: Delta) -> None:
        """A delta from a neighbour."""
        scope, aid = delta.scope, delta.aid
        key = (sender, scope, aid)
        try:
            records = [self.world.opened(aid, self.tags[scope], body, sig) for body, sig in delta.records]
        except PeerError:
            return
        if delta.pull:
            asked = self.asked.pop(key, set())
            records = [rec for rec in records if rec.hlc in asked]
        self._learn(scope, aid, records)
        if aid not in self.until:
            if scope == MESH and delta.since > 0 and not delta.more:
                self.world.send(self, sender, Want(MESH, aid, 0))
            return
        parts = self.resets.setdefault(key, ResetParts()) if delta.reset else None
        log = self.logs[scope]
        policy = self.world.policy
        old = {rec.slot: log.get(rec.slot) for rec in records if rec.kind == Kind.CTR}
        outcome = sync.receive(
            log,
            delta,
            records,
            now_ms=self.now_ms,
            limits=self.limits(aid),
            reset_part=parts,
            me=self.aid,
            judge=policy.judge if scope != LIVE else None,
        )
        self.world.trace(
            lambda: (
                f"  {self.index} took {scope} {aid.hex()[:4]} {delta.since}..{delta.upto}"
                f"{' reset' if delta.reset else ''}{' pull' if delta.pull else ''}"
                f" stored {[(r.path, r.hlc, r.op) for r in outcome.stored]} dropped {len(outcome.dropped)}"
                f" head {outcome.head} floor {outcome.state.floor} want {outcome.want} {outcome.refused}"
            )
        )
        for rec in outcome.stored:
            before = old.get(rec.slot)
            if before is not None:
                self.world.stored(self, sender, scope, before, rec)
        self.world.learned(self, scope, outcome.stored)
        self._after(sender, scope, delta, outcome)

    def _learn(self, scope: str, aid: bytes, records: Sequence[Record]) -> None:
        if scope == MESH:
            path = member_path(aid)
            for rec in records:
                if rec.path == path and rec.kind == Kind.ALL and isinstance(rec.val, dict):
                    self.until[aid] = max(rec.val["until"], self.until.get(aid, 0))

    def _after(self, sender: int, scope: str, delta: Delta, outcome: Outcome) -> None:
        clock = self.live_clock if scope == LIVE else self.clock
        for rec in outcome.stored:
            clock.receive(rec.hlc)
        if outcome.own is not None:
            self._own(sender, scope, outcome.own)
        if outcome.want is not None:
            self.world.send(self, sender, Want(scope, delta.aid, outcome.want))
        onward = self.world.policy.passed_on(delta, outcome, self.tags[scope])
        if onward is not None and outcome.stored:
            for peer in self.world.neighbours(self):
                if peer != sender:
                    self.world.send(self, peer, onward)
        if scope == MESH:
            for rec in outcome.stored:
                self.notice(rec)

    def _own(self, sender: int, scope: str, own: sync.Own) -> None:
        if own.strays and self.world.policy.answers_strays:
            self.say(scope, answer_strays(own))
        if own.unknown:
            self.contact(sender, scope, since=self.logs[scope].author(self.aid).floor)

    def notice(self, rec: Record) -> None:
        """React to a removal."""
        if rec.path.startswith("removed/") and rec.aid in self.admins:
            gone = bytes.fromhex(rec.path.split("/")[1])
            if gone == self.aid:
                self.halted = True
            elif gone not in self.removed:
                self._drop(gone)

    def _drop(self, gone: bytes) -> None:
        self.world.trace(lambda: f"  {self.index} drops removed {gone.hex()[:4]}")
        for scope in KEPT_SCOPES:
            if self.aid in self.admins:
                self._speak_for(gone, scope)
            self.say(scope, voids_before_drop(self.logs[scope], self.aid, gone, self.counts))
            drop_removed(self.logs[scope], gone, admin=gone in self.admins)
        drop_removed(self.logs[LIVE], gone, admin=False)
        self.removed.add(gone)

    def _speak_for(self, gone: bytes, scope: str, *, removing: bool = False) -> None:
        """As an admin: say again what an author decided here, before it is dropped."""
        plan = plan_removal(self.logs[scope], self.aid, gone, self.now_ms, self.counts)
        self.say(scope, plan.statements, source=gone)
        for number, counters in enumerate(plan.counters or [{}] if removing else plan.counters):
            name = removed_path(gone) + (f"/{number}" if number else "")
            self.say(scope, [Statement(name, Kind.ALL, {"counters": counters})])

    # -- the fence --------------------------------------------------------------------------------------

    def contact(self, peer: int, scope: str, since: int | None = None) -> bool:
        """Ask a peer for our own log before anything newer than the fence is announced to it."""
        key = (peer, scope)
        if since is None and (key in self.checked or not self.world.policy.fenced):
            return True
        if not self.certified():
            return False
        fence, log = self.fences[scope], self.logs[scope]
        parts = self.world.call(self, peer, scope, fence.hlc if since is None else min(since, fence.hlc))
        if parts is None:
            return False
        records = [rec for part in parts for rec in part.records]
        for rec in records:
            self.clock.receive(rec.hlc)
        if not self.world.policy.fenced:
            fence = Fence(head=log.author(self.aid).head)
        before = {rec.hlc: rec for rec in log.since(self.aid, 0)}
        says = fence.recover(log, self.aid, records, reset=parts[0].reset, now_ms=self.now_ms)
        if says:
            self.world.trace(lambda: f"  {self.index} recovers from {peer}: {says}")
        self._learn(scope, self.aid, records)
        back = [rec for rec in log.since(self.aid, 0) if rec.hlc not in before]
        self.world.learned(self, scope, back)
        self.world.dropped_own(
            peer, self, scope, [rec for hlc, rec in before.items() if not log.at(self.aid, hlc)]
        )
        self.say(scope, says, source=self.aid)
        if scope == MESH:
            for rec in back:
                self.notice(rec)
            if log.get(SlotKey(member_path(self.aid), Kind.ALL, self.aid)) is None:
                self.renew(self.until[self.aid])
        self.checked.add(key)
        return True

    def announces(self, peer: int, scope: str, aid: bytes) -> bool:
        """Whether this author's log may be shown to a peer now."""
        return aid != self.aid or scope == LIVE or self.contact(peer, scope)

    # -- giving -----------------------------------------------------------------------------------------

    def push(self, peer: int, scope: str, aid: bytes, bytes_max: int, since: int | None = None) -> None:
        """Send what a peer lacks of an author, one part at a time."""
        key = (peer, scope, aid)
        if not self.announces(peer, scope, aid):
            return
        log = self.logs[scope]
        if since is not None:
            self.sending.pop(key, None)
        after = self.sending.pop(key, None)
        start = since if since is not None else self.sent.get(key, 0)
        part = sync.serve(
            log, aid, start, bytes_max=bytes_max, after=after, now_ms=self.now_ms, live=scope == LIVE
        )
        if part.more:
            self.sending[key] = part
        self.sent[key] = max(part.upto, self.sent.get(key, 0))
        if part.records or part.reset:
            self.world.send(self, peer, sync.delta_of(scope, aid, part))

    def handle(self, sender: int, message: Message, bytes_max: int) -> None:
        """Any message from a neighbour."""
        match message:
            case Delta():
                self.take(sender, message)
            case Want(scope=scope, aid=aid, since=since):
                self.push(sender, scope, aid, bytes_max, since)
                for _ in range(100):
                    if (sender, scope, aid) not in self.sending:
                        break
                    self.push(sender, scope, aid, bytes_max)
            case Listing():
                self._listed(sender, message, answer=True)
            case Answering(listing=listing):
                self._listed(sender, listing, answer=False)
            case Pull(scope=scope, aid=aid, hlcs=hlcs, head=head):
                log = self.logs[scope]
                if log.author(aid).head == head and self.announces(sender, scope, aid):
                    self.world.send(self, sender, sync.serve_pull(log, scope, aid, hlcs, head))

    def _listed(self, sender: int, listing: Listing, *, answer: bool) -> None:
        scope, aid = listing.scope, listing.aid
        log = self.logs[scope]
        if log.author(aid).head != listing.head:
            return
        missing = sync.missing(log, listing)
        if missing:
            self.asked[sender, scope, aid] = set(missing)
            self.world.send(self, sender, Pull(scope, aid, missing, listing.head))
        if answer:
            for mine in sync.listings(log, scope, aid):
                self.world.send(self, sender, Answering(mine))

    def compare(self, peer: int, scope: str, heads: Sequence[tuple[bytes, int, int]]) -> None:
        """A peer's heads: want what it has more of, list where fingerprints part."""
        log = self.logs[scope]
        for aid, head, fp in heads:
            mine = log.author(aid)
            if head > mine.head:
                if aid == self.aid and scope != LIVE:
                    self.contact(peer, scope, since=mine.floor)
                else:
                    self.world.send(self, peer, Want(scope, aid, mine.head))
            elif head == mine.head and scope != LIVE and fp != mine.fp:
                for listing in sync.listings(log, scope, aid):
                    self.world.send(self, peer, listing)

    def heads(self, scope: str) -> list[tuple[bytes, int, int]]:
        """What this node announces."""
        return [(aid, state.head, state.fp) for aid, state in self.logs[scope].authors()]

    # -- duties and troubles ----------------------------------------------------------------------------

    def collect(self) -> int:
        """The daily duty; returns how many statements it took."""
        count = 0
        for scope in KEPT_SCOPES:
            policy, fence = self.world.policy, self.fences[scope]
            if not self.world.company(self, scope):
                fence.alone()
            if policy.fenced and not fence.passed(self.now_ms):
                continue
            self.world.fence_passed(self, scope)
            self.world.deceived(self, scope)
            collector = policy.collector(removed=self.removed.__contains__)
            says = collector.plan(self.logs[scope], self.aid, self.now_ms, self.counts)
            if says:
                self.world.trace(lambda: f"  {self.index} collects in {scope} by {fence}: {says}")  # noqa: B023
            count += len(self.say(scope, says, source=self.aid))
        return count

    def sweep(self) -> None:
        """Drop what is past its ttl for good."""
        for scope, log in self.logs.items():
            sync.sweep(log, self.now_ms, live=scope == LIVE)

    def lease(self) -> None:
        """Renew the slot in the live scope."""
        self.say(LIVE, [Statement(f"node/{self.aid.hex()}", Kind.ALL, {"up": 1}, ttl=45_000)])

    def remove(self, gone: bytes) -> None:
        """As an admin: remove an author for ever."""
        if gone not in self.removed and self.certified():
            for scope in KEPT_SCOPES:
                self._speak_for(gone, scope, removing=True)
            self._drop(gone)

    def restart(self) -> None:
        """The process starts again on the same store; what was in RAM is gone."""
        self.logs[LIVE] = MemoryLog(fingerprints=False)
        self.forget_links()
        for scope in KEPT_SCOPES:
            if self.fences[scope].passed(self.now_ms):
                self.world.fence_passed(self, scope)
            self.fences[scope] = Fence.opened(
                self.logs[scope], self.aid, self.fences[scope], self.now_ms, self.world.nonce()
            )

    def restore(self, backup: Backup) -> None:
        """The store is set back to a backup."""
        for scope in KEPT_SCOPES:
            self.logs[scope] = clone(backup.logs[scope])
        self.fences = copy.deepcopy(backup.fences)
        self.known = dict(backup.known)
        self.clock = HybridClock(backup.clock_last)
        self.live_clock = HybridClock(self.live_clock.last)
        self.reread()
        self.restart()

    def reread(self) -> None:
        """Certificates and removals as the store has them."""
        log = self.logs[MESH]
        self.until = {}
        self.removed = set()
        for path in log.paths("member/"):
            for rec in log.slots(path):
                self._learn(MESH, rec.aid, [rec])
        for path in log.paths("removed/"):
            if any(rec.aid in self.admins for rec in log.slots(path)):
                self.removed.add(bytes.fromhex(path.split("/")[1]))

    def correct_clock(self, offset_ms: int) -> None:
        """The clock, ahead until now, is set right."""
        self.offset_ms = offset_ms
        says = {scope: rewind(self.logs[scope], self.aid, self.now_ms) for scope in KEPT_SCOPES}
        left = [
            log.newest(aid) for scope in KEPT_SCOPES for log in [self.logs[scope]] for aid, _ in log.authors()
        ]
        self.clock.last = max(left, default=0)
        self.logs[LIVE] = MemoryLog(fingerprints=False)
        self.live_clock.last = self.clock.last
        for scope in KEPT_SCOPES:
            self.fences[scope].rewound(self.logs[scope], self.aid, self.now_ms)
            self.say(scope, says[scope], source=self.aid)

    def dump(self, scope: str, now_ms: int) -> dict[bytes, Any]:
        """What must be byte-identical on all replicas."""
        log = self.logs[scope]
        out: dict[bytes, Any] = {}
        for aid, state in log.authors():
            slots = [
                (rec.slot, rec.hlc, rec.sig)
                for rec in log.since(aid, 0)
                if rec.kind != Kind.LOG or rec.hlc == log.newest(aid) or not _old(rec, now_ms)
            ]
            if slots or state.head:
                out[aid] = (state.head, state.floor, sorted(slots))
        return out


def _old(rec: Record, now_ms: int) -> bool:
    return (rec.expiry_ms or 0) + GRACE_MS <= now_ms

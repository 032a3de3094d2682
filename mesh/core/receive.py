"""What a delta may change: the receiving half of the rules of replication (`core/sync.py` tells the whole).

admit    cut off what lies ahead of the clock or beyond the author's certificate
store    inside a slot the larger (hlc, H(sig)) wins; at or below the floor nothing new; within the quota
collect  take `~gc` once the head has reached its floor, and drop what it frees
head     plain and without a hole: min(upto, newest verified); after a whole reset likewise; else unmoved
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.core import folds, tally
from mesh.core.clock import FUTURE_MS_MAX, HLC_MAX, hlc_of
from mesh.core.floors import (
    apply_floor,
    collected,
    gc_floor,
    gc_order,
    gc_slot,
    immortal,
    is_gc,
    outlived,
    outlives_removal,
)
from mesh.core.log import AuthorState, Log
from mesh.core.record import GC_PATH, Kind, Op, Record, SlotKey, signature_hash
from mesh.wire.messages import Delta

QUOTA_SLACK = 1.25


class Limits(msgspec.Struct, frozen=True):
    """What is accepted of one author.

    Attributes:
        slots_max: quota of slots, or None.
        bytes_max: quota of bytes (bodies and signatures), or None.
        until_ms: newest expiry known of the author's certificate, unix milliseconds, or None.
        removed: the author was removed; nothing of it is taken, but what its removal spares.
        admin: its certificate has the role admin, so its removals of others outlive its own.
    """

    slots_max: int | None = None
    bytes_max: int | None = None
    until_ms: int | None = None
    removed: bool = False
    admin: bool = False


UNLIMITED = Limits()


class Own(msgspec.Struct):
    """Records of ourselves that a peer offers and we do not hold.

    Attributes:
        unknown: newer than what we have in the slot: we forgot them (a restored backup).
        strays: live, at or below our floor: some replica missed that we deleted them.
    """

    unknown: list[Record]
    strays: list[Record]


class Outcome(msgspec.Struct):
    """What a delta changed.

    Attributes:
        state: the author's state now.
        head_moved: whether the head is another than before.
        stored: records now held that were not before.
        dropped: slots that are gone.
        want: there is a hole: ask for the author from this hlc on; or None.
        forward: accepted whole: may be passed on as it came.
        mark_dirty: something changed that neighbours do not learn by forwarding: announce the author.
        refused: why the rest was not taken ("future", "certificate", "quota", "removed"), or None.
        clash: two records of the author under one hlc: its key is in use twice, or it lies.
        own: for our own records, which are looked at and never taken from the wire.
    """

    state: AuthorState
    stored: list[Record]
    dropped: list[SlotKey]
    head_moved: bool = False
    want: int | None = None
    forward: bool = False
    mark_dirty: bool = False
    refused: str | None = None
    clash: tuple[Record, Record] | None = None
    own: Own | None = None

    @property
    def head(self) -> int:
        return self.state.head


class ResetParts(msgspec.Struct):
    """A reset that arrives in parts: its floor, where the next part must begin, every hlc named so far."""

    floor: int = 0
    upto: int = 0
    hlcs: set[int] = msgspec.field(default_factory=set)


class Judge:
    """The judgements of the durable scopes. Each is a method because each has a wrong variant that a test
    switches in to see it caught."""

    live = False

    def reach(self, upto: int, verified: int) -> int:
        """How far a delta without a hole moves the head: never beyond what signatures show."""
        return min(upto, verified)

    def reset_floor(self, delta: Delta, gc: Record | None) -> int:
        """The floor a reset proves; 0 when it proves none."""
        return gc_floor(gc)

    def gc_wins(self, gc: Record, held: Record | None) -> bool:
        """Whether a `~gc` replaces the one held."""
        return gc_order(gc) > gc_order(held)

    def pull_allowed(self, record: Record, floor: int, head: int, upto: int) -> bool:
        """Whether a pulled record at or below the floor is taken: live, and only while heads are equal."""
        return head == upto and record.op == Op.PUT and not collected(record, floor)

    def pulled_head(self, head: int, verified: int) -> int:
        """The head after a pull, which makes no claim to be complete."""
        return head

    def welcome(self, record: Record, head: int, verified: int, now_ms: int) -> bool:
        """Whether a record with a ttl is still taken: one of kind LOG until it is outlived, but the newest
        record always, because it is what proves the head to others."""
        return record.kind != Kind.LOG or record.hlc >= verified or not outlived(record, now_ms)


class LiveJudge(Judge):
    """The live scope: no floors and no fingerprints. A slot is renewed or dies; the head outlives it, and
    what is not above the head is never new, else two peers would hand a dead lease to each other for ever."""

    live = True

    def reset_floor(self, delta: Delta, gc: Record | None) -> int:
        return 0

    def gc_wins(self, gc: Record, held: Record | None) -> bool:
        return False

    def pull_allowed(self, record: Record, floor: int, head: int, upto: int) -> bool:
        return False

    def welcome(self, record: Record, head: int, verified: int, now_ms: int) -> bool:
        return record.ttl is not None and record.hlc > head and not outlived(record, now_ms)


def admitted_hlc_max(now_ms: int, limits: Limits) -> int:
    """The largest stamp taken of an author: a minute ahead at most, and within its certificate."""
    until_ms = now_ms + FUTURE_MS_MAX
    if limits.until_ms is not None:
        until_ms = min(until_ms, limits.until_ms)
    return hlc_of(until_ms + 1) - 1


class Receiver:
    """One delta of another author on its way into the log.

    Args:
        records: those of `delta`, verified and parsed.
        now_ms: mesh time.
        parts: kept by the caller per link and author while the parts of a reset arrive.
    """

    def __init__(
        self,
        judge: Judge,
        log: Log,
        delta: Delta,
        records: Sequence[Record],
        now_ms: int,
        limits: Limits,
        parts: ResetParts | None,
    ) -> None:
        self._judge = judge
        self._log = log
        self._delta = delta
        self._now_ms = now_ms
        self._limits = limits
        self._parts = parts
        self._before = log.author(delta.aid)
        self._upto = delta.upto
        self._out = Outcome(self._before, [], [])
        self._records = self._admit(records)
        gcs = [rec for rec in self._records if is_gc(rec)]
        self._gc = max(gcs, key=gc_order, default=None)
        self._newest = log.newest(delta.aid)
        self._verified = max(self._newest, max([rec.hlc for rec in self._records], default=0))

    def run(self) -> Outcome:
        """Judge and store."""
        if self._limits.removed:
            return self._removed()
        delta, before, out = self._delta, self._before, self._out
        floor = self._judge.reset_floor(delta, self._gc) if delta.reset and not delta.pull else 0
        if before.head < floor:
            return self._reset(floor)
        head = before.head
        plain = not delta.pull and delta.since <= head
        whole = self._store(0.0)
        if delta.pull:
            head = self._judge.pulled_head(head, self._verified)
            self._collect(head)
        elif plain:
            head = max(head, self._judge.reach(self._upto, self._verified))
            self._collect(head)
            out.forward = whole and out.refused is None and not delta.reset
        elif out.refused is None:
            out.want = head  # where something was refused, asking again at once would be refused again
        out.mark_dirty = not out.forward and (head > before.head or (delta.pull and bool(out.stored)))
        return self._finish(head)

    def _admit(self, records: Sequence[Record]) -> Sequence[Record]:
        """What lies within the clock's bound and the certificate; the rest is cut off."""
        top = admitted_hlc_max(self._now_ms, self._limits)
        if max([rec.hlc for rec in records], default=0) <= top:
            return records
        ahead = top == hlc_of(self._now_ms + FUTURE_MS_MAX + 1) - 1
        self._out.refused = "future" if ahead else "certificate"
        self._upto = min(self._upto, top)
        return [rec for rec in records if rec.hlc <= top]

    # -- storing ----------------------------------------------------------------------------------------

    def _store(self, extra: float) -> bool:
        """Store what wins its slot; returns whether the quota let all of it pass."""
        log, judge, delta = self._log, self._judge, self._delta
        state = log.author(delta.aid)
        floor, head = state.floor, state.head
        room = _Room(self._limits, state, extra)
        top = self._newest
        for rec in self._records:
            hlc = rec.hlc
            if rec.path == GC_PATH and rec.kind == Kind.REG:
                continue
            below = hlc <= floor and rec.kind != Kind.LOG
            if below and not (delta.pull and judge.pull_allowed(rec, floor, head, delta.upto)):
                continue
            if (rec.ttl is not None or judge.live) and not judge.welcome(
                rec, head, self._verified, self._now_ms
            ):
                continue
            slot = rec.slot
            held = log.peek(slot)
            if held is not None and held[0] >= hlc:
                if not self._wins_tie(rec, held, slot):
                    continue
            elif hlc <= top and not self._alone(rec):
                continue
            if room.bounded and not (
                room.take(log, rec, slot, held is not None)
                or (room.credit(log, self._gc, head) and room.take(log, rec, slot, held is not None))
            ):
                self._upto = min(self._upto, hlc - 1)
                self._out.refused = "quota"
                return False
            log.put(rec)
            self._out.stored.append(rec)
            top = max(top, hlc)
        return True

    def _wins_tie(self, rec: Record, held: tuple[int, bytes], slot: SlotKey) -> bool:
        """Whether a record that is not newer than the one in its slot replaces it: by H(sig) at equal hlc."""
        if held[0] > rec.hlc or held[1] == rec.sig:
            return False
        other = self._log.get(slot)
        if other is not None:
            self._out.clash = (other, rec)
        return signature_hash(rec.sig) > signature_hash(held[1])

    def _alone(self, rec: Record) -> bool:
        """One hlc, one record: where an author used a stamp twice, the larger H(sig) stays."""
        other = self._log.at(rec.aid, rec.hlc)
        if other is None:
            return True
        self._out.clash = (other, rec)
        if signature_hash(other.sig) >= signature_hash(rec.sig):
            return False
        self._log.drop(other.slot)
        self._out.dropped.append(other.slot)
        return True

    # -- floors and resets ------------------------------------------------------------------------------

    def _collect(self, head: int) -> None:
        """Take the delta's `~gc` once the head has reached it, and drop what it frees.

        Before it in the log stand the deletes its author said again because others still need them. Until
        then it is not even stored, so a `~gc` in a log is always in force.
        """
        gc, log, aid = self._gc, self._log, self._delta.aid
        if gc is None or gc.hlc > head or not self._judge.gc_wins(gc, log.get(gc_slot(aid))):
            return
        other = log.at(aid, gc.hlc)
        if other is not None and not is_gc(other) and not self._alone(gc):
            return
        log.put(gc)
        self._out.stored.append(gc)
        state = log.author(aid)
        if gc_floor(gc) > state.floor:
            self._out.dropped += apply_floor(log, aid, gc_floor(gc))
        log.set_marks(aid, head=max(state.head, head), floor=max(state.floor, gc_floor(gc)))

    def _reset(self, floor: int) -> Outcome:
        """A part of a valid reset: stored as it comes; what no part named is dropped after the last."""
        delta, log, out, head = self._delta, self._log, self._out, self._before.head
        parts = self._parts if self._parts is not None else ResetParts()
        if delta.since == 0:
            parts.floor, parts.upto, parts.hlcs = floor, 0, set()
        if parts.floor != floor or parts.upto != delta.since or not self._store(1.0):
            parts.floor = 0
            out.want = None if out.refused else head
            return self._finish(head)
        parts.hlcs.update([rec.hlc for rec in self._records])
        parts.upto = delta.upto
        reach = self._judge.reach(self._upto, self._verified)
        if delta.more or reach < floor:
            return self._finish(head)
        for rec in [rec for rec in log.since(delta.aid, 0) if _forgotten(rec, floor, parts.hlcs)]:
            log.drop(rec.slot)
            out.dropped.append(rec.slot)
        parts.floor = 0
        if not _Room(self._limits, log.author(delta.aid), 0.0).fits:
            out.refused = "quota"
            return self._finish(head)
        self._collect(reach)
        out.mark_dirty = True
        return self._finish(reach)

    def _removed(self) -> Outcome:
        """A removed author: what is spared of it has no order to be complete in; the newest is its head."""
        spares = self._limits.admin and not self._judge.live
        self._records = [rec for rec in self._records if spares and outlives_removal(rec.path, rec.aid)]
        self._store(0.0)
        self._out.refused = "removed"
        self._out.mark_dirty = bool(self._out.stored)
        return self._finish(self._log.newest(self._delta.aid))

    def _finish(self, head: int) -> Outcome:
        out, aid = self._out, self._delta.aid
        state = self._log.author(aid)
        if head != state.head:
            self._log.set_marks(aid, head=head, floor=state.floor)
            state = self._log.author(aid)
        out.state = state
        out.head_moved = head != self._before.head
        return out


class _Room:
    """How much more of an author fits. Replicas allow more than the author allows itself, so that no honest
    author is judged differently by two of them; deletes and voids pass up to twice that."""

    def __init__(self, limits: Limits, state: AuthorState, extra: float) -> None:
        self.bounded = limits.slots_max is not None or limits.bytes_max is not None
        slack = QUOTA_SLACK + extra
        self._slots_max = (HLC_MAX if limits.slots_max is None else limits.slots_max) * slack
        self._bytes_max = (HLC_MAX if limits.bytes_max is None else limits.bytes_max) * slack
        self._count = state.count
        self._size = state.size
        self._credited = False

    def credit(self, log: Log, gc: Record | None, head: int) -> bool:
        """Count out what the author's newer `~gc` is about to free here; once per delta."""
        if gc is None or self._credited or gc_floor(gc) > head:
            return False
        self._credited = True
        freed = [rec for rec in log.since(gc.aid, 0) if collected(rec, gc_floor(gc))]
        self._count -= len(freed)
        self._size -= sum(rec.size for rec in freed)
        return bool(freed)

    @property
    def fits(self) -> bool:
        return self._count <= self._slots_max and self._size <= self._bytes_max

    def take(self, log: Log, rec: Record, slot: SlotKey, replaces: bool) -> bool:
        """Count a record in; False when it does not fit."""
        held = log.get(slot) if replaces else None
        grows = rec.size - (0 if held is None else held.size)
        more = 0 if held is not None else 1
        factor = 1 if rec.op == Op.PUT else 2
        if more and self._count + more > self._slots_max * factor:
            return False
        if grows > 0 and self._size + grows > self._bytes_max * factor:
            return False
        self._count += more
        self._size += grows
        return True


def _forgotten(rec: Record, floor: int, hlcs: set[int]) -> bool:
    """Whether a whole reset takes a record away: its author no longer has it."""
    return rec.hlc <= floor and rec.hlc not in hlcs and rec.kind != Kind.LOG and not immortal(rec.path)


def own_offered(log: Log, me: bytes, records: Sequence[Record], now_ms: int) -> Own | None:
    """What a peer knows of ourselves and we do not; None in the usual case."""
    state = log.author(me)
    unknown, strays = [], []
    for rec in records:
        if is_gc(rec):
            if gc_order(rec) > gc_order(log.get(gc_slot(me))):
                unknown.append(rec)
            continue
        held = log.peek(rec.slot)
        if held is not None and held[0] >= rec.hlc:
            if held[0] > rec.hlc > state.floor and _forgotten_under(log, rec):
                unknown.append(rec)
        elif rec.kind == Kind.LOG:
            if rec.hlc > state.head or not outlived(rec, now_ms):
                unknown.append(rec)
        elif rec.hlc > state.floor or immortal(rec.path):
            unknown.append(rec)
        elif rec.op == Op.PUT and not collected(rec, state.floor):
            strays.append(rec)
    return Own(unknown, strays) if unknown or strays else None


def _forgotten_under(log: Log, rec: Record) -> bool:
    """Whether our newer record in the slot was written without knowing an older one of ours.

    A later write of one life holds all that the slot held before: increments, `sees`, and (but for what is
    said for a removed author) a stamp that does not fall.
    """
    held = log.get(rec.slot)
    if held is None:
        return False
    if rec.kind == Kind.CTR:
        return held.op == rec.op == Op.PUT and tally.totals_grow(held.val, rec.val)
    if rec.stamp > held.stamp and not folds.origins(held):
        return True
    seen = held.sees or {}
    return rec.kind == Kind.MV and any(hlc > seen.get(aid, 0) for aid, hlc in (rec.sees or {}).items())

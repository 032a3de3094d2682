"""What a delta may change: the receiving half of the rules of replication (`core/sync.py` tells the whole).

admit    cut off what lies ahead of the clock or beyond the author's certificate
store    inside a slot the larger (hlc, H(sig)) wins; at or below the floor nothing new; within the quota
collect  take `~gc` once the head has reached its floor, and drop what it frees
head     plain and without a hole: min(upto, newest verified); after a whole reset likewise; else unmoved
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.core.clock import FUTURE_MS_MAX, hlc_of
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
from mesh.core.own import Own
from mesh.core.quota import UNLIMITED, Limits, Room, admitted_hlc_max
from mesh.core.record import GC_PATH, Kind, Op, Record, SlotKey, signature_hash
from mesh.wire.messages import Delta


class Outcome(msgspec.Struct):
    """What a delta changed.

    Attributes:
        state: the author's state now.
        stored: records now held that were not before.
        dropped: slots that are gone.
        want: there is a hole: ask for the author from this hlc on; or None.
        forward: accepted whole: may be passed on as it came.
        mark_dirty: something changed that neighbours do not learn by forwarding: announce the author.
        refused: why the rest was not taken ("future", "certificate", "quota", "removed"), or None.
        clash: two records of the author under one hlc: its key is in use twice, or it lies.
        own: for our own records, which are looked at and never taken from the wire.
        outdone: the `~gc` we hold, when one with a smaller floor came: the sender should know.
    """

    state: AuthorState
    stored: list[Record]
    dropped: list[SlotKey]
    want: int | None = None
    forward: bool = False
    mark_dirty: bool = False
    refused: str | None = None
    clash: tuple[Record, Record] | None = None
    own: Own | None = None
    outdone: Record | None = None

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

    def proven(self, head: int, newest: int) -> int:
        """The head at last: a record proves it to others; a larger `~gc` may have replaced the newest."""
        return min(head, newest)

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

    def proven(self, head: int, newest: int) -> int:
        return head

    def reset_floor(self, delta: Delta, gc: Record | None) -> int:
        return 0

    def gc_wins(self, gc: Record, held: Record | None) -> bool:
        return False

    def pull_allowed(self, record: Record, floor: int, head: int, upto: int) -> bool:
        return False

    def welcome(self, record: Record, head: int, verified: int, now_ms: int) -> bool:
        return record.ttl is not None and record.hlc > head and not outlived(record, now_ms)


def renewed(log: Log, delta: Delta, rec: Record, now_ms: int, limits: Limits) -> Outcome | None:
    """What becomes of a live delta that only renews one slot: nearly all of them do, in every node's zone.

    The same as `Receiver` says of it, by the shortest way. None: it is one of the others.
    """
    if delta.pull or delta.reset or (limits is not UNLIMITED and (limits.removed or limits.bounded)):
        return None
    hlc, before = rec.hlc, log.author(delta.aid)
    head = before.head
    if not delta.since <= head < hlc or rec.kind == Kind.LOG or rec.path == GC_PATH or rec.ttl is None:
        return None
    if hlc <= log.newest(delta.aid):
        return None
    if hlc > admitted_hlc_max(now_ms, limits) or outlived(rec, now_ms):
        return None
    log.put(rec)
    reach = delta.upto if delta.upto < hlc else hlc
    head = reach if reach > head else head
    if head != before.head:
        log.set_marks(delta.aid, head=head, floor=before.floor)
    return Outcome(log.author(delta.aid), [rec], [], forward=True)


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
        self._records, newest = self._admit(records)
        self._newest = log.newest(delta.aid)
        self._gc: Record | None = None
        gcs = [rec for rec in self._records if rec.path == GC_PATH and is_gc(rec)]
        if gcs:
            self._gc = max(gcs, key=gc_order)
            held = log.get(gc_slot(delta.aid))
            if held is not None and gc_floor(self._gc) < gc_floor(held):
                self._out.outdone = held
            shown = [rec.hlc for rec in self._records if not is_gc(rec) or judge.gc_wins(rec, held)]
            newest = max(shown, default=0)
        self._verified = max(self._newest, newest)

    def run(self) -> Outcome:
        """Judge and store."""
        if self._limits.removed:
            return self._removed()
        delta, before, out = self._delta, self._before, self._out
        floor = self._judge.reset_floor(delta, self._gc) if delta.reset and not delta.pull else 0
        if before.head < floor or (floor > before.floor and self._passed(self._gc)):
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

    def _admit(self, records: Sequence[Record]) -> tuple[Sequence[Record], int]:
        """What lies within the clock's bound and the certificate, with its newest stamp; the rest goes."""
        top = admitted_hlc_max(self._now_ms, self._limits)
        newest = max([rec.hlc for rec in records], default=0)
        if newest <= top:
            return records, newest
        ahead = top == hlc_of(self._now_ms + FUTURE_MS_MAX + 1) - 1
        self._out.refused = "future" if ahead else "certificate"
        self._upto = min(self._upto, top)
        admitted = [rec for rec in records if rec.hlc <= top]
        return admitted, max([rec.hlc for rec in admitted], default=0)

    # -- storing ----------------------------------------------------------------------------------------

    def _store(self, extra: float) -> bool:
        """Store what wins its slot; returns whether the quota let all of it pass."""
        log, judge, delta = self._log, self._judge, self._delta
        floor, head = self._before.floor, self._before.head
        room = Room(self._limits, self._before, extra) if self._limits.bounded else None
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
            if room is not None and not (
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

    def _passed(self, gc: Record | None) -> bool:
        """Whether the head went beyond a `~gc` without it: a relay left it out, or the author's store was set
        back and spoke on before it knew. What it takes away may have been missed too."""
        return gc is not None and gc.hlc <= self._before.head

    def _collect(self, head: int, *, whole: bool = False) -> None:
        """Take the delta's `~gc` once the head has reached it, and drop what it frees.

        Before it in the log stand the deletes its author said again because others still need them. Until
        then it is not even stored, so a `~gc` in a log is always in force. One that the head has passed
        counts with a `whole` reset only, which is asked for.
        """
        gc, log, aid = self._gc, self._log, self._delta.aid
        if gc is None or gc.hlc > head or not self._judge.gc_wins(gc, log.get(gc_slot(aid))):
            return
        if not whole and self._passed(gc) and gc_floor(gc) > self._before.floor:
            self._out.want = 0
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
        if not Room(self._limits, log.author(delta.aid), 0.0).fits:
            out.refused = "quota"
            return self._finish(head)
        reach = max(reach, head)
        self._collect(reach, whole=True)
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
        head = self._judge.proven(head, self._log.newest(aid))
        if head != state.head:
            self._log.set_marks(aid, head=head, floor=state.floor)
            state = self._log.author(aid)
        out.state = state
        return out


def _forgotten(rec: Record, floor: int, hlcs: set[int]) -> bool:
    """Whether a whole reset takes a record away: its author no longer has it."""
    return rec.hlc <= floor and rec.hlc not in hlcs and rec.kind != Kind.LOG and not immortal(rec.path)

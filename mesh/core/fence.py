"""The fence: a node whose store was set back must not write over what it no longer remembers saying.

The fence is the own head when the store was opened, kept over restarts until it was checked. On the first
contact with each peer, before anything newer than the fence is announced on that link, `want(fence)` goes to
it for our own log. Usually it has nothing new. If it has more (the store came from a backup, or was rolled
back), then our own writes since opening are set aside, the answer is applied, and they are said again on top:
under fresh stamps, with `asof` so that other authors' records keep their place, counters as increments.
Local reads and writes never wait for this.

The class of bug it removes: Riak's reused actor after disk loss, where acknowledged writes vanish silently.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.core import folds
from mesh.core.collect import Statement, again, joined
from mesh.core.floors import apply_floor, gc_floor, gc_order, gc_slot, immortal, is_gc
from mesh.core.log import Log
from mesh.core.receive import own_offered
from mesh.core.record import GC_PATH, Kind, Record, SlotKey


class Fence(msgspec.Struct):
    """Where our certain memory ends, per durable scope. Persisted in the transactions that change it.

    Attributes:
        hlc: own records up to here were in the store when it was opened, or came back from a peer.
        bases: own counter totals [plus, minus] at the fence, of counters written since.
        checked: some peer has answered since the store was opened.
    """

    hlc: int = 0
    bases: dict[str, list[int]] = msgspec.field(default_factory=dict)
    checked: bool = False

    @staticmethod
    def opened(log: Log, me: bytes, stored: Fence | None) -> Fence:
        """The fence of a store that is opened now, given the one persisted in it."""
        head = log.author(me).head
        if stored is None or stored.checked or stored.hlc > head:
            return Fence(head)
        return stored

    def note(self, log: Log, me: bytes, statement: Statement) -> bool:
        """To be called before an own counter write is stored; returns whether the fence changed."""
        if statement.kind != Kind.CTR or statement.path in self.bases:
            return False
        held = log.get(SlotKey(statement.path, Kind.CTR, me))
        self.bases[statement.path] = list(folds.totals(held))
        return True

    def recover(
        self, log: Log, me: bytes, records: Sequence[Record], *, reset: bool, now_ms: int
    ) -> list[Statement]:
        """Apply a peer's whole answer to `want(fence)` about ourselves; returns what to say on top.

        To be called inside the writer's transaction, the clock raised above every record of the answer, and
        the statements written in the same transaction.

        Args:
            records: of all parts of the answer.
            reset: whether it came as a reset.
        """
        self.checked = True
        own = own_offered(log, me, records, now_ms)
        lost = own.unknown if own is not None else []
        if not lost:
            return []
        aside = {rec.slot: rec for rec in log.since(me, self.hlc)}
        replaced = self._apply(log, me, lost, records, aside, reset)
        top = max(rec.hlc for rec in lost)
        out = []
        for slot, rec in aside.items():
            under = replaced.get(slot)
            if is_gc(rec) or (under is None and rec.hlc > top):
                continue
            if rec.kind == Kind.LOG:
                if rec.expired(now_ms):
                    continue
                log.drop(slot)
            out.append(self._again(rec, under, me, now_ms))
        self.hlc = max(self.hlc, top)
        out.append(Statement(GC_PATH, Kind.REG, log.author(me).floor))
        return out

    def _apply(
        self,
        log: Log,
        me: bytes,
        lost: list[Record],
        records: Sequence[Record],
        aside: dict[SlotKey, Record],
        reset: bool,
    ) -> dict[SlotKey, Record]:
        """Store what was lost; returns the lost records under own newer writes."""
        state = log.author(me)
        gc = max((rec for rec in records if is_gc(rec)), key=gc_order, default=None)
        floor = max(state.floor, gc_floor(gc))
        if reset and floor > state.floor:
            named = {rec.hlc for rec in records}
            for rec in list(log.since(me, 0)):
                gone = rec.hlc <= floor and rec.hlc not in named and rec.slot not in aside
                if gone and rec.kind != Kind.LOG and not immortal(rec.path):
                    log.drop(rec.slot)
        replaced = {}
        for rec in lost:
            if rec.slot in aside and not is_gc(rec):
                replaced[rec.slot] = rec
            elif not is_gc(rec) or gc_order(rec) > gc_order(log.get(gc_slot(me))):
                log.put(rec)
        if floor > state.floor:
            apply_floor(log, me, floor)
        head = max(state.head, floor, *(rec.hlc for rec in lost))
        log.set_marks(me, head=head, floor=floor)
        return replaced

    def _again(self, rec: Record, under: Record | None, me: bytes, now_ms: int) -> Statement:
        if rec.kind == Kind.CTR:
            base = self.bases.get(rec.path, [0, 0])
            old = folds.totals(under)
            new = folds.totals(rec)
            if under is None:
                return Statement(rec.path, rec.kind, list(new))
            self.bases[rec.path] = list(old)
            return Statement(rec.path, rec.kind, [old[i] + max(new[i] - base[i], 0) for i in (0, 1)])
        if rec.kind == Kind.LOG:
            return again(rec, now_ms, asof=None, sees=None)
        stamp = rec.stamp if under is None else max(rec.stamp, under.stamp)
        sees = None
        if rec.kind == Kind.MV:
            sees = joined(rec.sees, under.sees if under is not None else None, without=me)
        return again(rec, now_ms, asof=stamp, sees=sees)

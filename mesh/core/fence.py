"""The fence: a node whose store was set back must not write over what it no longer remembers saying.

The fence is the own head when the store was opened, kept over restarts until it was checked and a day has
passed. On the first contact with each peer, before anything newer than the fence is announced on that link,
`want(fence)` goes to it for our own log. Usually it has nothing new. If it has more (the store came from a
backup, or was rolled back), then our own writes of this life are set aside, the answer is applied, and they
are said again on top: under fresh stamps, with `asof` so that other authors' records keep their place. In a
slot where both lives have written, counters are joined by epoch (`core/tally.py`) and `sees` by author.

What is not newer than the fence and was not in our log then, we did not forget but delete, whatever others
still hold; only what a reset took away since, and another names, may be what the first left out.
Counters are never deleted: one of ours that an answer does not name was left out on the way, and stays.

Local reads and writes never wait for this. Collection does: until the fence has passed nothing is voided,
re-issued or collected, because a floor above what we forgot, or a void in its slot, would delete it at
everyone who still has it.

The class of bug it removes: Riak's reused actor after disk loss, where acknowledged writes vanish silently.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.core import folds, tally
from mesh.core.collect import KEEP_MS, Statement, again, joined
from mesh.core.floors import apply_floor, gc_floor, gc_order, gc_slot, immortal, is_gc
from mesh.core.log import Log
from mesh.core.own import Own, own_offered
from mesh.core.record import GC_PATH, Kind, Op, Record, SlotKey


class Fence(msgspec.Struct):
    """Where our certain memory ends, in one durable scope. Persisted when the store is opened and in the
    transactions of `recover`.

    Attributes:
        hlc: own head when it was set.
        set_ms: mesh time at which it was set, or something last came back.
        head: own head when the store was last opened; what is newer is of this life for certain.
        epoch: of this life of the store, for counters; never used by another.
        settled: counter epochs up to here are folded.
        checked: some peer has answered since it was set.
        forgot: it is known that the store was set back: something came back since it was set.
        taken: the lowest stamp that a reset has taken away since it was set; 0 if none has.
    """

    hlc: int = 0
    set_ms: int = 0
    head: int = 0
    epoch: int = 1
    settled: int = 0
    checked: bool = False
    forgot: bool = False
    taken: int = 0

    @staticmethod
    def opened(log: Log, me: bytes, stored: Fence | None, now_ms: int, nonce: int) -> Fence:
        """The fence of a store that is opened now; to be persisted before the first counter is written.

        Args:
            stored: the one found in the store.
            now_ms: mesh time, as well as it is known.
            nonce: random, 16 bits: two lives that begin with the same backup and clock get two epochs.
        """
        head = log.author(me).head
        old = stored if stored is not None else Fence(epoch=0, checked=True)
        epoch = (max(now_ms, (old.epoch >> 16) + 1) << 16) | nonce
        if old.hlc > head or old.passed(now_ms):
            return Fence(head, now_ms, head, epoch, old.epoch, forgot=old.hlc > head)
        return msgspec.structs.replace(old, head=head, epoch=epoch)

    def passed(self, now_ms: int, keep_ms: int = KEEP_MS) -> bool:
        """Whether whoever could remind us has had a day to do so."""
        return self.checked and now_ms >= self.set_ms + keep_ms

    def trusted(self, own: Own, now_ms: int) -> list[Record]:
        """Those of what others still hold of ours below our floor that we may have forgotten, not deleted.

        They are not withdrawn, and whoever has our floor and still names them in a reset is believed. What
        comes together with something forgotten is among them also when the fence has passed: that news sets
        it again, and what is withdrawn before it is heard does not come back.
        """
        if not own.unknown and (not self.forgot or self.passed(now_ms)):
            return []
        return [rec for rec in own.strays if rec.hlc > self.hlc or 0 < self.taken <= rec.hlc]

    def alone(self) -> None:
        """There is no other member in this scope who could know more of us."""
        self.checked = True

    def rewound(self, log: Log, me: bytes, now_ms: int) -> None:
        """Our clock was set back (`core/rewind.py`): nothing here may lie in the future."""
        self.head = min(self.head, log.author(me).head)
        self.hlc = min(self.hlc, self.head)
        self.set_ms = min(self.set_ms, now_ms)

    def counted(self, log: Log, me: bytes, statement: Statement) -> Statement:
        """An own statement as it is to be signed: the totals of a counter get their epochs."""
        if statement.kind != Kind.CTR or statement.op != Op.PUT:
            return statement
        held = log.get(SlotKey(statement.path, Kind.CTR, me))
        plus, minus = folds.totals_of(statement.val)
        old = held.val if held is not None and held.op == Op.PUT else None
        value = tally.counted(old, plus, minus, epoch=self.epoch, settled=self.settled)
        return msgspec.structs.replace(statement, val=value)

    def recover(
        self, log: Log, me: bytes, records: Sequence[Record], *, reset: bool, now_ms: int
    ) -> list[Statement]:
        """Apply a peer's whole answer to a want for our own log; returns what to say on top.

        To be called inside the writer's transaction, the clock raised above every record of the answer; the
        statements are written in the same transaction, as they are.

        Args:
            records: of all parts of the answer.
            reset: whether it came as a reset.
        """
        self.checked = True
        own = own_offered(log, me, records, now_ms)
        if own is None:
            return []
        if reset:
            gc = max((rec for rec in records if is_gc(rec)), key=gc_order, default=None)
            own.unknown += self.trusted(own, now_ms) if gc_floor(gc) >= log.author(me).floor else []
        if not own.unknown:
            return []
        self.forgot = True
        aside = {rec.slot: rec for rec in log.since(me, self.head) if not is_gc(rec)}
        under = self._apply(log, me, own.unknown, records, aside, reset)
        top = max(rec.hlc for rec in own.unknown)
        for slot, rec in aside.items():
            if rec.hlc <= top and not (rec.kind == Kind.LOG and rec.expired(now_ms)):
                under.setdefault(slot, rec)
        out = []
        for slot in sorted(under, key=lambda slot: under[slot].hlc):
            later = aside.get(slot) or log.get(slot)
            if later is not None:
                out.append(self._on_top(later, under[slot], me, now_ms))
            if slot.kind == Kind.LOG:
                log.drop(slot)
        self.head, self.set_ms = max(self.head, top), now_ms
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
        """Store what was lost; returns lost records whose slots hold another own write that goes on top."""
        state = log.author(me)
        gc = max((rec for rec in records if is_gc(rec)), key=gc_order, default=None)
        floor = max(state.floor, gc_floor(gc))
        if reset and floor > state.floor:
            named = {rec.hlc for rec in records}
            for rec in list(log.since(me, 0)):
                gone = rec.hlc <= floor and rec.hlc not in named and rec.slot not in aside
                if gone and rec.kind not in (Kind.LOG, Kind.CTR) and not immortal(rec.path):
                    self.taken = min(self.taken or rec.hlc, rec.hlc)
                    log.drop(rec.slot)
        under = {}
        for rec in lost:
            held = log.peek(rec.slot)
            if is_gc(rec):
                if gc_order(rec) > gc_order(log.get(gc_slot(me))):
                    log.put(rec)
            elif rec.slot in aside or (held is not None and held[0] > rec.hlc):
                under[rec.slot] = rec
            else:
                log.put(rec)
        if floor > state.floor:
            apply_floor(log, me, floor)
        head = max(state.head, floor, *(rec.hlc for rec in lost))
        log.set_marks(me, head=head, floor=floor)
        return under

    def _on_top(self, rec: Record, under: Record, me: bytes, now_ms: int) -> Statement:
        """An own later write again, knowing now what it was written over."""
        if rec.kind == Kind.CTR and rec.op == Op.PUT:
            old = under.val if under.op == Op.PUT else None
            return Statement(rec.path, rec.kind, tally.joined(rec.val, old))
        if immortal(rec.path):
            return Statement(rec.path, rec.kind, tally.notes_joined(rec.val, under.val))
        if rec.kind == Kind.LOG:
            return again(rec, now_ms, asof=None, sees=None)
        sees = None
        if rec.sees is not None or under.sees is not None:
            sees = joined(rec.sees, under.sees, without=me)
        later = (
            under if rec.asof is not None and under.stamp > rec.stamp else rec
        )  # a void or re-issue yields
        return again(later, now_ms, asof=max(rec.stamp, under.stamp), sees=sees)

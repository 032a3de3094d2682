"""What a peer knows of ourselves and we do not: records that our store forgot, and strays.

Nobody but us writes our log, so what comes from outside about it is only looked at. Newer than what we hold:
our store was set back, `core/fence.py` takes it back. Live and at or below our floor: a stray, which some
replica holds although we deleted and collected it, or which we forgot.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.core import tally
from mesh.core.clock import too_far_ahead
from mesh.core.floors import collected, gc_order, gc_slot, immortal, is_gc, outlived
from mesh.core.log import Log
from mesh.core.record import Kind, Op, Record


class Own(msgspec.Struct):
    """Records of ourselves that a peer offers and we do not hold.

    Attributes:
        unknown: newer than what we have in the slot: we forgot them (a restored backup).
        strays: live, at or below our floor: some replica missed that we deleted them, or we forgot them
            and were told too late.
    """

    unknown: list[Record]
    strays: list[Record]

    def since(self, floor: int) -> int:
        """From where to ask for our own log, so that the answer holds all of this."""
        return min([floor, *(rec.hlc - 1 for rec in self.unknown)])


def own_offered(log: Log, me: bytes, records: Sequence[Record], now_ms: int) -> Own | None:
    """What a peer knows of ourselves and we do not; None in the usual case.

    Whether a stray was deleted or forgotten is not to be told from here: see `core/fence.py`.
    """
    state = log.author(me)
    unknown, strays = [], []
    for rec in records:
        if is_gc(rec):
            if gc_order(rec) > gc_order(log.get(gc_slot(me))):
                unknown.append(rec)
            continue
        held = log.peek(rec.slot)
        if held is not None and held[0] >= rec.hlc:
            kept = rec.hlc > state.floor or immortal(rec.path)
            if held[0] > rec.hlc and kept and _forgotten_under(log, rec):
                unknown.append(rec)
        elif rec.kind == Kind.LOG:
            if rec.hlc > state.head or not outlived(rec, now_ms):
                unknown.append(rec)
        elif rec.hlc > state.floor or immortal(rec.path):
            unknown.append(rec)
        elif rec.op == Op.PUT and not collected(rec, state.floor):
            strays.append(rec)
    return Own(unknown, strays) if unknown or strays else None


def own_live_offered(log: Log, me: bytes, records: Sequence[Record], now_ms: int) -> Own | None:
    """What a peer still holds of our last life in the live scope, above all that we have said in this one.

    Its clock may have run ahead of our wall clock, pulled along by others. Until our stamps are above it, the
    peer takes nothing that we say for new: we would be dead to it until our clock has caught up.

    What lies beyond the bound is left alone. It is of a time when our clock was wrong, kept by a peer whose
    clock still is; whoever goes on above it is refused by all others for good.
    """
    head = log.author(me).head
    unknown = [rec for rec in records if rec.hlc > head and not too_far_ahead(rec.hlc, now_ms)]
    return Own(unknown, []) if unknown else None


def _forgotten_under(log: Log, rec: Record) -> bool:
    """Whether our newer record in the slot was written without knowing an older one of ours.

    A later write of one life holds all that the slot held before: increments, `sees`, and a stamp that does
    not fall, or for what is said for a removed author the word that it did.
    """
    held = log.get(rec.slot)
    if held is None:
        return False
    if rec.kind == Kind.CTR:
        return held.op == rec.op == Op.PUT and tally.totals_grow(held.val, rec.val)
    if immortal(rec.path):
        return tally.notes_grow(held.val, rec.val)
    seen = held.sees or {}
    if rec.stamp > max(held.stamp, seen.get(held.aid, 0)):
        return True
    return rec.kind == Kind.MV and any(hlc > seen.get(aid, 0) for aid, hlc in (rec.sees or {}).items())

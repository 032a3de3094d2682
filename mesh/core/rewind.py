"""When our own clock turns out to have been ahead: take back the future.

While it was wrong, this node took records that every other refuses, its own among them. Foreign records
beyond the bound are dropped, and the heads of their authors fall to their floors (to zero if the floor itself
came from the future), so that what they had replaced is fetched again. Own records beyond the bound were
acknowledged and are kept: each is said again under a fresh stamp, in the old order, before anything new is
written. `sees` entries from the future are cut to the bound, else they would hide what their authors write
for years.

A floor in the future becomes the newest own stamp that remains: what it collected is gone, so it stays said.
"""

from __future__ import annotations

from mesh.core.collect import Statement
from mesh.core.floors import gc_slot, is_gc
from mesh.core.log import Log
from mesh.core.quota import UNLIMITED, admitted_hlc_max
from mesh.core.record import GC_PATH, Kind, Record


def rewind(log: Log, me: bytes, now_ms: int) -> list[Statement]:
    """Drop what lies beyond the bound; returns what we have to say again, in order.

    To be called inside the writer's transaction, for every scope before the clock (`HybridClock.last`) is set
    to the newest stamp left in any of them, and before the statements are written.

    Args:
        now_ms: the corrected mesh time.
    """
    top = admitted_hlc_max(now_ms, UNLIMITED)
    own = list(log.since(me, top))
    for aid, state in list(log.authors()):
        beyond = list(log.since(aid, top))
        for rec in beyond:
            log.drop(rec.slot)
        if beyond and aid != me:
            floor = 0 if any(is_gc(rec) for rec in beyond) else state.floor
            log.set_marks(aid, head=floor, floor=floor)
    state = log.author(me)
    if not own and state.head <= top:
        return []
    left = log.newest(me)
    log.set_marks(me, head=left, floor=min(state.floor, left))
    said = [_again(rec, top) for rec in own if not is_gc(rec)]
    if state.floor and log.get(gc_slot(me)) is None:
        said.append(Statement(GC_PATH, Kind.REG, min(state.floor, left)))
    return said


def _again(rec: Record, top: int) -> Statement:
    sees = None if rec.sees is None else {aid: min(hlc, top) for aid, hlc in rec.sees.items()}
    asof = rec.asof if rec.asof is not None and rec.asof <= top else None
    return Statement(rec.path, rec.kind, rec.val, rec.op, rec.ttl, asof, sees)

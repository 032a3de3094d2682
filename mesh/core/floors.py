"""Floors: how the deletes, voids and expiries of an author go away for good.

`~gc` is the author's signed word that everything it deleted up to a floor (an hlc) is collected. It counts on
a replica once that replica's head has reached the `~gc` itself: then it has seen every delete it is about to
forget, and those that the author said again just before because they are still needed.
Nothing old can come back afterwards, because at or below the floor nothing new is taken, and who was away
for longer is answered with a reset. Collection is the author's alone, so no other clock plays a part.
"""

from __future__ import annotations

from mesh.core.clock import HLC_MAX, hlc_of
from mesh.core.log import Log
from mesh.core.record import GC_PATH, Kind, Op, Record, SlotKey

GRACE_MS = 60_000


def member_path(aid: bytes) -> str:
    """Where an author publishes its certificate (scope mesh, kind ALL)."""
    return f"member/{aid.hex()}"


def immortal(path: str) -> bool:
    """A removal counts for ever: no floor, ttl or reset takes its record away."""
    return path.startswith("removed/")


def outlives_removal(path: str, aid: bytes) -> bool:
    """Whether a slot of a removed admin stays: its own removals, and the certificate that proves them."""
    return immortal(path) or path == member_path(aid)


def gc_slot(aid: bytes) -> SlotKey:
    """The slot of an author's floor."""
    return SlotKey(GC_PATH, Kind.REG, aid)


def is_gc(record: Record) -> bool:
    return record.path == GC_PATH and record.kind == Kind.REG


def gc_floor(record: Record | None) -> int:
    """The floor a `~gc` record states; 0 when it is nonsense (not an integer below its own hlc)."""
    if record is None or isinstance(record.val, bool) or not isinstance(record.val, int):
        return 0
    return record.val if 0 < record.val < record.hlc and record.op == Op.PUT else 0


def gc_order(record: Record | None) -> tuple[int, int]:
    """Merge order of `~gc`: the largest floor, then the newest. By hlc alone replicas could part for ever."""
    return (0, 0) if record is None else (gc_floor(record), record.hlc)


def end_hlc(record: Record) -> int:
    """The stamp from which a floor takes a record with a ttl away; beyond every stamp without one."""
    expiry_ms = record.expiry_ms
    return HLC_MAX + 1 if expiry_ms is None else max(record.hlc, hlc_of(expiry_ms))


def collected(record: Record, floor: int) -> bool:
    """Whether a floor takes a record away: a delete or void up to it, or one whose ttl ended before it."""
    if record.hlc > floor or record.kind == Kind.LOG or immortal(record.path):
        return False
    return record.op in (Op.DEL, Op.VOID) or end_hlc(record) <= floor


def outlived(record: Record, now_ms: int) -> bool:
    """Whether a record is beyond its ttl and the grace for clocks: kind LOG, and scope live, drop it then."""
    expiry_ms = record.expiry_ms
    return expiry_ms is not None and expiry_ms + GRACE_MS <= now_ms


def apply_floor(log: Log, aid: bytes, floor: int) -> list[SlotKey]:
    """Drop what a floor takes away; returns the slots. An author's newest record always stays."""
    newest = log.newest(aid)
    gone = []
    for rec in log.since(aid, 0):
        if rec.hlc > floor:
            break
        if rec.hlc != newest and collected(rec, floor):
            gone.append(rec.slot)
    for slot in gone:
        log.drop(slot)
    return gone

"""Who may forget a record, and when: only its author's signed floor takes one away (I7).

At the moment when an author raises its floor, and after what it said again just before, nothing that a reader
sees may hang on what the floor takes away, and no value of its own below it may be one that another's has
replaced: that value would come back when the other is collected. What it still says up to there is noted.
Everybody else drops what the floor takes away, or in a reset what the author no longer says; nothing more.
"""

from __future__ import annotations

from mesh.core import folds
from mesh.core.floors import collected, gc_floor, is_gc
from mesh.core.log import Log
from mesh.core.record import Kind, Op, Record
from mesh.sim.checks import Checks


def said(checks: Checks, log: Log, tag: bytes, gc: Record, now_ms: int) -> None:
    """An author has signed a floor, and is about to store it."""
    floor, before = gc_floor(gc), log.author(gc.aid).floor
    own = [rec for rec in log.since(gc.aid, 0) if rec.hlc <= floor]
    left = {rec.hlc for rec in own if not collected(rec, floor) and not is_gc(rec)}
    key = (tag, gc.aid)
    known = checks.kept.get(key)
    checks.kept[key] = left if known is None else {hlc for hlc in left if hlc in known or hlc > before}
    if floor <= before:
        return
    for rec in own:
        if rec.kind not in (Kind.REG, Kind.MV):
            continue
        slots = [other for other in log.slots(rec.path) if other.kind == rec.kind]
        whose = f"{gc.aid.hex()[:8]} collects up to {floor}"
        if collected(rec, floor):
            rest = [other for other in slots if other is not rec]
            if _shown(rest, now_ms) != _shown(slots, now_ms):
                checks.fail("collection", f"{whose}, and {rec.path} @{rec.hlc} was still needed")
        elif rec.op == Op.PUT and rec.kind == Kind.MV and folds.covered(rec, slots):
            checks.fail("collection", f"{whose}, and {rec.path} @{rec.hlc} is replaced and not withdrawn")


def _shown(slots: list[Record], now_ms: int) -> set[bytes]:
    best = folds.register(slots, now_ms)
    return {rec.sig for rec in ([best] if best is not None else [])} | {
        rec.sig for rec in folds.siblings(slots, now_ms)
    }


def dropped(checks: Checks, number: int, tag: bytes, rec: Record) -> None:
    """A replica drops a record of somebody else."""
    if rec.kind == Kind.LOG or (tag, rec.aid, rec.hlc) in checks.twice:
        return
    floor = checks.floor(tag, rec.aid)
    if collected(rec, floor):
        return
    if rec.hlc <= floor and rec.hlc not in checks.kept.get((tag, rec.aid), ()):
        return
    checks.fail("collection", f"node {number} drops {rec.path} @{rec.hlc} of {rec.aid.hex()[:8]}")

"""What a simulated node answers to a reader, and what every answer is held against.

A reading is a function of the slots, the rights (here everybody's) and the time, and of nothing else (I9):
in whatever order the slots are given, and however often, it is the same. What has expired reads as deleted
(I10): it is not shown, and what it had replaced stays replaced. `held_against` works that out again, slot by
slot, without the folds.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.core import folds
from mesh.core.record import Kind, Op, Record


class Reads:
    """One node's readings; a mutant overrides `shown`."""

    def shown(self, path: str, slots: Sequence[Record], kind: int, now_ms: int) -> list[Record]:
        """The values that a user sees at a path, the first one best."""
        if kind == Kind.REG:
            best = folds.register(slots, now_ms)
            return [] if best is None else [best]
        return folds.siblings(slots, now_ms)


def held_against(reads: Reads, path: str, slots: Sequence[Record], kind: int, now_ms: int) -> str:
    """What is wrong with a reading, or nothing."""
    shown = reads.shown(path, slots, kind, now_ms)
    again = reads.shown(path, [*reversed(slots), *slots], kind, now_ms)
    if {rec.sig for rec in shown} != {rec.sig for rec in again} or shown[:1] != again[:1]:
        return "another order of its slots reads otherwise"
    for rec in shown:
        if rec not in slots:
            return f"shows @{rec.hlc}, which is not there"
        if rec.op != Op.PUT or (rec.expiry_ms is not None and rec.expiry_ms <= now_ms):
            return f"shows @{rec.hlc}, which is deleted or has expired"
    said = [rec for rec in slots if rec.kind == kind and rec.op != Op.VOID]
    return (_register if kind == Kind.REG else _siblings)(shown, said, slots, now_ms)


def _register(shown: list[Record], said: list[Record], slots: Sequence[Record], now_ms: int) -> str:
    newest = max(said, key=lambda rec: (rec.stamp, rec.aid), default=None)
    there = newest is not None and newest.op == Op.PUT
    if newest is not None and newest.expiry_ms is not None:
        there = there and newest.expiry_ms > now_ms
    if [rec.sig for rec in shown] != ([newest.sig] if newest is not None and there else []):
        return f"shows {[rec.hlc for rec in shown]}, the newest is {newest.hlc if newest else None}"
    return ""


def _siblings(shown: list[Record], said: list[Record], slots: Sequence[Record], now_ms: int) -> str:
    if any(folds.origins(rec) for rec in slots):
        return ""  # said in the stead of somebody removed: not in this simulator
    for rec in said:
        seen = any(
            other.kind == rec.kind
            and other.aid != rec.aid
            and other.hlc > rec.stamp
            and (other.sees or {}).get(rec.aid, 0) >= rec.stamp
            for other in slots
        )
        over = rec.op == Op.DEL or (rec.expiry_ms is not None and rec.expiry_ms <= now_ms)
        if (rec in shown) is (seen or over):
            return f"{'shows' if rec in shown else 'hides'} @{rec.hlc}"
    return ""

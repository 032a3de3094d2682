"""What is accepted of one author: how many slots and bytes, up to which stamp, and nothing once removed.

Replicas allow more than the author allows itself, so that no honest author is judged differently by two of
them. Deletes and voids pass up to twice that: they are what makes room.
"""

from __future__ import annotations

import msgspec

from mesh.core.clock import FUTURE_MS_MAX, HLC_MAX, hlc_of
from mesh.core.floors import collected, gc_floor
from mesh.core.log import AuthorState, Log
from mesh.core.record import Op, Record, SlotKey

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

    @property
    def bounded(self) -> bool:
        """Whether there is a quota."""
        return self.slots_max is not None or self.bytes_max is not None


UNLIMITED = Limits()


def admitted_hlc_max(now_ms: int, limits: Limits) -> int:
    """The largest stamp taken of an author: a minute ahead at most, and within its certificate."""
    until_ms = now_ms + FUTURE_MS_MAX
    if limits.until_ms is not None:
        until_ms = min(until_ms, limits.until_ms)
    return hlc_of(until_ms + 1) - 1


class Room:
    """How much more of an author fits. Replicas allow more than the author allows itself, so that no honest
    author is judged differently by two of them; deletes and voids pass up to twice that."""

    def __init__(self, limits: Limits, state: AuthorState, extra: float) -> None:
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

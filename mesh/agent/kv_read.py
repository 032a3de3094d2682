"""What a key is: the folds of its slots, put together by type.

A key may have values of several types only where two nodes chose differently at the same time; each is shown
under its own type. A reg is last-writer-wins, but users' reg records carry `sees` as mv records do: what the
winner had not seen stays visible as a conflict until a write that saw both.

Counters and logs have no deletes of their own: each author's total, or entry, is its own slot. Deleting one
writes down, for each author, what was there, and that much is left out from then on. So what the deleter had
not seen survives, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from mesh.agent.kv_keys import COUNTER_GONE, ELEMENT, FIELD, FLAG, LOG_GONE, MARK
from mesh.core import folds
from mesh.core.record import Kind, Op, Record
from mesh.store.log import LmdbLog

TYPES = ("reg", "mv", "flag", "counter", "set", "map", "log")
LOG_SHOWN_MAX = 1000
Totals = dict[bytes, tuple[int, int]]


class Conflicting(msgspec.Struct, frozen=True):
    """Another statement that nobody has replaced. `value` None when it is a delete."""

    value: Any
    record: Record


class Found(msgspec.Struct, frozen=True):
    """A key's visible value of one type.

    Attributes:
        value: what `shapes.Entry` calls value; for a log its records, oldest first.
        newest: the record shown as its origin.
        conflicts: what stands beside the value, newest first.
    """

    type: str
    value: Any
    newest: Record
    conflicts: Sequence[Conflicting] = ()


class Inherited(msgspec.Struct, frozen=True):
    """What removed authors left of one counter: their totals, and the newest record that says so."""

    totals: Totals
    newest: Record


class Slots(msgspec.Struct):
    """All records of one key, those of authors without the right left out.

    A log may be long, so its entries stay where they are: `entries` reads them inside the same snapshot.
    """

    base: str
    plain: list[Record]
    log: LmdbLog
    may: Callable[[bytes, str], bool]
    is_log: bool = False
    flag: list[Record] = []
    elements: dict[str, list[Record]] = {}
    fields: dict[str, list[Record]] = {}
    counter_gone: list[Record] = []
    log_gone: list[Record] = []

    def everything(self) -> Iterator[Record]:
        """Every record, of a log the newest entries."""
        yield from self.plain
        yield from self.flag
        for group in (self.elements, self.fields):
            for records in group.values():
                yield from records
        yield from islice(self.entries(newest_first=True), LOG_SHOWN_MAX)

    def entries(self, after: int = 0, *, newest_first: bool = False) -> Iterator[Record]:
        """The entries of a log that no delete has taken away, expired ones included."""
        if not self.is_log:
            return iter(())
        gone = stamps_gone(self.log_gone)

        def low(aid: bytes) -> int | None:
            return max(after, gone.get(aid, 0)) if self.may(aid, self.base) else None

        return self.log.entries(self.base, low, newest_first=newest_first)


def read_slots(log: LmdbLog, base: str, may: Callable[[bytes, str], bool]) -> Slots:
    """Read all records of the key at a base path.

    Args:
        may: whether an author may write this path; others' slots do not count.
    """
    slots = Slots(base, [], log, may)
    for rec in log.slots(base):
        if rec.kind >= Kind.LOG:  # they come by kind, and none that a key uses comes after
            slots.is_log = rec.kind == Kind.LOG
            break
        if may(rec.aid, base):
            slots.plain.append(rec)
    at = len(base)
    for path in log.paths(base + MARK):
        records = [rec for rec in log.slots(path) if may(rec.aid, base)]
        if path.startswith(ELEMENT, at):
            slots.elements[path] = records
        elif path.startswith(FIELD, at):
            slots.fields[path] = records
        elif path == base + FLAG:
            slots.flag = records
        elif path == base + COUNTER_GONE:
            slots.counter_gone = records
        elif path == base + LOG_GONE:
            slots.log_gone = records
    return slots


def read(
    slots: Slots, now_ms: int, inherited: Inherited | None = None, *, entries_max: int = LOG_SHOWN_MAX
) -> dict[str, Found]:
    """The visible values of a key by type, in the order of TYPES. Inside the snapshot of the slots.

    Args:
        now_ms: mesh time, unix milliseconds.
        entries_max: entries of a log to show, the newest.
        inherited: what removed authors left at this path.
    """
    kinds = {rec.kind for rec in slots.plain}
    found = [
        _register(slots.plain, now_ms) if Kind.REG in kinds else None,
        _multi(slots.plain, now_ms) if Kind.MV in kinds else None,
        _flag(slots.flag, now_ms) if slots.flag else None,
        _counter(slots, now_ms, inherited) if Kind.CTR in kinds or inherited else None,
        _set(slots.elements, now_ms) if slots.elements else None,
        _map(slots.fields, now_ms) if slots.fields else None,
        _log(slots, now_ms, entries_max) if slots.is_log else None,
    ]
    return {value.type: value for value in found if value is not None}


# -- reg, mv, flag ------------------------------------------------------------------------------------------


def _register(records: Sequence[Record], now_ms: int) -> Found | None:
    best = folds.register(records, now_ms)
    if best is None:
        return None
    others = [rec for rec in folds.visible(records, Kind.REG) if rec is not best]
    return Found("reg", best.val, best, _beside(others, now_ms))


def _beside(records: Iterable[Record], now_ms: int) -> list[Conflicting]:
    """Conflicts: values, and deletes; what has expired is over."""
    return [
        Conflicting(rec.val if rec.op == Op.PUT else None, rec) for rec in records if not rec.expired(now_ms)
    ]


def _multi(records: Iterable[Record], now_ms: int) -> Found | None:
    shown = folds.siblings(records, now_ms)
    if not shown:
        return None
    return Found("mv", shown[0].val, shown[0], _beside(shown[1:], now_ms))


def _flag(records: Sequence[Record], now_ms: int) -> Found | None:
    found = _register(records, now_ms)
    if found is None or not isinstance(found.value, bool):
        return None
    return Found("flag", found.value, found.newest, found.conflicts)


# -- counter ------------------------------------------------------------------------------------------------


def totals_gone(records: Iterable[Record]) -> Totals:
    """What deletes of a counter took away, by author: the largest totals that any of them had seen."""
    gone: Totals = {}
    for rec in records:
        if rec.kind != Kind.ALL or rec.op != Op.PUT or not isinstance(rec.val, dict):
            continue
        for aid, pair in rec.val.items():
            plus, minus = folds.totals_of(pair)
            old = gone.get(aid, (0, 0))
            gone[aid] = (max(plus, old[0]), max(minus, old[1]))
    return gone


def totals(slots: Slots, now_ms: int, inherited: Inherited | None) -> Totals:
    """Each author's totals, removed ones included."""
    held = {rec.aid: folds.totals(rec) for rec in _counts(slots, now_ms)}
    return held if inherited is None else {**inherited.totals, **held}


def _counts(slots: Slots, now_ms: int) -> list[Record]:
    return [rec for rec in slots.plain if rec.kind == Kind.CTR and folds.live(rec, now_ms)]


def _counter(slots: Slots, now_ms: int, inherited: Inherited | None) -> Found | None:
    gone = totals_gone(slots.counter_gone)
    left = 0
    present = False
    for aid, (plus, minus) in totals(slots, now_ms, inherited).items():
        base_plus, base_minus = gone.get(aid, (0, 0))
        present = present or aid not in gone or plus > base_plus or minus > base_minus
        left += max(0, plus - base_plus) - max(0, minus - base_minus)
    if not present:
        return None
    records = _counts(slots, now_ms) + ([] if inherited is None else [inherited.newest])
    return Found("counter", left, max(records, key=folds.rank))


# -- sets and maps ------------------------------------------------------------------------------------------


def _set(elements: Mapping[str, list[Record]], now_ms: int) -> Found | None:
    present = [shown[0] for records in elements.values() if (shown := folds.siblings(records, now_ms))]
    if not present:
        return None
    values = sorted((rec.val for rec in present), key=element_order)
    return Found("set", values, max(present, key=folds.rank))


def element_order(value: Any) -> tuple[int, Any]:
    """Order of elements of any type: bools, numbers, text, bytes, and what should not be there."""
    if isinstance(value, bool):
        return (0, value)
    if isinstance(value, (int, float)):
        return (1, value)
    if isinstance(value, str):
        return (2, value)
    return (3, value) if isinstance(value, bytes) else (4, repr(value))


def _map(fields: Mapping[str, list[Record]], now_ms: int) -> Found | None:
    values: dict[str, Any] = {}
    newest: list[Record] = []
    conflicts: list[Conflicting] = []
    for records in fields.values():
        shown = [rec for rec in folds.siblings(records, now_ms) if field_of(rec) is not None]
        if not shown:
            continue
        name, value = shown[0].val[:2]
        values[name] = value
        newest.append(shown[0])
        conflicts += [Conflicting({name: rec.val[1]}, rec) for rec in shown[1:]]
    if not values:
        return None
    conflicts.sort(key=lambda other: folds.rank(other.record), reverse=True)
    return Found("map", dict(sorted(values.items())), max(newest, key=folds.rank), conflicts)


def field_of(record: Record) -> str | None:
    """The name of the field that a record sets, None if it is malformed."""
    value = record.val
    if isinstance(value, list) and len(value) >= 2 and isinstance(value[0], str):
        return value[0]
    return None


# -- logs ---------------------------------------------------------------------------------------------------


def stamps_gone(records: Iterable[Record]) -> dict[bytes, int]:
    """Up to which stamp deletes of a log took each author's entries away."""
    gone: dict[bytes, int] = {}
    for rec in records:
        if rec.kind != Kind.ALL or rec.op != Op.PUT or not isinstance(rec.val, dict):
            continue
        for aid, hlc in rec.val.items():
            if isinstance(hlc, int):
                gone[aid] = max(hlc, gone.get(aid, 0))
    return gone


def _log(slots: Slots, now_ms: int, entries_max: int) -> Found | None:
    live = (rec for rec in slots.entries(newest_first=True) if folds.live(rec, now_ms))
    entries = list(islice(live, entries_max))[::-1]
    return Found("log", entries, entries[-1]) if entries else None

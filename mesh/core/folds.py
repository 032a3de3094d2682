"""What the slots of one path mean: one order-free, idempotent fold per kind.

    reg   the largest (asof or hlc, aid) among the statements; deleted or expired reads as absent
    mv    every slot not covered by another slot's `sees` (the multi-value register of Shapiro et al. 2011,
          with each author's slot as the dot); an OR-set element or map entry is one mv path: present while
          any visible value is a put, so a concurrent add wins over a remove
    ctr   the sum of each author's own [plus, minus]; totals of removed authors are added by the caller
    log   every record for itself, by (hlc, aid)
    all   no choice: {aid: value}

A void says nothing and is ignored, but its `sees` still cover. An expired record reads as DELETED, never as
absent: what it replaced stays replaced. Authors without the right are filtered out before, by the caller.
Records of another kind at the same path are ignored, so two authors can never disagree about a type.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.record import Kind, Op, Record


def live(record: Record, now_ms: int) -> bool:
    """Whether it is a value that readers see: a put that has not expired."""
    return record.op == Op.PUT and not record.expired(now_ms)


def speaks(record: Record) -> bool:
    """Whether it takes part in a choice: a put or a delete, expired or not."""
    return record.op in (Op.PUT, Op.DEL)


def rank(record: Record) -> tuple[int, bytes]:
    """Order of reg statements; the largest is what the path says."""
    return (record.stamp, record.aid)


def winner(records: Iterable[Record]) -> Record | None:
    """The reg statement that counts, a delete or an expired one included; None when nobody says anything."""
    return max((rec for rec in records if rec.kind == Kind.REG and speaks(rec)), key=rank, default=None)


def register(records: Iterable[Record], now_ms: int) -> Record | None:
    """The record whose value a reg path has, or None."""
    best = winner(records)
    return best if best is not None and live(best, now_ms) else None


def covered(record: Record, others: Iterable[Record]) -> bool:
    """Whether another author's slot of the same kind (mv; users' reg too), void or not, had seen this one.

    Nobody can have seen a stamp above its own, so `sees` that claim the future cover nothing of it.
    """
    stamp = record.stamp
    copied = origins(record)
    for other in others:
        sees = other.sees
        if not sees or other.kind != record.kind or other.aid == record.aid or other.hlc <= stamp:
            continue
        if not copied and sees.get(record.aid, 0) >= stamp:
            return True
        for aid in copied:
            if aid != other.aid and sees.get(aid, 0) >= stamp:
                same = other.asof == stamp and sees[aid] == stamp
                if not same or other.aid > record.aid:  # of two copies one stays
                    return True
    return False


def origins(record: Record) -> list[bytes]:
    """Whose statement a record says again after a removal: its `sees` name that author at exactly `asof`.

    So whoever had replaced the removed author's statement has replaced the copy too, and nobody else has: the
    slot it stands in may have said something later before, which others have seen.
    """
    if record.asof is None or not record.sees:
        return []
    return [aid for aid, hlc in record.sees.items() if hlc == record.asof]


def visible(records: Iterable[Record], kind: int = Kind.MV) -> list[Record]:
    """The mv statements nobody has replaced, deletes and expired ones included, newest first.

    Of users' reg statements, which carry `sees` too: the one that counts and those it had not seen.
    """
    slots = [rec for rec in records if rec.kind == kind]
    found = [rec for rec in slots if speaks(rec) and not covered(rec, slots)]
    return sorted(found, key=rank, reverse=True)


def siblings(records: Iterable[Record], now_ms: int) -> list[Record]:
    """The values of an mv path, newest first; more than one is a conflict to show."""
    return [rec for rec in visible(records) if live(rec, now_ms)]


def counter(records: Iterable[Record], now_ms: int) -> int:
    """The value of a counter. Totals that are not two non-negative integers count nothing."""
    total = 0
    for rec in records:
        if rec.kind == Kind.CTR and live(rec, now_ms):
            plus, minus = totals(rec)
            total += plus - minus
    return total


def totals(record: Record | None) -> tuple[int, int]:
    """(plus, minus) of one author's counter slot; zeros when there is none or it is malformed."""
    return (0, 0) if record is None or record.op != Op.PUT else totals_of(record.val)


def totals_of(value: object) -> tuple[int, int]:
    """(plus, minus) of a counter's value."""
    if not isinstance(value, list) or len(value) < 2:
        return (0, 0)
    plus, minus = value[:2]
    if all(isinstance(part, int) and not isinstance(part, bool) and part >= 0 for part in (plus, minus)):
        return (plus, minus)
    return (0, 0)


def entries(records: Iterable[Record], now_ms: int) -> list[Record]:
    """The entries of a log path that have not expired, oldest first."""
    found = [rec for rec in records if rec.kind == Kind.LOG and live(rec, now_ms)]
    return sorted(found, key=lambda rec: (rec.hlc, rec.aid))


def everyone(records: Iterable[Record], now_ms: int) -> dict[bytes, Record]:
    """Every author's own statement at a path of kind all, ascending by author."""
    found = [rec for rec in records if rec.kind == Kind.ALL and live(rec, now_ms)]
    return {rec.aid: rec for rec in sorted(found, key=lambda rec: rec.aid)}


def sees_of(records: Iterable[Record], author: bytes, kind: int = Kind.MV) -> dict[bytes, int]:
    """The `sees` of a new mv (or users' reg) write by `author`: every other slot present, joined with theirs.

    Voids and the author's own previous slot lend their `sees` too: what they had replaced stays replaced
    after they are gone.
    """
    seen: dict[bytes, int] = {}
    for rec in records:
        if rec.kind != kind:
            continue
        for aid, hlc in (rec.sees or {}).items():
            if hlc > seen.get(aid, 0):
                seen[aid] = hlc
        if rec.hlc > seen.get(rec.aid, 0):
            seen[rec.aid] = rec.hlc
    seen.pop(author, None)
    return dict(sorted(seen.items()))

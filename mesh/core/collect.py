"""What an author owes its own log: daily collection, answers to strays, and what a removal asks of everyone.

Once a day an author says how far its deletes and expiries may be forgotten (`core/floors.py`). It must not
forget what others still need, so before that, among its own records at least a day old:

    re-issue   a delete (or void, or expired value) that still beats someone else's live slot is said again,
               `asof` its first stamp: replicas get it anew, folds place it where it was
    void       its own value that another author's record beats is withdrawn, so that the other's delete is
               not needed for ever (but a user's reg that the winning value had not seen stays: it is shown
               as a conflict)
    floor      the newest end among what this really frees; nothing to free, no `~gc`, else every idle author
               would be sent again each day

A slot that its author emptied less than a day ago still pins the delete that beat it: replicas that have the
floor of one author may not have the void of the other yet.

A removal: admins say again, in their own slots and with `asof`, what the removed author's records
decided; every node voids its own values that those records beat; then all drop the author's slots. So nothing
that was replaced or deleted comes back, in whatever order the news arrives. Dominance is always judged on
what the policy lets count: the caller passes `may`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from mesh.core import folds, tally
from mesh.core.clock import hlc_of
from mesh.core.floors import end_hlc, immortal, is_gc, outlives_removal
from mesh.core.log import Log
from mesh.core.own import Own
from mesh.core.record import GC_PATH, Kind, Op, Record, SlotKey

KEEP_MS = 24 * 3600 * 1000
SURVEY_RECORDS = 2000
COUNTERS_PER_RECORD = 200
USERS = "kv/"

May = Callable[[Record], bool]


class Statement(msgspec.Struct, frozen=True, gc=False):
    """What to say, before it has a stamp and a signature. `ttl` in milliseconds."""

    path: str
    kind: int
    val: Any = None
    op: int = Op.PUT
    ttl: int | None = None
    asof: int | None = None
    sees: dict[bytes, int] | None = None


class Survey(msgspec.Struct):
    """Progress through the own log: read up to `upto`; `todo` needs a void or may need a re-issue."""

    upto: int = 0
    done: bool = False
    floor: int = 0
    todo: list[SlotKey] = msgspec.field(default_factory=list)


def everything(record: Record) -> bool:
    """The policy under which every record counts."""
    return True


class Collector:
    """The daily duties. The methods are the ones with a known wrong variant, as in `receive.Judge`.

    Args:
        keep_ms: how long deletes and expiries are kept at least, milliseconds.
        removed: whether an author was removed: its slots pin nothing.
        unheard: whether some admin may still say here what a removed author said, because it has not yet
            told that it dropped it: until then what had replaced that is kept.
    """

    def __init__(
        self,
        keep_ms: int = KEEP_MS,
        removed: Callable[[bytes], bool] = lambda aid: False,
        unheard: Callable[[Log, bytes], bool] = lambda log, aid: False,
    ) -> None:
        self._keep_ms = keep_ms
        self._removed = removed
        self._unheard = unheard

    def survey(
        self,
        log: Log,
        me: bytes,
        now_ms: int,
        may: May = everything,
        survey: Survey | None = None,
        *,
        most: int = SURVEY_RECORDS,
    ) -> Survey:
        """Look at the next `most` own records; call again with the result until it is `done`.

        Reads only, so it can run in slices over short snapshots while writes go on.
        """
        survey = survey if survey is not None else Survey()
        limit = self._limit(now_ms)
        for count, rec in enumerate(log.since(me, survey.upto)):
            if rec.hlc > limit:
                break
            if count >= most:
                return survey
            survey.upto = rec.hlc
            if rec.kind == Kind.LOG or is_gc(rec) or immortal(rec.path):
                continue
            verdict = self.judge(log, rec, limit, may)
            if verdict == "free":
                survey.floor = max(survey.floor, _freed_at(rec))
            elif verdict != "keep":
                survey.todo.append(rec.slot)
        survey.done = True
        return survey

    def plan(
        self, log: Log, me: bytes, now_ms: int, may: May = everything, survey: Survey | None = None
    ) -> list[Statement]:
        """The statements of today, to be written in this order in one transaction; empty: nothing to do.

        Only to be asked for once `Fence.passed`: a node whose store was set back must not collect by what it
        remembers.

        Args:
            survey: a finished one, else the whole log is looked at now.
        """
        while survey is None or not survey.done:
            survey = self.survey(log, me, now_ms, may, survey)
        limit = self._limit(now_ms)
        floor = self.floor(survey, log.author(me).floor, limit)
        out = []
        for slot in survey.todo:
            rec = log.get(slot)
            verdict = "keep" if rec is None or rec.hlc > limit else self.judge(log, rec, limit, may)
            if rec is None or verdict == "keep":
                continue
            if verdict == "void":
                out.append(void(rec))
            elif verdict == "reissue" and _freed_at(rec) <= floor:
                out.append(self.reissue(rec))
        if floor:
            out.append(Statement(GC_PATH, Kind.REG, floor))
        return out

    def judge(self, log: Log, rec: Record, limit: int, may: May) -> str:
        """What is due for one own record: "keep", "free", "reissue" or "void"."""
        if rec.op == Op.PUT and _freed_at(rec) > limit:
            return "void" if self.beaten(log, rec, limit, may) else "keep"
        return "reissue" if self.needed(log, rec, limit, may) else "free"

    def floor(self, survey: Survey, held: int, limit: int) -> int:
        """The floor to say, or 0 for none."""
        return survey.floor if survey.floor > held else 0

    def beaten(self, log: Log, rec: Record, limit: int, may: May) -> bool:
        """Whether an own value is dominated by another author's record, and not shown as a conflict."""
        if rec.kind not in (Kind.REG, Kind.MV) or not may(rec):
            return False
        slots = _slots(log, rec, may)
        if rec.kind == Kind.MV or folds.covered(rec, slots):
            return folds.covered(rec, slots)
        best = folds.winner(slots)
        if best is None or folds.rank(best) <= folds.rank(rec):
            return False
        return not (rec.path.startswith(USERS) and best.op == Op.PUT and _freed_at(best) > limit)

    def needed(self, log: Log, rec: Record, limit: int, may: May) -> bool:
        """Whether something of another author would come back without an own delete, void or ended value."""
        if rec.kind not in (Kind.REG, Kind.MV) or not may(rec):
            return False
        slots = _slots(log, rec, may)
        others = [other for other in slots if other.aid != rec.aid and self.pins(other, limit)]
        if rec.kind == Kind.REG and others and folds.speaks(rec) and folds.winner(slots) == rec:
            return True
        sees = rec.sees or {}
        covers = any(folds.covered(other, [rec]) for other in others) or self.behind(log, sees)
        covers = covers or any(self._removed(aid) and self._unheard(log, aid) for aid in sees)
        return covers and not folds.covered(rec, slots)

    def behind(self, log: Log, sees: dict[bytes, int]) -> bool:
        """Whether this replica, set back to a backup, knows less of the authors seen than it once did."""
        heads = ((log.author(aid).head, hlc) for aid, hlc in sees.items() if not self._removed(aid))
        return any(head < hlc for head, hlc in heads)

    def pins(self, other: Record, limit: int) -> bool:
        """Whether another author's slot is live, or was until lately."""
        return other.hlc > limit or (other.op == Op.PUT and end_hlc(other) > limit)

    def reissue(self, rec: Record) -> Statement:
        """The same delete or void again, under its first stamp."""
        op = Op.VOID if rec.op == Op.VOID else Op.DEL
        return Statement(rec.path, rec.kind, op=op, asof=rec.stamp, sees=rec.sees)

    def _limit(self, now_ms: int) -> int:
        return hlc_of(max(now_ms - self._keep_ms, 0))


def _freed_at(rec: Record) -> int:
    """The floor that takes a record away; beyond every stamp for a value without end."""
    return rec.hlc if rec.op in (Op.DEL, Op.VOID) else end_hlc(rec)


def _slots(log: Log, rec: Record, may: May) -> list[Record]:
    return [other for other in log.slots(rec.path) if other.kind == rec.kind and may(other)]


def answer_strays(log: Log, own: Own, now_ms: int) -> list[Statement]:
    """Withdraw own values that some replica still holds although we deleted and collected them.

    Where our slot still holds what came before the stray we cannot have deleted it: our store was set back
    and whoever knew said so too late for the fence. Then it is said again.
    """
    out = []
    for rec in own.strays:
        held = log.get(rec.slot)
        if held is None:
            out.append(void(rec))
        elif held.hlc < rec.hlc and rec.kind == Kind.CTR:
            out.append(Statement(rec.path, rec.kind, tally.joined(held.val, rec.val)))
        elif held.hlc < rec.hlc:
            sees = joined(rec.sees, held.sees, without=rec.aid) if rec.sees or held.sees else rec.sees
            out.append(again(rec, now_ms, asof=rec.stamp, sees=sees))
    return out


def void(rec: Record) -> Statement:
    """Withdraw an own value. It keeps its `sees`, and its stamp, by which others had seen it."""
    return Statement(rec.path, rec.kind, op=Op.VOID, asof=rec.stamp, sees=rec.sees)


# -- saying again -------------------------------------------------------------------------------------------


def again(rec: Record, now_ms: int, *, asof: int | None, sees: dict[bytes, int] | None) -> Statement:
    """A record as a new statement of ours that ends when the first one does; if it has ended, a delete."""
    expiry_ms = rec.expiry_ms
    if expiry_ms is None or rec.op != Op.PUT:
        return Statement(rec.path, rec.kind, rec.val, rec.op, None, asof, sees)
    if expiry_ms > now_ms:
        return Statement(rec.path, rec.kind, rec.val, rec.op, expiry_ms - now_ms, asof, sees)
    return Statement(rec.path, rec.kind, None, Op.DEL, None, asof, sees)


def joined(*parts: dict[bytes, int] | None, without: bytes) -> dict[bytes, int]:
    """The join of several `sees`, ascending, without one author's own entry."""
    seen: dict[bytes, int] = {}
    for part in parts:
        for aid, hlc in (part or {}).items():
            seen[aid] = max(hlc, seen.get(aid, 0))
    seen.pop(without, None)
    return dict(sorted(seen.items()))


# -- removals -----------------------------------------------------------------------------------------------


class Removal(msgspec.Struct, frozen=True):
    """What a remover writes in one scope, in this order: `statements`, then the removal with its counters.

    Attributes:
        counters: the removed author's totals, {path: [plus, minus]}, with what we noted before, in pieces
            that fit into a record each; none when that holds all.
    """

    statements: list[Statement]
    counters: list[dict[str, list[int]]]


def plan_removal(log: Log, me: bytes, gone: bytes, now_ms: int, may: May = everything) -> Removal:
    """Say again what an author's records decide, so that config outlives the laptop that wrote it.

    Whoever removes does this first; every other admin does it when it learns of the removal, before it drops
    the author's slots, because the remover may not have known all, or not be in that zone. What was said
    again already is not said twice; of counter totals the largest count.

    Where the remover has a visible value of its own at the same multi-value path, one slot cannot hold both:
    the newer stays.
    """
    statements: list[Statement] = []
    noted = _noted(log, me, gone)
    counters = dict(noted)
    for rec in log.since(gone, 0):
        if rec.kind == Kind.CTR and folds.live(rec, now_ms):
            counters[rec.path] = tally.larger(counters.get(rec.path), folds.totals(rec))
        if rec.kind not in (Kind.REG, Kind.MV) or is_gc(rec):
            continue
        slots = _slots(log, rec, may)
        if rec.kind == Kind.REG:
            best = folds.winner(slots)
            if best == rec and not folds.covered(rec, slots):
                statements.append(again(rec, now_ms, asof=rec.stamp, sees=_said_for(rec, slots, me)))
        elif folds.speaks(rec) and may(rec) and not folds.covered(rec, slots):
            statements.append(_inherit(rec, slots, me, now_ms))
    if counters == noted:
        return Removal(statements, [])
    items = sorted((path, list(pair)) for path, pair in counters.items())
    pieces = [dict(items[at : at + COUNTERS_PER_RECORD]) for at in range(0, len(items), COUNTERS_PER_RECORD)]
    return Removal(statements, pieces)


def _noted(log: Log, me: bytes, gone: bytes) -> dict[str, tally.Pair]:
    """The counters of a removed author that our own removal records hold already."""
    found: dict[str, tally.Pair] = {}
    for path in log.paths(f"removed/{gone.hex()}"):
        rec = log.get(SlotKey(path, Kind.ALL, me))
        for counter, pair in tally.notes(rec.val).items() if rec is not None else ():
            found[counter] = tally.larger(found.get(counter), pair)
    return found


def _said_for(rec: Record, slots: list[Record], me: bytes) -> dict[bytes, int] | None:
    """`sees` that name the author we speak for, see `folds.origins`; the system's reg have none.

    And ourselves, at what our slot said until now: a copy may have a lower stamp than what it was written
    over, and only by this it is known that it was written over it (`core/own.py`).
    """
    if rec.sees is None:
        return None
    mine = next((other for other in slots if other.aid == me), None)
    sees = joined(rec.sees, {rec.aid: rec.stamp}, without=me)
    if mine is None:
        return sees
    under = max((mine.sees or {}).get(me, 0), mine.stamp if mine.stamp != rec.stamp else 0)
    return joined(sees, {me: under} if under else None, without=b"")


def _inherit(rec: Record, slots: list[Record], me: bytes, now_ms: int) -> Statement:
    mine = next((other for other in slots if other.aid == me), None)
    others = joined(rec.sees, {rec.aid: rec.stamp}, mine.sees if mine is not None else None, without=me)
    sees = joined(others, _said_for(rec, slots, me), without=b"")
    if mine is None or not folds.speaks(mine) or folds.covered(mine, slots):
        return again(rec, now_ms, asof=rec.stamp, sees=sees)
    best = max(rec, mine, key=lambda r: (folds.live(r, now_ms), *folds.rank(r)))
    return again(best, now_ms, asof=best.stamp, sees=sees)


def voids_before_drop(log: Log, me: bytes, gone: bytes, may: May = everything) -> list[Statement]:
    """Withdraw own values that a removed author's records beat, before those records are dropped.

    Not what we say in its stead, as of the same stamp: the two are one statement, whoever's id is larger. And
    not a user's value that the other had not seen: it was shown as a conflict, or shows again.
    """
    out = []
    for rec in log.since(gone, 0):
        if rec.kind not in (Kind.REG, Kind.MV) or is_gc(rec) or not may(rec):
            continue
        mine = log.get(SlotKey(rec.path, rec.kind, me))
        if mine is None or mine.op != Op.PUT or _instead(mine, rec):
            continue
        beaten = folds.covered(mine, [rec])
        if rec.kind == Kind.REG and not rec.path.startswith(USERS) and folds.speaks(rec):
            beaten = beaten or folds.rank(rec) > folds.rank(mine)
        if beaten:
            out.append(void(mine))
    return out


def _instead(mine: Record, rec: Record) -> bool:
    """Whether we say this very statement in another's stead."""
    return mine.asof == rec.stamp and (mine.sees is None or rec.aid in folds.origins(mine))


def drop_removed(log: Log, gone: bytes, *, admin: bool) -> list[SlotKey]:
    """Drop a removed author's slots; returns them.

    Args:
        admin: its certificate has the role admin: then its own removals of others, and the certificate that
            proves them, stay, and its head is the newest of these.
    """
    dropped = [rec.slot for rec in log.since(gone, 0) if not (admin and outlives_removal(rec.path, gone))]
    for slot in dropped:
        log.drop(slot)
    if log.newest(gone):
        log.set_marks(gone, head=log.newest(gone), floor=0)
    else:
        log.drop_author(gone)
    return dropped


def inherited(removals: Iterable[Record]) -> dict[str, int]:
    """Counter values left by removed authors, {path: plus - minus}.

    Args:
        removals: the admitted records under `removed/`, whose value's "counters" is {path: [plus, minus]}.
            Totals only grow, so where several admins removed one author the largest count.
    """
    best: dict[tuple[str, str], tally.Pair] = {}
    for rec in removals:
        who = rec.path.split("/")[1]
        for path, pair in tally.notes(rec.val).items():
            best[who, path] = tally.larger(best.get((who, path)), pair)
    out: dict[str, int] = {}
    for (_, path), (plus, minus) in sorted(best.items()):
        out[path] = out.get(path, 0) + plus - minus
    return out

"""Rules that looked right and were not: each, switched in, must be caught by the model.

Every rule of replication stands because a run failed without it. A variant overrides one method of the rules,
and says under which odds that is likely to matter; `CAUGHT_BY` holds seeds that are known to catch it.
"""

from __future__ import annotations

import msgspec

from mesh.core import folds
from mesh.core.collect import Collector, Statement, Survey
from mesh.core.log import Log
from mesh.core.receive import Judge, Outcome
from mesh.core.record import Kind, Op, Record
from mesh.sim.model.rules import Odds, Policy
from mesh.wire.messages import Delta

OMITTED = Odds(moves={"collect": 2.0}, death=0.0, relay=1.0, relays=("omitter",))
FORGED = Odds(death=0.0, relay=1.0, relays=("forger",))
RESTORED = Odds(moves={"restore": 3.0, "backup": 2.0})
HONEST = Odds(
    moves={"compare": 2.0, "collect": 2.0, "restore": 0.0, "clock": 0.0},
    loss=(0.2, 0.5),
    relay=0.0,
    removals=(0,),
)


class ForwardsOnlyNew(Policy):
    """A node forwards only the records that were new to it, under the old claim of completeness."""

    odds = HONEST

    def passed_on(self, delta: Delta, outcome: Outcome, scope_tag: bytes) -> Delta | None:
        if not outcome.forward:
            return None
        return msgspec.structs.replace(delta, records=[(rec.body, rec.sig) for rec in outcome.stored])


class ForwardsResets(Policy):
    """A reset is passed on as if it were a plain delta."""

    odds = HONEST

    def passed_on(self, delta: Delta, outcome: Outcome, scope_tag: bytes) -> Delta | None:
        if delta.reset and not delta.pull and outcome.refused is None:
            return msgspec.structs.replace(delta, reset=False)
        return super().passed_on(delta, outcome, scope_tag)


class _DropsPulls(Judge):
    def pull_allowed(self, record: Record, floor: int, head: int, upto: int) -> bool:
        return False


class DropsPullsBelowFloor(Policy):
    """A pulled record at or below the floor is always dropped."""

    odds = OMITTED

    judge = _DropsPulls()


class _TrustsUpto(Judge):
    def reach(self, upto: int, verified: int) -> int:
        return upto

    def proven(self, head: int, newest: int) -> int:
        return head


class TrustsUpto(Policy):
    """The head follows the relay's word instead of what signatures show."""

    odds = FORGED

    judge = _TrustsUpto()


class _TrustsReset(Judge):
    def reset_floor(self, delta: Delta, gc: Record | None) -> int:
        return delta.upto


class TrustsFloor(Policy):
    """A reset is believed without the author's own word on its floor."""

    odds = FORGED

    judge = _TrustsReset()


class _FreshStamp(Collector):
    def reissue(self, rec: Record) -> Statement:
        return msgspec.structs.replace(super().reissue(rec), asof=None)


class ReissuesFresh(Policy):
    """A delete is re-issued under a fresh stamp, without `asof`."""

    odds = Odds(moves={"collect": 2.0}, kinds=(8, 3, 3, 0, 0, 0, 4))

    collector = _FreshStamp


class WritesBeforeFence(Policy):
    """A restored store announces new writes before it has its own log back."""

    odds = RESTORED

    fenced = False


class _FloorAnyway(Collector):
    def floor(self, survey: Survey, held: int, limit: int) -> int:
        return limit if limit > held else 0


class FloorWhateverIsFreed(Policy):
    """The floor is now - 24 h each day, whatever it frees."""

    collector = _FloorAnyway


class SeesWithoutSees(Policy):
    """`sees` lists the slots present but not what those had seen."""

    odds = Odds(kinds=(2, 6, 6, 0, 0, 0, 0))

    def sees(self, slots: list[Record], me: bytes, now_ms: int) -> dict[bytes, int]:
        return {rec.aid: rec.hlc for rec in slots if rec.aid != me}


class SeesOnlyVisible(Policy):
    """`sees` lists the visible siblings only."""

    def sees(self, slots: list[Record], me: bytes, now_ms: int) -> dict[bytes, int]:
        kind = slots[0].kind if slots else Kind.MV
        shown = [rec for rec in folds.visible(slots, kind) if folds.live(rec, now_ms)]
        return folds.sees_of(shown, me, kind)


class _HeadAfterList(Judge):
    def pulled_head(self, head: int, verified: int) -> int:
        return max(head, verified)


class HeadAfterList(Policy):
    """The head advances after a list exchange."""

    odds = HONEST

    judge = _HeadAfterList()


class _JustDrops(Collector):
    def judge(self, log: Log, rec: Record, limit: int, may: object) -> str:
        verdict = super().judge(log, rec, limit, may)  # type: ignore[arg-type]
        return {"void": "keep", "reissue": "free"}.get(verdict, verdict)


class CollectsWithoutReissue(Policy):
    """Neither re-issue nor void before collection."""

    collector = _JustDrops


class IgnoresStrays(Policy):
    """An author does not answer its own strays."""

    odds = OMITTED

    answers_strays = False


class _ExpiredAbsent(Collector):
    def judge(self, log: Log, rec: Record, limit: int, may: object) -> str:
        verdict = super().judge(log, rec, limit, may)  # type: ignore[arg-type]
        return "free" if verdict == "reissue" and rec.op == Op.PUT else verdict


class ExpiredIsAbsent(Policy):
    """An expired record reads as absent, not as deleted."""

    collector = _ExpiredAbsent

    def readable(self, records: list[Record], now_ms: int) -> list[Record]:
        return [rec for rec in records if not rec.expired(now_ms)]


class _NewestGc(Judge):
    def gc_wins(self, gc: Record, held: Record | None) -> bool:
        return held is None or gc.hlc > held.hlc


class NewestFloor(Policy):
    """Of two `~gc` the newest counts, not the one with the largest floor."""

    odds = Odds(moves={"collect": 6.0, "restore": 4.0, "backup": 2.0})

    judge = _NewestGc()


VARIANTS: dict[str, type[Policy]] = {
    "forwards-only-new": ForwardsOnlyNew,
    "forwards-resets": ForwardsResets,
    "drops-pulls-below-floor": DropsPullsBelowFloor,
    "trusts-upto": TrustsUpto,
    "trusts-floor": TrustsFloor,
    "reissues-fresh": ReissuesFresh,
    "writes-before-fence": WritesBeforeFence,
    "floor-whatever-is-freed": FloorWhateverIsFreed,
    "sees-without-sees": SeesWithoutSees,
    "sees-only-visible": SeesOnlyVisible,
    "head-after-list": HeadAfterList,
    "collects-without-reissue": CollectsWithoutReissue,
    "ignores-strays": IgnoresStrays,
    "expired-is-absent": ExpiredIsAbsent,
    "newest-floor": NewestFloor,
}

# Seeds by which each is caught. A change of the rules or of the dice plays other runs under the same numbers,
# so there are several of which one must do it; `--variant NAME --runs 60` finds new ones.
CAUGHT_BY: dict[str, tuple[int, ...]] = {
    "collects-without-reissue": (0, 1, 2),
    "drops-pulls-below-floor": (0, 1, 2, 5),
    "expired-is-absent": (0, 8, 11, 13),
    "floor-whatever-is-freed": (0, 1, 2),
    "forwards-only-new": (0, 2, 9, 12),
    "forwards-resets": (0, 4, 5, 7),
    "head-after-list": (3, 9, 11, 13),
    "ignores-strays": (0, 1, 4, 6),
    "newest-floor": (0, 43, 56, 58),
    "reissues-fresh": (1, 7, 9, 10),
    "sees-only-visible": (5, 9, 10, 12),
    "sees-without-sees": (2, 11, 28),
    "trusts-floor": (0, 1, 2, 4),
    "trusts-upto": (0, 1, 2),
    "writes-before-fence": (2, 3, 6, 16),
}

"""Two claims for one seat: who keeps it, and whether ours has to believe the other one.

The rule and the reason for distrust are told in `placement.py`. While two run at once that is noted, and told
when it is over: what ran twice, where, and for how long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mesh.core.claims import Claim, Seat, Stage
from mesh.core.placing import Tell
from mesh.core.seating import Held, Seating, Spec, Standing

DUPLICATES_MAX = 4096
# Claims that crossed on their way were made at nearly the same time.
YOUNG_S = 30.0


class Overlap(NamedTuple):
    """What ran twice, until when by mesh time, and for how long."""

    at_ms: int
    seat: Seat
    nodes: tuple[bytes, ...]
    seconds: float


def note(overlaps: deque[Overlap], new: Overlap) -> None:
    """Add an overlap; one that was told already, and then went on, is replaced."""
    began_ms = new.at_ms - new.seconds * 1000
    for known in list(overlaps):
        same = known.seat == new.seat and set(known.nodes) == set(new.nodes)
        if same and known.at_ms > began_ms:
            overlaps.remove(known)
    overlaps.append(new)


class Verdict(NamedTuple):
    """Who wins over us, if anybody, and what is to be told."""

    winner: bytes | None
    tells: tuple[Tell, ...] = ()


class Rivals:
    """One node's view of claims against its own.

    Args:
        table: shared with the placement.
        now_ms: mesh time that belongs to a `now`.
    """

    def __init__(self, table: Seating, me: bytes, now_ms: Callable[[float], int]) -> None:
        self._now_ms = now_ms
        self._table = table
        self._me = me
        self._claimed: dict[Seat, float] = {}
        self._invited: set[Seat] = set()
        self._doubted = 0.0
        self._back: dict[bytes, float] = {}
        self._double: dict[Seat, tuple[bytes, int]] = {}
        self._told: set[tuple[Seat, bytes, int]] = set()

    def claimed(self, seat: Seat, now: float) -> None:
        """We claimed a seat."""
        self._claimed[seat] = now
        self._invited.discard(seat)

    def invited(self, seat: Seat) -> None:
        """We said that we leave a seat: who claimed it then may be heard only after we said that we stay."""
        self._invited.add(seat)

    def released(self, seat: Seat, now: float) -> list[Tell]:
        """We gave a seat back."""
        self._claimed.pop(seat, None)
        self._invited.discard(seat)
        return self._over(seat, now)

    def doubted(self, now: float) -> None:
        """Others may have thought that we were dead: somebody accused us, or we had no link."""
        self._doubted = now

    def stood(self, aid: bytes, standing: Standing, now: float) -> None:
        """Liveness changed its mind about a node: what it could not know of us it may have decided alone."""
        if standing == "gone":
            self._back.pop(aid, None)
        else:
            self._back[aid] = now

    def yields_to(self, seat: Seat, claim: Claim, rivals: list[Held], now: float) -> Verdict:
        """Whether our claim has to go."""
        tells = self._duplicates(seat, claim, rivals, now)
        if not rivals:
            return Verdict(None, tuple(tells))
        ours = self._key(seat, self._me, claim)
        for held in rivals:
            if self._table.standing(held.aid) != "alive" or self._key(seat, held.aid, held.claim) >= ours:
                continue
            if held.claim.over == self._me and not self._up(held):
                continue  # it is about to take over from us: not before its own runs
            if held.aid == claim.over and claim.st == Stage.CLAIM:
                continue  # and this one we from it
            if self._credible(seat, claim, held, now):
                return Verdict(held.aid, tuple(tells))
            tells += self._suspicious(seat, held)
        return Verdict(None, tuple(tells))

    def _suspicious(self, seat: Seat, held: Held) -> list[Tell]:
        told = (seat, held.aid, held.claim.epoch)
        if told in self._told:
            return []
        if len(self._told) >= DUPLICATES_MAX:
            self._told.clear()
        self._told.add(told)
        text = "claims what runs here, without a reason that we know: passed over"
        return [Tell("suspicious", seat, text, (held.aid,))]

    def _up(self, held: Held) -> bool:
        return self._table.runs(held.aid, held.claim)

    def _key(self, seat: Seat, aid: bytes, claim: Claim) -> tuple[float, ...]:
        """The least keeps the seat."""
        score = self._table.worth(seat, aid)
        spec = self._table.specs[seat.name]
        tie = (-float(claim.epoch), -score, float(int.from_bytes(aid, "big")))
        running = 0.0 if self._table.runs(aid, claim) else 1.0
        match spec.workload.reconcile:
            case "keep_original":
                return (running, float(aid != claim.origin), *tie)
            case "longest_running":
                return (running, float(claim.since_ms), *tie)
            case "best_score":
                return (running, -score, *tie)
            case _:
                return (running, 0.0, *tie)

    def _credible(self, seat: Seat, claim: Claim, held: Held, now: float) -> bool:
        since = self._claimed.get(seat)
        if since is None or not self._table.runs(self._me, claim):
            return True
        if now - since < YOUNG_S or self._doubted > since or self._back.get(held.aid, 0.0) > since:
            return True
        if seat in self._invited:
            return True
        return held.claim.over == self._me and self._justified(seat, held)

    def _justified(self, seat: Seat, held: Held) -> bool:
        """Whether a takeover from us is by the rule."""
        spec = self._table.specs[seat.name]
        if spec.workload.reconcile == "keep_original" and held.claim.origin == held.aid:
            return True
        if self._table.why_unfit(seat.name, held.aid):
            return False
        table, best_score = self._table, spec.workload.reconcile == "best_score"
        good = table.worth if best_score else table.weighs
        return good(seat, held.aid) >= good(seat, self._me)

    def better(self, seat: Seat, spec: Spec, holder: bytes, factor: float) -> bool:
        """Whether we are a better place than the holder, by more than a factor."""
        table, best_score = self._table, spec.workload.reconcile == "best_score"
        good = table.worth if best_score else table.weighs
        return good(seat, self._me) > factor * good(seat, holder)

    def _duplicates(self, seat: Seat, claim: Claim, rivals: list[Held], now: float) -> list[Tell]:
        """Note who runs what we run; tell of it when it is over."""
        also = [held for held in rivals if self._up(held)] if self._table.runs(self._me, claim) else []
        if not also:
            return self._over(seat, now)
        if len(self._double) < DUPLICATES_MAX:
            known_ms = max(claim.since_ms, also[0].claim.since_ms)
            self._double.setdefault(seat, (also[0].aid, known_ms))
        return []

    def _over(self, seat: Seat, now: float) -> list[Tell]:
        if seat not in self._double:
            return []
        aid, since_ms = self._double.pop(seat)
        site, claim = self._table.sites.get(aid), self._table.claims.get(seat, {}).get(aid)
        if site is not None and claim is not None and claim.life != site.offer.life:
            return []  # it was its word from before a restart, heard of only now: nothing ran there
        seconds = max(0.0, (self._now_ms(now) - since_ms) / 1000)
        return [Tell("duplicate", seat, "ran twice", (self._me, aid), seconds)]

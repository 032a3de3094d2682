"""Rollouts: a new generation takes the old one's place, a few nodes at a time, with nobody in charge.

    roll/<id>            (scope mesh, kind reg, by an admin) the order: what, from which generation to which
    roll/<aid>/<id>      (scope mesh, kind all) how far a node is with it

A target is a node that has the thing to be changed (instances of a workload, settings of its own). Each one
reads the order and what the other targets say, and decides for itself alone whether its turn has come:

    wait --its gate is open--> turn --still open--> move <--runs, healthy--> trial --for bake_s--> ok
                                                      `---- not in time, or it ends ----> fail
    any --halted, and to be taken back; or aborted--> back

    rolling    (default) targets in the order of u = BLAKE2b(id, aid); at most max_unavailable in move or
               trial, and pause_s after each that finished
    canary     the first waves[0] of them (one at least), then the rest as rolling; with `manual` only after
               an operator promoted it
    gradual    a target's wave is the first p of `waves` with u < p: a threshold on a hash, so that nobody
               need agree on a list. It opens when of the earlier waves min_ok are ok and at most max_fail
               failed; a tenth of all move at once. Empty waves pass
    regional   region by region in the order of `regions`, the others after them, in each as rolling
    bluegreen  every target starts the new generation beside the old one, all at once; see `bluegreen.py`

**Health** is not only a node's own word: a target that died between its move and its `ok` has failed, and
that is for its neighbours to say. Targets that were dead before count for nothing, and follow when they
return.

**Halt** is sticky, and spreads faster than any promotion: a target that sees more than max_fail of all failed
says so in its own statement, every target obeys the halt of any target or admin at once, and whoever's turn
it is waits for a moment and looks once more. The operator goes on with gen + 1: statements of an earlier gen
count for nothing but for those who are ok already. With `rollback` a halt takes everybody back; else they
stay as they are.

The words that are said, and how they are written down, are in `rollwords.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mesh.core.rollwords import (
    BEFORE,
    BUSY,
    MOVED,
    PREFIX,
    SETTLE_MS,
    TARGETS_MAX,
    WHY_CHARS_MAX,
    Course,
    Gate,
    Order,
    Plan,
    St,
    Statement,
    Target,
    changed_plan,
    check_plan,
    decode_order,
    decode_statement,
    encode,
    order_path,
    parts_of,
    place,
    statement_path,
    unread,
)

__all__ = [
    "BEFORE",
    "BUSY",
    "MOVED",
    "PREFIX",
    "SETTLE_MS",
    "TARGETS_MAX",
    "WHY_CHARS_MAX",
    "Course",
    "Gate",
    "Order",
    "Picture",
    "Plan",
    "St",
    "Statement",
    "Target",
    "changed_plan",
    "check_plan",
    "decode_order",
    "decode_statement",
    "encode",
    "generation_for",
    "order_path",
    "parts_of",
    "place",
    "statement_path",
    "unread",
]

AT_ONCE_SHARE = 0.1


class Picture:
    """One rollout as one node sees it: the order, the targets, what they say.

    Args:
        short: instances that are to be, and that no living target has.
    """

    def __init__(
        self,
        ident: str,
        order: Order,
        targets: Iterable[Target],
        statements: Mapping[bytes, Statement],
        admins: Iterable[bytes] = (),
        short: int = 0,
    ) -> None:
        self.ident = ident
        self.order = order
        self.plan = order.plan
        self.short = short
        given = list(targets)
        self._places = {target.aid: (place(ident, target.aid), target.aid) for target in given}
        self.targets = sorted(given, key=lambda target: self._places[target.aid])
        self._by_aid = {target.aid: target for target in self.targets}
        self._said = statements
        self._st = {target.aid: self._believed(target.aid) for target in self.targets}
        self._heard = {*self._by_aid, *admins}

    # -- what is ----------------------------------------------------------------------------------------

    def has(self, aid: bytes) -> bool:
        """Whether a node is a target."""
        return aid in self._by_aid

    def statement(self, aid: bytes) -> Statement | None:
        """What a target says of the present gen; that it is ok counts on from an earlier one."""
        said = self._said.get(aid)
        if said is None or (said.gen != self.order.gen and said.st != St.OK):
            return None
        return said

    def st(self, aid: bytes) -> St:
        """How far a target is, as far as it may be believed."""
        return self._st.get(aid) or self._believed(aid)

    def _believed(self, aid: bytes) -> St:
        said = self.statement(aid)
        if said is None:
            return St.WAIT
        target = self._by_aid.get(aid)
        fell = target is not None and target.fell_ms > 0
        return St.FAIL if fell and said.st in (St.MOVE, St.TRIAL) else said.st

    @property
    def alive(self) -> list[Target]:
        """Targets that count: those that died before they moved do not."""
        return [it for it in self.targets if self._counts(it, self.st(it.aid))]

    def _counts(self, target: Target, st: St) -> bool:
        if target.unheard and st in BEFORE:
            return False
        return not target.fell_ms or st == St.FAIL

    @property
    def failed(self) -> list[bytes]:
        return [target.aid for target in self.targets if self.st(target.aid) == St.FAIL]

    @property
    def too_many_failed(self) -> bool:
        """Whether more failed than the plan bears."""
        return len(self.failed) > self.plan.max_fail * max(1, len(self.alive))

    @property
    def said_halt(self) -> str:
        """A halt that somebody said, or ""."""
        for aid in sorted(self._heard & self._said.keys()):
            said = self._said[aid]
            if said.gen == self.order.gen and said.halt:
                return said.halt
        return ""

    @property
    def halt(self) -> str:
        """Why nobody goes on, or ""."""
        if self.said_halt:
            return self.said_halt
        return f"{len(self.failed)} of {len(self.alive)} failed" if self.too_many_failed else ""

    @property
    def taken_back(self) -> bool:
        """Whether everybody goes back to the old generation."""
        if self.final:
            return False
        return self.order.course == Course.ABORT or bool(self.halt and self.plan.rollback)

    @property
    def done(self) -> bool:
        """Whether every target that counts is where it should be: a quorum of `min_ok` of them."""
        if self.bluegreen and not self.taken_back:
            return self.final
        wanted = St.BACK if self.taken_back else St.OK
        there = [self.st(target.aid) for target in self.alive]
        if wanted == St.BACK:
            return all(st in (St.BACK, St.WAIT, St.TURN) for st in there)
        busy = any(st in BUSY or st in BEFORE for st in there)
        return not busy and sum(st == St.OK for st in there) >= self.plan.min_ok * len(there)

    def joined_late(self, aid: bytes, held: int) -> bool:
        """Whether a target took over (`held`) the new generation when everybody else was ok."""
        if self.halt or self.order.course == Course.ABORT or held != self.order.after:
            return False
        if self.statement(aid) is not None or (self.bluegreen and not self.final):
            return False
        # Whoever died since then was ok as well, and may have been the only one.
        others = [it for it in self.targets if it.aid != aid]
        oks = sum(self.st(it.aid) == St.OK for it in others)
        counting = [st for it in others if self._counts(it, st := self.st(it.aid))]
        return oks > 0 and all(st == St.OK for st in counting)

    @property
    def state(self) -> str:
        """In one word."""
        if self.final:
            return "done"
        if self.order.course == Course.ABORT:
            return "aborted" if self.done else "aborting"
        if self.halt:
            back = self.plan.rollback
            return ("rolled back" if self.done else "rolling back") if back else "halted"
        if self.done:
            return "done"
        if self.order.course == Course.PAUSE:
            return "paused"
        return "switched" if self.switched_ms else "running"

    # -- both generations at once -----------------------------------------------------------------------

    @property
    def bluegreen(self) -> bool:
        """Whether the two generations stand side by side."""
        return self.plan.strategy == "bluegreen"

    def _ok_words(self) -> list[Statement]:
        words = (self._said[aid] for aid in self._heard & self._said.keys())
        return [said for said in words if said.st == St.OK]

    @property
    def switched_ms(self) -> int:
        """Since when the service is the new generation, 0 if it is not. Who is ok repeats what it saw."""
        if not self.bluegreen:
            return 0
        return min((said.switch_ms for said in self._ok_words() if said.switch_ms), default=0)

    @property
    def final(self) -> bool:
        """Whether the old generation is over."""
        return self.bluegreen and any(said.final for said in self._ok_words())

    # -- whose turn it is -------------------------------------------------------------------------------

    def gate(self, aid: bytes, now_ms: float) -> Gate:
        """Whether a target's turn has come."""
        if self.order.course == Course.ABORT:
            return Gate(False, "it was aborted")
        if self.halt:
            return Gate(False, f"halted: {self.halt}")
        if self.order.course == Course.PAUSE:
            return Gate(False, "it is paused")
        if self.bluegreen:
            return Gate(True)
        if aid not in self._by_aid:
            return Gate(self.done, "it is not done elsewhere")
        return self._strategy(aid, now_ms)

    def _strategy(self, aid: bytes, now_ms: float) -> Gate:
        if self.plan.strategy == "canary":
            return self._canary(aid, now_ms)
        if self.plan.strategy == "gradual":
            return self._gradual(aid)
        if self.plan.strategy == "regional":
            return self._regional(aid, now_ms)
        return self._in_turn(aid, self.alive, now_ms)

    def _in_turn(self, aid: bytes, group: Sequence[Target], now_ms: float) -> Gate:
        """One after the other, at most max_unavailable at once, a pause after each."""
        others = [target.aid for target in group if target.aid != aid]
        busy = sum(self.st(other) in BUSY for other in others)
        mine = self._places[aid]
        ahead = sum(self.st(other) in BEFORE and self._places[other] < mine for other in others)
        free = self.plan.max_unavailable - busy
        if ahead >= free:
            return Gate(False, f"{busy} are under way and {ahead} come before it")
        return self._after_pause(others, now_ms)

    def _after_pause(self, others: Sequence[bytes], now_ms: float) -> Gate:
        finished = [
            said.since_ms
            for other in others
            if (said := self.statement(other)) is not None and said.st == St.OK
        ]
        # Of the newest as many as may be under way at once, the oldest frees a place first.
        newest = sorted(finished, reverse=True)[: self.plan.max_unavailable]
        if len(newest) == self.plan.max_unavailable:
            at_ms = newest[-1] + self.plan.pause_s * 1000
            if now_ms < at_ms:
                return Gate(False, "a pause after the one before", at_ms)
        return Gate(True)

    def _all_ok(self, group: Sequence[Target]) -> bool:
        """Whether of a group enough are ok, and nobody is under way any more."""
        there = [self.st(target.aid) for target in group if not target.fell_ms]
        if not there:
            return True
        return sum(st == St.OK for st in there) >= max(1, self.plan.min_ok * len(there))

    def _canary(self, aid: bytes, now_ms: float) -> Gate:
        count = max(1, math.ceil(self.plan.waves[0] * len(self.alive)))
        first, rest = self.alive[:count], self.alive[count:]
        if any(target.aid == aid for target in first):
            return self._in_turn(aid, first, now_ms)
        if not self._all_ok(first):
            return Gate(False, f"the canary ({count}) is not ok yet")
        if self.plan.manual and not self.order.promoted:
            return Gate(False, "the canary waits to be promoted")
        return self._in_turn(aid, rest, now_ms)

    def _gradual(self, aid: bytes) -> Gate:
        waves = self.plan.waves
        mine = _wave(waves, self._places[aid][0])
        earlier = [it for it in self.alive if _wave(waves, self._places[it.aid][0]) < mine]
        if not self._all_ok(earlier):
            return Gate(False, f"wave {mine + 1} of {len(waves)} waits for those before")
        at_once = max(self.plan.max_unavailable, math.ceil(AT_ONCE_SHARE * len(self.alive)))
        at = self._places[aid]
        others = [(self._places[it.aid], self.st(it.aid)) for it in self.alive if it.aid != aid]
        busy = sum(st in BUSY or (st == St.TURN and u < at) for u, st in others)
        return Gate(busy < at_once, f"{busy} are under way")

    def _regional(self, aid: bytes, now_ms: float) -> Gate:
        regions = list(self.plan.regions)
        others = sorted({it.region for it in self.alive} - set(regions))
        order = [*regions, *others]
        mine = self._by_aid[aid].region
        for region in order[: order.index(mine) if mine in order else len(order)]:
            if not self._all_ok([it for it in self.alive if it.region == region]):
                return Gate(False, f"region {region or '(none)'} comes first")
        return self._in_turn(aid, [it for it in self.alive if it.region == mine], now_ms)


def _wave(waves: Sequence[float], u: float) -> int:
    return next((number for number, p in enumerate(waves) if u < p), len(waves) - 1)


def generation_for(aid: bytes, picture: Picture, held: int = 0) -> int:
    """Which generation of the subject a node is to have.

    A node that is no target (it has no instance yet) gets the old one until the rollout is done, so that a
    failover in its midst promotes nothing. Who took over the new one (`held`) after that keeps it.
    """
    if picture.bluegreen:
        return picture.order.after if picture.final else picture.order.before
    if picture.taken_back:
        return picture.order.before
    if picture.st(aid) in MOVED or picture.joined_late(aid, held):
        return picture.order.after
    own = any(target.aid == aid for target in picture.targets)
    return picture.order.after if not own and picture.done else picture.order.before

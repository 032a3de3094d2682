"""Rules of rollouts broken on purpose, for the mutation yard; `trial` hunts one in one run."""

from __future__ import annotations

import msgspec

from mesh.core.mover import Mover, Running
from mesh.core.rollout import BEFORE, Picture, Plan, St, Statement
from mesh.sim.rolling import Rolling, Scene

FAST = Plan(pause_s=2, bake_s=3, deadline_s=30)


class Careless(Mover):
    """Moves whatever the gate says."""

    def step(self, picture: Picture, running: Running | None, now_ms: int) -> tuple[Statement | None, float]:
        if picture.st(self.me) in BEFORE:
            return Statement(picture.order.gen, St.MOVE, now_ms), now_ms
        return super().step(picture, running, now_ms)


class Silent(Mover):
    """Never says a halt, so that it is forgotten when the dead return."""

    def _halting(self, picture: Picture, said: Statement | None, now_ms: int) -> Statement | None:
        return None


class Unbaked(Mover):
    """Is ok as soon as it runs."""

    def _moving(
        self, picture: Picture, said: Statement, running: Running, now_ms: int
    ) -> tuple[Statement | None, float]:
        if running.gen == picture.order.after and not running.failing:
            return self._word(picture, St.OK, now_ms), now_ms
        return super()._moving(picture, said, running, now_ms)


class Broken(msgspec.Struct, frozen=True):
    """One broken rule, and what happens to the nodes. `falls`: the first one that moved dies and returns."""

    summary: str
    mover: type[Mover]
    bad: bool = True
    falls: bool = False
    allowed: int = 10


BROKEN: dict[str, Broken] = {
    "gate-ignored": Broken("moves whatever the gate says", Careless),
    "halt-unsaid": Broken("nobody says the halt", Silent, bad=False, falls=True),
    "no-bake": Broken("is ok as soon as it runs", Unbaked, bad=False, falls=True, allowed=20),
}


def trial(name: str, seed: int) -> str | None:
    """What a check says about a broken rule in one run, None if nothing."""
    return wrong(seed, BROKEN[name].mover, bad=BROKEN[name].bad, falls=BROKEN[name].falls)


def wrong(seed: int, mover: type[Mover] = Mover, *, bad: bool, falls: bool) -> str | None:
    """What went wrong in one run: one node may move, it fails (or dies of it), and all are as before."""
    sim = Rolling(seed, Scene(plan=FAST, bad=(lambda number: True) if bad else None), mover=mover)
    if falls:
        while not any(node.gen == 2 for node in sim.nodes):
            sim.run(sim.world.now + 0.2)
        sim.fall(next(node for node in sim.nodes if node.gen == 2), back_s=10)
    sim.run(150)
    if sim.troubles:
        return sim.troubles[0].partition(": ")[2]
    if sim.counts["move"] > 1:
        return "a bad version went on"
    return None if sim.outcome() == "rolled back" else f"it is {sim.outcome()}"

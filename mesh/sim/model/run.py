"""One run of the model, from its seed."""

from __future__ import annotations

import msgspec

from mesh.sim.model import marks
from mesh.sim.model.dice import STEPS, Dice
from mesh.sim.model.final import Failed, finish
from mesh.sim.model.rules import Odds, Policy
from mesh.sim.model.world import World

LOOKS = 6


class Result(msgspec.Struct, frozen=True):
    """`problem` is None when every demand was met; `trace` has lines only when asked for."""

    seed: int
    problem: str | None
    writes: int
    trace: list[str]


def run(
    seed: int,
    policy: Policy | None = None,
    *,
    odds: Odds | None = None,
    steps: int = STEPS,
    tracing: bool = False,
) -> Result:
    """Play one run by the true rules, or by a variant under the odds that make its mistake likely.

    A rule broken so badly that the real code's own assertions fail counts as caught.
    """
    policy = policy or Policy()
    world = World(seed, policy, odds or policy.odds, tracing=tracing)
    dice = Dice(world)
    problem = None
    try:
        for look in range(LOOKS):
            dice.run(steps * (look + 1) // LOOKS - steps * look // LOOKS)
            claim = marks.broken(world)
            if claim is not None:
                raise Failed(claim)
        finish(world, dice)
    except (Failed, AssertionError) as error:
        problem = f"{error or type(error).__name__} [{dice.troubles()}]"
    return Result(seed, problem, len(world.truth.events), world.lines)

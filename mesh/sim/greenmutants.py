"""Rules of blue-green rollouts broken on purpose, for the mutation yard; `trial` hunts one in one run."""

from __future__ import annotations

import math

import msgspec

from mesh.core.bluegreen import Sides, sides
from mesh.core.mover import Mover
from mesh.core.rollout import MOVED, Picture, St
from mesh.sim.greens import AFTER, BEFORE, Greens, Rules, Scene


class Hasty(Mover):
    """Says the switch when its own new instances are healthy."""

    def _due_ms(self, picture: Picture) -> float:
        said = picture.statement(self.me)
        return said.since_ms if said is not None else math.inf


class Abrupt(Mover):
    """Ends the old generation with the switch."""

    def _end_ms(self, picture: Picture, switch_ms: int) -> float:
        return switch_ms


class SwitchesEarly(Rules):
    mover = Hasty


class DropsAtSwitch(Rules):
    mover = Abrupt


class DropsBefore(Rules):
    """The new instances take the place of the old ones, but the service is the old ones until the switch."""

    def sides(self, aid: bytes, picture: Picture, held: int) -> Sides:
        its = sides(aid, picture, held)
        begun = its.beside and not picture.taken_back
        return msgspec.structs.replace(its, gen=AFTER, beside=0) if begun else its


class GetsBoth(Rules):
    """Both generations are the service while both run."""

    def asked(self, aid: bytes, picture: Picture) -> frozenset[int]:
        started = any(picture.st(target.aid) == St.OK for target in picture.targets)
        both = started and not picture.final and not picture.taken_back
        return frozenset({BEFORE, AFTER}) if both else super().asked(aid, picture)


class EachForItself(Rules):
    """Whoever runs the new generation gets it at once."""

    def asked(self, aid: bytes, picture: Picture) -> frozenset[int]:
        moved = picture.has(aid) and picture.st(aid) in MOVED and not picture.taken_back
        return frozenset({AFTER}) if moved else super().asked(aid, picture)


class Broken(msgspec.Struct, frozen=True):
    """One broken rule, and how many seeds it may take to show."""

    summary: str
    rules: type[Rules]
    check: str
    allowed: int = 12


BROKEN: dict[str, Broken] = {
    "switch-early": Broken("says the switch before all of green is healthy", SwitchesEarly, "early"),
    "blue-dropped": Broken("drops blue before the switch", DropsBefore, "nobody"),
    "blue-not-drained": Broken("drops blue with the switch, not after drain_s", DropsAtSwitch, "nobody"),
    "both-at-once": Broken("resolves to blue and green at once", GetsBoth, "both"),
    "own-switch": Broken("resolves to green where it runs, without the switch", EachForItself, "ahead"),
}


def trial(name: str, seed: int) -> str | None:
    """What a check says about a broken rule in one run, None if nothing."""
    return wrong(seed, BROKEN[name].rules())


def wrong(seed: int, rules: Rules | None = None, *, bad: int = 0) -> str | None:
    """What went wrong in one run."""
    sim = Greens(seed, Scene(bad=bad), rules).run(60)
    if sim.troubles:
        _, check, text = sim.troubles[0]
        return f"{check}: {text}"
    ends = "rolled back" if bad else "done"
    return None if sim.outcome() == ends else f"it is {sim.outcome()}"

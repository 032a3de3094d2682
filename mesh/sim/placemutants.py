"""Rules of placement broken on purpose, for the mutation yard; `trial` hunts one in one run."""

from __future__ import annotations

import msgspec

from mesh.core.claims import Claim, Seat
from mesh.core.placement import Placement
from mesh.core.placing import Config
from mesh.core.rivals import Rivals, Verdict
from mesh.core.seating import NEVER, Held, Seating
from mesh.sim.placement import Trial, Trouble

NODES = 12


class StaleEpoch(Seating):
    """A new owner goes on with the epoch of the one before."""

    def epoch_after(self, seat: Seat, now_ms: int) -> int:
        return max((claim.epoch for claim in self.claims.get(seat, {}).values()), default=now_ms // 1000)


class DeadHold(Seating):
    """The claims of the dead hold for ever."""

    def held_until(self, seat: Seat, aid: bytes, now: float) -> float:
        until = super().held_until(seat, aid, now)
        dead = self.standing(aid) == "dead" and aid in self.claims.get(seat, {})
        return NEVER if dead else until


class Impatient(Seating):
    """The claims of the dead end at once, whatever the workload says."""

    def held_until(self, seat: Seat, aid: bytes, now: float) -> float:
        return 0.0 if self.standing(aid) == "dead" else super().held_until(seat, aid, now)


class Greedy(Seating):
    """Takes work without asking whether there is room."""

    def why_crowded(self, name: str, aid: bytes) -> str:
        return ""


class Stubborn(Rivals):
    """Yields to nobody."""

    def yields_to(self, seat: Seat, claim: Claim, rivals: list[Held], now: float) -> Verdict:
        return Verdict(None)


def _with_table(table: type[Seating]) -> type[Placement]:
    class Machine(Placement):
        def make_table(self, life_ms: int) -> Seating:
            return table(life_ms)

    return Machine


class Unyielding(Placement):
    """Whose claims never give way."""

    def make_rivals(self, me: bytes) -> Rivals:
        return Stubborn(self.table, me, self.desk.now_ms)


class Broken(msgspec.Struct, frozen=True):
    """One broken rule."""

    summary: str
    machine: type[Placement] = Placement
    config: Config = Config()
    allowed: int = 3


BROKEN: dict[str, Broken] = {
    "no-stagger": Broken("all claim an empty seat at once", config=Config(stagger_s=0.0)),
    "stale-epoch": Broken("a new owner keeps the old epoch", _with_table(StaleEpoch)),
    "dead-hold": Broken("the dead keep their work", _with_table(DeadHold)),
    "impatient": Broken("nobody waits for an owner to return", _with_table(Impatient)),
    "greedy": Broken("takes work without room for it", _with_table(Greedy)),
    "stubborn": Broken("of two nobody yields", Unyielding),
    "restless": Broken(
        "whoever is a little better takes over at once",
        config=Config(better=1.0, better_for_s=0.0, rebalance_s=5.0),
    ),
}


def trial(name: str, seed: int) -> str | None:
    """Which check notices a broken rule in one run, None if none does."""
    broken = BROKEN[name]
    try:
        Trial(NODES, seed, config=broken.config, machine=broken.machine).run()
    except Trouble as trouble:
        return trouble.check
    return None

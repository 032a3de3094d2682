"""A quorum under trouble: no two hold at once, tokens grow, the register is linearizable."""

from __future__ import annotations

from collections import Counter

import pytest

from mesh.sim.linear import Operation, linearizable
from mesh.sim.lockmutants import BROKEN, trial, wrong
from mesh.sim.locks import Locks
from mesh.sim.voting import Rules, Weather

SEEDS = 25
UNTIL_S = 60.0


def test_no_two_hold_at_once_and_tokens_grow_whatever_goes_wrong() -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        sim = Locks(seed).run(UNTIL_S)
        assert sim.troubles == [], seed
        assert linearizable([Operation(*op) for op in sim.history]), seed
        counts += sim.counts
    # It was no quiet life: the runs prove something.
    assert counts["granted"] > 10 * SEEDS
    assert counts["stale writes refused"] > SEEDS
    assert counts["disks lost"] > SEEDS / 2
    assert counts["replacements"] > SEEDS / 2


def test_five_voters_hold_as_well() -> None:
    for seed in range(5):
        assert wrong(seed, Rules(), Weather(voters=5, spares=2, contenders=4)) == [], seed


def test_the_same_seed_gives_the_same_run() -> None:
    one, other = Locks(3).run(30), Locks(3).run(30)
    assert (one.counts, one.history) == (other.counts, other.history)


# -- rules left out: each must be noticed -------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_rule_that_is_broken_is_noticed(name: str) -> None:
    assert any(trial(name, seed) for seed in range(BROKEN[name].allowed))

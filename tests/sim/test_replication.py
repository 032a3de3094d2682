"""The random model of replication: the true rules hold, and every rule known to be wrong is caught.

Seeds are runs: a change of the rules or of the dice plays other runs under the same numbers.
"""

from __future__ import annotations

import pytest

from mesh.sim.model.run import run
from mesh.sim.model.variants import CAUGHT_BY, VARIANTS

# Each of these once broke the rules as they were then.
ONCE_BROKEN = (
    *(500046, 500069, 600364, 700481, 700507, 701050, 701258, 701523, 702347, 702461, 702827, 702985),
    *(800410, 810249, 810462, 820759, 821425, 830054, 830872, 831146, 850054, 850313, 850372, 870107),
    *(1005038, 1005263, 4001324, 6000216, 6102455),
)
# Runs in which no rule was wrong but the model asked for more than is promised, or its nodes did less than
# agents do; 600043: both admins removed;
# 1000358: the only admin left that knew a removed author's counts was set back to a backup;
# 1000147, 2300108: an admin whose certificate had run out did not speak for the removed author; agents do.
# 6002966: a register was withdrawn for one that a store set back had forgotten, untold of for a day;
# 6003187: an admin died before it heard whom the admin that it had removed had removed;
# 6400114: a conflict that an admin showed for a removed author went when that admin was removed, too;
# 6302625: a value of an author over its quota, that was set back, showed again.
ONCE_DOUBTED = (600043, 701114, 1000358, 1000147, 2300108, 6002966, 6003187, 6400114, 6302625)


@pytest.mark.parametrize("seed", [*ONCE_BROKEN, *ONCE_DOUBTED, *range(12)])
def test_the_rules_hold_in_a_run(seed: int) -> None:
    assert run(seed).problem is None


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_wrong_rule_is_caught(name: str) -> None:
    assert any(run(seed, VARIANTS[name]()).problem for seed in CAUGHT_BY[name])


def test_the_same_seed_plays_the_same_run() -> None:
    one, two = run(3, tracing=True), run(3, tracing=True)
    assert one == two
    assert one.writes > 100

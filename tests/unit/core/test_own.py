"""What peers hold of ourselves in the live scope."""

from __future__ import annotations

import random

from mesh.core.clock import FUTURE_MS_MAX
from mesh.core.memory import MemoryLog
from mesh.core.own import own_live_offered
from mesh.sim.village import FOUNDED_MS, Village


def test_a_stamp_of_our_last_life_is_heeded_and_one_of_a_wrong_clock_is_not() -> None:
    village = Village(random.Random(1))
    me = village.founder()
    late = village.says(me, "node/x", 1, at=FUTURE_MS_MAX)
    wrong = village.says(me, "node/y", 1, at=FUTURE_MS_MAX + 2)
    offered = own_live_offered(MemoryLog(), me.aid, [late, wrong], FOUNDED_MS)
    assert offered is not None
    assert offered.unknown == [late]
    assert own_live_offered(MemoryLog(), me.aid, [wrong], FOUNDED_MS) is None

"""Whether a history of a register is linearizable: the search of Wing and Gong (1993), with Lowe's memory.

Each operation turned one value into another, at one moment between its call and its return. One whose result
was never learned may have happened at any time after its call, or never.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Operation(NamedTuple):
    """`before` became `after`. `returned` is infinite where nobody knows."""

    called: float
    returned: float
    before: Hashable
    after: Hashable


def linearizable(history: Sequence[Operation], initial: Hashable = None) -> bool:
    """Whether some order of the operations explains all of them."""
    ops = sorted(history)
    needed = sum(1 << at for at, op in enumerate(ops) if op.returned < math.inf)
    seen: set[tuple[int, Hashable]] = set()
    stack: list[tuple[int, Hashable]] = [(0, initial)]
    while stack:
        done, value = stack.pop()
        if done & needed == needed:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        # Nothing may come before what has returned before it was called.
        horizon = math.inf
        first = _lowest_zero(done)
        candidates = []
        for at in range(first, len(ops)):
            op = ops[at]
            if op.called > horizon:
                break
            if done >> at & 1:
                continue
            horizon = min(horizon, op.returned)
            if op.before == value:
                candidates.append(at)
        for at in reversed(candidates):
            if ops[at].called <= horizon:
                stack.append((done | 1 << at, ops[at].after))
    return False


def _lowest_zero(bits: int) -> int:
    return (~bits & bits + 1).bit_length() - 1

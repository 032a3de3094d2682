"""When an instance that has ended is started again, and after how long.

    restart      good end (status 0)   bad end
    always       again                 again
    on-failure   exited                again
    never        exited                failed

What was taken away from it (`lost`: a reboot, or a stop by an agent that then died itself) was neither: it
starts again at once, but for `never`, which must not run twice. The wait doubles from 1 s to 5 min with each
end in a row, good or bad, so that a command that exits at once costs next to nothing; an instance that ran
for 5 min begins at 1 s again (Kubernetes: 10 s to 5 min, anew after 10 min; ours begins earlier, because a
neighbour waits for the work).
"""

from __future__ import annotations

from typing import Literal

import msgspec

FIRST_S = 1.0
LONGEST_S = 300.0
STABLE_S = 300.0
Restart = Literal["always", "on-failure", "never"]


class Again(msgspec.Struct, frozen=True):
    """Start it again.

    Attributes:
        row: ends in a row without a long run between; give it back at the next end.
    """

    wait_s: float
    row: int


class Over(msgspec.Struct, frozen=True):
    """It stays as it is until it is changed."""

    failed: bool


def after(restart: Restart, *, good: bool, lost: bool, ran_s: float | None, row: int) -> Again | Over:
    """What follows an end that nobody asked for.

    Args:
        row: as returned for the end before, 0 at first.
        ran_s: how long it ran, None when not known.
    """
    if restart == "never":
        return Over(failed=not good)
    if lost:
        return Again(0.0, row)
    if restart == "on-failure" and good:
        return Over(failed=False)
    row = 1 if ran_s is not None and ran_s >= STABLE_S else row + 1
    return Again(wait_s(row), row)


def wait_s(row: int) -> float:
    """How long the n-th start in a row waits."""
    return float(min(FIRST_S * 2.0 ** min(row - 1, 20), LONGEST_S)) if row else 0.0

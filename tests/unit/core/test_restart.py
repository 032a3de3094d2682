"""When an instance starts again: the table in `core/restart.py`, and how the wait grows."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.restart import LONGEST_S, STABLE_S, Again, Over, Restart, after, wait_s


def ended(policy: Restart, row: int = 0, **more: Any) -> Again | Over:
    return after(policy, **{"good": False, "lost": False, "ran_s": 1.0, "row": row, **more})


@pytest.mark.parametrize(
    ("policy", "good", "lost", "expected"),
    [
        ("always", True, False, Again(1.0, 1)),
        ("always", False, False, Again(1.0, 1)),
        ("always", False, True, Again(0.0, 0)),
        ("on-failure", True, False, Over(failed=False)),
        ("on-failure", False, False, Again(1.0, 1)),
        ("on-failure", False, True, Again(0.0, 0)),
        ("never", True, False, Over(failed=False)),
        ("never", False, False, Over(failed=True)),
        ("never", False, True, Over(failed=True)),
    ],
)
def test_the_policy_decides(policy: Restart, good: bool, lost: bool, expected: Again | Over) -> None:
    assert ended(policy, good=good, lost=lost) == expected


def test_the_wait_doubles_up_to_its_bound_and_never_overflows() -> None:
    assert [wait_s(row) for row in (0, 1, 2, 3, 9)] == [0.0, 1.0, 2.0, 4.0, 256.0]
    assert wait_s(10) == wait_s(10**9) == LONGEST_S


def test_a_long_run_begins_anew() -> None:
    assert ended("always", row=7, ran_s=STABLE_S) == Again(1.0, 1)
    assert ended("always", row=7, ran_s=None) == Again(128.0, 8)
    assert ended("always", row=7, lost=True) == Again(0.0, 7)

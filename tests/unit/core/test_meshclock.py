"""The mesh clock follows the majority, never one liar."""

from __future__ import annotations

import pytest

from mesh.core.meshclock import BUILT_MS, MeshClock

WALL = BUILT_MS + 1_000_000_000
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def settled(*offsets_ms: int, wall: int = WALL) -> MeshClock:
    clock = MeshClock()
    for name, offset in zip((A, B, C), offsets_ms, strict=False):
        clock.sample(name, wall, wall + 5 + offset, wall + 10, now=0.0)
    clock.adjust(wall, 0.0)
    return clock


def test_alone_it_is_the_wall_clock() -> None:
    clock = settled()
    assert clock.now_ms(WALL) == WALL
    assert clock.status(WALL, 0.0) == "alone"


def test_with_two_the_later_one_counts_and_a_dispute_is_named() -> None:
    assert settled(90_000).now_ms(WALL) == WALL + 90_000
    assert settled(-90_000).now_ms(WALL) == WALL
    assert settled(-90_000).status(WALL, 0.0) == "disputed"


def test_one_liar_among_three_moves_nobody() -> None:
    assert settled(0, 10 * 365 * 86_400_000).now_ms(WALL) == WALL


def test_a_wrong_own_clock_follows_the_others() -> None:
    assert settled(3_600_000, 3_600_002).now_ms(WALL) == WALL + 3_600_000


def test_an_unset_own_clock_does_not_vote() -> None:
    assert settled(WALL - 5, wall=5).now_ms(5) == WALL
    assert MeshClock().status(5, 0.0) == "unset"


def test_the_sample_with_the_smallest_round_trip_counts() -> None:
    clock = MeshClock()
    clock.sample(A, WALL, WALL + 4_000, WALL + 5_000, now=0.0)
    clock.sample(A, WALL, WALL + 5, WALL + 10, now=1.0)
    assert clock.offsets(1.0) == {A: 0.0}


def test_a_small_gap_is_slewed_and_a_large_one_stepped() -> None:
    clock = settled(0, 0)
    for name in (A, B, C):
        clock.sample(name, WALL, WALL + 1_001, WALL + 2, now=1.0)
    clock.adjust(WALL, 1.0)
    assert 0 < clock.offset_ms <= 50
    for name in (A, B, C):
        clock.sample(name, WALL, WALL + 3_600_001, WALL + 2, now=2.0)
        for _ in range(8):
            clock.sample(name, WALL, WALL + 3_600_001, WALL + 2, now=2.0)
    clock.adjust(WALL, 2.0)
    assert clock.offset_ms == 3_600_000


def test_absurd_samples_are_ignored() -> None:
    clock = MeshClock()
    clock.sample(A, WALL, WALL, WALL - 1, now=0.0)
    clock.sample(A, WALL, 5, WALL + 1, now=0.0)
    assert clock.offsets(0.0) == {}


def test_setting_the_wall_clock_drops_what_was_measured_against_it() -> None:
    ahead_ms = 3_600_000
    clock = settled(-ahead_ms, -ahead_ms)
    assert clock.now_ms(WALL) == WALL - ahead_ms
    for second in range(1, 4):  # set right: the neighbours agree with it now, by slower answers
        now_ms = WALL - ahead_ms + second * 1000
        for name in (A, B):
            clock.sample(name, now_ms - 50, now_ms - 25, now_ms, now=float(second))
        clock.adjust(now_ms, float(second))
    assert abs(clock.now_ms(now_ms) - now_ms) < 100


def test_a_clock_that_was_years_off_and_is_set_right_is_not_corrected_by_those_years_again():
    clock = MeshClock()
    years_ms = 10 * 365 * 86_400_000
    wrong_ms, now = BUILT_MS + 1_000_000 - years_ms, 0.0
    for aid in (b"a", b"b"):
        clock.sample(aid, wrong_ms, wrong_ms + years_ms, wrong_ms, now)
    clock.adjust(wrong_ms, now)
    assert clock.now_ms(wrong_ms) == wrong_ms + years_ms
    right_ms = wrong_ms + years_ms + 1000
    assert clock.adjust(right_ms, now + 1.0)
    assert abs(clock.now_ms(right_ms) - right_ms) < 1000


def test_a_suspend_leaves_mesh_time_as_the_wall_clock_tells_it():
    clock = MeshClock()
    clock.adjust(BUILT_MS, 0.0)
    asleep_ms = 8 * 3_600_000
    assert clock.adjust(BUILT_MS + asleep_ms, 1.0)
    assert clock.now_ms(BUILT_MS + asleep_ms) == BUILT_MS + asleep_ms


def test_one_other_is_not_enough_to_believe_a_clock_by_which_we_have_run_out() -> None:
    ahead_ms = WALL + 10 * 365 * 86_400_000
    clock = MeshClock()
    assert not clock.believable(ahead_ms, 0.0, 0, WALL)
    clock.sample(b"a", ahead_ms, WALL, ahead_ms + 1, 0.0)
    clock.adjust(ahead_ms, 0.0)
    assert not clock.believable(ahead_ms, 0.0, 0, WALL)
    clock.sample(b"b", ahead_ms, WALL, ahead_ms + 1, 0.0)
    clock.adjust(ahead_ms, 0.0)
    assert clock.believable(ahead_ms, 0.0, 0, WALL)
    assert abs(clock.now_ms(ahead_ms) - WALL) < 10


YEARS_MS = 10 * 366 * 86_400_000


@pytest.mark.parametrize("first", [YEARS_MS, -YEARS_MS])
@pytest.mark.parametrize("answered", [False, True])
def test_a_clock_that_is_set_from_one_wrong_time_to_another_and_right_leaves_mesh_time_alone(first, answered):
    clock, at = MeshClock(), 0.0
    for wrong_ms in (0, first, -first, first, 0):
        right_ms = WALL + int(at * 1000)
        wall_ms = right_ms + wrong_ms
        clock.adjust(wall_ms, at)
        assert abs(clock.now_ms(wall_ms) - right_ms) < 1000, f"after {at:g} s"
        if answered or at == 0.0:
            for aid in (A, B):
                clock.sample(aid, wall_ms, right_ms, wall_ms + 1, at)
            clock.adjust(wall_ms + 500, at + 0.5)
        at += 5.0


def test_a_suspend_is_no_step_of_the_clock_where_the_system_tells_of_it() -> None:
    clock, asleep_ms = settled(0, 0), 8 * 3_600_000
    assert not clock.adjust(WALL + asleep_ms + 1000, 1.0, asleep_ms / 1000)
    assert clock.now_ms(WALL + asleep_ms + 1000) == WALL + asleep_ms + 1000


def test_nobody_is_judged_by_mesh_time_at_which_our_own_certificate_is_not_valid() -> None:
    """The wall clock may be right and mesh time wrong, before anybody has answered."""
    begun_ms, until_ms = WALL - 86_400_000, WALL + 86_400_000
    assert settled().believable(WALL, 0.0, begun_ms, until_ms)
    for wrong_ms in (-2 * 86_400_000, 2 * 86_400_000, YEARS_MS):
        clock = settled(wrong_ms, wrong_ms)
        clock.forget(A)
        clock.forget(B)
        assert clock.status(WALL, 0.0) == "alone"
        assert not clock.believable(WALL, 0.0, begun_ms, until_ms)

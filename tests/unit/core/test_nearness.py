"""Round trips: smoothed where they are measured, bounded where they are not."""

from __future__ import annotations

import pytest

from mesh.core.nearness import Rtt, through


def test_the_first_measurement_is_the_estimate() -> None:
    rtt = Rtt()
    rtt.add(0.1)
    assert (rtt.mean_s, rtt.error_s, rtt.samples) == (0.1, 0.05, 1)


def test_the_estimate_follows_slowly_and_knows_its_error() -> None:
    rtt = Rtt()
    for _ in range(50):
        rtt.add(0.02)
    calm = rtt.error_s
    rtt.add(0.2)
    assert 0.02 < rtt.mean_s < 0.06
    assert rtt.error_s > calm
    for _ in range(100):
        rtt.add(0.2)
    assert rtt.mean_s == pytest.approx(0.2, rel=0.01)


def test_a_clock_that_stepped_back_is_no_measurement() -> None:
    rtt = Rtt()
    rtt.add(-1.0)
    assert rtt.samples == 0


def test_landmarks_bound_the_distance_of_others() -> None:
    assert through([]) is None
    estimate = through([(10.0, 30.0), (25.0, 4.0)])
    assert estimate is not None
    value, error = estimate
    assert (value - error, value + error) == (21.0, 29.0)


def test_landmarks_that_contradict_each_other_still_give_an_answer() -> None:
    estimate = through([(1.0, 1.0), (100.0, 10.0)])
    assert estimate is not None
    assert estimate[1] == 0.0

"""Blue-green rollouts asked all the time by everybody: one switch, no gap, and broken rules show."""

from __future__ import annotations

import pytest

from mesh.core.rollout import Course
from mesh.sim.greenmutants import BROKEN, trial, wrong
from mesh.sim.greens import AFTER, BEFORE, Greens, Scene


@pytest.mark.parametrize("seed", range(3))
def test_a_good_version_takes_over_in_one_step_and_nobody_finds_nobody(seed: int) -> None:
    sim = Greens(seed, Scene()).run(60)
    assert sim.troubles == []
    assert sim.outcome() == "done"
    assert all(set(node.runs) == {AFTER} for node in sim.nodes if node.target)
    assert sim.counts["asked"] > 900


def test_a_version_that_is_bad_on_one_node_never_becomes_the_service() -> None:
    assert wrong(1, bad=1) is None


def test_an_abort_before_the_switch_leaves_the_old_one_alone() -> None:
    sim = Greens(3, Scene())
    sim.run(4)
    sim.say(Course.ABORT)
    sim.run(40)
    assert sim.troubles == []
    assert sim.outcome() == "aborted"
    assert all(set(node.runs) == {BEFORE} for node in sim.nodes if node.target)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_shows_in_its_own_check(name: str) -> None:
    seeds = range(BROKEN[name].allowed)
    found = next((said for seed in seeds if (said := trial(name, seed)) is not None), "")
    assert found.startswith(f"{BROKEN[name].check}: ")

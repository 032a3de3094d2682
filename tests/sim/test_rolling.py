"""Rollouts with nobody in charge: never too many at once, a bad version stops early, all end in one place."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from mesh.core.rollout import Course, Plan
from mesh.sim.rolling import Rolling, Scene
from mesh.sim.rollmutants import BROKEN, trial, wrong

FAST = Plan(pause_s=2, bake_s=3, deadline_s=30)


def plan(**changes: object) -> Plan:
    return msgspec.structs.replace(FAST, **changes)


@pytest.mark.parametrize("seed", range(6))
def test_a_good_version_reaches_everybody_one_by_one(seed: int) -> None:
    sim = Rolling(seed, Scene(plan=FAST)).run(300)
    assert sim.troubles == []
    assert (sim.outcome(), sim.moving_max) == ("done", 1)
    assert {node.gen for node in sim.nodes} == {2}
    assert sim.states() == Counter({"ok": 12})


@pytest.mark.parametrize("strategy", ["canary", "gradual", "regional"])
def test_every_strategy_comes_to_its_end(strategy: str) -> None:
    scene = Scene(nodes=10, plan=plan(strategy=strategy, regions=("south", "north")))
    sim = Rolling(1, scene).run(200)
    assert sim.troubles == []
    assert sim.outcome() == "done"
    assert {node.gen for node in sim.nodes} == {2}


def test_regions_come_one_after_the_other() -> None:
    sim = Rolling(2, Scene(nodes=9, plan=plan(strategy="regional", regions=("south",))))
    order: list[str] = []
    for _ in range(1200):
        sim.run(sim.world.now + 0.25)
        order += [node.region for node in sim.nodes if node.gen == 2 and node.region not in order]
    assert order == ["south", "", "north"]


@pytest.mark.parametrize("seed", range(6))
def test_a_bad_canary_is_the_only_one_and_is_taken_back(seed: int) -> None:
    sim = Rolling(seed, Scene(plan=plan(strategy="canary"), bad=lambda number: True)).run(200)
    assert sim.troubles == []
    assert sim.counts["move"] == 1
    assert sim.outcome() == "rolled back"
    assert {node.gen for node in sim.nodes} == {1}


def test_without_rollback_a_halt_leaves_all_as_they_are_until_the_operator_speaks() -> None:
    sim = Rolling(3, Scene(plan=plan(rollback=False), bad=lambda number: number == 5)).run(300)
    assert sim.outcome() == "halted"
    halted = [node.gen for node in sim.nodes]
    assert (min(halted), sim.nodes[5].gen) == (1, 2)
    sim.scene = msgspec.structs.replace(sim.scene, bad=None)
    sim.say(msgspec.structs.replace(sim.order, gen=2))
    sim.run(600)
    assert sim.outcome() == "done"
    assert {node.gen for node in sim.nodes} == {2}


def test_a_pause_holds_and_an_abort_takes_everybody_back() -> None:
    sim = Rolling(4, Scene(plan=FAST)).run(20)
    sim.say(msgspec.structs.replace(sim.order, course=Course.PAUSE))
    sim.run(40)
    moved = sim.counts["move"]
    sim.run(100)
    assert 0 < sim.counts["move"] == moved < 12
    sim.say(msgspec.structs.replace(sim.order, course=Course.ABORT))
    sim.run(140)
    assert sim.outcome() == "aborted"
    assert {node.gen for node in sim.nodes} == {1}


def test_a_manual_canary_waits_for_its_promotion() -> None:
    sim = Rolling(5, Scene(plan=plan(strategy="canary", manual=True))).run(120)
    assert sim.counts["move"] == 1
    sim.say(msgspec.structs.replace(sim.order, promoted=True))
    sim.run(400)
    assert sim.outcome() == "done"


def test_a_node_that_dies_of_it_halts_it_also_after_it_came_back() -> None:
    sim = Rolling(6, Scene(plan=FAST))
    while not any(node.gen == 2 for node in sim.nodes):
        sim.run(sim.world.now + 0.2)
    sim.fall(next(node for node in sim.nodes if node.gen == 2), back_s=10)
    sim.run(120)
    assert sim.outcome() == "rolled back"
    assert {node.gen for node in sim.nodes} == {1}
    assert sim.counts["move"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_nodes_that_come_and_go_change_nothing_but_the_time_it_takes(seed: int) -> None:
    scene = Scene(plan=plan(max_fail=1.0, min_ok=0.0), falls_every_s=15)
    sim = Rolling(seed, scene).run(900)
    assert [it for it in sim.troubles if "at once" not in it] == []
    assert sim.moving_max <= 2  # one that fell may come back in its midst
    assert sum(node.gen == 2 for node in sim.nodes) >= 10


# -- rules left out: each must be noticed -------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_rule_that_is_broken_is_noticed(name: str) -> None:
    assert any(trial(name, seed) for seed in range(BROKEN[name].allowed))


@pytest.mark.parametrize(("bad", "falls"), [(True, False), (False, True)])
def test_nothing_is_noticed_of_the_true_rules(bad: bool, falls: bool) -> None:
    assert [wrong(seed, bad=bad, falls=falls) for seed in range(5)] == [None] * 5

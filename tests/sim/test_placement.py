"""Many placement machines at once: where everything ends up when nodes die, split and come back."""

from __future__ import annotations

import pytest

from mesh.core.claims import Seat
from mesh.sim.placing import Node, World, spec

FIVE_HUNDRED = [f"w{number}" for number in range(500)]
SIXTY = FIVE_HUNDRED[:60]
SMALL = {"resources": {"requests": {"cpu": 0.02, "memory": "16Mi"}}}


def apply_many(world: World, names: list[str] = SIXTY) -> None:
    world.apply(*(spec(name, **SMALL) for name in names))


def everyone_once(world: World) -> bool:
    running = world.running()
    return len(running) == len(world.specs) and all(len(nodes) == 1 for nodes in running.values())


@pytest.mark.slow
def test_five_hundred_workloads_on_32_nodes_survive_the_death_of_three() -> None:
    world = World(32, 1)
    apply_many(world, FIVE_HUNDRED)
    world.run(30)
    assert everyone_once(world)
    double: dict[Seat, list[float]] = {}

    def watch() -> None:
        for seat, nodes in world.running().items():
            if len(nodes) > 1:
                double.setdefault(seat, []).append(world.now)
            elif seat in double and len(double[seat]) == 1:
                double[seat].append(world.now)

    dead = world.nodes[:3]
    moved = {seat for node in dead for seat in node.runs}
    assert moved
    before = {seat: nodes for seat, nodes in world.running().items() if seat not in moved}
    world.watchers.append(watch)
    world.kill(*dead)
    world.run(10)
    assert everyone_once(world)
    assert {seat: nodes for seat, nodes in world.running().items() if seat not in moved} == before
    assert len(double) <= 0.03 * len(FIVE_HUNDRED)
    assert all(times[-1] - times[0] < 1.0 for times in double.values() if len(times) > 1)


def test_an_even_split_runs_everything_on_both_sides_and_once_after_the_heal() -> None:
    world = World(8, 1)
    apply_many(world)
    world.run(30)
    near, far = world.nodes[:4], world.nodes[4:]
    world.split(far)
    world.run(60)
    for side in (near, far):
        assert {seat for node in side for seat in node.runs} == set(world.running())
    world.heal()
    world.run(5)
    assert everyone_once(world)
    assert any(tell.kind == "duplicate" for node in world.nodes for tell in node.told)


def test_a_node_that_returns_moves_nothing() -> None:
    world = World(5, 2)
    apply_many(world)
    world.run(30)
    lost: Node = world.nodes[0]
    world.kill(lost)
    world.run(10)
    before = world.running()
    assert everyone_once(world)
    world.revive(lost)
    world.run(400)
    assert world.running() == before


def test_a_clean_restart_moves_nothing_and_starts_nothing_twice() -> None:
    world = World(5, 3)
    apply_many(world)
    world.run(30)
    before = world.running()
    node = world.nodes[0]
    node.up = False
    world.run(2)
    world.revive(node, found=list(node.runs))
    world.run(20)
    assert world.running() == before


def test_all_nodes_restarted_at_once_run_what_they_had() -> None:
    world = World(8, 4)
    apply_many(world)
    world.run(30)
    before = world.running()
    for node in world.nodes:
        node.die()
    world.run(60)
    for node in world.nodes:
        world.revive(node)
    world.run(20)
    assert world.running() == before


def test_a_drained_node_is_empty_and_nothing_was_missing_on_the_way() -> None:
    world = World(4, 5)
    apply_many(world)
    world.run(30)
    missing: list[Seat] = []
    world.watchers.append(lambda: missing.extend(set(before) - set(world.running())))
    before = world.running()
    world.set_offer(world.nodes[0], "drain")
    world.run(30)
    assert not world.nodes[0].runs
    assert everyone_once(world)
    assert missing == []


def test_a_member_that_claims_everything_displaces_nothing_that_runs() -> None:
    world = World(6, 6)
    apply_many(world)
    world.run(60)
    before = world.running()
    thief = world.nodes[5]
    for name in SIXTY:
        if (seat := Seat(name, 0)) not in thief.runs:
            thief.machine.own.take(seat, world.now)
    thief._do(thief.machine.desk.flush())
    honest = {seat: nodes for seat, nodes in before.items() if thief.aid not in nodes}
    world.run(30)
    after = world.running()
    assert all(nodes[0] in after[seat] for seat, nodes in honest.items())
    assert any(tell.kind == "suspicious" for node in world.nodes[:5] for tell in node.told)

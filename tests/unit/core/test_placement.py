"""The machine of placement in small meshes, one rule at a time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mesh.core.candidates import Site
from mesh.core.claims import Claim, Offer, Seat, Stage
from mesh.core.guard import Rule
from mesh.core.placing import Failed, Leased, RulesSaid, Settled, SitesSaid, StandingSaid
from mesh.core.seating import Seating
from mesh.sim.placing import GIB, Node, World, aid_of, spec

WEB = Seat("web", 0)


def owner(world: World, seat: Seat = WEB) -> Node:
    found = [node for node in world.nodes if seat in node.runs]
    assert len(found) == 1
    return found[0]


def placed(count: int = 3, **fields: Any) -> World:
    world = World(count)
    world.apply(spec("web", **fields))
    world.run(5)
    return world


def test_instances_spread_before_any_node_gets_a_second_one() -> None:
    world = placed(4, replicas=4)
    assert sorted(len(node.runs) for node in world.nodes) == [1, 1, 1, 1]


def test_a_label_to_spread_by_comes_first() -> None:
    world = World(4)
    for node, where in zip(world.nodes, ("a", "a", "a", "b"), strict=True):
        node.fields = {"labels": {"site": where}}
        world.sites[node.aid] = node.site(world.sites[node.aid].offer)
    for node in world.nodes:
        node.give(SitesSaid(dict(world.sites)))
    world.apply(spec("web", replicas=2, affinity={"spread": "site"}))
    world.run(5)
    assert {node.fields["labels"]["site"] for node in world.nodes if node.runs} == {"a", "b"}


def test_one_on_each_node() -> None:
    world = placed(3, replicas="each")
    assert all(set(node.runs) == {WEB} for node in world.nodes)


def test_a_full_node_is_passed_over() -> None:
    world = World(2, cpu=1.0)
    world.apply(*(spec(f"w{n}", resources={"requests": {"cpu": 0.5}, "limits": {}}) for n in range(5)))
    world.run(30)
    assert sorted(len(node.runs) for node in world.nodes) == [2, 2]
    assert any(tell.kind == "unplaced" for node in world.nodes for tell in node.told)


def test_what_is_to_be_apart_is_and_what_is_to_be_near_is() -> None:
    world = placed(3)
    world.apply(spec("shy", affinity={"apart": ["web"]}), spec("friend", affinity={"near": ["web"]}))
    world.run(10)
    assert owner(world, Seat("shy", 0)) is not owner(world)
    assert owner(world, Seat("friend", 0)) is owner(world)


def test_a_stateful_owner_is_waited_for_and_a_pinned_one_for_ever() -> None:
    world = placed(3, mounts=[{"name": "data", "kind": "persistent"}])
    lost = owner(world)
    world.kill(lost)
    world.run(200)
    assert not world.running()
    world.run(110)
    assert owner(world) is not lost
    world = placed(3, mode="pinned")
    lost = owner(world)
    world.kill(lost)
    world.run(1000)
    assert not world.running()
    world.revive(lost)
    world.run(1)
    assert owner(world) is lost


def test_no_seat_waits_for_an_owner_that_has_just_come_back() -> None:
    world = placed(4)
    first = owner(world)
    world.kill(first)
    world.run(3)
    second = owner(world)
    world.revive(first, settled=False)
    world.run(0.5)
    world.kill(second)
    world.run(1.5)
    third = owner(world)
    assert third not in (first, second)
    first.give(Settled())
    world.run(70)
    assert owner(world) is third
    assert len(third.stored) == 1
    assert not first.stored


def test_the_old_word_of_a_node_that_is_back_is_not_told_as_a_second_run() -> None:
    world = placed(3)
    first = owner(world)
    world.kill(first)
    world.run(3)
    second = owner(world)
    second.give(StandingSaid(first.aid, "alive"))  # before what it offers in its new life
    world.run(1)
    world.revive(first)
    world.run(5)
    assert owner(world) is second
    assert not [tell for tell in second.told if tell.kind == "duplicate"]


def test_who_saw_the_owner_alive_does_not_wait_as_after_a_power_cut() -> None:
    world = placed(2)
    first = owner(world)
    world.kill(first)
    world.run(3)
    second = owner(world)
    world.revive(first)
    world.run(12)
    world.kill(second)
    world.run(3)
    assert owner(world) is first


def test_after_a_power_cut_who_was_alive_before_its_owner_waits_for_it() -> None:
    world = placed(2)
    first = owner(world)
    other = next(node for node in world.nodes if node is not first)
    world.kill(first, other)
    world.run(3)
    world.revive(other)
    other.give(StandingSaid(first.aid, "dead"))
    world.run(50)
    assert not world.running()
    world.run(15)
    assert owner(world) is other


def test_after_a_power_cut_the_new_word_of_an_owner_that_still_counts_as_dead_keeps_its_seat() -> None:
    aid, born = aid_of(1), 1_700_000_000_000
    table = Seating(born)
    table.set_spec("web", spec("web"))
    table.set_site(aid, Site(aid, Offer(born - 9_000)))
    claim = Claim(gen=1, epoch=7, st=Stage.RUN, since_ms=born - 8_000, life=born - 9_000)
    table.set_claim(aid, WEB, claim)
    table.set_standing(aid, "alive", 0.0)  # suspected: it was not heard yet
    table.set_standing(aid, "dead", 5.0)
    assert table.holders(WEB, 9.0)
    back = msgspec.structs.replace(claim, life=born + 8_000, since_ms=born + 8_000)
    table.set_claim(aid, WEB, back)  # ahead of its refutation
    assert table.holders(WEB, 9.0)
    table.set_standing(aid, "alive", 10.0)
    table.set_site(aid, Site(aid, Offer(born + 8_000)))
    table.set_standing(aid, "dead", 12.0)
    assert not table.holders(WEB, 13.0)  # and now it has died in that life


def test_epochs_grow_with_each_owner() -> None:
    world, epochs = placed(4), []
    for _ in range(3):
        node = owner(world)
        epochs.append(node.runs[WEB])
        world.kill(node)
        world.run(5)
    assert epochs == sorted(set(epochs))


def test_keep_original_takes_its_work_back_when_it_has_been_up_for_long_enough() -> None:
    world = placed(3, reconcile="keep_original", recovery_after_s=100)
    first = owner(world)
    world.kill(first)
    world.run(5)
    other = owner(world)
    world.revive(first)
    world.run(60)
    assert owner(world) is other
    gaps: list[float] = []
    world.watchers.append(lambda: None if world.running() else gaps.append(world.now))
    world.run(120)
    assert owner(world) is first
    assert gaps == []


@pytest.mark.parametrize("reconcile", ["keep_replacement", "longest_running", "best_score", "keep_original"])
def test_after_a_split_exactly_one_stays_by_the_rule(reconcile: str) -> None:
    world = placed(4, reconcile=reconcile)
    first = owner(world)
    others = [node for node in world.nodes if node is not first]
    world.split(others)
    world.run(60)
    (second,) = [node for node in others if WEB in node.runs]
    world.heal()
    world.run(5)
    stays = owner(world)
    if reconcile == "keep_replacement":
        assert stays is second
    elif reconcile in ("longest_running", "keep_original"):
        assert stays is first
    duplicates = [tell for node in world.nodes for tell in node.told if tell.kind == "duplicate"]
    assert {frozenset(tell.nodes) for tell in duplicates} == {frozenset({first.aid, second.aid})}
    assert all(tell.seconds > 30 for tell in duplicates)


def test_a_program_that_fails_here_is_tried_elsewhere_and_not_here_for_a_while() -> None:
    world = World(3)
    bad: set[bytes] = set()
    world.broken = lambda node, seat: "exit 1" if node.aid in bad else ""
    world.apply(spec("web"))
    world.run(5)
    first = owner(world)
    first.runs.clear()
    bad.add(first.aid)
    for _ in range(3):
        first.give(Failed(WEB, "exit 1"))
    world.run(10)
    assert owner(world) is not first
    assert first.stored[WEB].st == Stage.BAR
    assert first.stored[WEB].why == "exit 1"


def test_where_it_fails_everywhere_it_stays_and_goes_on_trying() -> None:
    world = World(1)
    world.broken = lambda node, seat: "exit 1"
    world.apply(spec("web"))
    world.run(60)
    claim = world.nodes[0].stored[WEB]
    assert (claim.st, claim.why) == (Stage.CLAIM, "exit 1")
    world.broken = lambda node, seat: ""
    world.run(5)
    assert owner(world).stored[WEB].why == ""


def test_a_workload_waits_for_what_it_depends_on() -> None:
    world = World(2)
    world.apply(spec("front", depends=["back"]))
    world.run(10)
    assert not world.running()
    assert {claim.why for node in world.nodes for claim in node.stored.values()} == {"waits for back"}
    world.apply(spec("back"))
    world.run(10)
    assert set(world.running()) == {Seat("front", 0), Seat("back", 0)}


def test_a_job_that_ended_is_not_started_again_before_it_changes() -> None:
    world = placed(2, restart="never")
    node = owner(world)
    node.end(WEB)
    world.run(400)
    assert not world.running()
    world.kill(node)
    world.run(400)
    assert not world.running()
    world.revive(node)
    world.apply(spec("web", 2, restart="never"))
    world.run(5)
    assert owner(world) is node


def test_what_is_deleted_or_scaled_down_stops_and_leaves_no_claim() -> None:
    world = placed(3, replicas=3)
    world.apply(spec("web", 2, replicas=1))
    world.run(5)
    assert set(world.running()) == {WEB}
    world.delete("web")
    world.run(5)
    assert not world.running()
    assert not any(node.stored for node in world.nodes)


def test_a_node_that_no_longer_fits_gives_its_work_away() -> None:
    world = placed(3)
    first = owner(world)
    for node in world.nodes:
        node.give(RulesSaid((Rule(name="not-there", selector=f"name={first.aid.hex()[:2]}", runtimes=()),)))
    world.run(5)
    assert owner(world) is not first


def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() -> None:
    world = placed(2)
    node = owner(world)
    world.set_offer(node, "cordon")
    world.apply(*(spec(f"w{n}") for n in range(6)))
    world.run(20)
    assert set(node.runs) == {WEB}


def test_nobody_runs_an_exclusive_instance_without_the_lease_and_tokens_grow() -> None:
    world = placed(3, mode="exclusive", voters="main")
    first = owner(world)
    assert first.runs[WEB] == 1
    world.kill(first)
    world.run(20)
    assert not world.running()
    world.run(20)
    assert owner(world).runs[WEB] == 2


def test_a_lease_that_came_for_what_is_not_wanted_any_more_is_given_back() -> None:
    world = placed(1, mode="exclusive", voters="main")
    world.delete("web")
    world.run(1)
    world.leases[WEB] = (aid_of(1), world.now + 30, 5)
    world.nodes[0].give(Leased(WEB, 5))
    assert WEB not in world.leases


def test_a_better_place_takes_over_only_after_ten_minutes_and_without_a_gap() -> None:
    world = World(2, cpu=2.0, memory=2 * GIB)
    world.apply(spec("web", resources={"requests": {"cpu": 1}, "limits": {}}))
    world.run(5)
    first = owner(world)
    other = next(node for node in world.nodes if node is not first)
    busy = {"selector": f"name={first.aid.hex()[:2]}", "resources": {"requests": {"cpu": 0.9}, "limits": {}}}
    world.apply(spec("heavy", **busy))
    gaps: list[float] = []
    world.watchers.append(lambda: None if WEB in world.running() else gaps.append(world.now))
    world.run(500)
    assert owner(world) is first
    world.run(400)
    assert owner(world) is other
    assert gaps == []
    world.run(2000)
    assert owner(world) is other


def test_an_owner_that_is_away_by_its_own_configuration_holds_nothing() -> None:
    world = placed(2)
    node = owner(world)
    world.sites[node.aid] = node.site(Offer(1, "away"))
    for each in world.nodes:
        each.give(SitesSaid(dict(world.sites)))
    world.run(40)
    assert owner(world) is not node


@pytest.mark.parametrize("fields", [{}, {"mode": "pinned"}, {"replicas": "each"}])
def test_what_is_taken_off_a_node_by_name_leaves_it_also_where_it_would_stay(fields: dict[str, Any]) -> None:
    world = placed(3, **fields)
    left = next(node for node in world.nodes if WEB in node.runs)
    world.apply(spec("web", **fields, avoid=[left.aid.hex()[:2]]))
    world.run(5)
    assert WEB not in left.runs
    count = 2 if fields.get("replicas") == "each" else 1
    assert sum(WEB in node.runs for node in world.nodes) == count


def test_a_second_generation_beside_the_first_needs_room_for_both() -> None:
    world = placed(3, resources={"requests": {"memory": "10Gi"}, "limits": {"memory": 0}})
    table = owner(world).machine.table
    large = spec("web", 2, resources={"requests": {"memory": "900Gi"}, "limits": {"memory": 0}})
    aid, why = table.why_not_both(large.workload)
    assert aid == owner(world).aid
    assert "memory" in why
    before = table.load(aid).memory
    table.set_spec("web", msgspec.structs.replace(table.specs["web"], also=large.workload.resources.requests))
    assert table.load(aid).memory == before + 900 * GIB
    assert "memory" in table.why_crowded("web", world.nodes[0].aid)


def test_a_failover_is_told_once_with_the_node_that_is_gone() -> None:
    world = placed(3)
    lost = owner(world)
    world.kill(lost)
    world.run(30)
    told = [tell for node in world.nodes for tell in node.told if tell.kind == "failover"]
    assert [(tell.seat, tell.nodes) for tell in told] == [(WEB, (lost.aid,))]
    assert not [tell for node in world.nodes for tell in node.told if tell.kind == "placed" and tell.nodes]

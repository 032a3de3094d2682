"""Whole runs of scenarios: what holds, what a seed gives, and what the checks notice."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from mesh.core.collect import Statement
from mesh.core.record import MESH, Kind
from mesh.core.rings import Place
from mesh.core.vitals import RemoteReported, State
from mesh.sim import formed, mutants
from mesh.sim.faults import KINDS, plan
from mesh.sim.fleet import Fleet
from mesh.sim.mutants import Mutant
from mesh.sim.run import Result, Run
from mesh.sim.scenario import Scenario, load

DIGEST = "from mesh.sim import run, scenario; print(run.Run(scenario.load('quick'), 7).execute().digest)"


def run(name: str, seed: int = 1, **mesh: object) -> Result:
    scenario = load(name)
    changed = msgspec.structs.replace(scenario.mesh, **mesh)
    return Run(msgspec.structs.replace(scenario, mesh=changed), seed).execute()


@pytest.mark.parametrize(
    "name",
    ["quick", "freeze", "cut-off", "two-of-three", "suspend", "one-way", "set-back", "clocks", "liars"],
)
def test_a_scenario_holds(name: str) -> None:
    assert run(name).failure is None


def test_nothing_acknowledged_is_lost_in_power_cuts() -> None:
    assert run("power-cuts", duration_s=12).failure is None


def test_who_was_away_for_a_month_brings_nothing_back() -> None:
    result = run("away-30", duration_s=32)
    assert result.failure is None
    assert result.figures["acknowledged"] > 100


def test_writes_on_both_sides_of_a_split_are_equal_soon_after() -> None:
    scenario = load("split-writes")
    mesh = msgspec.structs.replace(scenario.mesh, nodes=12, duration_s=15)
    load_ = msgspec.structs.replace(scenario.load, writes_per_s=60, keys=200)
    fault = [msgspec.structs.replace(scenario.fault[0], at_s=2, for_s=10)]
    result = Run(msgspec.structs.replace(scenario, mesh=mesh, load=load_, fault=fault), 1).execute()
    assert result.failure is None
    assert result.figures["identical_s"] <= 5


def test_the_same_seed_gives_the_same_run_in_any_process() -> None:
    def digest(hash_seed: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        return done.stdout

    assert digest("1") == digest("2") == f"{run('quick', 7).digest}\n".encode()


def test_other_seeds_hit_others() -> None:
    scenario = load("quick")
    assert len({plan(scenario, seed)[0].nodes for seed in range(20)}) > 2


@pytest.mark.parametrize("what", sorted(KINDS))
def test_every_fault_can_be_dealt_and_is_over_in_the_end(what: str) -> None:
    fault = {"what": what, "at_s": 1, "for_s": 2, "rate": 0.2, "offset_s": 100, "days": 2, "age_s": 1}
    raw = {
        "summary": what,
        "mesh": {"nodes": 4, "duration_s": 6, "bound_s": 90, "quiet_s": 1},
        "load": {"writes_per_s": 5, "keys": 4},
        "fault": [fault],
    }
    assert Run(msgspec.convert(raw, Scenario), 3).execute().failure is None


@pytest.mark.parametrize("mutant", mutants.chosen([], quick=True), ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_noticed(mutant: Mutant) -> None:
    assert mutants.hunt(mutant)["found"] == "yes"


def test_there_are_mutants_enough_and_none_has_anothers_name() -> None:
    names = [mutant.name for mutant in mutants.yard()]
    assert len(set(names)) == len(names) >= 20


def test_a_gateway_sets_right_what_another_has_said_of_their_zone() -> None:
    places = [Place(f"zone-{number % 2}", gateway=True) for number in range(6)]
    fleet = Fleet(6, seed=1, places=places).form(6)
    assert fleet.abroad()
    first = fleet.nodes[0].machine
    assert first is not None
    second = fleet.nodes[fleet.number[first.board.gateways("zone-0")[1]]]
    wrong = {node.aid: "dead" for node in fleet.nodes[::2]}
    assert second.replica is not None
    second.replica.say(MESH, lambda log: [Statement("zone/zone-0", Kind.ALL, {"states": wrong})])
    fleet.until(lambda: not fleet.abroad(), 1)
    assert not fleet.abroad()
    assert fleet.until(fleet.abroad, 6) <= 6


def test_each_invariant_of_the_state_has_a_rule_that_breaks_it() -> None:
    summaries = " ".join(mutant.summary for mutant in mutants.yard())
    named = {number for number in range(1, 11 + 1) if f"(I{number})" in summaries}
    assert named == set(range(1, 12))


def test_a_mesh_that_is_built_as_formed_stands_and_finds_its_dead() -> None:
    places = [Place(f"zone-{number % 3}", gateway=number < 9) for number in range(30)]
    fleet = Fleet(30, seed=1, places=places, shared=True)
    formed.build(fleet)
    assert fleet.whole()
    assert all(len(node.pipes) >= len(node.machine.wanted()) for node in fleet.nodes if node.machine)
    fleet.run(20)
    assert fleet.changes == []
    assert sum(node.replica.machine.duplicates for node in fleet.nodes if node.replica) < 30
    fleet.kill(29)
    assert fleet.until(lambda: fleet.know_gone(29), 5) < 1


def test_a_gateway_that_begins_anew_puts_no_member_in_doubt() -> None:
    places = [Place(f"zone-{number % 2}", gateway=number < 4) for number in range(6)]
    fleet = Fleet(6, seed=2, places=places).form(6)
    viewer, member = fleet.nodes[0], fleet.nodes[3].aid
    assert viewer.sees(member) == State.ALIVE
    viewer.feed(RemoteReported(member, State.REGISTERING))
    assert viewer.sees(member) == State.ALIVE
    viewer.feed(RemoteReported(member, State.DEAD))
    assert viewer.sees(member) == State.DEAD

"""Whole fleets of real machines on a simulated network, with every check of the simulator on."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from mesh.core.lease import Evidence, Status
from mesh.core.liveness import Liveness
from mesh.core.rings import Place
from mesh.core.vitals import (
    PROFILES,
    Accuse,
    Action,
    Answer,
    ForcedOut,
    SendDatagram,
    SendFrame,
    State,
    StatusSet,
)
from mesh.sim.fleet import MESH_ID, Fleet
from mesh.sim.node import Node
from mesh.sim.trials import busy, flap, freeze, idle, kill, loss, one_way, restart, split


@pytest.mark.parametrize("nodes", [2, 3, 8, 32])
def test_a_killed_node_is_known_by_all_within_half_a_second(nodes: int) -> None:
    result = kill(nodes, seed=1, rounds=4)
    assert result["worst_s"] <= 0.5
    assert result["others"] == result["false_dead"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_node_is_known_by_all_soon_even_under_heavy_loss(seed: int) -> None:
    fleet = Fleet(32, seed).form()
    fleet.net.loss = 0.2
    fleet.kill(0)
    assert fleet.until(lambda: fleet.know_gone(0), 60) <= 5


@pytest.mark.parametrize(("nodes", "seed"), [(2, 1), (3, 1), (4, 1), (8, 1), (8, 2), (32, 1)])
def test_a_frozen_node_is_found_within_eight_seconds_and_nobody_else_is_suspected(
    nodes: int, seed: int
) -> None:
    result = freeze(nodes, seed)
    assert result["found_s"] <= 8
    assert result["back_s"] <= 3
    assert result["others"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
def test_nobody_is_declared_dead_in_minutes_of_loss(rate: float) -> None:
    assert loss(32, seed=1, rate=rate, minutes=2)["false_dead"] == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_the_sides_of_an_even_split_settle_and_a_healed_split_heals(seed: int) -> None:
    result = split(32, seed)
    assert result["settled_s"] <= 15
    assert result["whole_s"] <= 5
    assert result["false_dead"] == 0


def test_a_small_side_settles_too() -> None:
    result = split(32, seed=1, side=8)
    assert result["settled_s"] <= 45
    assert result["whole_s"] <= 5


def test_sides_find_each_other_long_after_the_last_stream_has_closed() -> None:
    result = split(16, seed=1, hold_s=900)
    assert result["whole_s"] <= 16


def test_one_node_cut_off_blames_itself() -> None:
    fleet = Fleet(16, seed=1).form()
    since = len(fleet.changes)
    fleet.split([5])
    assert fleet.until(lambda: fleet.nodes[0].sees(fleet.nodes[5].aid) == State.DEAD, 30) <= 8
    fleet.run(20)
    assert not [change for change in fleet.changes[since:] if change.viewer == 5]
    fleet.heal()
    assert fleet.until(fleet.whole, 30) <= 5


def test_nodes_frozen_again_and_again_make_little_noise_and_none_about_the_healthy() -> None:
    result = flap(32, seed=1, rounds=20)
    assert result["changes"] <= 400
    assert result["others"] == 0
    assert result["whole_s"] <= 10


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_way_and_non_transitive_cuts_change_nobodys_mind(seed: int) -> None:
    assert one_way(16, seed)["changes"] == 0


def test_a_mesh_killed_and_restarted_at_once_is_whole_again_at_once() -> None:
    result = restart(32, seed=1)
    assert result["worst_s"] <= 2
    assert result["false_dead"] == 0


def test_busy_processors_are_not_dead() -> None:
    assert busy(16, seed=1)["false_dead"] == 0


@pytest.mark.parametrize(("nodes", "bytes_max"), [(2, 150), (8, 1000), (32, 2000)])
def test_an_idle_mesh_costs_little(nodes: int, bytes_max: int) -> None:
    result = idle(nodes, seed=1)
    assert result["bytes_per_s"] <= bytes_max
    assert result["changes"] == nodes * (nodes - 1)


def test_two_dead_of_three_are_found_by_the_last() -> None:
    for hit in (Fleet.kill, Fleet.freeze, Fleet.power_cut):
        fleet = Fleet(3, seed=1).form()
        hit(fleet, 0)
        hit(fleet, 1)
        assert fleet.until(fleet.whole, 60) <= 10


def test_half_of_a_mesh_may_lose_its_power() -> None:
    fleet = Fleet(32, seed=1).form()
    for number in range(16):
        fleet.power_cut(number)
    assert fleet.until(fleet.whole, 60) <= 15
    fleet.run(200)
    fleet.start(range(16))
    assert fleet.until(fleet.whole, 60) <= 5


def test_where_no_datagram_passes_the_streams_are_enough() -> None:
    fleet = Fleet(16, seed=1)
    for source in range(16):
        for target in range(16):
            fleet.net.datagrams_blocked[source, target] = None
    fleet.form(120)
    assert not fleet.false_dead
    fleet.freeze(1)
    assert fleet.until(fleet.whole, 60) <= 8
    fleet.resume(1)
    assert fleet.until(fleet.whole, 60) <= 3
    fleet.run(60)
    fleet.split(range(8))
    assert fleet.until(fleet.whole, 60) <= 15
    fleet.run(300)
    fleet.heal()
    assert fleet.until(fleet.whole, 120) <= 50


def test_nodes_that_cannot_be_dialled_take_part() -> None:
    fleet = Fleet(16, seed=1)
    hidden = range(0, 16, 4)
    for number in hidden:
        fleet.net.dialable[number] = False
    fleet.form()
    fleet.kill(4)
    assert fleet.until(fleet.whole, 60) <= 8, "silence finds it: no host refuses for it"
    fleet.run(300)
    assert not fleet.false_dead


def test_wrong_wall_clocks_change_nothing() -> None:
    fleet = Fleet(16, seed=1)
    for node in fleet.nodes:
        node.skew_ms = fleet.rng.choice([0, -20_000, 20_000, -40_000])
    fleet.form(200)
    fleet.kill(3)
    assert fleet.until(fleet.whole, 60) <= 0.5
    fleet.start([3])
    assert fleet.until(fleet.whole, 60) <= 2
    assert not fleet.false_dead


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_finds_a_frozen_node_in_its_own_time(name: str) -> None:
    config = PROFILES[name]
    fleet = Fleet(12, seed=1, config=config, latency_s=config.miss_s / 50).form()
    fleet.freeze(0)
    limit_s = 4 * config.interval_s + 3 * config.miss_s + config.confirm_s + 1
    assert fleet.until(fleet.whole, 300) <= limit_s
    assert not fleet.false_dead


def test_zones_judge_their_own_members_only() -> None:
    places = [Place(f"zone-{number % 3}", gateway=number < 12) for number in range(36)]
    fleet = Fleet(36, seed=1, places=places).form()
    since = len(fleet.changes)
    fleet.kill(5)
    assert fleet.until(fleet.whole, 60) <= 0.5
    fleet.freeze(7)
    assert fleet.until(fleet.whole, 60) <= 8
    for change in fleet.changes[since:]:
        assert change.viewer % 3 == change.subject % 3 or change.why == "summary"
    far = [pipe for node in fleet.running() for pipe in node.pipes if pipe % 3 != node.number % 3]
    assert far, "gateways hold links across zones"


def test_leaves_are_watched_by_their_hosts() -> None:
    places = [Place("default", leaf=number % 4 == 3) for number in range(32)]
    fleet = Fleet(32, seed=1, places=places).form()
    fleet.kill(3)
    assert fleet.until(fleet.whole, 60) <= 0.5
    fleet.freeze(7)
    assert fleet.until(fleet.whole, 60) <= 8
    fleet.resume(7)
    assert fleet.until(fleet.whole, 60) <= 3
    assert not fleet.false_dead


# --- flags ------------------------------------------------------------------------------------------


def test_a_member_that_leaves_is_not_missed() -> None:
    fleet = Fleet(8, seed=1).form()
    fleet.nodes[2].feed(StatusSet(Status.LEFT))
    fleet.run(0.1)
    fleet.kill(2)
    fleet.run(120)
    left = fleet.nodes[2].aid
    assert all(node.sees(left) == State.LEFT for node in fleet.running())
    assert not [change for change in fleet.changes if change.subject == 2 and change.new == State.DEAD]
    fleet.start([2])
    assert fleet.until(fleet.whole, 60) <= 2


def test_a_clean_restart_is_neither_gone_nor_missed() -> None:
    fleet = Fleet(8, seed=1).form()
    node, since = fleet.nodes[2], len(fleet.changes)
    node.feed(StatusSet(Status.SLEEP, until_ms=node.wall_ms() + 20_000))
    fleet.run(0.1)
    fleet.kill(2)
    fleet.run(15)
    fleet.start([2])
    fleet.run(60)
    assert fleet.changes[since:] == [change for change in fleet.changes[since:] if change.viewer == 2]


def test_who_oversleeps_is_missed() -> None:
    fleet = Fleet(8, seed=1).form()
    node = fleet.nodes[2]
    node.feed(StatusSet(Status.SLEEP, until_ms=node.wall_ms() + 20_000))
    fleet.run(0.1)
    fleet.kill(2)
    assert 19 <= fleet.until(lambda: fleet.know_gone(2), 60) <= 22


def test_an_operator_turns_the_dead_into_those_who_left() -> None:
    fleet = Fleet(8, seed=1).form()
    fleet.kill(2)
    fleet.until(fleet.whole, 10)
    gone = fleet.nodes[2]
    for node in fleet.running():
        node.feed(ForcedOut(gone.aid, gone.disk.incarnation))
    assert all(node.sees(gone.aid) == State.LEFT for node in fleet.running())
    fleet.start([2])
    assert fleet.until(fleet.whole, 60) <= 2


def test_who_dies_again_and_again_is_held_down() -> None:
    fleet = Fleet(8, seed=1).form()

    def flapping() -> bool:
        machine = fleet.nodes[0].machine
        assert machine is not None
        views = {view.aid: view for view in machine.members(fleet.world.now)}
        return views[fleet.nodes[2].aid].flapping

    for expected in (False, True):
        fleet.kill(2)
        fleet.until(fleet.whole, 10)
        fleet.run(5)
        fleet.start([2])
        fleet.until(fleet.whole, 10)
        assert flapping() is expected
    fleet.run(299)
    assert flapping()
    fleet.run(5)
    assert not flapping()


# --- a liar -----------------------------------------------------------------------------------------


class Liar(Liveness):
    """Accuses everybody ten times a second, and denies having heard of anyone it is asked about."""

    evidence = Evidence.SILENT
    ahead = 0
    _lie_at = 0.0

    def _leave(self, t: float, now: float, out: list[Action]) -> list[Action]:
        super()._leave(t, now, out)
        for index, action in enumerate(out):
            if isinstance(action, (SendDatagram, SendFrame)) and isinstance(action.probe, Answer):
                probe = Answer(action.probe.nonce, action.probe.subject, False)
                out[index] = type(action)(action.aid, probe)
        if now >= self._lie_at:
            self._lie_at = now + 0.1
            others = [member for member in self.board if member.aid != self.me]
            out += [Accuse(other.aid, other.inc + self.ahead, self.evidence, 60) for other in others]
        self._due = min(self._due, self._lie_at)
        return out


class LyingFleet(Fleet):
    """Node 0 lies."""

    liar: type[Liar] = Liar

    def build(self, node: Node, rng: random.Random) -> Liveness:
        if node.number:
            return super().build(node, rng)
        return self.liar(
            self.config, node.aid, MESH_ID, node.place, rng, node.disk.incarnation, self.world.now
        )


@pytest.mark.parametrize(
    ("evidence", "ahead", "rate"),
    [
        (Evidence.SILENT, 0, 0.0),
        (Evidence.GONE, 0, 0.2),
        (Evidence.SILENT, 60_000, 0.2),
        (Evidence.GONE, 1 << 40, 0.0),
    ],
)
def test_one_liar_among_eight_kills_nobody_and_saves_nobody(
    evidence: Evidence, ahead: int, rate: float
) -> None:
    chosen = {"evidence": evidence, "ahead": ahead}
    fleet = LyingFleet(8, seed=1)
    fleet.liar = type("ChosenLiar", (Liar,), chosen)
    fleet.start()
    fleet.net.loss = rate
    fleet.run(40)
    honest = [change for change in fleet.changes if change.viewer != 0]
    assert not [change for change in honest if change.new == State.DEAD]
    fleet.kill(7)
    gone = fleet.nodes[7].aid
    assert fleet.until(lambda: all(node.sees(gone) == State.DEAD for node in fleet.nodes[1:7]), 60) <= 8
    assert all(node.disk.incarnation < 1 << 32 for node in fleet.nodes)


# --- the same run again -------------------------------------------------------------------------------

RERUN = """
from mesh.sim.fleet import Fleet
fleet = Fleet(12, seed=5, loss=0.1)
fleet.start(); fleet.run(30); fleet.freeze(3, for_s=9); fleet.run(20)
fleet.split(range(6)); fleet.run(30); fleet.heal(); fleet.kill(2); fleet.run(30)
print(fleet.digest, len(fleet.changes), fleet.world.calls)
"""


def test_the_same_seed_gives_the_same_run_in_any_process() -> None:
    def run(hash_seed: str) -> Any:
        command = [sys.executable, "-c", RERUN]
        done = subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True)
        return done.stdout

    assert run("1") == run("2") != b""

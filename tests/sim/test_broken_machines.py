"""Rules of membership left out on purpose: a simulator that does not notice each of them proves nothing."""

from __future__ import annotations

import random

import msgspec
import pytest

from mesh.core.lease import Lease
from mesh.core.link import Link
from mesh.core.liveness import Liveness
from mesh.core.member import Member
from mesh.core.prober import Prober
from mesh.core.rings import Place
from mesh.core.verdict import Board
from mesh.core.vitals import PROFILES, Action
from mesh.sim.checks import Violation
from mesh.sim.fleet import Fleet
from mesh.sim.trials import Measures, flap, freeze, loss, split


def machine(prober: type[Prober] = Prober, board: type[Board] = Board) -> type[Liveness]:
    class Machine(Liveness):
        def make_board(self, place: Place, mesh_id: bytes) -> Board:
            return board(self.config, self.me, place, mesh_id)

        def make_prober(self, rng: random.Random) -> Prober:
            return prober(self.config, self.board, rng)

    return Machine


class SlowRedial(Prober):
    def redial_s(self, link: Link) -> float:
        return 5.0


def test_a_redial_that_may_take_five_seconds_finds_a_frozen_node_too_late() -> None:
    assert freeze(16, 1, liveness=machine(SlowRedial))["found_s"] > 8


class DoubtFromMissingLinks(Liveness):
    def _enter(self, now: float) -> float:
        t = super()._enter(now)
        self.board.slowness = min(8, self.slowness(now) + self.prober.missing()[0])
        return t


def test_self_doubt_from_missing_links_punishes_the_survivors() -> None:
    assert freeze(16, 1, liveness=DoubtFromMissingLinks)["found_s"] > 8


class SilentWhenHalfMiss(Prober):
    def alone(self, t: float) -> bool:
        missing, wanted = self.missing()
        return wanted > 2 and missing * 2 >= wanted


def test_holding_ones_tongue_whenever_half_of_the_links_miss_leaves_a_split_unsettled() -> None:
    assert split(32, 1, liveness=machine(SilentWhenHalfMiss))["settled_s"] > 15


class NeverAlone(Prober):
    def alone(self, t: float) -> bool:
        return False


def test_a_node_that_never_thinks_itself_cut_off_accuses_the_whole_mesh() -> None:
    def accused_by_the_lost_one(liveness: type[Liveness]) -> int:
        fleet = Fleet(16, 1, liveness=liveness).form()
        since = len(fleet.changes)
        fleet.split([5])
        fleet.run(12)
        return sum(change.viewer == 5 for change in fleet.changes[since:])

    assert accused_by_the_lost_one(Liveness) == 0
    assert accused_by_the_lost_one(machine(NeverAlone)) > 0


class AlwaysTwo(Board):
    def need(self, member: Member) -> int:
        return 2


def two_dead_of_three(liveness: type[Liveness]) -> float:
    fleet = Fleet(3, 1, liveness=liveness).form()
    fleet.kill(0)
    fleet.kill(1)
    return fleet.until(fleet.whole, 60)


def test_two_accusers_always_needed_never_resolves_two_dead_of_three() -> None:
    assert two_dead_of_three(Liveness) <= 10
    assert two_dead_of_three(machine(board=AlwaysTwo)) > 20


def test_leases_that_run_out_after_one_renewal_kill_the_living_under_loss() -> None:
    config = msgspec.structs.replace(PROFILES["lan"], lease_factor=1.0)
    assert loss(32, 1, rate=0.3, minutes=0.5, config=config)["false_dead"] > 100


class NeverSearches(Prober):
    def _search(self, t: float, out: list[Action]) -> None:
        return


class ForgetsTheLost(Board):
    def lost(self) -> list[bytes]:
        return []


def test_without_finding_back_the_sides_of_a_long_split_never_meet() -> None:
    def measure(liveness: type[Liveness]) -> Measures:
        return split(16, 1, hold_s=200, liveness=liveness)

    assert measure(Liveness)["whole_s"] <= 5
    assert measure(machine(NeverSearches, ForgetsTheLost))["whole_s"] == float("inf")


class BelievesTheUnsteady(Board):
    def _revives(self, member: Member, lease: Lease, t: float) -> bool:
        return super()._revives(member, msgspec.structs.replace(lease, steady=True), t)


def test_without_steadiness_frozen_nodes_flap() -> None:
    assert flap(16, 1, rounds=10)["changes"] < 200
    assert flap(16, 1, rounds=10, liveness=machine(board=BelievesTheUnsteady))["changes"] > 500


class NeverLate(Liveness):
    def _take_off(self, late: float, now: float) -> None:
        return


def test_a_node_that_ignores_its_own_lateness_accuses_others_when_it_wakes() -> None:
    def blamed(liveness: type[Liveness]) -> int:
        fleet = Fleet(16, 1, liveness=liveness).form()
        since = len(fleet.changes)
        fleet.split([0])  # a suspended computer: what was sent to it meanwhile is lost
        fleet.freeze(0, for_s=60)
        fleet.run(60)
        fleet.heal()
        fleet.run(30)
        return sum(change.viewer == 0 for change in fleet.changes[since:])

    assert blamed(Liveness) == 0
    assert blamed(NeverLate) > 0


class NeverAsks(Prober):
    def _helpers(self, subject: bytes, t: float) -> list[bytes]:
        return []


@pytest.mark.parametrize(("prober", "quiet"), [(Prober, True), (NeverAsks, False)])
def test_without_asking_others_a_one_way_cut_is_an_accusation(prober: type[Prober], quiet: bool) -> None:
    fleet = Fleet(16, 1, liveness=machine(prober)).form()
    since = len(fleet.changes)
    near = fleet.nodes[0].machine
    assert near is not None
    fleet.cut([0], [fleet.number[near.wanted()[0]]])
    fleet.run(60)
    assert (len(fleet.changes) == since) is quiet


class RefutesNothing(Liveness):
    def _accused(self, inc: int) -> None:
        return


def test_who_does_not_refute_is_noticed_before_anybody_asks() -> None:
    assert freeze(16, 1)["back_s"] <= 3
    with pytest.raises(Violation, match="refutation"):
        freeze(16, 1, liveness=RefutesNothing)

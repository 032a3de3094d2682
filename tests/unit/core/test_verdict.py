"""The board: how leases and accusations become states."""

from __future__ import annotations

import random

import pytest

from mesh.core.lease import Evidence, Lease, Status
from mesh.core.member import Charge
from mesh.core.rings import Place
from mesh.core.verdict import CHARGES_MAX, INC_JUMP_MAX, Board
from mesh.core.vitals import PROFILES, Action, State, StateChanged

LAN = PROFILES["lan"]
MESH = b"m" * 16
HERE = Place("default")
SILENT, GONE = Evidence.SILENT, Evidence.GONE


class Bench:
    """A board among others; every call returns the changes of state it made as (member, new state, why)."""

    def __init__(self, count: int, *, leased: bool = True) -> None:
        dice = random.Random(1)
        self.aids = [dice.randbytes(16) for _ in range(count)]
        self.me = self.aids[0]
        self.board = Board(LAN, self.me, HERE, MESH)
        self.hlc = 1_000_000 << 16
        for aid in self.aids[1:]:
            self.board.join(aid, HERE, 0.0)
            if leased:
                self.lease(aid, 1, 0.0)

    def _told(self, out: list[Action]) -> list[tuple[int, State, str]]:
        return [
            (self.aids.index(action.aid), action.new, action.why)
            for action in out
            if isinstance(action, StateChanged)
        ]

    def lease(self, aid: bytes, inc: int, t: float, **fields: object) -> list[tuple[int, State, str]]:
        out: list[Action] = []
        self.hlc += 1 << 16
        self.board.lease(aid, Lease(inc, **fields), self.hlc, t, out)  # type: ignore[arg-type]
        return self._told(out)

    def accuse(
        self, subject: int, accuser: int, t: float, inc: int = 1, evidence: Evidence = SILENT
    ) -> list[tuple[int, State, str]]:
        out: list[Action] = []
        self.board.accuse(self.aids[subject], self.aids[accuser], Charge(inc, evidence), t, out)
        return self._told(out)

    def withdraw(self, subject: int, accuser: int, t: float) -> list[tuple[int, State, str]]:
        out: list[Action] = []
        self.board.withdraw(self.aids[subject], self.aids[accuser], t, out)
        return self._told(out)

    def tick(self, t: float) -> list[tuple[int, State, str]]:
        out: list[Action] = []
        self.board.tick(t, out)
        return self._told(out)

    def state(self, number: int) -> State:
        return self.board.members[self.aids[number]].state


def test_a_member_registers_until_its_first_lease() -> None:
    bench = Bench(3, leased=False)
    assert bench.state(1) == State.REGISTERING
    assert bench.lease(bench.aids[1], 1, 0.0) == [(1, State.ALIVE, "lease")]


def test_one_accusation_is_hearsay_and_two_are_a_verdict_after_the_confirm_time() -> None:
    bench = Bench(5)
    assert bench.accuse(1, 2, 1.0) == [(1, State.SUSPECT, "accused")]
    assert bench.tick(30.0) == []
    assert bench.accuse(1, 3, 31.0) == []
    assert bench.tick(33.4) == []
    assert bench.tick(33.5) == [(1, State.DEAD, "silent")]
    assert bench.board.members[bench.aids[1]].seen_by == tuple(sorted([bench.aids[2], bench.aids[3]]))


def test_one_accuser_counts_once_however_often_it_speaks() -> None:
    bench = Bench(5)
    for t in range(20):
        bench.accuse(1, 2, float(t), evidence=GONE if t % 2 else SILENT)
    assert bench.tick(29.0) == []
    assert bench.state(1) == State.SUSPECT


def test_two_who_found_it_gone_are_a_verdict_at_once() -> None:
    bench = Bench(5)
    bench.accuse(1, 2, 1.0, evidence=GONE)
    assert bench.accuse(1, 3, 1.0, evidence=GONE) == [(1, State.DEAD, "gone")]


def test_one_gone_and_one_silent_wait_for_the_confirm_time() -> None:
    bench = Bench(5)
    bench.accuse(1, 2, 1.0, evidence=GONE)
    bench.accuse(1, 3, 1.0, evidence=SILENT)
    assert bench.state(1) == State.SUSPECT
    assert bench.tick(3.5) == [(1, State.DEAD, "silent")]


def test_in_a_mesh_of_two_one_is_enough() -> None:
    bench = Bench(2)
    assert bench.accuse(1, 0, 1.0, evidence=GONE) == [(1, State.SUSPECT, "accused"), (1, State.DEAD, "gone")]


def test_the_accused_are_not_waited_for() -> None:
    bench = Bench(3)
    bench.accuse(1, 0, 1.0)
    bench.accuse(2, 0, 1.0)
    assert {(1, State.DEAD, "silent"), (2, State.DEAD, "silent")} == set(bench.tick(3.5))


def test_a_liar_who_accuses_all_monitors_cannot_hold_it_against_their_refutations() -> None:
    bench = Bench(5)
    for step in range(40):
        t, inc = step / 2, step + 1
        for subject in (1, 2, 3):
            bench.accuse(subject, 4, t, inc)
        bench.tick(t + 0.4)
        for subject in (1, 2, 3):
            bench.lease(bench.aids[subject], inc + 1, t + 0.4)
    assert {bench.state(1), bench.state(2), bench.state(3)} == {State.ALIVE}


def test_accusations_of_strangers_to_the_subject_do_not_count() -> None:
    bench = Bench(60)
    subject = bench.aids[1]
    near = bench.board.monitors(subject)
    far = [number for number, aid in enumerate(bench.aids) if aid not in near and number > 1]
    for number in far:
        assert bench.accuse(1, number, 1.0, evidence=GONE) == []
    assert bench.state(1) == State.ALIVE
    assert len(bench.board.members[subject].charges) <= CHARGES_MAX


def test_accusers_who_died_do_not_count() -> None:
    bench = Bench(6)
    bench.accuse(1, 2, 1.0)
    bench.accuse(1, 3, 1.0)
    bench.accuse(2, 4, 1.1, evidence=GONE)
    bench.accuse(2, 5, 1.1, evidence=GONE)
    assert bench.tick(4.0) == []
    assert bench.state(1) == State.SUSPECT


def test_an_accusation_taken_back_clears_the_name() -> None:
    bench = Bench(5)
    bench.accuse(1, 2, 1.0)
    assert bench.withdraw(1, 2, 2.0) == [(1, State.ALIVE, "cleared")]
    bench.accuse(1, 2, 3.0)
    bench.accuse(1, 3, 3.0)
    bench.withdraw(1, 3, 5.0)
    bench.accuse(1, 3, 5.1)
    assert bench.tick(7.5) == [], "the confirm time starts anew"
    assert bench.tick(7.6) == [(1, State.DEAD, "silent")]


def test_only_a_newer_incarnation_refutes() -> None:
    bench = Bench(5)
    bench.accuse(1, 2, 1.0)
    assert bench.lease(bench.aids[1], 1, 1.1) == []
    assert bench.lease(bench.aids[1], 2, 1.2) == [(1, State.ALIVE, "cleared")]
    assert bench.accuse(1, 3, 1.3, inc=1) == [], "what was said of the old one is void"


def test_accusations_of_an_incarnation_not_seen_yet_count_until_it_is_far_off() -> None:
    bench = Bench(5)
    assert bench.accuse(1, 2, 1.0, inc=3) == [(1, State.SUSPECT, "accused")]
    assert bench.lease(bench.aids[1], 3, 1.1) == []
    assert bench.accuse(1, 3, 1.2, inc=3 + INC_JUMP_MAX + 1) == []
    assert len(bench.board.members[bench.aids[1]].charges) == 1


def dead(bench: Bench, evidence: Evidence = SILENT) -> None:
    bench.accuse(1, 2, 1.0, evidence=evidence)
    bench.accuse(1, 3, 1.0, evidence=evidence)
    bench.tick(3.5)
    assert bench.state(1) == State.DEAD


def test_the_dead_rise_by_a_newer_incarnation_from_a_steady_loop() -> None:
    bench = Bench(5)
    dead(bench)
    subject = bench.aids[1]
    assert bench.lease(subject, 1, 4.0) == []
    assert bench.lease(subject, 2, 4.1, steady=False) == []
    assert bench.lease(subject, 3, 4.2) == [(1, State.ALIVE, "refuted")]
    assert bench.tick(30.0) == []


def test_the_gone_rise_by_any_newer_incarnation() -> None:
    bench = Bench(5)
    dead(bench, GONE)
    assert bench.lease(bench.aids[1], 2, 4.0, steady=False) == [(1, State.ALIVE, "refuted")]


def test_after_three_leases_a_newer_lease_is_enough() -> None:
    bench = Bench(5)
    dead(bench)
    assert bench.lease(bench.aids[1], 1, 3.5 + 44.9) == []
    assert bench.lease(bench.aids[1], 1, 3.5 + 45.0) == [(1, State.ALIVE, "refuted")]
    bench.tick(60.0)
    assert bench.state(1) == State.ALIVE, "the old accusations went with the verdict"


def test_a_lease_that_runs_out_is_a_verdict_and_a_newer_one_ends_it() -> None:
    bench = Bench(4)
    for t in range(15, 60, 15):
        for number in (2, 3):
            bench.lease(bench.aids[number], 1, float(t))
    assert bench.tick(44.9) == []
    assert bench.tick(45.1) == [(1, State.DEAD, "lease")]
    assert bench.lease(bench.aids[1], 1, 46.0) == [(1, State.ALIVE, "refuted")]


def test_whom_we_hear_directly_needs_no_lease() -> None:
    bench = Bench(2)
    bench.board.heard(bench.aids[1], 44.0)
    assert bench.tick(46.0) == []
    assert bench.tick(47.1) == [(1, State.DEAD, "lease")]


def test_a_slow_viewer_confirms_later() -> None:
    bench = Bench(5)
    bench.board.slowness = 3
    bench.accuse(1, 2, 1.0)
    bench.accuse(1, 3, 1.0)
    assert bench.tick(10.9) == []
    assert bench.tick(11.0) == [(1, State.DEAD, "silent")]


def test_monitors_stay_the_same_for_a_while_after_a_death() -> None:
    bench = Bench(30)
    subject = bench.aids[1]
    before = bench.board.monitors(subject)
    for victim in (bench.aids.index(aid) for aid in before if aid != bench.me):
        near = [bench.aids.index(aid) for aid in bench.board.monitors(bench.aids[victim])]
        for accuser in [number for number in near if bench.state(number) == State.ALIVE][:2]:
            bench.accuse(victim, accuser, 1.0, evidence=GONE)
        break
    lost = next(aid for aid in before if bench.board.members[aid].state == State.DEAD)
    assert bench.board.monitors(subject) == before
    assert lost not in bench.board.wanted()
    bench.tick(31.1)
    assert lost not in bench.board.monitors(subject)


def test_a_sleeper_is_left_alone_until_its_time() -> None:
    bench = Bench(5)
    until_ms = (bench.hlc >> 16) + 10_000
    bench.lease(bench.aids[1], 1, 0.0, st=Status.SLEEP, until_ms=until_ms)
    assert bench.accuse(1, 2, 1.0, evidence=GONE) == []
    assert bench.accuse(1, 3, 1.0, evidence=GONE) == []
    assert bench.tick(9.0) == []
    told = bench.tick(10.5)
    assert (1, State.DEAD, "gone") in told


def test_who_left_is_gone_without_a_verdict_and_not_accused() -> None:
    bench = Bench(5)
    assert bench.lease(bench.aids[1], 1, 1.0, st=Status.LEFT) == [(1, State.LEFT, "left")]
    assert bench.accuse(1, 2, 2.0, evidence=GONE) == []
    assert bench.lease(bench.aids[1], 1, 3.0) == [], "left is not refuted by the same life"
    assert bench.lease(bench.aids[1], 2, 4.0) == [(1, State.ALIVE, "lease")]


def test_older_leases_are_ignored() -> None:
    bench = Bench(3)
    out: list[Action] = []
    bench.board.lease(bench.aids[1], Lease(9, Status.LEFT), 5, 1.0, out)
    assert out == []
    assert bench.board.members[bench.aids[1]].inc == 1


def test_members_of_other_zones_are_their_gateways_business() -> None:
    bench = Bench(4)
    far = b"f" * 16
    bench.board.join(far, Place("elsewhere"), 0.0)
    bench.aids.append(far)
    assert bench.accuse(4, 2, 1.0, evidence=GONE) == []
    assert bench.lease(far, 1, 1.0) == []
    assert [told for told in bench.tick(500.0) if told[0] == 4] == []
    out: list[Action] = []
    bench.board.report(far, State.DEAD, 600.0, out)
    assert bench.state(4) == State.DEAD
    bench.board.report(far, State.ALIVE, 601.0, out)
    assert bench.state(4) == State.ALIVE


def test_a_member_that_moves_into_our_zone_has_time_to_start_anew_there() -> None:
    """Its goodbye is signed for the zone it leaves."""
    bench = Bench(5)
    bench.board.join(bench.aids[4], Place("elsewhere"), 1.0)
    bench.board.join(bench.aids[4], HERE, 2.0)
    assert [bench.accuse(4, by, 3.0, inc=0, evidence=GONE) for by in (1, 2)] == [[], []]
    assert bench.tick(11.0) == []
    assert bench.lease(bench.aids[4], 2, 11.5) == [(4, State.ALIVE, "lease")]
    assert bench.accuse(4, 1, 11.6, inc=2, evidence=GONE)
    late = Bench(5)
    late.board.join(late.aids[4], Place("elsewhere"), 1.0)
    late.board.join(late.aids[4], HERE, 2.0)
    assert [late.accuse(4, by, 3.0, inc=0, evidence=GONE) for by in (1, 2)] == [[], []]
    late.tick(12.5)
    assert late.state(4) == State.DEAD


def test_a_forgotten_member_takes_its_accusations_with_it() -> None:
    bench = Bench(5)
    bench.accuse(1, 2, 1.0)
    bench.accuse(1, 3, 1.0)
    bench.board.remove(bench.aids[3])
    assert bench.tick(10.0) == []
    bench.board.remove(bench.aids[1])
    assert bench.tick(100.0)
    assert bench.aids[1] not in bench.board.members


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_nothing_is_due_in_the_past_after_a_tick(number: int) -> None:
    bench = Bench(6)
    t = 0.0
    for _ in range(200):
        bench.accuse(number, 5, t)
        t = max(t, bench.board.due())
        bench.tick(t)
        assert bench.board.due() > t


def test_a_lease_from_a_wrong_future_hides_no_later_one_once_the_clock_is_right() -> None:
    bench = Bench(4)
    right, wrong = bench.hlc, bench.hlc << 1
    bench.hlc = wrong
    bench.lease(bench.aids[1], 1, 1.0)
    bench.board.rewound(right + 100)
    bench.hlc = right
    bench.lease(bench.aids[1], 1, 50.0)
    assert bench.board.members[bench.aids[1]].fresh == 50.0


def test_leases_are_spaced_by_the_members_of_the_zone_not_of_the_mesh() -> None:
    bench = Bench(4)
    dice = random.Random(2)
    for _ in range(2000):
        bench.board.join(dice.randbytes(16), Place("elsewhere"), 0.0)
    assert bench.board.lease_s() == LAN.lease_s

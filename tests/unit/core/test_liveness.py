"""Transcripts of one machine: what happened to it, what it wants done."""

from __future__ import annotations

import random
from typing import TypeVar

import pytest

from mesh.core.lease import Evidence, Lease, Status
from mesh.core.liveness import Liveness
from mesh.core.rings import Place
from mesh.core.vitals import (
    PROFILES,
    AccusationArrived,
    Accuse,
    Action,
    Answer,
    Ask,
    CloseLink,
    DatagramHeard,
    DialNow,
    DialResult,
    Event,
    ForcedOut,
    FrameHeard,
    LeaseArrived,
    LinkDown,
    LinkUp,
    LoopLate,
    MembersChanged,
    PersistIncarnation,
    Ping,
    Pong,
    PublishLease,
    Redial,
    RedialFinished,
    SendDatagram,
    SendFrame,
    State,
    StateChanged,
    StatusSet,
    Withdraw,
    profile,
)
from mesh.errors import UsageError

HERE = Place("default")
ME = b"\x40" * 16
A, B, C = b"\x10" * 16, b"\x20" * 16, b"\x80" * 16  # A and B have lower ids than we, C a higher one
Kind = TypeVar("Kind", bound=Action)


class Stage:
    """One machine among A, B and C, with a clock; remembers the last actions."""

    def __init__(self, *members: bytes) -> None:
        self.now = 1000.0
        self.machine = Liveness(PROFILES["lan"], ME, b"m" * 16, HERE, random.Random(1), 4, self.now)
        self.hlc = 1_000_000 << 16
        self.said: list[Action] = []
        self.tell(MembersChanged(tuple((aid, HERE) for aid in members)))
        for aid in members:
            self.lease(aid)
            self.tell(LinkUp(aid))

    def tell(self, *events: Event) -> list[Action]:
        self.said = [action for event in events for action in self.machine.handle(event, self.now)]
        return self.said

    def lease(self, aid: bytes, inc: int = 1, **fields: object) -> list[Action]:
        self.hlc += 1 << 16
        return self.tell(LeaseArrived(aid, Lease(inc, **fields), self.hlc))  # type: ignore[arg-type]

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass as a punctual loop does; returns all that was wanted meanwhile."""
        end, said = self.now + seconds, []
        while self.machine.deadline() <= end:
            self.now = max(self.now, self.machine.deadline())
            said += self.machine.tick(self.now)
        self.now = end
        self.said = said
        return said

    def late(self, seconds: float) -> list[Action]:
        """The loop stands still until so long after its deadline."""
        self.now = self.machine.deadline() + seconds
        self.said = self.machine.tick(self.now)
        return self.said

    def got(self, kind: type[Kind]) -> list[Kind]:
        return [action for action in self.said if isinstance(action, kind)]

    def pings(self, aid: bytes) -> int:
        return sum(isinstance(a.probe, Ping) and a.aid == aid for a in self.got(SendDatagram))

    def state(self, aid: bytes) -> State | None:
        return self.machine.state(aid)


def test_a_start_raises_the_incarnation_on_disk_before_it_is_used() -> None:
    machine = Liveness(PROFILES["lan"], ME, b"m" * 16, HERE, random.Random(1), 4, 0.0)
    first, second = machine.tick(machine.deadline())
    assert first == PersistIncarnation(5)
    assert isinstance(second, PublishLease)
    assert second.lease == Lease(5, Status.UP, None, True)
    assert second.urgent


def test_the_lease_is_renewed_about_every_t() -> None:
    stage = Stage(A)
    stage.wait(150)
    assert 8 <= len(stage.got(PublishLease)) <= 12


def test_the_lower_id_pings_an_idle_link_once_per_interval() -> None:
    stage = Stage(C)
    heard = 0
    for _ in range(10):
        for action in stage.wait(1.0):
            if isinstance(action, SendDatagram) and isinstance(action.probe, Ping):
                heard += 1
                stage.tell(DatagramHeard(C, Pong(action.probe.nonce)))
    assert 8 <= heard <= 10


def test_the_higher_id_only_answers() -> None:
    stage = Stage(A)
    for _ in range(10):
        said = stage.wait(1.0)
        assert not [action for action in said if isinstance(action, SendDatagram)]
        assert stage.tell(DatagramHeard(A, Ping(7))) == [SendDatagram(A, Pong(7))]


def test_traffic_takes_the_place_of_pings() -> None:
    stage = Stage(C)
    for _ in range(40):
        stage.wait(0.25)
        assert stage.pings(C) == 0
        stage.tell(FrameHeard(C))


def test_from_the_first_miss_the_stream_is_pinged_too() -> None:
    stage = Stage(C)
    stage.wait(1.2)
    assert stage.pings(C) == 1
    assert not stage.got(SendFrame)
    stage.wait(1.2)
    assert stage.pings(C) == 1
    assert len(stage.got(SendFrame)) == 1


def test_a_ping_on_the_stream_is_answered_on_the_stream() -> None:
    stage = Stage(A)
    assert stage.tell(FrameHeard(A, Ping(9))) == [SendFrame(A, Pong(9))]


def test_after_three_misses_two_others_are_asked_and_the_member_is_redialled() -> None:
    stage = Stage(A, B, C)
    for _ in range(4):
        stage.wait(0.9)
        said = stage.said
        stage.tell(FrameHeard(A), FrameHeard(B))
        stage.said = said
        if stage.got(Redial):
            break
    assert [(action.aid, action.deadline_s) for action in stage.got(Redial)] == [(C, 1.0)]
    asked = [action.aid for action in stage.got(SendDatagram) if isinstance(action.probe, Ask)]
    assert sorted(asked) == [A, B]
    assert not stage.got(Accuse)


def silence(stage: Stage, aid: bytes, seconds: float, *friends: bytes) -> list[Action]:
    """Time passes; friends are heard, the other is not, and no answer is given."""
    said: list[Action] = []
    for _ in range(round(seconds / 0.25)):
        said += stage.wait(0.25)
        for friend in friends:
            said += stage.tell(FrameHeard(friend))
    stage.said = said
    return said


def test_silence_is_an_accusation_after_the_questions_came_to_nothing() -> None:
    stage = Stage(A, B, C)
    silence(stage, C, 4.25, A, B)
    assert not stage.got(Accuse)
    silence(stage, C, 1.0, A, B)
    assert [(a.subject, a.inc, a.evidence) for a in stage.got(Accuse)] == [(C, 1, Evidence.SILENT)]
    assert stage.state(C) == State.SUSPECT


@pytest.mark.parametrize("saviour", ["answer", "redial", "frame"])
def test_any_sign_of_life_prevents_the_accusation(saviour: str) -> None:
    stage = Stage(A, B, C)
    while not stage.got(Redial):
        silence(stage, C, 0.25, A, B)
    nonce = next(a.probe.nonce for a in stage.got(SendDatagram) if isinstance(a.probe, Ask))
    if saviour == "answer":
        stage.tell(DatagramHeard(A, Answer(nonce, C, True)))
    elif saviour == "redial":
        stage.tell(RedialFinished(C, DialResult.OK))
    else:
        stage.tell(FrameHeard(C))
    silence(stage, C, 3.0, A, B)
    assert not stage.got(Accuse)


def test_when_all_have_said_no_there_is_nothing_to_wait_for() -> None:
    stage = Stage(A, B, C)
    while not stage.got(Redial):
        silence(stage, C, 0.25, A, B)
    nonce = next(a.probe.nonce for a in stage.got(SendDatagram) if isinstance(a.probe, Ask))
    no = Answer(nonce, C, False)
    said = stage.tell(RedialFinished(C, DialResult.TIMED_OUT), DatagramHeard(A, no), DatagramHeard(B, no))
    assert [action.subject for action in said if isinstance(action, Accuse)] == [C]


def test_an_accusation_is_withdrawn_when_its_subject_is_heard_before_the_verdict() -> None:
    stage = Stage(A, B, C)
    silence(stage, C, 5.5, A, B)
    assert stage.state(C) == State.SUSPECT
    said = stage.tell(DatagramHeard(C, Pong(1)))
    assert [action.subject for action in said if isinstance(action, Withdraw)] == [C]
    assert stage.state(C) == State.ALIVE


def test_a_refused_redial_after_the_peer_ended_the_link_is_gone() -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=True))
    assert [action.aid for action in stage.wait(0.01) if isinstance(action, Redial)] == [C]
    said = stage.tell(RedialFinished(C, DialResult.REFUSED))
    assert [(a.subject, a.evidence) for a in said if isinstance(a, Accuse)] == [(C, Evidence.GONE)]
    said = stage.tell(AccusationArrived(C, A, 1, Evidence.GONE))
    changes = [action for action in said if isinstance(action, StateChanged)]
    assert [(change.new, change.why, change.seen_by) for change in changes] == [(State.DEAD, "gone", (A, ME))]


@pytest.mark.parametrize("result", [DialResult.OK, DialResult.TIMED_OUT])
def test_another_outcome_of_that_redial_accuses_nobody(result: DialResult) -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=True))
    stage.wait(0.01)
    assert not [a for a in stage.tell(RedialFinished(C, result)) if isinstance(a, Accuse)]


def test_a_process_that_keeps_its_port_while_it_dies_is_gone_as_soon_as_it_refuses() -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=True))
    stage.wait(0.01)
    stage.tell(RedialFinished(C, DialResult.TIMED_OUT))
    silence(stage, C, 0.5, A, B)
    assert len(stage.got(Redial)) == 1, "it is tried again soon"
    silence(stage, C, 3.0, A, B)
    assert len(stage.got(Redial)) == 2, "and again, when a connect is taken up by nobody"
    assert stage.state(C) == State.ALIVE
    said = stage.tell(RedialFinished(C, DialResult.REFUSED))
    assert [(a.subject, a.evidence) for a in said if isinstance(a, Accuse)] == [(C, Evidence.GONE)]
    stage.tell(AccusationArrived(C, A, 1, Evidence.GONE))
    assert stage.state(C) == State.DEAD


def test_whom_we_accuse_of_silence_is_gone_when_its_host_refuses() -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=True))
    for _ in range(40):
        silence(stage, C, 0.25, A, B)
        if stage.state(C) == State.SUSPECT:
            break
        stage.tell(RedialFinished(C, DialResult.TIMED_OUT))
    assert stage.state(C) == State.SUSPECT
    while not stage.got(Redial):
        silence(stage, C, 0.25, A, B)
    said = stage.tell(RedialFinished(C, DialResult.REFUSED))
    assert [a.evidence for a in said if isinstance(a, Accuse)] == [Evidence.GONE]


def test_an_agent_that_is_heard_after_its_link_ended_is_not_redialled_again() -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=True))
    stage.wait(0.7)
    stage.tell(DatagramHeard(C, Ping(1)), RedialFinished(C, DialResult.TIMED_OUT))
    for _ in range(20):
        stage.wait(0.25)
        assert not stage.got(Redial)
        stage.tell(*(DatagramHeard(aid, Ping(2)) for aid in (A, B, C)))


def test_a_new_link_is_asked_by_datagram_where_it_listens() -> None:
    stage = Stage(A)
    stage.tell(LinkDown(A, eof=False))
    assert [action.aid for action in stage.tell(LinkUp(A)) if isinstance(action, SendDatagram)] == [A]
    stage.tell(DatagramHeard(A, Pong(1)), LinkDown(A, eof=False))
    assert not [action for action in stage.tell(LinkUp(A)) if isinstance(action, SendDatagram)]


def test_a_link_that_we_closed_is_no_evidence() -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=False))
    assert not [action for action in stage.wait(0.01) if isinstance(action, Redial)]


def test_a_refusal_while_the_stream_stands_is_only_silence() -> None:
    stage = Stage(A, B, C)
    while not stage.got(Redial):
        silence(stage, C, 0.25, A, B)
    said = stage.tell(RedialFinished(C, DialResult.REFUSED))
    assert not [action for action in said if isinstance(action, Accuse)]


# --- ourselves accused ---------------------------------------------------------------------------------


def test_an_accusation_of_ourselves_is_refuted_at_once_and_above() -> None:
    stage = Stage(A, B)
    stage.wait(1)
    said = stage.tell(AccusationArrived(ME, A, 5, Evidence.SILENT))
    assert said[0] == PersistIncarnation(6)
    assert isinstance(said[1], PublishLease)
    assert said[1].urgent
    assert said[1].lease.inc == 6
    stage.wait(1)
    said = stage.tell(AccusationArrived(ME, B, 900, Evidence.SILENT))
    assert said[0] == PersistIncarnation(901)


def test_an_old_or_absurd_accusation_of_ourselves_is_not_answered() -> None:
    stage = Stage(A)
    stage.wait(1)
    assert stage.tell(AccusationArrived(ME, A, 4, Evidence.SILENT)) == []
    assert stage.tell(AccusationArrived(ME, A, 1 << 40, Evidence.SILENT)) == []


def test_refutations_are_paced() -> None:
    stage = Stage(A)
    stage.wait(1)
    raised = 0
    for _ in range(100):
        said = stage.tell(AccusationArrived(ME, A, stage.machine.incarnation, Evidence.SILENT))
        said = [*said, *stage.wait(0.05)]
        raised += sum(isinstance(action, PersistIncarnation) for action in said)
    assert 9 <= raised <= 11


def test_who_leaves_does_not_refute() -> None:
    stage = Stage(A)
    stage.wait(1)
    assert [a.lease.st for a in stage.tell(StatusSet(Status.LEFT)) if isinstance(a, PublishLease)] == [
        Status.LEFT
    ]
    assert stage.tell(AccusationArrived(ME, A, 5, Evidence.SILENT)) == []


def test_who_was_forced_out_but_lives_says_so() -> None:
    stage = Stage(A)
    stage.wait(1)
    assert stage.tell(ForcedOut(ME, 5))[0] == PersistIncarnation(6)


# --- our own lateness ------------------------------------------------------------------------------------


def test_a_late_loop_says_that_it_is_not_steady_and_later_that_it_is() -> None:
    stage = Stage(A)
    stage.wait(1)
    stage.late(5.0)
    assert [action.lease.steady for action in stage.got(PublishLease)] == [False]
    stage.wait(1.9)
    assert not stage.got(PublishLease)
    stage.wait(0.2)
    assert [action.lease.steady for action in stage.got(PublishLease)] == [True]
    assert not stage.got(PersistIncarnation)


def test_who_was_accused_while_unsteady_raises_again_when_steady() -> None:
    stage = Stage(A)
    stage.wait(1)
    stage.late(5.0)
    said = stage.tell(AccusationArrived(ME, A, 5, Evidence.SILENT))
    assert [a.lease.steady for a in said if isinstance(a, PublishLease)] == [False]
    stage.wait(2.1)
    assert stage.got(PersistIncarnation) == [PersistIncarnation(7)]
    assert [action.lease.steady for action in stage.got(PublishLease)] == [True]


def test_time_that_we_missed_is_held_against_nobody() -> None:
    stage = Stage(A, B, C)
    stage.late(600.0)
    assert {stage.state(aid) for aid in (A, B, C)} == {State.ALIVE}
    assert not stage.got(Accuse)
    assert not stage.got(StateChanged)


def test_a_suspend_that_the_clock_did_not_see_is_told() -> None:
    stage = Stage(A)
    stage.wait(1)
    assert stage.machine.steady(stage.now)
    said = stage.tell(LoopLate(3600.0))
    assert [action.lease.steady for action in said if isinstance(action, PublishLease)] == [False]
    stage.wait(2.1)
    assert [action.lease.steady for action in stage.got(PublishLease)] == [True]
    assert stage.machine.slowness(stage.now) == 8


def test_slowness_is_forgotten_after_ten_seconds() -> None:
    stage = Stage(A)
    stage.wait(1)
    stage.late(1.2)
    assert stage.machine.slowness(stage.now) == 2
    stage.wait(10.1)
    assert stage.machine.slowness(stage.now) == 0


# --- others ask us ----------------------------------------------------------------------------------------


def test_asked_about_a_member_just_heard_we_say_yes() -> None:
    stage = Stage(A, B)
    stage.tell(FrameHeard(B))
    said = stage.tell(DatagramHeard(A, Ask(3, B)))
    assert SendDatagram(A, Answer(3, B, True)) in said
    assert SendFrame(A, Answer(3, B, True)) in said


def test_asked_about_a_silent_member_we_try_and_answer_what_came_of_it() -> None:
    stage = Stage(A, B)
    silence(stage, B, 2.0, A)
    said = stage.tell(DatagramHeard(A, Ask(3, B)))
    assert [a.aid for a in said if isinstance(a, SendDatagram) and isinstance(a.probe, Ping)] == [B]
    assert SendDatagram(A, Answer(3, B, True)) in stage.tell(DatagramHeard(B, Pong(1)))
    silence(stage, B, 2.0, A)
    stage.tell(DatagramHeard(A, Ask(4, B)))
    assert SendDatagram(A, Answer(4, B, False)) in stage.wait(0.6)


def test_questions_about_strangers_and_ourselves_are_not_answered() -> None:
    stage = Stage(A)
    for subject in (ME, b"?" * 16):
        said = stage.tell(DatagramHeard(A, Ask(3, subject)))
        assert not [a for a in said if isinstance(a, SendDatagram) and isinstance(a.probe, Answer)]


def test_what_strangers_send_is_nothing() -> None:
    stage = Stage(A)
    stranger = b"?" * 16
    for event in (
        DatagramHeard(stranger, Ping(1)),
        FrameHeard(stranger),
        LinkUp(stranger),
        LinkDown(stranger, True),
        RedialFinished(stranger, DialResult.OK),
    ):
        assert not [a for a in stage.tell(event) if not isinstance(a, PublishLease)]


# --- links -------------------------------------------------------------------------------------------------


def test_the_lower_id_dials_at_once_and_the_higher_a_little_later() -> None:
    stage = Stage()
    stage.tell(MembersChanged(((A, HERE), (C, HERE))))
    assert DialNow(C) in stage.wait(0.01)
    assert DialNow(A) not in stage.said
    assert DialNow(A) in stage.wait(0.6)


def test_dials_back_off() -> None:
    stage = Stage()
    stage.tell(MembersChanged(((C, HERE),)))
    stage.wait(120)
    assert 5 <= len(stage.got(DialNow)) <= 14


def test_a_datagram_from_a_dead_member_is_answered_by_a_dial() -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=True))
    stage.wait(0.01)
    stage.tell(RedialFinished(C, DialResult.REFUSED), AccusationArrived(C, A, 1, Evidence.GONE))
    assert stage.state(C) == State.DEAD
    silence(stage, C, 40, A, B)
    stage.tell(DatagramHeard(C, Pong(1)))
    assert DialNow(C) in [*stage.said, *stage.wait(1.1)]


def test_the_dead_who_would_be_neighbours_are_pinged_on_and_ever_more_slowly() -> None:
    stage = Stage(A, B, C)
    stage.tell(LinkDown(C, eof=True))
    stage.wait(0.01)
    stage.tell(RedialFinished(C, DialResult.REFUSED), AccusationArrived(C, A, 1, Evidence.GONE))
    for _ in range(60):
        silence(stage, C, 10, A, B)
        stage.lease(A)
        stage.lease(B)
    for _ in range(12):
        silence(stage, C, 10, A, B)
        slow = stage.pings(C)
        stage.lease(A)
        stage.lease(B)
    assert 1 <= slow <= 2


def test_a_stream_that_answers_nothing_while_datagrams_pass_is_replaced() -> None:
    stage = Stage(C)
    said: list[Action] = []
    for _ in range(200):
        for action in stage.wait(0.25):
            said.append(action)
            if isinstance(action, SendDatagram) and isinstance(action.probe, Ping):
                stage.tell(DatagramHeard(C, Pong(action.probe.nonce)))
        if DialNow(C, replace=True) in said:
            return
    raise AssertionError("the dead stream was never noticed")


def answering(stage: Stage, said: list[Action], seconds: float) -> list[Action]:
    """C answers what comes by datagram, at once, and nothing that comes on its stream."""
    found: list[Action] = []
    end = stage.now + seconds
    while said or stage.now < end:
        found += said
        for action in said:
            if isinstance(action, SendDatagram) and isinstance(action.probe, Ping):
                found += stage.tell(DatagramHeard(C, Pong(action.probe.nonce)))
        said = stage.wait(0.05)
    return found


@pytest.mark.parametrize("told", [False, True], ids=["our loop stood still", "the computer slept"])
def test_after_standing_still_a_dead_stream_is_not_trusted_until_the_keepalive(told: bool) -> None:
    stage = Stage(C)
    assert DialNow(C, replace=True) not in answering(stage, [], 5)
    said = stage.tell(LoopLate(600.0)) if told else stage.late(10.0)
    assert DialNow(C, replace=True) in answering(stage, said, 5)


def cut_off(stage: Stage, seconds: float, *, heard: bool) -> list[Action]:
    """C says nothing to us; those whom we ask about it say whether they hear it."""
    found: list[Action] = []
    for _ in range(round(seconds / 0.25)):
        said = silence(stage, C, 0.25, A, B)
        found += said
        for action in said:
            if isinstance(action, SendDatagram) and isinstance(action.probe, Ask):
                found += stage.tell(DatagramHeard(action.aid, Answer(action.probe.nonce, C, heard)))
    return found


@pytest.mark.parametrize("heard", [True, False], ids=["others hear it", "nobody hears it"])
def test_a_link_on_which_nothing_comes_is_closed_once_others_hear_its_other_end(heard: bool) -> None:
    stage = Stage(A, B, C)
    closed = [action.aid for action in cut_off(stage, 12, heard=heard) if isinstance(action, CloseLink)]
    assert (closed[:1] == [C]) is heard
    assert set(closed) <= {C}


def test_a_link_that_the_rings_do_not_want_closes_after_a_minute() -> None:
    members = [bytes([number]) * 16 for number in range(1, 40) if bytes([number]) * 16 != ME]
    stage = Stage(*members)
    wanted = set(stage.machine.wanted())
    stranger = next(aid for aid in members if aid not in wanted)
    closed: list[bytes] = []
    for _ in range(61):
        stage.wait(1)
        closed += [action.aid for action in stage.got(CloseLink)]
        for aid in members:
            stage.tell(FrameHeard(aid))
    assert stranger in closed
    assert not wanted & set(closed)


def test_a_member_that_is_no_more_loses_its_link() -> None:
    stage = Stage(A, B)
    assert CloseLink(B, "no longer a member") in stage.tell(MembersChanged(removed=(B,)))
    assert stage.state(B) is None


def test_records_that_come_before_the_card_wait_for_it() -> None:
    stage = Stage(A)
    stage.lease(B, 7)
    stage.tell(AccusationArrived(B, A, 7, Evidence.SILENT))
    assert stage.state(B) is None
    stage.tell(MembersChanged(((B, HERE),)))
    assert stage.state(B) == State.SUSPECT
    views = {view.aid: view for view in stage.machine.members(stage.now)}
    assert views[B].incarnation == 7
    assert views[B].accusers == (A,)


# --- views -------------------------------------------------------------------------------------------------


def test_links_are_shown_as_they_are() -> None:
    stage = Stage(A, C)
    for action in stage.wait(1.2):
        if isinstance(action, SendDatagram) and isinstance(action.probe, Ping):
            stage.now += 0.010
            stage.tell(DatagramHeard(action.aid, Pong(action.probe.nonce)))
    stage.tell(MembersChanged(((B, HERE),)))
    views = {view.aid: view for view in stage.machine.links(stage.now)}
    assert views[C].status == "connected"
    assert views[C].rtt_ms is not None
    assert views[C].rtt_ms >= 10
    assert views[B].status == "unknown"
    stage.tell(LinkDown(A, eof=False))
    assert {view.aid: view.status for view in stage.machine.links(stage.now)}[A] == "disconnected"


def test_we_see_ourselves_alive_with_our_own_lease() -> None:
    stage = Stage(A)
    stage.tell(StatusSet(Status.DRAIN))
    own = next(view for view in stage.machine.members(stage.now) if view.aid == ME)
    assert own.state == State.ALIVE
    assert own.lease is not None
    assert own.lease.st == Status.DRAIN


def test_an_unknown_profile_is_refused_by_name() -> None:
    assert profile("wan") == PROFILES["wan"]
    with pytest.raises(UsageError, match="moon"):
        profile("moon")

"""What holds of the liveness machine whatever happens to it, in whatever order."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mesh.core.lease import INCARNATION_MAX, Evidence, Lease, Status, decode_accusation, decode_lease
from mesh.core.liveness import Liveness
from mesh.core.member import Charge
from mesh.core.rings import Place
from mesh.core.verdict import CHARGES_MAX, Board
from mesh.core.vitals import (
    PROFILES,
    AccusationArrived,
    AccusationWithdrawn,
    Accuse,
    Action,
    Answer,
    Ask,
    DatagramHeard,
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
    RedialFinished,
    RemoteReported,
    State,
    StateChanged,
    StatusSet,
    decode_probe,
)
from mesh.errors import PeerError
from mesh.wire import codec

MESH = b"m" * 16
AIDS = [bytes([number * 7 % 251]) * 16 for number in range(1, 13)]
ME = AIDS[5]
PLACES = [Place("default"), Place("default", leaf=True), Place("elsewhere", gateway=True)]

aids = st.sampled_from(AIDS)
others = st.sampled_from([aid for aid in AIDS if aid != ME])
incs = st.one_of(st.integers(0, 12), st.sampled_from([1 << 15, 1 << 20, INCARNATION_MAX]))
probes = st.one_of(
    st.builds(Ping, st.integers(0, 9)),
    st.builds(Pong, st.integers(0, (1 << 32) - 1)),
    st.builds(Ask, st.integers(0, 9), aids),
    st.builds(Answer, st.integers(0, 9), aids, st.booleans()),
)
leases = st.builds(
    Lease,
    incs,
    st.sampled_from(list(Status)),
    st.one_of(st.none(), st.integers(0, 1 << 41)),
    st.booleans(),
)


class AnyLife(RuleBasedStateMachine):
    """One machine to which anything may happen at any time."""

    @initialize(name=st.sampled_from(sorted(PROFILES)), seed=st.integers(0, 99))
    def born(self, name: str, seed: int) -> None:
        self.now = 50.0
        self.machine = Liveness(PROFILES[name], ME, MESH, Place("default"), random.Random(seed), 3, self.now)
        self.disk = 3
        self.view: dict[bytes, State] = {}
        self.hlc = 1 << 40
        self.perform(self.machine.tick(self.now))
        self.tell(MembersChanged(tuple((aid, Place("default")) for aid in AIDS[:8])))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case PersistIncarnation(inc):
                    assert inc > self.disk
                    self.disk = inc
                case PublishLease(lease):
                    assert lease.inc == self.disk
                case Accuse(subject):
                    assert subject != ME
                    assert self.machine.board.members[subject].place.zone == "default"
                case StateChanged(aid, old, new):
                    assert aid != ME
                    assert old != new != State.REGISTERING
                    assert self.view.get(aid, State.REGISTERING) == old
                    self.view[aid] = new

    def tell(self, event: Event) -> None:
        self.perform(self.machine.handle(event, self.now))
        for aid in [aid for aid in self.view if aid not in self.machine.board.members]:
            del self.view[aid]

    @rule(joined=st.lists(st.tuples(aids, st.sampled_from(PLACES)), max_size=3))
    def cards_come(self, joined: list[tuple[bytes, Place]]) -> None:
        cards = {aid: place for aid, place in joined if aid != ME}
        for aid, place in cards.items():
            member = self.machine.board.members.get(aid)
            if member is not None and member.place.zone != place.zone:
                self.view.pop(aid, None)
        self.tell(MembersChanged(tuple(cards.items())))

    @rule(removed=others)
    def a_card_goes(self, removed: bytes) -> None:
        self.tell(MembersChanged(removed=(removed,)))

    @rule(aid=aids, lease=leases, newer=st.integers(-2, 5))
    def a_lease_arrives(self, aid: bytes, lease: Lease, newer: int) -> None:
        self.hlc += newer << 16
        self.tell(LeaseArrived(aid, lease, self.hlc))

    @rule(subject=aids, accuser=aids, inc=incs, evidence=st.sampled_from(list(Evidence)))
    def an_accusation_arrives(self, subject: bytes, accuser: bytes, inc: int, evidence: Evidence) -> None:
        self.tell(AccusationArrived(subject, accuser, inc, evidence))

    @rule(subject=aids, accuser=aids)
    def an_accusation_goes(self, subject: bytes, accuser: bytes) -> None:
        self.tell(AccusationWithdrawn(subject, accuser))

    @rule(aid=aids, probe=probes)
    def a_datagram_is_heard(self, aid: bytes, probe: Any) -> None:
        self.tell(DatagramHeard(aid, probe))

    @rule(aid=aids, probe=st.one_of(st.none(), probes))
    def a_frame_is_heard(self, aid: bytes, probe: Any) -> None:
        self.tell(FrameHeard(aid, probe))

    @rule(aid=aids, up=st.booleans(), eof=st.booleans())
    def a_link_changes(self, aid: bytes, up: bool, eof: bool) -> None:
        self.tell(LinkUp(aid) if up else LinkDown(aid, eof))

    @rule(aid=aids, result=st.sampled_from(list(DialResult)))
    def a_redial_ends(self, aid: bytes, result: DialResult) -> None:
        self.tell(RedialFinished(aid, result))

    @rule(status=st.sampled_from([Status.UP, Status.DRAIN, Status.CORDON]))
    def our_flag_is_set(self, status: Status) -> None:
        self.tell(StatusSet(status))

    @rule(aid=aids, inc=incs, state=st.sampled_from([State.ALIVE, State.DEAD, State.LEFT]))
    def somebody_else_decides(self, aid: bytes, inc: int, state: State) -> None:
        self.tell(ForcedOut(aid, inc))
        self.tell(RemoteReported(aid, state))

    @rule(seconds=st.floats(0, 4000))
    def the_computer_sleeps(self, seconds: float) -> None:
        self.tell(LoopLate(seconds))

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        end, ticks = self.now + seconds, 0
        while self.machine.deadline() <= end:
            self.now = max(self.now, self.machine.deadline())
            self.perform(self.machine.tick(self.now))
            ticks += 1
            assert ticks <= 100 + 200 * seconds / self.machine.config.interval_s, "the machine spins"
        self.now = end

    @rule(seconds=st.floats(0, 4000))
    def the_loop_stands_still(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.machine.tick(self.now))

    @invariant()
    def the_deadline_is_near_and_not_past(self) -> None:
        assert self.now <= self.machine.deadline() <= self.now + 1.001 or self.machine.deadline() <= self.now

    @invariant()
    def what_was_announced_is_what_is_held(self) -> None:
        for member in self.machine.board:
            if member.aid == ME:
                assert member.state == State.ALIVE
            else:
                assert self.view.get(member.aid, State.REGISTERING) == member.state

    @invariant()
    def everything_is_bounded(self) -> None:
        machine = self.machine
        assert len(machine.prober.links) <= len(AIDS)
        assert all(len(member.charges) <= CHARGES_MAX for member in machine.board)
        assert len(machine.members(self.now)) == len(machine.board.members)
        assert len(machine.links(self.now)) == len(machine.prober.links)

    @invariant()
    def nobody_was_left_unjudged(self) -> None:
        out: list[Action] = []
        board = self.machine.board
        board.stir_all()
        board.settle(self.now - self.machine.missed_s, out)
        assert out == []


AnyLife.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyLife = AnyLife.TestCase


def _board() -> Board:
    board = Board(PROFILES["lan"], ME, Place("default"), MESH)
    for aid in AIDS:
        board.join(aid, Place("default"), 0.0)
    return board


@given(
    said=st.lists(
        st.one_of(
            st.builds(lambda inc, steady: ("lease", inc, steady), st.integers(1, 4), st.booleans()),
            st.builds(
                lambda accuser, inc, evidence: (accuser, inc, evidence),
                others,
                st.integers(1, 4),
                st.sampled_from(list(Evidence)),
            ),
        ),
        max_size=8,
        unique_by=lambda item: (item[0], item[1] if item[0] == "lease" else 0),
    ),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_what_is_said_at_one_time_may_arrive_in_any_order(said: list[Any], order: random.Random) -> None:
    subject = AIDS[0]

    def outcome(items: list[Any]) -> tuple[State, int]:
        board, out = _board(), []  # type: tuple[Board, list[Action]]
        board.lease(subject, Lease(1), 1 << 16, 0.0, out)
        for item in items:
            if item[0] == "lease":
                board.lease(subject, Lease(item[1], steady=item[2]), (10 + item[1]) << 16, 1.0, out)
            elif item[0] != subject:
                board.accuse(subject, item[0], Charge(item[1], item[2]), 1.0, out)
        board.tick(10.0, out)
        return board.members[subject].state, board.members[subject].inc

    shuffled = said[:]
    order.shuffle(shuffled)
    assert outcome(said) == outcome(shuffled)


@given(st.binary(max_size=80))
@settings(max_examples=300)
def test_any_bytes_are_a_probe_or_refused(payload: bytes) -> None:
    try:
        decode_probe(payload)
    except PeerError:
        pass


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.text(max_size=9)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["inc", "st", "until", "steady", "load", "free", "rtt_zone", "ev", "x"]),
            inner,
            max_size=8,
        ),
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=300)
def test_any_value_is_a_statement_or_refused(value: Any) -> None:
    value = codec.decode(codec.encode(value))
    for decode in (decode_lease, decode_accusation):
        try:
            decode(value)
        except PeerError:
            pass

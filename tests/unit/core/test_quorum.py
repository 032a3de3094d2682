"""CASPaxos rounds, voters and sets of voters, one rule at a time; and the checker of histories."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mesh.core import quorum
from mesh.core.quorum import (
    Accept,
    Accepted,
    Ballot,
    Cell,
    Chosen,
    Declined,
    NoQuorum,
    Overtaken,
    Prepare,
    Promise,
    Refused,
    Round,
    Send,
    Unchanged,
)
from mesh.core.voters import (
    FROZEN,
    LOST,
    UNKNOWN,
    Seat,
    Term,
    Voters,
    check_size,
    freeze,
    handed_over,
    judge,
    lacking,
    parse,
    to_value,
)
from mesh.errors import PeerError, UsageError
from mesh.sim.linear import Operation, linearizable

A, B, C, D = (bytes([n]) * 16 for n in range(4))
SEAT = b"s" * 16
NOTHING = Promise(quorum.ZERO)


def ballot(number: int, who: bytes = b"x") -> Ballot:
    return Ballot(number, who)


def members(gen: int = 1, *aids: bytes, following: Voters | None = None) -> Voters:
    return Voters(gen, tuple(Seat(aid, SEAT) for aid in aids or (A, B, C)), following)


# -- voters -------------------------------------------------------------------------------------------------


def test_a_voter_promises_to_the_highest_ballot_only() -> None:
    cell, answer = quorum.vote(Cell(), Prepare(ballot(2)))
    assert answer == Promise(quorum.ZERO, None)
    assert quorum.vote(cell, Prepare(ballot(1))) == (cell, Refused(ballot(2)))
    assert quorum.vote(cell, Accept(ballot(1), "old")) == (cell, Refused(ballot(2)))
    cell, answer = quorum.vote(cell, Accept(ballot(2), "new"))
    assert answer == Accepted()
    assert quorum.vote(cell, Prepare(ballot(3)))[1] == Promise(ballot(2), "new")


def test_a_ballot_that_would_end_the_register_is_refused() -> None:
    for number in (0, -1, quorum.NUMBER_MAX):
        assert isinstance(quorum.vote(Cell(), Prepare(ballot(number)))[1], Refused)


# -- rounds -------------------------------------------------------------------------------------------------


def promised(round_: Round, *voters: bytes, of: Promise = NOTHING) -> list[Any]:
    said: list[Any] = []
    for voter in voters:
        said += round_.answered(voter, of, accepting=False)
    return said


def test_a_round_asks_all_and_goes_on_with_a_majority() -> None:
    round_ = Round([C, A, B], ballot(1), lambda value: (value or 0) + 1)
    assert [send.to for send in round_.begin() if isinstance(send, Send)] == [A, B, C]
    assert promised(round_, A) == []
    assert promised(round_, B, of=Promise(ballot(0, b"a"), 4)) == [
        Send(voter, Accept(ballot(1), 5)) for voter in (A, B, C)
    ]
    assert round_.answered(A, Accepted(), accepting=True) == []
    assert round_.answered(A, Accepted(), accepting=True) == []
    assert round_.answered(C, Accepted(), accepting=True) == [Chosen(4, 5)]
    assert round_.answered(B, Accepted(), accepting=True) == []


def test_an_answer_to_the_phase_before_does_not_count() -> None:
    round_ = Round([A, B, C], ballot(1), lambda value: 1)
    promised(round_, A, B)
    assert promised(round_, C) == []
    assert round_.answered(C, Promise(quorum.ZERO), accepting=True) == []
    assert round_.answered(A, Accepted(), accepting=True) == []


def test_a_round_says_whether_its_value_may_still_be_chosen() -> None:
    early = Round([A, B, C], ballot(1), lambda value: 1)
    assert early.answered(A, Refused(ballot(7)), accepting=False) == [Overtaken(7, False)]
    late = Round([A, B, C], ballot(1), lambda value: 1)
    promised(late, A, B)
    assert late.answered(A, None, accepting=True) == []
    assert late.answered(B, quorum.Barred(FROZEN), accepting=True) == [NoQuorum(True, (FROZEN,))]
    assert late.expired() == []


def test_a_change_that_does_not_apply_writes_nothing() -> None:
    def refuse(value: Any) -> Any:
        raise Declined

    round_ = Round([A, B, C], ballot(2), refuse)
    assert promised(round_, A, B, of=Promise(ballot(1), "held")) == [Unchanged("held")]


# -- sets of voters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 4, 6, 7])
def test_any_other_number_of_voters_than_3_or_5_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="3 or 5"):
        check_size([bytes([number]) * 16 for number in range(count)])


def test_a_set_is_read_as_it_was_written() -> None:
    both = members(1, A, B, C, following=members(2, A, B, D))
    assert parse(to_value(both)) == both


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"gen": 0, "voters": [[A, SEAT], [B, SEAT], [C, SEAT]]},
        {"gen": True, "voters": [[A, SEAT], [B, SEAT], [C, SEAT]]},
        {"gen": 1, "voters": [[A, SEAT], [B, SEAT]]},
        {"gen": 1, "voters": [[A, SEAT], [A, SEAT], [C, SEAT]]},
        {"gen": 1, "voters": [[A, b"short"], [B, SEAT], [C, SEAT]]},
        {"gen": 1, "voters": [[A, SEAT], [B, SEAT], [C, SEAT]], "next": {"gen": 1}},
        {**to_value(members(1)), "next": to_value(members(3))},
    ],
)
def test_nonsense_is_no_set_of_voters(value: Any) -> None:
    with pytest.raises(PeerError):
        parse(value)


def test_a_voter_votes_in_the_set_it_knows_under_its_own_seat() -> None:
    known = members()
    assert judge(None, known, A, SEAT, known.id, SEAT) == Term(1, known.id)
    assert judge(None, known, A, b"n" * 16, known.id, SEAT) == LOST
    assert judge(None, None, A, SEAT, known.id, SEAT) == UNKNOWN
    assert judge(None, known, D, SEAT, known.id, SEAT) == UNKNOWN


def test_a_voter_never_goes_back_to_a_set_that_handed_over() -> None:
    old, new = members(1), members(2, A, B, D)
    term = judge(Term(1, old.id), members(1, following=new), A, SEAT, new.id, SEAT)
    assert term == Term(2, new.id)
    assert judge(Term(2, new.id), members(1, following=new), A, SEAT, old.id, SEAT) == FROZEN
    assert judge(Term(1, old.id, True), old, A, SEAT, old.id, SEAT) == FROZEN
    assert freeze(Term(2, new.id), 1, old.id) is None


def test_two_sets_of_one_generation_never_mix_their_votes() -> None:
    one, other = members(1, A, B, C), members(1, A, B, D)
    assert judge(Term(1, one.id), other, A, SEAT, other.id, SEAT) == UNKNOWN


def test_what_is_handed_over_is_the_newest_that_a_majority_accepted() -> None:
    told = [
        {"x": Cell(ballot(3), ballot(1), "old"), "y": Cell(ballot(2))},
        {"x": Cell(ballot(2), ballot(2), "new"), "": Cell(ballot(1), ballot(1), "the decision")},
    ]
    assert handed_over(told) == {"x": "new"}


# -- the checker --------------------------------------------------------------------------------------------


def test_the_checker_tells_histories_apart() -> None:
    def op(called: float, returned: float, before: Any, after: Any) -> Operation:
        return Operation(called, returned, before, after)

    assert linearizable([op(0, 5, 1, 2), op(1, 2, None, 1)])
    assert not linearizable([op(0, 1, 1, 2), op(2, 3, None, 1)])
    assert not linearizable([op(0, 1, None, 1), op(2, 3, None, 2)])
    assert linearizable([op(0, math.inf, None, 1), op(5, 6, 1, 2)])
    assert linearizable([op(0, math.inf, None, 1), op(5, 6, None, 2)])
    assert not linearizable([op(0, 1, None, 3), op(4, math.inf, 3, 1), op(2, 3, 1, 2)])


@pytest.mark.parametrize(
    ("nodes", "away", "missing"),
    [("ABC", "", ""), ("ABC", "A", ""), ("ABC", "AC", "AC"), ("ABCDE", "AB", ""), ("ABCDE", "ABE", "ABE")],
)
def test_the_voters_that_are_away_are_named_once_the_others_are_no_majority(
    nodes: str, away: str, missing: str
) -> None:
    found = Voters(1, tuple(Seat(node.encode(), SEAT) for node in nodes))
    assert lacking(found, lambda aid: aid.decode() in away) == [node.encode() for node in missing]

"""One session as a transcript: what it asks, when it believes, when it gives up."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mesh.core import locks
from mesh.core.locks import Action, Ask, Config, Contender, Finished, Held, Look, Looked, Lost, Step
from mesh.core.quorum import Chosen, Declined, NoQuorum, Outcome, Unchanged
from mesh.errors import UsageError

ME, OTHER = b"m" * 16, b"o" * 16
SESSION = b"s" * 16
THEIRS = [OTHER, b"t" * 16, 4, 30_000, b"mark-one"]


def contender(**more: Any) -> Contender:
    return Contender(ME, SESSION, Config(), random.Random(1), **more)


def only(actions: list[Action]) -> Any:
    assert len(actions) == 1
    return actions[0]


def chosen(ask: Ask, before: Any) -> Outcome:
    return Chosen(before, locks.changed(ask, before))


def held(machine: Contender, now: float = 100.0, before: Any = None) -> Ask:
    ask: Ask = only(machine.tick(now))
    machine.handle(Finished(ask, chosen(ask, before)), now + 1)
    assert machine.holds(now + 1)
    return ask


def test_a_free_lock_is_held_from_before_it_was_asked_for_and_two_seconds_short() -> None:
    machine = contender()
    ask = only(machine.tick(100.0))
    assert ask.step == Step.TAKE
    assert machine.handle(Finished(ask, chosen(ask, None)), 101.0) == [Held(1, 128.0)]
    assert machine.deadline() == 110.0
    assert machine.holds(127.9)
    assert not machine.holds(128.0)
    assert only(machine.tick(110.0)).step == Step.RENEW


def test_an_answer_that_comes_after_the_lease_counts_for_nothing() -> None:
    machine = contender()
    ask = only(machine.tick(100.0))
    assert machine.handle(Finished(ask, chosen(ask, None)), 128.0) == []
    assert not machine.holds(128.0)


def test_without_a_majority_a_holder_stops_in_time() -> None:
    machine = contender()
    held(machine)
    ask = only(machine.tick(110.0))
    assert machine.handle(Finished(ask, NoQuorum(True)), 113.0) == []
    assert machine.deadline() < 115.0
    assert isinstance(only(machine.tick(128.0)), Lost)
    assert machine.tick(200.0) == []


def test_a_holder_that_slept_finds_out_before_it_does_anything_else() -> None:
    machine = contender()
    held(machine)
    assert isinstance(only(machine.tick(5_000.0)), Lost)


def test_what_another_holds_is_taken_a_whole_ttl_after_one_mark_was_seen() -> None:
    machine = contender()
    first = only(machine.tick(100.0))
    assert machine.handle(Finished(first, Unchanged(THEIRS)), 101.0) == []
    assert isinstance(only(machine.tick(103.0)), Look)
    machine.handle(Looked([*THEIRS[:4], b"mark-two"]), 120.0)
    assert isinstance(only(machine.tick(149.0)), Look)
    machine.handle(Looked([*THEIRS[:4], b"mark-two"]), 149.1)
    take = only(machine.tick(151.0))
    assert (take.step, take.after) == (Step.TAKE, b"mark-two")
    with pytest.raises(Declined):
        locks.changed(take, [*THEIRS[:4], b"mark-3.."])
    assert locks.changed(take, [*THEIRS[:4], b"mark-two"])[2] == 5


def test_what_was_released_is_taken_at_once() -> None:
    machine = contender()
    first = only(machine.tick(100.0))
    machine.handle(Finished(first, Unchanged(THEIRS)), 101.0)
    assert isinstance(only(machine.tick(103.0)), Look)
    machine.handle(Looked([b"", b"", 4, 0, b"released"]), 103.5)
    assert only(machine.tick(103.5)).step == Step.TAKE


def test_waiting_goes_on_from_what_an_earlier_session_saw() -> None:
    seen = locks.parse(THEIRS)
    machine = contender(seen=seen, seen_at=10.0)
    assert only(machine.tick(41.0)).after == b"mark-one"


def test_who_was_displaced_knows_at_its_next_renewal() -> None:
    machine = contender()
    held(machine)
    ask = only(machine.tick(110.0))
    assert isinstance(only(machine.handle(Finished(ask, Unchanged(THEIRS)), 111.0)), Lost)


def test_a_take_that_comes_through_after_the_release_is_released_again() -> None:
    machine = contender()
    take = only(machine.tick(100.0))
    assert only(machine.release(100.5)).step == Step.RELEASE
    assert only(machine.handle(Finished(take, chosen(take, None)), 101.0)).step == Step.RELEASE
    assert machine.release(102.0) == []


def test_a_release_keeps_the_token_and_takes_only_ones_own() -> None:
    machine = contender()
    take = held(machine)
    value = locks.changed(take, None)
    release = only(machine.release(105.0))
    assert locks.changed(release, value)[:3] == [b"", b"", 1]
    with pytest.raises(Declined):
        locks.changed(release, THEIRS)


def test_a_session_that_is_resumed_keeps_its_token() -> None:
    before = locks.changed(held(contender()), None)
    again = only(contender().tick(500.0))
    assert locks.changed(again, before)[2] == 1


@pytest.mark.parametrize(
    "value", ["x", [], [OTHER, b"", 0, 1, b""], [b"short", b"", 1, 1, b""], [1, 2, 3, 4, 5]]
)
def test_a_register_that_holds_no_lease_is_left_alone(value: Any) -> None:
    with pytest.raises(Declined):
        locks.changed(only(contender().tick(1.0)), value)


@pytest.mark.parametrize("ttl_s", [0.0, 0.5, -1.0, 1e9, float("nan")])
def test_a_ttl_that_makes_no_sense_is_refused(ttl_s: float) -> None:
    with pytest.raises(UsageError, match="ttl"):
        locks.check_ttl(ttl_s)

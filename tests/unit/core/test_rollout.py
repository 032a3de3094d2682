"""Orders and pictures of rollouts, one rule at a time; `tests/sim/test_rolling.py` has whole runs."""

from __future__ import annotations

import pytest

from mesh.core import generations, rollout
from mesh.core.mover import Mover, Running
from mesh.core.rollout import Order, Picture, Plan, St, Statement, Target, generation_for, place
from mesh.errors import NotFound, PeerError, UsageError

A, B, C = sorted((bytes([n]) * 16 for n in range(3)), key=lambda aid: place("x", aid))
NOW = 1_000_000


def picture(order: Order, said: dict[bytes, Statement], *, fell: bytes = b"") -> Picture:
    return Picture("x", order, [Target(aid, "", NOW if aid == fell else 0) for aid in (A, B, C)], said)


def order(**changes: object) -> Order:
    return Order(1, "workload/web", 1, 2, 0, Plan(**changes))  # type: ignore[arg-type]


def word(st: St, *, since_ms: int = NOW, **more: object) -> Statement:
    return Statement(1, st, since_ms, **more)  # type: ignore[arg-type]


def test_the_first_in_order_begins_and_the_others_wait() -> None:
    seen = picture(order(), {})
    assert [seen.gate(aid, NOW).open for aid in (A, B, C)] == [True, False, False]


def test_the_next_one_begins_a_pause_after_the_one_before_was_ok() -> None:
    seen = picture(order(pause_s=30.0), {A: word(St.OK)})
    assert seen.gate(B, NOW + 29_999).at_ms == NOW + 30_000
    assert seen.gate(B, NOW + 30_000).open
    assert not seen.gate(C, NOW + 30_000).open


def test_a_target_that_died_after_it_moved_has_failed_and_halts() -> None:
    seen = picture(order(), {A: word(St.MOVE)}, fell=A)
    assert seen.st(A) == St.FAIL
    assert "1 of 3" in seen.halt
    assert not seen.gate(B, NOW).open


def test_a_target_that_was_dead_before_holds_nobody_up() -> None:
    seen = picture(order(), {}, fell=A)
    assert seen.gate(B, NOW).open


def test_a_target_that_was_not_heard_of_yet_holds_nobody_up_and_has_not_failed() -> None:
    targets = [Target(A, unheard=True), Target(B), Target(C)]
    assert Picture("x", order(), targets, {}).gate(B, NOW).open
    moving = Picture("x", order(), targets, {A: word(St.TRIAL)})
    assert (moving.st(A), moving.halt) == (St.TRIAL, "")
    assert not moving.gate(B, NOW).open


def test_a_halt_of_an_earlier_gen_is_over() -> None:
    said = {A: word(St.FAIL, halt="it is bad"), B: word(St.OK)}
    assert picture(order(), said).halt == "it is bad"
    again = picture(Order(2, "workload/web", 1, 2, 0), said)
    assert (again.halt, again.st(A), again.st(B)) == ("", St.WAIT, St.OK)


def test_a_node_without_an_instance_gets_the_old_generation_until_all_have_the_new_one() -> None:
    stranger = b"z" * 16
    assert generation_for(stranger, picture(order(), {A: word(St.OK)})) == 1
    assert generation_for(stranger, picture(order(), {aid: word(St.OK) for aid in (A, B, C)})) == 2


def test_a_strategy_that_this_version_does_not_know_moves_nobody() -> None:
    value = {**rollout.encode(order()), "plan": {"strategy": "by-moonlight"}}
    with pytest.raises(PeerError):
        rollout.decode_order(value)
    held = rollout.unread(value)
    assert held is not None
    seen = picture(held, {})
    assert (seen.gate(A, NOW).open, generation_for(A, seen)) == (False, 1)
    assert rollout.unread("nonsense") is None
    with pytest.raises(UsageError, match="strategy"):
        rollout.check_plan("workload web", Plan(strategy="regional"))


@pytest.mark.parametrize("path", ["roll/", "roll/a/b", "roll/" + "00" * 16 + "/a/b", "roll/zz/x"])
def test_a_path_that_names_no_rollout_is_none(path: str) -> None:
    with pytest.raises(PeerError):
        rollout.parts_of(path)


def test_generations_are_kept_bounded_and_found_again() -> None:
    value = None
    for number in range(30):
        value = generations.following(value, {"n": number}, number, keep=3)
    kept = [it.gen for it in generations.all_of(value)]
    assert kept[0] == 30
    assert len(kept) == generations.PAST_MAX + 1
    assert 3 in kept
    assert generations.spec_of(value, 3) == {"n": 2}
    assert generations.earlier(value, "it", None).gen == 29
    with pytest.raises(NotFound, match="generation 7"):
        generations.earlier(value, "it", 7)
    with pytest.raises(UsageError, match="bytes"):
        generations.following(value, {"n": "x" * 30_000}, 0)
    for nonsense in (None, {}, {"gen": "1", "spec": {}}, {"gen": 1, "spec": {}, "past": [1]}):
        with pytest.raises(PeerError):
            generations.all_of(nonsense)


def test_who_took_over_the_new_generation_after_the_end_keeps_it_and_says_so() -> None:
    done = picture(order(), {A: word(St.OK), B: word(St.OK)})
    assert done.joined_late(C, held=2)
    assert generation_for(C, done, held=2) == 2
    assert generation_for(C, done, held=1) == 1  # one of the first targets, whose turn is still to come
    mover = Mover(C)
    assert mover.step(done, Running(2, healthy=False), NOW) == (None, float("inf"))
    said, _ = mover.step(done, Running(2, healthy=True), NOW)
    assert said is not None
    assert said.st == St.OK
    midst = picture(order(), {A: word(St.OK), B: word(St.TRIAL)})
    assert generation_for(C, midst, held=2) == 1

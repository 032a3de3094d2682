"""Blue-green, one rule at a time: side by side, the one switch, the end, and the ways back."""

from __future__ import annotations

import math

import msgspec
import pytest

from mesh.core.bluegreen import Sides, opposite, settled, sides, switch_due_ms
from mesh.core.mover import Mover, Running
from mesh.core.rollout import Course, Order, Picture, Plan, St, Statement, Target, place
from mesh.core.rollwords import SETTLE_MS
from mesh.core.workload import parse
from mesh.errors import UsageError

A, B, C = sorted((bytes([n]) * 16 for n in range(3)), key=lambda aid: place("x", aid))
NOW = 1_000_000
WEB = {"name": "web", "command": ["/bin/true"], "ports": [{"protocol": "http"}]}


def picture(
    *words: Statement | None,
    course: Course = Course.RUN,
    short: int = 0,
    promoted: bool = False,
    **plan: object,
) -> Picture:
    order = Order(
        1,
        "workload/web",
        6,
        7,
        0,
        Plan(strategy="bluegreen", drain_s=10.0, **plan),  # type: ignore[arg-type]
        course,
        promoted,
        colour="green",
    )
    said = {aid: word for aid, word in zip((A, B, C), words, strict=False) if word is not None}
    return Picture("x", order, [Target(aid) for aid in (A, B, C)], said, short=short)


def word(st: St = St.OK, since_ms: int = NOW, **more: object) -> Statement:
    return Statement(1, st, since_ms, **more)  # type: ignore[arg-type]


def test_each_target_starts_at_once_and_the_old_generation_stays_the_service() -> None:
    seen = picture(word(St.MOVE))
    assert all(seen.gate(aid, NOW).open for aid in (A, B, C))
    assert sides(A, seen) == Sides(6, "", 7, "green", "", 0, both=True)
    assert sides(B, seen) == Sides(6, "", shown="", both=True)


def test_one_target_says_the_switch_when_all_are_ok_and_nothing_is_missing() -> None:
    seen = picture(word(), word(), word(since_ms=NOW + 500))
    assert [switch_due_ms(seen, aid) - NOW - 500 for aid in (A, B, C)] == [0, SETTLE_MS, 2 * SETTLE_MS]
    said, _ = Mover(A).step(seen, Running(7, healthy=True), NOW + 500)
    assert said is not None
    assert (said.st, said.switch_ms) == (St.OK, NOW + 500)
    for other in (
        picture(word(), word(), word(St.TRIAL)),
        picture(word(), word(), word(), short=1),
        picture(word(), word(), word(), course=Course.PAUSE),
        picture(word(), word(), word(), manual=True),
        picture(word(), word(halt="bad"), word(), rollback=False),
    ):
        assert switch_due_ms(other, A) == math.inf
    assert switch_due_ms(picture(word(), word(), word(), manual=True, promoted=True), A) == NOW


def test_whoever_has_the_one_record_resolves_to_the_new_generation_only() -> None:
    seen = picture(word(), word(switch_ms=NOW), word())
    for aid in (A, B, C, b"stranger" * 2):
        its = sides(aid, seen)
        assert (its.gen, its.beside, its.shown, its.shown_gen) == (6, 7, "green", 7)
    assert seen.state == "switched"


def test_everybody_repeats_the_switch_so_that_it_stays_when_who_said_it_is_gone() -> None:
    seen = picture(word(), word(switch_ms=NOW), word())
    said, again_ms = Mover(C).step(seen, Running(7, healthy=True), NOW + 1)
    assert said is not None
    assert said.switch_ms == NOW
    assert again_ms == NOW + 10_000


def test_after_the_drain_time_the_new_generation_holds_the_seats_and_nobody_goes_back() -> None:
    seen = picture(*(word(switch_ms=NOW) for _ in range(3)))
    assert Mover(A).step(seen, Running(7, healthy=True), NOW + 9_999)[0] is None
    said, _ = Mover(A).step(seen, Running(7, healthy=True), NOW + 10_000)
    assert said is not None
    assert said.final
    late = picture(said, word(St.FAIL, halt="too late"), word(switch_ms=NOW), course=Course.ABORT)
    assert (late.state, sides(B, late)) == ("done", Sides(7, "green", shown="green", shown_gen=7))


@pytest.mark.parametrize("switch_ms", [0, NOW])
def test_an_abort_or_a_halt_before_the_end_makes_the_old_generation_the_service_again(switch_ms: int) -> None:
    aborted = picture(*(word(switch_ms=switch_ms) for _ in range(3)), course=Course.ABORT)
    failed = picture(word(St.FAIL), word(switch_ms=switch_ms), word(switch_ms=switch_ms))
    for seen in (aborted, failed):
        assert sides(B, seen) == Sides(6, "", shown="")
    said, _ = Mover(B).step(aborted, Running(6, healthy=True), NOW)
    assert said is not None
    assert said.st == St.BACK


def test_an_instance_that_gets_ill_after_the_switch_fails_the_rollout() -> None:
    seen = picture(*(word(switch_ms=NOW) for _ in range(3)))
    said, _ = Mover(B).step(seen, Running(7, healthy=False), NOW + 1)
    assert said is not None
    assert said.st == St.FAIL
    before = picture(word(), word(), word(St.TRIAL))
    assert Mover(B).step(before, Running(7, healthy=False), NOW + 1)[0] is None


def test_who_takes_over_after_the_end_says_so_too() -> None:
    done = picture(word(switch_ms=NOW, final=True), word(switch_ms=NOW, final=True))
    said, _ = Mover(C).step(done, Running(7, healthy=True), NOW + 60_000)
    assert said is not None
    again = picture(word(switch_ms=NOW, final=True), None, said)
    echo, _ = Mover(C).step(again, Running(7, healthy=True), NOW + 60_000)
    assert echo is not None
    assert (echo.st, echo.final) == (St.OK, True)


def test_the_next_order_starts_from_what_is_the_service() -> None:
    ok, there, over = word(), word(switch_ms=NOW), word(switch_ms=NOW, final=True)
    assert settled(picture(ok, ok, ok)) == (6, "")
    assert settled(picture(there, there, there)) == (7, "green")
    assert settled(picture(there, there, there, course=Course.ABORT)) == (6, "")
    assert settled(picture(over, over, over)) == (7, "green")
    rolling = msgspec.structs.replace(picture().order, plan=Plan())
    assert settled(Picture("x", rolling, [Target(A)], {A: ok})) == (7, "green")
    assert opposite(opposite("green")) == "green"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "exclusive", "voters": "main"}, "exclusive"),
        ({"ports": [{"protocol": "http", "port": 8080}]}, "8080"),
        ({"mounts": [{"name": "data", "kind": "persistent"}]}, "mount data"),
        ({"ports": []}, "service"),
        ({"ports": [{"protocol": "udp"}]}, "service"),
        ({"command": [], "runtime": "kubernetes", "image": "web:1"}, "kubernetes"),
    ],
)
def test_what_cannot_stand_twice_on_a_node_is_refused_by_name(
    change: dict[str, object], message: str
) -> None:
    parse({**WEB, "rollout": {"strategy": "bluegreen"}})
    with pytest.raises(UsageError, match=rf"web: rollout\.strategy bluegreen.*{message}"):
        parse({**WEB, **change, "rollout": {"strategy": "bluegreen"}})

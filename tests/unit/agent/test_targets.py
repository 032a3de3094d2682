"""Whom a node dials: its neighbours first, each pair once, and not everybody when a whole site starts."""

from __future__ import annotations

import random

from mesh.agent.targets import SEEK_S, STRANGERS_AT_ONCE, TURN_S, Targets


def key(number: int) -> bytes:
    return bytes([number]) * 32


def targets(me: int, known: range) -> Targets:
    publics = {key(number)[:16]: key(number) for number in known}
    return Targets(key(me)[:16], publics.get, random.Random(me))


def now_due(made: Targets, now: float, linked: tuple[bytes, ...] = ()) -> list[bytes | str]:
    return [target for target, dial in made.due(linked, (), now) if dial.next_at <= now]


def test_of_two_that_want_each_other_the_lower_dials_first() -> None:
    low, high = targets(1, range(3)), targets(2, range(3))
    low.wanted, high.wanted = frozenset([key(2)[:16]]), frozenset([key(1)[:16]])
    assert now_due(low, 0.0) == [key(2)]
    assert now_due(high, 0.0) == []
    assert now_due(high, TURN_S) == [key(1)]


def test_a_site_that_starts_at_once_does_not_dial_everybody() -> None:
    made = targets(0, range(33))
    for number in range(1, 33):
        made.found(key(number), f"/ip4/10.0.0.{number}/tcp/1")
    made.wanted = frozenset(key(number)[:16] for number in (3, 4))
    assert now_due(made, 0.0) == [key(3), key(4)]


def test_strangers_are_dialled_a_few_at_a_time_once_the_wanted_failed() -> None:
    made = targets(0, range(33))
    for number in range(1, 33):
        made.found(key(number), f"/ip4/10.0.0.{number}/tcp/1")
    made.wanted = frozenset([key(3)[:16]])
    seen: set[bytes | str] = set()
    now = 0.0
    while len(seen) < 32:
        for target, dial in made.due((), (), now):
            if dial.next_at <= now:
                seen.add(target)
                made.tried(dial, now)
        fresh = [target for target in now_due(made, now) if target not in seen]
        assert len(fresh) <= STRANGERS_AT_ONCE
        now += 1.0


def test_nodes_that_are_alone_dial_different_strangers_first() -> None:
    first = set()
    for me in range(16):
        made = targets(me, range(0))
        for number in range(16, 48):
            made.found(key(number), f"/ip4/10.0.0.{number}/tcp/1")
        first.add(frozenset(now_due(made, 0.0)))
    assert len(first) > 1


def test_a_wanted_member_whose_key_is_not_known_yet_does_not_keep_us_from_strangers() -> None:
    made = targets(0, range(0))
    made.wanted = frozenset([key(3)[:16]])
    made.found(key(7), "/ip4/10.0.0.7/tcp/1")
    assert now_due(made, 0.0) == [key(7)]


def test_linked_nodes_dial_no_strangers() -> None:
    made = targets(0, range(0))
    made.found(key(7), "/ip4/10.0.0.7/tcp/1")
    made.found(None, "/ip4/10.0.0.9/tcp/1")
    assert now_due(made, 0.0) == [key(7), "/ip4/10.0.0.9/tcp/1"]
    assert now_due(made, 0.0, (key(5)[:16],)) == []


def test_whoever_is_sought_is_dialled_at_once_and_for_a_while() -> None:
    made = targets(0, range(9))
    made.wanted = frozenset([key(4)[:16]])
    ((_, dial),) = made.due((), (), 0.0)
    made.tried(dial, 0.0)
    assert now_due(made, 0.1) == []
    made.seek(key(4)[:16], 0.1)
    made.seek(key(8)[:16], 0.1)
    assert now_due(made, 0.1) == [key(4), key(8)]
    made.wanted = frozenset()
    assert now_due(made, 0.2 + SEEK_S, (key(5)[:16],)) == []

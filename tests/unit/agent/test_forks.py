"""A clone's alarm: raised at its signs, over some time after the last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.agent.forks import CLEAR_S, Forks

ME, OTHER = b"m" * 16, b"o" * 16


class Alarms:
    def __init__(self) -> None:
        self.on: list[tuple[str, bytes]] = []
        author: Any = SimpleNamespace(aid=ME)
        self.forks = Forks(
            author, "z", lambda _: None, lambda kind, aid, _: self.on.append((kind, aid)), self.off
        )

    def off(self, kind: str, aid: bytes) -> None:
        if (kind, aid) in self.on:
            self.on.remove((kind, aid))

    def two_processes(self, since: int) -> None:
        for at, incarnation in enumerate((5, 1, 5, 1)):
            self.forks.lease(OTHER, since + at, incarnation)


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


async def test_a_clones_alarm_ends_some_time_after_its_last_sign(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    alarms.two_processes(1)
    assert alarms.on == [("clone", OTHER)]
    await trio.sleep(CLEAR_S - 1)
    alarms.forks.lease(OTHER, 10, 5)
    alarms.forks.lease(OTHER, 11, 1)
    await trio.sleep(CLEAR_S - 1)
    alarms.forks.tick(trio.current_time())
    assert alarms.on == [("clone", OTHER)]
    await trio.sleep(1)
    alarms.forks.tick(trio.current_time())
    assert alarms.on == []
    alarms.two_processes(20)
    assert alarms.on == [("clone", OTHER)]


async def test_the_alarm_ends_when_the_key_is_removed(alarms: Alarms) -> None:
    alarms.two_processes(1)
    alarms.forks.forget(OTHER)
    assert alarms.on == []


async def test_leases_of_ours_that_neighbours_remember_are_no_clone(alarms: Alarms) -> None:
    assert all(alarms.forks.own_lease(7) for _ in range(20))
    assert alarms.on == []


async def test_newer_and_newer_leases_of_ours_are_a_clone(alarms: Alarms, autojump_clock: MockClock) -> None:
    answers = []
    for stamp in range(1, 6):
        answers.append(alarms.forks.own_lease(stamp))
        await trio.sleep(15.0)
    assert answers == [True, True, True, False, False]
    assert alarms.on == [("clone", ME)]

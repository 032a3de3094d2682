"""Whoever had to refuse records does not ask for them again at once."""

from __future__ import annotations

import random
from contextlib import nullcontext

from mesh.core import tidings
from mesh.core.dissemination import Dissemination
from mesh.core.log import AuthorState
from mesh.core.memory import MemoryLog
from mesh.core.patience import LAST_S, Patience
from mesh.core.record import MESH
from mesh.wire import messages
from mesh.wire.messages import Delta, Heads, Want

ME, PEER, AUTHOR = b"m" * 16, b"p" * 16, b"a" * 16
KEY = (MESH, AUTHOR)


def test_each_refusal_doubles_the_wait_up_to_its_bound() -> None:
    patience, now, waits = Patience(), 0.0, []
    for _ in range(8):
        until = patience.refused(KEY, now)
        waits.append(until - now)
        now = until
    assert waits == [1, 2, 4, 8, 16, LAST_S, LAST_S, LAST_S]


def test_what_is_pushed_meanwhile_makes_the_wait_no_longer() -> None:
    patience = Patience()
    assert patience.refused(KEY, 0.0) == patience.refused(KEY, 0.5) == 1.0


def test_what_is_taken_ends_it() -> None:
    patience = Patience()
    patience.refused(KEY, 0.0)
    patience.refused(KEY, 1.0)
    patience.taken(KEY)
    assert patience.until(KEY) < 0
    assert patience.refused(KEY, 2.0) == 3.0


class Asker:
    """A machine with one neighbour that announces more of an author than we can take."""

    def __init__(self) -> None:
        log = MemoryLog()
        self.machine = Dissemination(ME, [MESH], lambda scope: nullcontext(log), random.Random(1))
        self.machine.handle(tidings.LinkUp(PEER, {MESH: b"\1" * 16}), 0.0)

    def wants(self, now: float) -> int:
        """How many wants leave after the neighbour's heads have come; each is answered, and refused."""
        self.machine.handle(tidings.Received(PEER, Heads(MESH, [(AUTHOR, 99, b"\2" * 16)])), now)
        self.machine.tick(now)
        sent = [messages.decode(body) for body in self.machine.pull(PEER)]
        wants = sum(isinstance(message, Want) for message in sent)
        if wants:
            delta = Delta(MESH, AUTHOR, 0, 99, False, [])
            self.machine.handle(tidings.DeltaVerified(PEER, delta, [], b"", False), now)
            self.machine.handle(tidings.Applied(PEER, MESH, AUTHOR, AuthorState(), refused=True), now)
        return wants


def test_a_refused_author_is_asked_for_at_growing_distances() -> None:
    asker = Asker()
    asked = [step / 10 for step in range(200) if asker.wants(step / 10)]
    assert 4 <= len(asked) <= 6
    assert asked[-1] - asked[-2] > 4 * (asked[1] - asked[0])


def test_a_clock_that_is_set_asks_at_once() -> None:
    asker = Asker()
    asked = sum(asker.wants(step / 10) for step in range(100))
    asker.machine.handle(tidings.ClockSet(), 10.0)
    assert asker.machine.deadline() <= 10.0
    assert asked + asker.wants(10.0) == asked + 1

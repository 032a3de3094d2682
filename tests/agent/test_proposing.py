"""A proposer whose process is stopped in the middle of a round."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from mesh.agent.proposing import BACKOFF_S, Proposer
from mesh.core.quorum import Ballot, Overtaken, Refused
from mesh.core.voters import Seat, Voters
from mesh.errors import TimedOut

ME = b"m" * 16
VOTERS = Voters(1, tuple(Seat(bytes([n]) * 16, b"s") for n in range(3)))


async def test_a_stop_beyond_the_deadline_ends_a_proposal_that_was_overtaken(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    asked: list[float] = []

    async def overtake(_public: bytes, _method: str, _body: Any, *, deadline_s: float) -> Any:
        asked.append(deadline_s)
        if len(asked) == len(VOTERS.seats):  # SIGSTOP while it pauses before the next round
            nursery.start_soon(stop)
        return msgspec.to_builtins(Refused(Ballot(7, b"other")), builtin_types=(bytes,))

    async def stop() -> None:
        await trio.sleep(BACKOFF_S / 10)
        autojump_clock.jump(60.0)

    proposer = Proposer(ME, overtake, lambda aid: aid + bytes(16), random.Random(1))
    await nursery.start(proposer.run)
    outcome = await proposer.propose("main", VOTERS, "lock/a", lambda value: value, 10.0)
    assert isinstance(outcome, Overtaken)
    assert all(seconds >= 0 for seconds in asked)


async def test_a_proposal_whose_deadline_is_over_says_so_and_ends_nothing_else(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def late(_public: bytes, _method: str, _body: Any, *, deadline_s: float) -> Any:
        with trio.move_on_after(deadline_s):
            await trio.sleep_forever()
        raise TimedOut("no answer")

    proposer = Proposer(ME, late, lambda aid: aid + bytes(16), random.Random(1))
    await nursery.start(proposer.run)
    outcome = await proposer.propose("main", VOTERS, "lock/a", lambda value: value, -1.0)
    assert not isinstance(outcome, Overtaken)

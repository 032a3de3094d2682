"""Lines of a streamed answer: alone at once, together in few writes, always in order."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.admin.stream import LINES_AT_ONCE, Stream

ROUTE: Any = SimpleNamespace(kind="lines", method="GET", pattern="/lines")


class Client:
    """The connection as a stream sees it: notes every piece, and may take its time."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.pieces: list[bytes] = []
        self.ended = False
        self._rng = rng

    async def begin(self, content_type: str) -> None: ...

    async def piece(self, data: bytes) -> None:
        self.pieces.append(data)
        if self._rng is not None and self._rng.random() < 0.3:
            await trio.sleep(self._rng.choice((0, 0.0005, 0.01)))

    async def end(self) -> None:
        self.ended = True

    async def gone(self) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("seed", range(20))
async def test_lines_come_in_order_however_they_are_made_and_taken(
    seed: int, autojump_clock: MockClock
) -> None:
    rng = random.Random(seed)
    client: Any = Client(random.Random(seed + 1000))

    async def items() -> AsyncIterator[int]:
        for number in range(400):
            if rng.random() < 0.3:
                await trio.sleep(rng.choice((0, 0.0002, 0.002, 0.03)))
            yield number

    await Stream(client, ROUTE).send(items())
    assert b"".join(client.pieces) == b"".join(b"%d\n" % number for number in range(400))
    assert client.ended


async def test_lines_that_are_ready_together_share_a_write_and_a_lone_one_waits_for_none(
    autojump_clock: MockClock,
) -> None:
    client: Any = Client()
    written: list[int] = []

    async def items() -> AsyncIterator[int]:
        yield 0
        await trio.sleep(1)
        yield 1
        written.append(len(client.pieces))  # asked for the next, so that the one before is out
        await trio.sleep(1)
        for number in range(LINES_AT_ONCE):
            yield number

    await Stream(client, ROUTE).send(items())
    assert written == [2]
    assert len(client.pieces) <= 4

"""What ran twice, told on every node that asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from nodes import Village, until

from mesh.agent import twice as saying
from mesh.agent.author import Statement
from mesh.agent.twice import Twice
from mesh.core import twice
from mesh.core.claims import Seat
from mesh.core.record import MESH, Kind
from mesh.core.rivals import Overlap
from mesh.errors import PeerError

WEB, A, B = Seat("web", 0), b"a" * 16, b"b" * 16


async def test_what_two_nodes_saw_is_one_row_on_a_third_and_stays_when_they_forget(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        village = Village(tmp_path, nursery)
        first, second, third = await village.settle(3)
        tellers = [Twice(first), Twice(second)]
        for teller in tellers:
            nursery.start_soon(teller.run)
        until_ms = first.now_ms()
        tellers[0].told(Overlap(until_ms, WEB, (first.me, second.me), 25.0))
        tellers[1].told(Overlap(until_ms + 400, WEB, (second.me, first.me), 25.4))
        tellers[1].told(Overlap(until_ms, Seat("web-2", 1), (second.me, first.me), 1.0))
        assert len(tellers[0].of("web")) == 1  # also before it is written
        asked = Twice(third)
        await until(lambda: [row.at_ms for row in asked.of("web")] == [until_ms + 400])
        assert {*asked.of("web")[0].nodes} == {first.me, second.me}
        await until(lambda: [row.seat.number for row in asked.of("web-2")] == [1])
        again = Twice(second)  # after a restart: what is told then joins what was
        nursery.start_soon(again.run)
        again.told(Overlap(until_ms + 90_000, WEB, (second.me, first.me), 3.0))
        await until(lambda: [row.seconds for row in asked.of("web")] == [25.4, 3.0])
        nonsense = Statement(twice.path_of(third.me, "web"), Kind.ALL, [["x"]])
        await third.author.say(MESH, lambda _: [nonsense])
        assert len(asked.of("web")) == 2
        assert ("workload", third.me) in third.alarms
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_said_is_kept_within_bounds_the_newest_of_it(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saying, "NEW_MAX", 4)
    village = Village(tmp_path, nursery)
    (node,) = await village.settle(1)
    teller = Twice(node)  # its task does not run, as when the disk is full
    for number in range(9):
        teller.told(Overlap(number * 1000, WEB, (node.me, B), 0.5))
    assert [row.at_ms for row in teller.of("web")] == [5000, 6000, 7000, 8000]
    await teller._say()
    assert [row.at_ms for row in Twice(node).of("web")] == [5000, 6000, 7000, 8000]
    assert not teller._new
    village.scopes[node.me].cancel()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (twice.path_of(B, "web"), []),  # of another author
        (twice.path_of(A, "We b"), []),
        (twice.path_of(A, "web"), None),
        (twice.path_of(A, "web"), [[1, 0, B, 1]] * 17),
        (twice.path_of(A, "web"), [[-1, 0, B, 1]]),
        (twice.path_of(A, "web"), [[1, 0, b"short", 1]]),
        (twice.path_of(A, "web"), [[1, 0, B]]),
    ],
)
def test_what_cannot_be_read_is_refused(path: str, value: Any) -> None:
    with pytest.raises(PeerError):
        twice.read(path, A, value)


def test_the_newest_of_a_workload_are_kept() -> None:
    rows = [Overlap(number * 1000, WEB, (A, B), 0.5) for number in range(40)]
    kept = twice.read(twice.path_of(A, "web"), A, twice.written(rows))
    assert kept == rows[-twice.ROWS_MAX :]

"""The client of engines, without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import Failed
from mesh.runtimes.base import Launch, Line
from mesh.runtimes.container import Containers
from mesh.runtimes.engine import _Place, _Splitter

LAUNCH = Launch(instance="app/0", workload="app", runtime="container", image="x")


async def test_an_engine_that_is_not_there_is_an_error_with_its_place(root: Path) -> None:
    with pytest.raises(Failed, match=r"/nowhere[.]sock cannot be reached"):
        await Containers("/nowhere.sock", root, "test").start(LAUNCH)


def test_frames_of_a_log_come_in_any_pieces() -> None:
    rows = b"".join(
        bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text
        for stream, text in ((1, b"t1 one\nt2 tw"), (2, b"t3 err\n"), (1, b"o\n"))
    )
    for size in (1, 3, 7, 100):
        splitter = _Splitter()
        found = [line for at in range(0, len(rows), size) for line in splitter.feed(rows[at : at + size])]
        assert [(line.stream, line.time, line.text) for line in found] == [
            ("stdout", "t1", "one"), ("stderr", "t3", "err"), ("stdout", "t2", "two"),
        ]  # fmt: skip


def test_a_log_that_is_asked_for_again_repeats_and_loses_nothing() -> None:
    times = ["01.1", "01.25", "01.25", "01.25", "01.3", "02"]
    rows = [Line(f"2026-01-01T00:00:{time}+02:00", "stdout", str(n)) for n, time in enumerate(times)]
    for stop in range(len(rows)):
        place = _Place()
        assert place.since() == {}
        assert all(place.is_new(row) for row in rows[:stop])
        assert not stop or place.since()["since"] in (1767218401, 1767218402)
        assert [row.text for row in rows if place.is_new(row)] == [row.text for row in rows[stop:]]

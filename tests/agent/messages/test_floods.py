"""Publishers that say more than links, programs or memory take."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.agent import publishing
from mesh.agent.publishing import Tail
from mesh.config import Messages as Settings
from mesh.errors import TimedOut


async def settle() -> None:
    """Wait until nothing moves, not even what is gathered for a moment."""
    await wait_all_tasks_blocked(0.06)


def test_a_flood_goes_on_beside_what_earlier_ones_left_for_late_joiners() -> None:
    tail, size = Tail(lambda: 60.0, lambda: 1), 60_000 - publishing.RECORD_BYTES
    for tenth in range(600):  # 1.2 MB/s for a minute: twice the share, had it all to stay for long
        now = tenth / 10
        for _ in range(2):
            assert tail.wait_s(now) == 0.0
            tail.spend(size, tail.ttl_s(now), now)
    assert tail.ttl_s(now) == publishing.TTL_S_MIN


async def test_a_publisher_waits_for_its_links_and_nothing_of_a_flood_is_lost(
    line: Any, inbox: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "OUTBOX_BYTES_MAX", 100_000)
    a, b = await line(2)
    a.settings = b.settings = Settings(queue_max=10_000)
    box = inbox(b.messages.subscribe("t", replay=0))
    await trio.sleep(1)
    a.taken = 0  # a link that has taken nothing yet, but goes on taking
    with pytest.raises(TimedOut, match="of 1000 messages were taken"):
        await a.messages.publish_many("t", ["x" * 1000] * 1000, timeout_s=1)
    held = sum(rec.size for rec in a.store.live.slots("topic/t"))
    assert held <= publishing.LINE_BYTES + publishing.BATCH_BYTES_MAX
    assert a.counters["topics.held_back"] > 0
    a.taken = None
    sent = await a.messages.publish_many("t", ["y"] * 1000, timeout_s=20)
    assert sent["published"] == 1000
    await box.until(a.counters["topics.published"])
    await settle()
    assert len(box.all) == a.counters["topics.published"]
    assert b.counters["topics.dropped"] == 0


async def test_a_program_that_does_not_read_loses_only_its_own(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    b.settings = msgspec.structs.replace(b.settings, queue_max=10)
    stuck = b.messages.subscribe("t", replay=0)
    got: list[Any] = []

    async def read_one() -> None:
        got.append(await stuck.__anext__())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_one)
        await settle()
        b.settings = msgspec.structs.replace(b.settings, queue_max=10_000)
        box = inbox(b.messages.subscribe("t", replay=0))
        await settle()
        for start in range(0, 3000, 1000):
            await a.messages.publish_many("t", range(start, start + 1000), timeout_s=20)
        await box.until(3000)
    assert box.payloads == list(range(3000))
    await read_one()
    assert sum(item.get("dropped", 0) for item in got) in (2989, 2990)  # the rest waits, or was read
    await stuck.aclose()

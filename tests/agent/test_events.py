"""What happened, as a node saw it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.agent.events import Events
from mesh.core.vitals import State, StateChanged
from mesh.errors import UsageError
from mesh.identity.keys import NodeKey

KEY, OTHER = NodeKey.from_seed(b"a" * 32), NodeKey.from_seed(b"b" * 32)
PUBLIC = {KEY.aid: KEY.public, OTHER.aid: OTHER.public}
NAMES = {KEY.aid: "node-1", OTHER.aid: "node-2"}


class Clock:
    ms = 1_700_000_000_000


def events(ring_max: int = 100) -> Events:
    Clock.ms = 1_700_000_000_000
    return Events(
        lambda: Clock.ms,
        PUBLIC.get,
        lambda aid: NAMES.get(aid, ""),
        lambda aid: {"location": [47.4, 8.5]},
        ring_max=ring_max,
    )


async def every(ring: Events, **query: Any) -> list[dict[str, Any]]:
    return await ring.list(**{"last_s": None, "type": None, "node": None, "limit": 100, **query})


async def test_a_registration_names_node_location_and_time() -> None:
    ring = events()
    ring.members_changed([KEY.aid], [])
    assert await every(ring) == []
    ring.members_changed([OTHER.aid], [])
    (event,) = await every(ring)
    assert event["type"] == "node_registered"
    assert event["data"] == {
        "node_id": OTHER.peer_id,
        "location": [47.4, 8.5],
        "time": "2023-11-14T22:13:20.000Z",
    }
    assert (event["node"], event["name"]) == (OTHER.peer_id, "node-2")


async def test_states_removals_and_alarms_are_told() -> None:
    ring = events()
    ring.state_changed(StateChanged(OTHER.aid, State.ALIVE, State.DEAD, "gone", (KEY.aid,)))
    ring.members_changed([], [OTHER.aid])
    ring.alarm("clone", OTHER.aid, "runs twice")
    ring.alarm("clock", b"u" * 16, "unknown author")
    found = await every(ring)
    assert [event["type"] for event in found] == [
        "member_dead",
        "member_removed",
        "alarm.clone",
        "alarm.clock",
    ]
    assert found[0]["message"] == "alive -> dead: gone"
    assert found[0]["data"]["seen_by"] == [KEY.peer_id]
    assert found[3]["node"] == (b"u" * 16).hex()


async def test_a_list_is_filtered_and_limited() -> None:
    ring = events()
    for number in range(10):
        Clock.ms += 1000
        ring.tell("odd.x" if number % 2 else "even", str(number), aid=KEY.aid if number < 5 else OTHER.aid)
    assert [event["message"] for event in await every(ring, limit=3)] == ["7", "8", "9"]
    assert [event["message"] for event in await every(ring, type="odd.*", limit=2)] == ["7", "9"]
    assert [event["message"] for event in await every(ring, node=KEY.peer_id, limit=2)] == ["3", "4"]
    assert [event["message"] for event in await every(ring, last_s=1.5)] == ["8", "9"]


async def test_a_watch_goes_on_from_a_cursor_and_then_follows() -> None:
    ring = events()
    for number in range(3):
        ring.tell("x", str(number))
    cursor = (await every(ring))[0]["id"]
    watch = ring.watch(type=None, node=None, cursor=cursor)
    assert [(await watch.__anext__())["message"] for _ in range(2)] == ["1", "2"]
    async with trio.open_nursery() as nursery:
        got: list[str] = []

        async def follow() -> None:
            got.append((await watch.__anext__())["message"])

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        ring.tell("x", "3")
    assert got == ["3"]
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_watcher_that_falls_behind_is_told_how_many_it_missed() -> None:
    ring = events(ring_max=5)
    ring.tell("x", "first")
    watch = ring.watch(type="x", node=None, cursor=(await every(ring))[0]["id"])
    for number in range(12):
        ring.tell("x", str(number))
    missed = await watch.__anext__()
    assert (missed["type"], missed["data"]) == ("events_missed", {"count": 7})
    assert [(await watch.__anext__())["message"] for _ in range(5)] == ["7", "8", "9", "10", "11"]
    again = ring.watch(type="x", node=None, cursor=missed["id"])
    assert (await again.__anext__())["message"] == "7"
    await watch.aclose()  # type: ignore[attr-defined]
    await again.aclose()  # type: ignore[attr-defined]


async def test_a_cursor_of_an_earlier_life_begins_at_the_oldest_kept() -> None:
    ring = events()
    ring.tell("x", "0")
    watch = ring.watch(type=None, node=None, cursor="abc.999")
    assert (await watch.__anext__())["message"] == "0"
    await watch.aclose()  # type: ignore[attr-defined]
    with pytest.raises(UsageError):
        await ring.watch(type=None, node=None, cursor="nonsense").__anext__()


async def test_the_ring_is_bounded() -> None:
    ring = events(ring_max=10)
    for number in range(1000):
        ring.tell("x", str(number))
    assert len(await every(ring)) == 10

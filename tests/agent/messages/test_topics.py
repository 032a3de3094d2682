"""Publish and subscribe between nodes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.agent import publishing, topics
from mesh.agent.author import Statement
from mesh.agent.publishing import Tail
from mesh.config import Messages as Settings
from mesh.core.record import Kind
from mesh.core.topics import TopicEvent, batch_value
from mesh.errors import Denied, TimedOut, UsageError


async def pub(node: Any, topic: str, payload: Any, qos: int = 0, **options: Any) -> Any:
    return await node.messages.publish(topic, payload, qos=qos, **{"id": None, "timeout_s": 20, **options})


async def settle() -> None:
    """Wait until nothing moves, not even what is gathered for a moment."""
    await wait_all_tasks_blocked(0.06)


async def test_a_message_reaches_every_subscriber_of_the_line_once(line: Any, inbox: Any) -> None:
    nodes = await line(4)
    boxes = [inbox(node.messages.subscribe("sensors/+/temperature", replay=0)) for node in nodes]
    other = inbox(nodes[2].messages.subscribe("sensors/+/humidity", replay=0))
    await settle()
    sent = await pub(nodes[0], "sensors/room 1/temperature", {"celsius": 21.5})
    for box in boxes:
        (message,) = await box.until(1)
        assert message["payload"] == {"celsius": 21.5}
        assert message["topic"] == "sensors/room 1/temperature"
        assert (message["author"], message["author_name"]) == (nodes[0].id, "node-0")
        assert (message["id"], message["qos"], message["replayed"]) == (sent["id"], 0, False)
        assert message["time"].startswith("2023-11-14T22:13:2")
    await settle()
    assert all(len(box.all) == 1 for box in boxes)
    assert other.all == []


async def test_messages_of_one_publisher_come_in_their_order(line: Any, inbox: Any) -> None:
    nodes = await line(3)
    box = inbox(nodes[2].messages.subscribe("#", replay=0))
    await settle()
    for number in range(500):
        await pub(nodes[0], "t", number)
    await box.until(500)
    assert box.payloads == list(range(500))


async def test_messages_given_together_come_in_their_order(line: Any, inbox: Any) -> None:
    nodes = await line(3)
    box = inbox(nodes[2].messages.subscribe("#", replay=0))
    await settle()
    for start in range(0, 3000, 1000):
        sent = await nodes[0].messages.publish_many("t", range(start, start + 1000), timeout_s=None)
        assert (sent["topic"], sent["published"]) == ("t", 1000)
    await pub(nodes[0], "t", 3000)
    await box.until(3001)
    assert box.payloads == list(range(3001))


async def test_of_messages_given_together_all_are_taken_or_it_is_said_how_many(
    line: Any, inbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a,) = await line(1)
    box = inbox(a.messages.subscribe("#", replay=0))
    await settle()
    with pytest.raises(UsageError, match="bytes"):
        await a.messages.publish_many("t", ["good", "x" * (60 << 10)], timeout_s=None)
    monkeypatch.setattr(publishing, "OUTBOX_BYTES_MAX", 2000)
    with pytest.raises(TimedOut, match="1 of 3 messages"):
        await a.messages.publish_many("t", ["y" * 1500] * 3, timeout_s=0)
    await settle()
    assert box.payloads == ["y" * 1500]


async def test_many_messages_travel_in_few_records(line: Any, inbox: Any, autojump_clock: MockClock) -> None:
    a, b = await line(2)
    box = inbox(b.messages.subscribe("t", replay=0))
    await settle()
    for number in range(1000):
        await pub(a, "t", number)
    await box.until(1000)
    assert len(list(a.store.live.slots("topic/t"))) < 100


async def test_a_message_leaves_at_once_when_nothing_was_sent_before(
    line: Any, inbox: Any, autojump_clock: MockClock
) -> None:
    a, b = await line(2)
    box = inbox(b.messages.subscribe("t", replay=0))
    await trio.sleep(1)
    begun = trio.current_time()
    await pub(a, "t", 1)
    await box.until(1)
    assert trio.current_time() == begun


async def test_what_leaves_at_once_never_passes_what_waits(
    line: Any, inbox: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "LINE_BYTES", 1000)
    a, b = await line(2)
    box = inbox(b.messages.subscribe("t", replay=0))
    await trio.sleep(1)
    a.taken = 0  # a link that has taken nothing yet
    for number in range(20):
        await pub(a, "t", [number, "x" * 200])
    assert a.messages.topics.publisher._flushing
    a.taken = None
    for number in range(20, 40):
        await pub(a, "t", [number, ""])  # few enough to leave at once, were nothing before them
        await trio.sleep(0.001)
    await box.until(40)
    assert [payload[0] for payload in box.payloads] == list(range(40))


@pytest.mark.parametrize("qos", [1, 2])
async def test_an_acknowledged_message_names_how_many_have_it(line: Any, inbox: Any, qos: int) -> None:
    nodes = await line(4)
    boxes = [inbox(node.messages.subscribe("t/#", replay=0)) for node in nodes[1:]]
    await settle()
    sent = await pub(nodes[0], "t/x", "hello", qos)
    assert (sent["subscribers"], sent["acknowledged"], sent["missing"]) == (3, 3, [])
    assert all(box.payloads == ["hello"] for box in boxes)
    nobody = await pub(nodes[0], "other", "hello", qos)
    assert (nobody["subscribers"], nobody["acknowledged"], nobody["missing"]) == (0, 0, [])


async def test_who_did_not_acknowledge_in_time_is_named(
    line: Any, inbox: Any, autojump_clock: MockClock
) -> None:
    nodes = await line(3)
    for node in nodes:
        inbox(node.messages.subscribe("t", replay=0))
    await trio.sleep(1)
    nodes[1].links.remove(nodes[2])
    nodes[2].links.remove(nodes[1])
    begun = trio.current_time()
    sent = await pub(nodes[0], "t", 1, 1, timeout_s=3)
    assert trio.current_time() == pytest.approx(begun + 3)
    assert (sent["subscribers"], sent["acknowledged"], sent["missing"]) == (3, 2, [nodes[2].id])


async def test_many_acknowledged_messages_at_once_share_acknowledgements(line: Any, inbox: Any) -> None:
    a, b, _ = await line(3)
    box = inbox(b.messages.subscribe("#", replay=0))
    await settle()
    results: list[Any] = []

    async def publish(number: int) -> None:
        results.append(await pub(a, f"t/{number % 7}", number, 1))

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(publish, number)
    assert all(result["acknowledged"] == 1 for result in results)
    assert sorted(box.payloads) == list(range(300))
    assert len(list(a.store.live.paths("acks/"))) == 1
    assert not a.messages.topics.publisher._unacknowledged


async def test_a_message_is_handed_on_once_per_id(line: Any, inbox: Any) -> None:
    a, b, c = await line(3)
    box = inbox(c.messages.subscribe("#", replay=0))
    await settle()
    for node in (a, a, b):
        sent = await pub(node, "orders", "pay", 2, id="order-7")
        assert sent["id"] == "order-7"
        assert sent["acknowledged"] == 1
    await pub(a, "orders", "pay", 2, id="order-8")
    await pub(a, "other", "pay", 2, id="order-7")
    await box.until(3)
    await settle()
    assert [message["id"] for message in box.all] == ["order-7", "order-8", "order-7"]


async def test_a_late_joiner_gets_the_tail_of_each_topic(fleet: Any, inbox: Any) -> None:
    a = await fleet.add()
    for number in range(20):
        await pub(a, f"t/{number % 2}", number)
        if number % 5 == 0:
            await trio.sleep(0.03)
    await settle()
    b = await fleet.add()
    await settle()
    box = inbox(b.messages.subscribe("t/#", replay=3))
    await box.until(6)
    assert sorted(box.payloads) == [14, 15, 16, 17, 18, 19]
    assert [number for number in box.payloads if number % 2] == [15, 17, 19]
    assert all(message["replayed"] for message in box.all)
    await pub(a, "t/0", "new")
    await box.until(7)
    assert box.payloads[-1] == "new"
    assert not box.all[-1]["replayed"]
    none = inbox(b.messages.subscribe("t/#", replay=0))
    await settle()
    assert none.all == []


async def test_a_healed_split_heals_here_too(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    box = inbox(b.messages.subscribe("t", replay=0))
    await settle()
    a.links.clear()
    b.links.clear()
    await pub(a, "t", "while apart")
    await settle()
    assert box.all == []
    a.fleet.join(a, b)
    await box.until(1)
    assert box.payloads == ["while apart"]


async def test_messages_are_gone_after_their_time(line: Any, inbox: Any, autojump_clock: MockClock) -> None:
    a, b = await line(2)
    await pub(a, "t", 1)
    await trio.sleep(30)
    await pub(a, "t", 2)
    await trio.sleep(35)
    box = inbox(b.messages.subscribe("t", replay=10))
    await box.until(1)
    assert box.payloads == [2]
    await trio.sleep(40)
    for node in (a, b):
        assert list(node.store.live.slots("topic/t")) == []


async def test_a_slow_program_loses_the_oldest_and_is_told_how_many(line: Any) -> None:
    (a,) = await line(1)
    a.settings = msgspec.structs.replace(a.settings, queue_max=10)
    stream = a.messages.subscribe("t", replay=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.__anext__)
        await settle()
        for number in range(50):
            await pub(a, "t", number)
        await settle()
    assert await stream.__anext__() == {"dropped": 39}
    rest = [(await stream.__anext__())["payload"] for _ in range(10)]
    assert rest == list(range(40, 50))
    assert a.counters["topics.dropped"] == 39
    await stream.aclose()


async def test_a_queue_is_bounded_in_bytes_too(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "QUEUE_BYTES_MAX", 100_000)
    (a,) = await line(1)
    stream = a.messages.subscribe("t", replay=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.__anext__)
        await settle()
        for _ in range(20):
            await pub(a, "t", "x" * 20_000)
        await settle()
    dropped = await stream.__anext__()
    assert 13 <= dropped["dropped"] <= 16
    await stream.aclose()


async def test_a_program_that_goes_unsubscribes_its_agent(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    box, other = inbox(b.messages.subscribe("t", replay=0)), inbox(b.messages.subscribe("t", replay=0))
    await settle()
    assert (await pub(a, "t", 1, 1))["subscribers"] == 1
    for each in (box, other):
        each.scope.cancel()
        await each.ended.wait()
    await settle()
    assert (await pub(a, "t", 2, 1))["subscribers"] == 0
    assert len(b.messages.topics._index) == 0


async def test_a_dead_subscriber_is_not_waited_for(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    inbox(b.messages.subscribe("t", replay=0))
    await settle()
    b.silent = True
    assert (await pub(a, "t", 1, 1))["subscribers"] == 0


async def test_rights_to_publish_and_subscribe_are_kept(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    box = inbox(b.messages.subscribe("#", replay=0))
    await settle()
    b.forbidden |= {(a.key.aid, "publish", "secret"), (b.key.aid, "subscribe", "hidden")}
    for topic in ("secret", "hidden", "open"):
        await pub(a, topic, topic)
    await box.until(1)
    await settle()
    assert box.payloads == ["open"]
    assert b.counters["topics.not_allowed"] == 1
    replayed = inbox(b.messages.subscribe("#", replay=10))
    await replayed.until(1)
    assert replayed.payloads == ["open"]
    with pytest.raises(Denied):
        await b.messages.subscribe("hidden", replay=0).__anext__()
    a.forbidden.add((a.key.aid, "publish", "secret"))
    with pytest.raises(Denied):
        await pub(a, "secret", 1)


async def test_malformed_batches_of_a_peer_are_counted_and_harmless(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    box = inbox(b.messages.subscribe("#", replay=0))
    await settle()
    good = batch_value([TopicEvent(1, 0, None, "good")])
    bad = [
        None,
        [],
        [1, []],
        [True, None],
        [False, [[1]]],
        [False, [["x", 0, None, 1]]],
        [False, [[1, 7, None, 1]]],
    ]
    bad.append([False, [[1, 0, "i" * 500, 1]]])
    for value in [*bad, good]:
        a.author.say_live([Statement("topic/t", Kind.LOG, value, ttl=60_000)])
    a.author.say_live([Statement("topic/t", Kind.ALL, good, ttl=60_000)])
    await box.until(1)
    await settle()
    assert box.payloads == ["good"]
    assert b.counters["topics.malformed"] == len(bad)


async def test_malformed_subscriptions_and_acknowledgements_are_ignored(line: Any) -> None:
    a, b = await line(2)
    for value in (None, "#", [1, None], ["a/#/b"], [["x"]]):
        a.author.say_live([Statement(f"subs/{a.key.aid.hex()}", Kind.ALL, value, ttl=60_000)])
    a.author.say_live([Statement(f"subs/{b.key.aid.hex()}", Kind.ALL, ["#"], ttl=60_000)])
    for value in (None, [1], ["x", []], [0, "x"], [0, ["x"]]):
        path = f"acks/{a.key.aid.hex()}/{b.key.aid.hex()}"
        a.author.say_live([Statement(path, Kind.ALL, value, ttl=60_000)])
    await settle()
    assert b.messages.topics.subscribers.of("a/b") == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"topic": ""},
        {"topic": "a/#"},
        {"payload": "x" * 70_000},
        {"payload": 1 << 70},
        {"qos": 3},
        {"id": ""},
        {"id": "x" * 200},
    ],
)
async def test_what_cannot_be_published_is_refused(line: Any, arguments: dict[str, Any]) -> None:
    (a,) = await line(1)
    with pytest.raises(UsageError):
        await a.messages.publish(
            **{"topic": "t", "payload": 1, "qos": 0, "id": None, "timeout_s": 1, **arguments}
        )


@pytest.mark.parametrize("pattern", ["", "a/#/b", "x" * 600, "\ud800"])
async def test_a_malformed_pattern_is_refused(line: Any, pattern: str) -> None:
    (a,) = await line(1)
    with pytest.raises(UsageError):
        await a.messages.subscribe(pattern, replay=0).__anext__()


async def test_a_publisher_that_overruns_its_share_waits(
    line: Any, inbox: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "TAIL_BYTES", 500_000)
    monkeypatch.setattr(publishing, "OUTBOX_BYTES_MAX", 50_000)
    a, b = await line(2)
    a.settings = b.settings = Settings(queue_max=10_000)
    box = inbox(b.messages.subscribe("t", replay=0))
    await trio.sleep(1)
    begun = trio.current_time()
    for _ in range(200):
        await pub(a, "t", "x" * 10_000, timeout_s=60)
    await box.until(200)
    assert trio.current_time() - begun > 10
    await trio.sleep(topics.SWEEP_S)
    assert sum(rec.size for rec in a.store.live.slots("topic/t")) < 600_000

    async def flood() -> None:
        for _ in range(100):
            await pub(a, "t", "x" * 10_000, timeout_s=0.1)

    with pytest.raises(TimedOut):
        await flood()


def test_who_publishes_more_keeps_it_for_less_time_and_then_waits() -> None:
    publishers = 1
    tail = Tail(lambda: 60.0, lambda: publishers)
    assert tail.ttl_s(0.0) == 60.0
    now = taken = 0.0
    size = publishing.TAIL_BYTES // 300 - publishing.RECORD_BYTES
    while now < 300:
        now += max(tail.wait_s(now), 0.1)
        tail.spend(size, tail.ttl_s(now), now)
        taken = max(taken, tail._taken(now))
    assert taken <= publishing.TAIL_BYTES + size + publishing.RECORD_BYTES
    assert publishing.TTL_S_MIN <= tail.ttl_s(now) < 40.0
    publishers = 8
    assert tail.ttl_s(now) == publishing.TTL_S_MIN
    assert tail.wait_s(now) > 0
    assert tail.wait_s(now + 61) == 0

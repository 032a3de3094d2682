"""Connections to services over agents: bytes, ends, refusals, failover, who calls."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from ports import closed_port
from town import Town, echo, everything, saying

from mesh.agent.forward import Caller, proxy_header
from mesh.core.registry import Health
from mesh.core.routes import parse
from mesh.errors import Denied, MeshError, NoInstances, NotFound, PeerError, Unreachable
from mesh.wire import forward as wire
from mesh.wire import protocols


async def test_bytes_go_through_both_ways_and_each_end_closes_by_itself(town: Town) -> None:
    one, two = await town.add(2)
    town.catalogue.put(two.offer("orders", town.program(echo)))
    connection = await one.router.connect("orders")
    sent = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await connection.pipe.send(sent)
            await connection.pipe.close()

        nursery.start_soon(send)
        assert await everything(connection.pipe) == sent
    connection.end()
    assert two.counters["services.in"] == 1


async def test_a_service_of_our_own_is_reached_without_the_network(town: Town) -> None:
    (one,) = await town.add(1)
    town.catalogue.put(one.offer("orders", town.program(saying(b"here"))))
    connection = await one.router.connect("orders")
    assert await everything(connection.pipe) == b"here"
    await connection.pipe.reset()
    assert one.counters["services.here"] == 1


async def test_the_called_side_decides_who_may(town: Town) -> None:
    one, two = await town.add(2)
    town.catalogue.put(two.offer("orders", town.program(echo)))
    two.forbidden.add((one.me, "orders"))
    with pytest.raises(Denied, match="n1 may not call 'orders'"):
        await one.router.connect("orders")


async def test_only_services_that_are_registered_are_reached(town: Town) -> None:
    one, two = await town.add(2)
    gone = two.offer("orders", town.program(echo))
    del two.own_services[gone.service.id]
    town.catalogue.put(gone)
    with pytest.raises(NotFound, match="not offered here"):
        await one.router.connect("orders")


async def test_a_name_does_not_open_another_service(town: Town) -> None:
    one, two = await town.add(2)
    secret = two.offer("secret", town.program(echo))
    head = wire.Open("orders", secret.service.id, 1000)
    with pytest.raises(NotFound):
        await one.forward.open(two.key.public, head, 5)


async def test_an_instance_that_does_not_answer_is_passed_over_and_left_alone(town: Town) -> None:
    one, two, three = await town.add(3)
    with closed_port() as port:
        dead = two.offer("orders", port)
        town.catalogue.put(dead, three.offer("orders", town.program(saying(b"three"))))
        for _ in range(8):
            connection = await one.router.connect("orders")
            assert await everything(connection.pipe) == b"three"
            await connection.pipe.reset()
            connection.end()
    assert one.router.breaker.state(dead.service.id, trio.current_time()) == "open"
    assert all(usage.in_flight == 0 for usage in one.router.meter.usages.values())


async def test_an_agent_that_is_gone_is_out_after_one_refusal(town: Town) -> None:
    one, two, three = await town.add(3)
    dead = two.offer("orders", town.program(echo))
    town.catalogue.put(dead, three.offer("orders", town.program(saying(b"three"))))
    two.scope.cancel()
    await trio.testing.wait_all_tasks_blocked(0.05)
    for _ in range(4):
        connection = await one.router.connect("orders")
        assert await everything(connection.pipe) == b"three"
        await connection.pipe.reset()
        connection.end()
    assert one.router.breaker.state(dead.service.id, trio.current_time()) == "open"


async def test_calls_take_turns_by_weight(town: Town) -> None:
    one, two, three = await town.add(3)
    town.catalogue.put(
        two.offer("orders", town.program(saying(b"2")), weight=100),
        three.offer("orders", town.program(saying(b"3")), weight=50),
    )
    heard = b""
    for _ in range(9):
        connection = await one.router.connect("orders")
        heard += await everything(connection.pipe)
        await connection.pipe.reset()
        connection.end()
    assert (heard.count(b"2"), heard.count(b"3")) == (6, 3)


async def test_nobody_healthy_is_an_error_of_its_own(town: Town) -> None:
    one, two = await town.add(2)
    with pytest.raises(NoInstances, match="no available instances of orders"):
        await one.router.connect("orders")
    town.catalogue.put(two.offer("orders", town.program(echo), health=Health.UNHEALTHY))
    with pytest.raises(NoInstances, match="1 it is unhealthy"):
        await one.router.connect("orders")


async def test_health_that_falls_takes_an_instance_out_at_once(town: Town) -> None:
    one, two, three = await town.add(3)
    a, b = two.offer("orders", 1), three.offer("orders", 2)
    town.catalogue.put(a, b)
    assert {one.router.pick("orders").candidate.node for _ in range(4)} == {"n2", "n3"}
    town.catalogue.put(two.offer("orders", 1, health=Health.ERROR), b)
    assert {one.router.pick("orders").candidate.node for _ in range(4)} == {"n3"}


async def test_a_degraded_instance_is_taken_only_when_nobody_better_is_left(town: Town) -> None:
    one, two, three = await town.add(3)
    worse = two.offer("orders", 1, health=Health.DEGRADED)
    town.catalogue.put(worse, three.offer("orders", 2))
    assert {one.router.pick("orders").candidate.node for _ in range(4)} == {"n3"}
    town.catalogue.put(worse)
    assert one.router.pick("orders").candidate.node == "n2"


async def test_groups_fail_over_and_explain_says_so(town: Town) -> None:
    one, two, three = await town.add(3)
    three_says = three.offer("orders", town.program(saying(b"3")))
    one.documents["orders"] = parse(
        {
            "default": "optimal",
            "groups": [
                {"name": "primary", "select": "name=n2"},
                {"name": "secondary", "select": "name=n3"},
            ],
        }
    )
    with closed_port() as port:
        town.catalogue.put(two.offer("orders", port), three_says)
        assert one.router.explain("orders")["group"] == "primary"
        for _ in range(4):
            connection = await one.router.connect("orders")
            assert await everything(connection.pipe) == b"3"
            await connection.pipe.reset()
            connection.end()
    found = one.router.explain("orders")
    assert found["group"] == "secondary"
    assert {row["node"]: row["verdict"] for row in found["candidates"]} == {"n2": "standby", "n3": "taken"}


async def test_the_program_behind_may_be_told_who_calls_by_proxy_protocol(town: Town) -> None:
    one, two = await town.add(2)
    town.catalogue.put(two.offer("orders", town.program(echo), meta={"caller": "proxy-v2"}))
    connection = await one.router.connect("orders", source=("127.0.0.1", 4711))
    await connection.pipe.send(b"hello", last=True)
    heard = await everything(connection.pipe)
    caller = Caller(one.key.public, "n1", "127.0.0.1", 4711)
    assert heard == proxy_header(caller) + b"hello"
    assert one.key.peer_id.encode() in heard


def test_a_proxy_header_has_the_form_of_the_specification() -> None:
    key = bytes(range(32))
    header = proxy_header(Caller(key, "n", "192.0.2.1", 80))
    assert header[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    version, family, length = struct.unpack_from("!BBH", header, 12)
    assert (version, family, len(header)) == (0x21, 0x11, 16 + length)
    assert header[16:20] == bytes((192, 0, 2, 1))
    assert proxy_header(Caller(key, "n"))[13] == 0
    assert proxy_header(Caller(key, "n", "2001:db8::1", 80))[13] == 0x21


async def test_another_node_s_word_on_the_caller_counts_from_gateways_only(town: Town) -> None:
    one, two, three = await town.add(3)
    offered = two.offer("orders", town.program(echo))
    head = wire.Open("orders", offered.service.id, 1000, caller=three.me)
    with pytest.raises(Denied, match="may not pass calls on"):
        await one.forward.open(two.key.public, head, 5)
    two.relays.add(one.me)
    pipe, _ = await one.forward.open(two.key.public, head, 5)
    await pipe.reset()
    two.forbidden.add((three.me, "orders"))
    with pytest.raises(Denied, match="n3 may not call"):
        await one.forward.open(two.key.public, head, 5)


@pytest.mark.parametrize(
    "garbage",
    [b"\0\0\0\x05hello", b"\xff" * 100, b"\0\0\0\x01\x80", wire.pack(wire.Opened("x")), b"GET / HTTP"],
)
async def test_garbage_ends_its_stream_and_nothing_else(town: Town, garbage: bytes) -> None:
    one, two = await town.add(2)
    stream = await one.open(two.key.public, protocols.SVC, 5)
    await stream.send(garbage)
    with suppress(Unreachable):
        assert await everything(stream) == b""
    town.catalogue.put(two.offer("orders", town.program(saying(b"fine"))))
    connection = await one.router.connect("orders")
    assert await everything(connection.pipe) == b"fine"


@given(st.binary(max_size=200))
def test_any_head_is_read_or_refused(data: bytes) -> None:
    try:
        wire.HeadReader().feed(data)
    except PeerError:
        pass
    except MeshError:
        raise AssertionError("another error") from None


def test_a_head_survives_its_frame() -> None:
    head = wire.Open("orders", "0" * 16, 1000, "::1", 80, b"a" * 16, 1)
    assert wire.HeadReader().feed(wire.pack(head) + b"rest") == (head, b"rest")

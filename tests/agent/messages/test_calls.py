"""Requests between nodes, over hosts in memory."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.agent import calls as module
from mesh.agent.callstream import Call, error_of
from mesh.errors import (
    Conflict,
    Denied,
    Failed,
    MeshError,
    NoHandler,
    NotFound,
    TimedOut,
    UnknownNode,
    Unreachable,
    UsageError,
)
from mesh.identity.keys import NodeKey
from mesh.wire import calls as wire
from mesh.wire import frames, protocols


async def double(call: Call) -> Any:
    return call.body * 2


async def test_a_request_is_answered_by_another_node_and_by_ourselves(line: Any) -> None:
    a, b = await line(2)
    for node in (a, b):
        node.messages.calls.handle("sys/double", double)
        assert (
            await a.messages.calls.request(node.key.public, "sys/double", [1, "x"], deadline_s=20)
            == [1, "x"] * 2
        )


async def test_one_stream_serves_many_requests_one_after_the_other(line: Any) -> None:
    a, b = await line(2)
    b.messages.calls.handle("sys/double", double)
    for number in range(20):
        assert await a.messages.calls.request(b.key.public, "sys/double", number, deadline_s=20) == 2 * number
    assert len(a.messages.calls._kept[b.key.public]) == 1


async def test_requests_at_the_same_time_do_not_wait_for_each_other(line: Any) -> None:
    a, b = await line(2)
    gate = trio.Event()

    async def slow(call: Call) -> Any:
        await gate.wait()
        return "slow"

    b.messages.calls.handle("sys/slow", slow)
    b.messages.calls.handle("sys/double", double)
    results: list[Any] = []

    async def ask(method: str, body: Any) -> None:
        results.append(await a.messages.calls.request(b.key.public, method, body, deadline_s=20))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, "sys/slow", None)
        await ask("sys/double", 4)
        assert results == [8]
        gate.set()
    assert results == [8] + ["slow"] * 5
    assert len(a.messages.calls._kept[b.key.public]) <= module.KEPT_PER_PEER_MAX


@pytest.mark.parametrize(
    "error", [NotFound("a", "b"), Denied("c"), Conflict("d"), TimedOut("e"), Failed("f")]
)
@pytest.mark.parametrize("local", [False, True])
async def test_a_handlers_error_comes_back_as_what_it_is(line: Any, error: MeshError, local: bool) -> None:
    a, b = await line(2)

    async def fail(call: Call) -> Any:
        raise error

    target = a if local else b
    target.messages.calls.handle("sys/fail", fail)
    with pytest.raises(type(error)) as caught:
        await a.messages.calls.request(target.key.public, "sys/fail", None, deadline_s=20)
    assert (caught.value.message, caught.value.hint) == (error.message, error.hint)
    assert type(caught.value) is type(error)


@pytest.mark.parametrize("local", [False, True])
async def test_an_error_that_a_nursery_wrapped_comes_back_as_what_it_is(line: Any, local: bool) -> None:
    a, b = await line(2)

    async def missing() -> None:
        raise NotFound("gone")

    async def fail(call: Call) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(missing)
            await trio.sleep_forever()

    target = a if local else b
    target.messages.calls.handle("sys/fail", fail)
    with pytest.raises(NotFound, match="gone"):
        await a.messages.calls.request(target.key.public, "sys/fail", None, deadline_s=20)


async def test_a_handler_that_crashes_fails_the_call_and_nothing_else(
    line: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await line(2)

    async def crash(call: Call) -> Any:
        raise ZeroDivisionError("secret")

    b.messages.calls.handle("sys/crash", crash)
    b.messages.calls.handle("sys/double", double)
    with pytest.raises(Failed, match="crashed") as caught:
        await a.messages.calls.request(b.key.public, "sys/crash", None, deadline_s=20)
    assert "secret" not in str(caught.value)
    assert await a.messages.calls.request(b.key.public, "sys/double", 1, deadline_s=20) == 2


async def test_unknown_nodes_missing_handlers_and_denials_are_told_apart(line: Any) -> None:
    a, b = await line(2)
    request = a.messages.calls.request
    with pytest.raises(UnknownNode):
        await request(NodeKey.generate().public, "call/x", None, deadline_s=20)
    with pytest.raises(NoHandler, match="'x'"):
        await request(b.key.public, "call/x", None, deadline_s=20)
    b.forbidden.add((a.key.aid, "request", "x"))
    with pytest.raises(Denied):
        await request(b.key.public, "call/x", None, deadline_s=20)


async def test_a_deadline_ends_the_call_at_both_ends(line: Any, autojump_clock: MockClock) -> None:
    a, b = await line(2)
    ended: list[float] = []

    async def hang(call: Call) -> Any:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    b.messages.calls.handle("sys/hang", hang)
    begun = trio.current_time()
    with pytest.raises(TimedOut):
        await a.messages.calls.request(b.key.public, "sys/hang", None, deadline_s=3)
    await trio.sleep(1)
    assert ended == [pytest.approx(begun + 3, abs=0.1)]


@pytest.mark.parametrize("local", [True, False])
async def test_a_deadline_that_is_over_times_the_call_out(
    line: Any, autojump_clock: MockClock, local: bool
) -> None:
    a, b = await line(2)

    async def hang(call: Call) -> Any:
        await trio.sleep_forever()

    for node in (a, b):
        node.messages.calls.handle("sys/hang", hang)
    calls, to = a.messages.calls, (a if local else b).key.public
    with pytest.raises(TimedOut):
        await calls.request(to, "sys/hang", None, deadline_s=-1)
    with pytest.raises(TimedOut):
        await calls.talk(to, "sys/hang", None, deadline_s=-1)
    with pytest.raises(TimedOut):
        await anext(calls.stream(to, "sys/hang", None, deadline_s=-1))


async def test_a_node_that_cannot_be_reached_is_a_typed_error(line: Any) -> None:
    a, b = await line(2)
    b.scope.cancel()
    await wait_all_tasks_blocked()
    with pytest.raises(Unreachable):
        await a.messages.calls.request(b.key.public, "sys/double", 1, deadline_s=5)


async def test_a_kept_stream_that_died_is_replaced(line: Any) -> None:
    a, b = await line(2)
    b.messages.calls.handle("sys/double", double)
    request = a.messages.calls.request
    assert await request(b.key.public, "sys/double", 1, deadline_s=20) == 2
    await a.host.close_peer(b.key.public)
    await wait_all_tasks_blocked()
    assert await request(b.key.public, "sys/double", 2, deadline_s=20) == 4


async def test_idle_streams_are_let_go(line: Any, autojump_clock: MockClock) -> None:
    a, b = await line(2)
    b.messages.calls.handle("sys/double", double)
    await a.messages.calls.request(b.key.public, "sys/double", 1, deadline_s=20)
    await trio.sleep(module.KEPT_S * 1.5)
    assert a.messages.calls._kept == {}
    assert await a.messages.calls.request(b.key.public, "sys/double", 1, deadline_s=20) == 2


async def count_to(call: Call) -> Any:
    for number in range(call.body):
        await call.emit(number)


@pytest.mark.parametrize("local", [False, True])
async def test_an_answer_in_parts_arrives_in_order(line: Any, local: bool) -> None:
    a, b = await line(2)
    target = a if local else b
    target.messages.calls.handle("sys/count", count_to)
    for _ in range(2):
        parts = [
            part async for part in a.messages.calls.stream(target.key.public, "sys/count", 50, deadline_s=20)
        ]
        assert parts == list(range(50))
    if not local:
        assert len(a.messages.calls._kept[b.key.public]) == 1


async def give_up(caller: Any, target: Any, ended: trio.Event) -> None:
    """Take one part of sys/endless, go, and wait until its handler has ended."""
    parts = caller.messages.calls.stream(target.key.public, "sys/endless", None, deadline_s=20)
    assert await parts.__anext__() == "one"
    await parts.aclose()
    with trio.fail_after(60):
        await ended.wait()


@pytest.mark.parametrize("local", [False, True])
async def test_a_caller_that_goes_ends_the_handler(line: Any, local: bool) -> None:
    a, b = await line(2)
    ended = trio.Event()

    async def endless(call: Call) -> Any:
        try:
            await call.emit("one")
            await trio.sleep_forever()
        finally:
            ended.set()

    target = a if local else b
    target.messages.calls.handle("sys/endless", endless)
    await give_up(a, target, ended)


@pytest.mark.parametrize("local", [False, True])
async def test_a_handler_that_fails_as_its_caller_goes_harms_nobody(
    line: Any, local: bool, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await line(2)
    ended = trio.Event()

    async def failing() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Unreachable("nobody there")

    async def endless(call: Call) -> Any:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(failing)
                await call.emit("one")
                await trio.sleep_forever()
        finally:
            ended.set()

    target = a if local else b
    target.messages.calls.handle("sys/endless", endless)
    target.messages.calls.handle("sys/double", double)
    await give_up(a, target, ended)
    assert await a.messages.calls.request(target.key.public, "sys/double", 1, deadline_s=20) == 2
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("local", [False, True])
async def test_a_stream_that_goes_silent_times_out(line: Any, autojump_clock: MockClock, local: bool) -> None:
    a, b = await line(2)

    async def stalls(call: Call) -> Any:
        await call.emit(1)
        await trio.sleep_forever()

    target = a if local else b
    target.messages.calls.handle("sys/stalls", stalls)
    parts = a.messages.calls.stream(target.key.public, "sys/stalls", None, deadline_s=2)
    assert await parts.__anext__() == 1
    with pytest.raises(TimedOut):
        await parts.__anext__()


@pytest.mark.parametrize("local", [False, True])
async def test_an_error_after_some_parts_reaches_the_caller(line: Any, local: bool) -> None:
    a, b = await line(2)

    async def breaks(call: Call) -> Any:
        await call.emit(1)
        raise Conflict("half way")

    target = a if local else b
    target.messages.calls.handle("sys/breaks", breaks)
    with pytest.raises(Conflict, match="half way"):
        async for _ in a.messages.calls.stream(target.key.public, "sys/breaks", None, deadline_s=20):
            pass


async def test_parts_for_a_caller_that_wants_one_answer_are_refused(line: Any) -> None:
    a, b = await line(2)
    b.messages.calls.handle("sys/count", count_to)
    with pytest.raises(UsageError, match="parts"):
        await a.messages.calls.request(b.key.public, "sys/count", 3, deadline_s=20)


async def test_a_slow_caller_holds_the_handler_back(line: Any) -> None:
    a, b = await line(2)
    sent = 0

    async def flood(call: Call) -> Any:
        nonlocal sent
        for _ in range(10_000):
            await call.emit("x" * 10_000)
            sent += 1

    b.messages.calls.handle("sys/flood", flood)
    parts = a.messages.calls.stream(b.key.public, "sys/flood", None, deadline_s=20)
    await parts.__anext__()
    await wait_all_tasks_blocked()
    assert sent < 1000
    await parts.aclose()


async def test_one_peer_cannot_take_all_places(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SERVED_PER_PEER_MAX", 3)
    a, b = await line(2)
    gate = trio.Event()

    async def slow(call: Call) -> Any:
        await gate.wait()

    b.messages.calls.handle("sys/slow", slow)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(
                lambda: a.messages.calls.request(b.key.public, "sys/slow", None, deadline_s=20)
            )
        await wait_all_tasks_blocked()
        with pytest.raises(Failed, match="too many"):
            await a.messages.calls.request(b.key.public, "sys/slow", None, deadline_s=20)
        gate.set()
    assert not b.messages.calls._serving


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        frames.pack(b"\xff"),
        frames.pack(wire.encode(wire.Answer(1))),
        frames.pack(b"\x80"),
    ],
)
async def test_nonsense_on_a_call_stream_costs_that_stream_only(line: Any, data: bytes) -> None:
    a, b = await line(2)
    b.messages.calls.handle("sys/double", double)
    stream = await a.open(b.key.public, protocols.CALL, 20)
    await stream.send(data)
    with trio.fail_after(60), contextlib.suppress(Unreachable):
        while await stream.receive():
            pass
    assert b.counters["calls.malformed"] == 1
    assert await a.messages.calls.request(b.key.public, "sys/double", 1, deadline_s=20) == 2


async def test_an_answer_that_is_too_large_is_an_error_not_a_hang(line: Any) -> None:
    a, b = await line(2)

    async def large(call: Call) -> Any:
        return "x" * 300_000

    b.messages.calls.handle("sys/large", large)
    with pytest.raises(UsageError, match="bytes"):
        await a.messages.calls.request(b.key.public, "sys/large", None, deadline_s=20)
    with pytest.raises(UsageError, match="bytes"):
        await a.messages.calls.request(b.key.public, "sys/large", "x" * 300_000, deadline_s=20)


async def test_who_is_no_longer_a_member_is_not_served(line: Any) -> None:
    a, b = await line(2)
    b.messages.calls.handle("sys/double", double)
    await a.messages.calls.request(b.key.public, "sys/double", 1, deadline_s=20)
    b.public_of = lambda aid: None
    with pytest.raises(Denied):
        await a.messages.calls.request(b.key.public, "sys/double", 1, deadline_s=20)


def test_an_unknown_code_is_a_plain_failure() -> None:
    assert type(error_of(wire.Failure("from the future", "x"))) is Failed
    assert type(error_of(wire.Failure("peer", "x"))) is Failed
    assert type(error_of(wire.Failure("no_handler", "x"))) is NoHandler

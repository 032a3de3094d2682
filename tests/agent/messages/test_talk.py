"""Calls with parts both ways, over hosts in memory: with another node, ourselves, and through one between."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.agent.callstream import Call
from mesh.agent.talk import Talk, relay
from mesh.errors import Conflict, Denied, NoHandler, TimedOut, Unreachable, UsageError

both = pytest.mark.parametrize("local", [False, True])


async def echo(call: Call) -> Any:
    """Sends the body back, then each part, and says how many they were."""
    await call.accept()
    assert call.parts is not None
    await call.emit(call.body)
    count = 0
    async for part in call.parts:
        await call.emit(part)
        count += 1
    await call.emit({"parts": count})


async def talk_with(a: Any, node: Any, method: str, body: Any = None) -> Talk:
    talk: Talk = await a.messages.calls.talk(node.key.public, method, body, deadline_s=20)
    return talk


async def rest(talk: Talk) -> list[Any]:
    found = []
    while (answer := await talk.receive()) is not None:
        found.append(answer.body)
    return found


@both
async def test_parts_go_both_ways_as_they_come(line: Any, local: bool) -> None:
    a, b = await line(2)
    node = a if local else b
    node.messages.calls.handle("sys/echo", echo)
    for _ in range(2):
        talk = await talk_with(a, node, "sys/echo", "first")
        answer = await talk.receive()
        assert answer is not None
        assert answer.body == "first"
        for part in (1, None, b"x" * 100_000, [1, {"a": None}]):
            await talk.send(part)
            answer = await talk.receive()
            assert answer is not None
            assert answer.body == part
        await talk.end()
        assert await rest(talk) == [{"parts": 4}]
        await talk.close()
    if not local:
        assert len(a.messages.calls._kept[b.key.public]) == 1


@both
async def test_a_call_that_nobody_takes_fails_before_anything_is_sent(line: Any, local: bool) -> None:
    a, b = await line(2)
    node = a if local else b

    async def refuse(call: Call) -> Any:
        raise Conflict("not now")

    node.messages.calls.handle("sys/refuse", refuse)
    with pytest.raises(Conflict, match="not now"):
        await talk_with(a, node, "sys/refuse")
    with pytest.raises(NoHandler):
        await talk_with(a, node, "call/nobody")
    b.forbidden.add((a.key.aid, "request", "x"))
    if not local:
        with pytest.raises(Denied):
            await talk_with(a, node, "call/x")


@both
async def test_a_call_that_is_not_taken_in_time_is_given_up(
    line: Any, autojump_clock: MockClock, local: bool
) -> None:
    a, b = await line(2)
    node, ended = a if local else b, trio.Event()

    async def slow(call: Call) -> Any:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    node.messages.calls.handle("sys/slow", slow)
    with pytest.raises(TimedOut):
        await a.messages.calls.talk(node.key.public, "sys/slow", None, deadline_s=2)
    await ended.wait()


@both
async def test_an_answer_may_end_before_its_caller_has(line: Any, local: bool) -> None:
    a, b = await line(2)
    node = a if local else b

    async def short(call: Call) -> Any:
        await call.accept()
        await call.emit("enough")

    node.messages.calls.handle("sys/short", short)
    node.messages.calls.handle("sys/echo", echo)
    talk = await talk_with(a, node, "sys/short")
    assert await rest(talk) == ["enough"]
    with pytest.raises(Unreachable, match="is over"):
        await talk.send("more")
    await talk.close()
    again = await talk_with(a, node, "sys/echo", 1)
    await again.end()
    assert await rest(again) == [1, {"parts": 0}]
    await again.close()
    assert b.counters["calls.malformed"] == 0


async def test_parts_on_their_way_when_the_answer_ends_do_not_break_the_stream(line: Any) -> None:
    a, b = await line(2)

    async def short(call: Call) -> Any:
        await call.accept()
        assert call.parts is not None
        await call.parts.receive()

    b.messages.calls.handle("sys/short", short)
    b.messages.calls.handle("sys/echo", echo)
    talk = await talk_with(a, b, "sys/short")
    for number in range(20):
        await talk.send(number)
    await talk.end()
    assert await rest(talk) == []
    await talk.close()
    assert len(a.messages.calls._kept[b.key.public]) == 1
    again = await talk_with(a, b, "sys/echo", 1)
    await again.end()
    assert await rest(again) == [1, {"parts": 0}]
    await again.close()
    assert b.counters["calls.malformed"] == 0


@both
async def test_an_error_after_some_parts_reaches_the_caller(line: Any, local: bool) -> None:
    a, b = await line(2)
    node = a if local else b

    async def breaks(call: Call) -> Any:
        await call.accept()
        await call.emit(1)
        raise Conflict("half way")

    node.messages.calls.handle("sys/breaks", breaks)
    talk = await talk_with(a, node, "sys/breaks")
    with pytest.raises(Conflict, match="half way"):
        await rest(talk)
    await talk.close()


@both
async def test_a_caller_that_goes_ends_the_handler(line: Any, local: bool) -> None:
    a, b = await line(2)
    node, ended = a if local else b, trio.Event()

    async def listens(call: Call) -> Any:
        await call.accept()
        assert call.parts is not None
        try:
            async for _ in call.parts:
                pass
            raise AssertionError
        finally:
            ended.set()

    node.messages.calls.handle("sys/listens", listens)
    talk = await talk_with(a, node, "sys/listens")
    await talk.send(1)
    await wait_all_tasks_blocked()
    with trio.fail_after(60):
        if local:
            await talk.close()
        else:
            await a.host.close_peer(b.key.public)
        await ended.wait()
    await talk.close()


@both
async def test_a_slow_reader_holds_the_sender_back(line: Any, local: bool) -> None:
    a, b = await line(2)
    node, sent = a if local else b, 0

    async def idle(call: Call) -> Any:
        await call.accept()
        await trio.sleep_forever()

    node.messages.calls.handle("sys/idle", idle)
    talk = await talk_with(a, node, "sys/idle")
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            nonlocal sent
            for _ in range(10_000):
                await talk.send("x" * 10_000)
                sent += 1

        nursery.start_soon(flood)
        await wait_all_tasks_blocked()
        assert sent < 1000
        nursery.cancel_scope.cancel()
    await talk.close()
    if not local:
        assert not a.messages.calls._kept.get(b.key.public)


async def test_a_caller_that_goes_is_noticed_though_nobody_reads_its_parts(
    line: Any, autojump_clock: MockClock
) -> None:
    a, b = await line(2)
    ended = trio.Event()

    async def idle(call: Call) -> Any:
        await call.accept()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    b.messages.calls.handle("sys/idle", idle)
    talk = await talk_with(a, b, "sys/idle")
    for number in range(5):
        await talk.send(number)
    await wait_all_tasks_blocked()
    await talk.close()
    with trio.fail_after(60):
        await ended.wait()
    await wait_all_tasks_blocked()
    assert not b.messages.calls._serving


async def test_a_part_that_is_too_large_is_refused_and_harms_nothing(line: Any) -> None:
    a, b = await line(2)
    b.messages.calls.handle("sys/echo", echo)
    talk = await talk_with(a, b, "sys/echo", 0)
    with pytest.raises(UsageError, match="bytes"):
        await talk.send("x" * 300_000)
    await talk.end()
    assert await rest(talk) == [0, {"parts": 0}]
    await talk.close()


@pytest.mark.parametrize("method", ["sys/echo", "sys/breaks"])
async def test_a_node_between_passes_both_ways_on(line: Any, method: str) -> None:
    a, b, c = await line(3)
    c.messages.calls.handle("sys/echo", echo)

    async def breaks(call: Call) -> Any:
        await call.accept()
        raise Conflict("far away")

    c.messages.calls.handle("sys/breaks", breaks)

    async def between(call: Call) -> Any:
        far = await b.messages.calls.talk(c.key.public, method, call.body, deadline_s=20)
        try:
            await call.accept(c.key.aid)
            await relay(call, far)
        finally:
            await far.close()

    b.messages.calls.handle("sys/between", between)
    talk = await talk_with(a, b, "sys/between", "body")
    assert talk.by == c.key.aid
    if method == "sys/breaks":
        with pytest.raises(Conflict, match="far away"):
            await rest(talk)
    else:
        await talk.send(1)
        await talk.end()
        assert await rest(talk) == ["body", 1, {"parts": 1}]
    await talk.close()


async def test_a_program_hears_what_its_caller_sends_besides(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    calls = inbox(b.messages.serve("sum"))
    await wait_all_tasks_blocked()
    talk = await talk_with(a, b, "call/sum", 1)
    (call,) = await calls.until(1)
    assert call["parts"]
    assert call["stream"]
    heard = inbox(b.messages.parts(call["call"]))
    for number in (2, 3):
        await talk.send(number)
    await talk.end()
    with trio.fail_after(60):
        await heard.ended.wait()
    assert heard.payloads == [2, 3]
    await b.messages.answer(call["call"], 6, more=False, error=None)
    assert await rest(talk) == [6]
    await talk.close()


async def test_parts_end_with_their_call(line: Any, inbox: Any, nursery: trio.Nursery) -> None:
    a, b = await line(2)
    calls = inbox(b.messages.serve("x"))
    await wait_all_tasks_blocked()
    talk = await talk_with(a, b, "call/x")
    (call,) = await calls.until(1)
    heard = inbox(b.messages.parts(call["call"]))
    await talk.close()
    with trio.fail_after(60):
        await heard.ended.wait()
    assert heard.error is None
    late = inbox(b.messages.parts(call["call"]))
    with trio.fail_after(60):
        await late.ended.wait()
    assert "no open call" in str(late.error)

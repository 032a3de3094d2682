"""Local programs that serve names."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.agent import programs as module
from mesh.errors import Conflict, Denied, Failed, NoHandler, NotFound, TimedOut, UsageError


async def request(asker: Any, target: Any, name: str, payload: Any, timeout_s: float | None = 20) -> Any:
    return await asker.messages.request(target.id, name, payload, timeout_s=timeout_s)


async def test_a_program_answers_a_request_of_another_node(line: Any, nursery: trio.Nursery) -> None:
    a, b = await line(2)

    async def program() -> None:
        async for call in b.messages.serve("double"):
            assert call["node"] == a.id
            assert call["node_name"] == "node-0"
            assert call["name"] == "double"
            assert not call["stream"]
            assert not call["query"]
            assert 0 < call["deadline_s"] <= 20
            assert await b.messages.answer(call["call"], call["payload"] * 2, more=False, error=None) == {
                "call": call["call"]
            }

    nursery.start_soon(program)
    await wait_all_tasks_blocked()
    for number in range(3):
        answer = await request(a, b, "double", number)
        assert answer["payload"] == 2 * number
        assert (answer["node"], answer["node_name"]) == (b.id, "node-1")
        assert answer["rtt_ms"] >= 0
    nursery.cancel_scope.cancel()


async def test_a_programs_error_reaches_the_caller_as_it_is(
    line: Any, inbox: Any, nursery: trio.Nursery
) -> None:
    a, b = await line(2)
    calls = inbox(b.messages.serve("x"))

    async def refuse() -> None:
        (call,) = await calls.until(1)
        error = {"code": "conflict", "message": "already there", "hint": "look"}
        await b.messages.answer(call["call"], None, more=False, error=error)

    nursery.start_soon(refuse)
    await wait_all_tasks_blocked()
    with pytest.raises(Conflict, match="already there") as caught:
        await request(a, b, "x", None)
    assert caught.value.hint == "look"


async def test_a_program_answers_in_parts(line: Any, inbox: Any, nursery: trio.Nursery) -> None:
    a, b = await line(2)
    calls = inbox(b.messages.serve("count"))

    async def answer() -> None:
        (call,) = await calls.until(1)
        assert call["stream"]
        for number in range(5):
            await b.messages.answer(call["call"], number, more=True, error=None)
        await b.messages.answer(call["call"], "last", more=False, error=None)

    nursery.start_soon(answer)
    await wait_all_tasks_blocked()
    parts = [part async for part in a.messages.request_stream(b.id, "count", None, timeout_s=20)]
    assert [part["payload"] for part in parts] == [0, 1, 2, 3, 4, "last"]


async def test_parts_for_one_answer_are_refused_to_the_program(
    line: Any, inbox: Any, nursery: trio.Nursery
) -> None:
    a, b = await line(2)
    calls = inbox(b.messages.serve("x"))
    nursery.start_soon(request, a, b, "x", None)
    (call,) = await calls.until(1)
    with pytest.raises(UsageError, match="parts"):
        await b.messages.answer(call["call"], 1, more=True, error=None)
    await b.messages.answer(call["call"], 1, more=False, error=None)


async def test_a_name_is_served_by_one_program_at_a_time(line: Any, inbox: Any) -> None:
    (a,) = await line(1)
    first = inbox(a.messages.serve("x"))
    await wait_all_tasks_blocked()
    second = inbox(a.messages.serve("x"))
    await second.ended.wait()
    assert isinstance(second.error, Conflict)
    first.scope.cancel()
    await first.ended.wait()
    third = inbox(a.messages.serve("x"))
    await wait_all_tasks_blocked()
    assert not third.ended.is_set()


async def test_a_program_that_goes_takes_its_name_and_fails_its_calls(line: Any, inbox: Any) -> None:
    a, b = await line(2)
    calls = inbox(b.messages.serve("x"))
    await wait_all_tasks_blocked()
    errors: list[Exception] = []

    async def ask() -> None:
        try:
            await request(a, b, "x", None)
        except NoHandler as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await calls.until(2)
        calls.scope.cancel()
    assert len(errors) == 2
    assert "went away" in str(errors[0])
    with pytest.raises(NoHandler, match=r"nothing on .+ serves"):
        await request(a, b, "x", None)


async def test_an_answer_after_the_deadline_is_not_found(
    line: Any, inbox: Any, autojump_clock: MockClock
) -> None:
    a, b = await line(2)
    calls = inbox(b.messages.serve("x"))
    await wait_all_tasks_blocked()
    with pytest.raises(TimedOut):
        await request(a, b, "x", None, timeout_s=2)
    await trio.sleep(1)
    with pytest.raises(NotFound, match="no open call"):
        await b.messages.answer(calls.all[0]["call"], 1, more=False, error=None)
    with pytest.raises(NotFound):
        await b.messages.answer("never.1", 1, more=False, error=None)


async def test_a_call_out_of_time_is_never_shown(line: Any, autojump_clock: MockClock) -> None:
    a, b = await line(2)
    stream = b.messages.serve("x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.__anext__)
        await wait_all_tasks_blocked()
        with pytest.raises(TimedOut):
            await request(a, b, "x", "first", timeout_s=1)
    with pytest.raises(TimedOut):
        await request(a, b, "x", "unseen", timeout_s=1)
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, a, b, "x", "seen")
        await wait_all_tasks_blocked()
        call = await stream.__anext__()
        assert call["payload"] == "seen"
        await b.messages.answer(call["call"], None, more=False, error=None)
    await stream.aclose()


async def test_calls_wait_in_a_bounded_queue(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_MAX", 2)
    a, b = await line(2)
    stream = b.messages.serve("x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.__anext__)
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(request, a, b, "x", None)
            await wait_all_tasks_blocked()
        with pytest.raises(Failed, match="2 calls wait"):
            await request(a, b, "x", None)
        nursery.cancel_scope.cancel()
    await stream.aclose()


@pytest.mark.parametrize("name", ["", "mesh.status", "x" * 300, "a\nb"])
async def test_a_name_that_cannot_be_served_is_refused(line: Any, name: str) -> None:
    (a,) = await line(1)
    with pytest.raises(UsageError):
        await a.messages.serve(name).__anext__()


async def test_rights_to_serve_and_to_request_are_kept(line: Any) -> None:
    a, b = await line(2)
    a.forbidden |= {(a.key.aid, "serve", "x"), (a.key.aid, "request", "y")}
    with pytest.raises(Denied, match="serve"):
        await a.messages.serve("x").__anext__()
    with pytest.raises(Denied, match="request"):
        await request(a, b, "y", None)


async def test_a_payload_that_peers_would_refuse_is_refused_here(line: Any) -> None:
    a, b = await line(2)
    with pytest.raises(UsageError):
        await request(a, b, "x", 1 << 70)
    with pytest.raises(UsageError, match="not a node id"):
        await a.messages.request("nonsense", "x", None, timeout_s=1)

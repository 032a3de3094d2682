"""Two connections tied together: ends, breaks, idling, backpressure."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from mesh.agent import pipes
from mesh.agent.pipes import TcpPipe, with_early
from mesh.errors import Failed, Unreachable

Pair = Callable[[], tuple[TcpPipe, TcpPipe]]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Makes connected pipes, and closes them in the end."""
    made: list[TcpPipe] = []

    def make() -> tuple[TcpPipe, TcpPipe]:
        one, other = map(TcpPipe, socket.socketpair())
        made.extend((one, other))
        return one, other

    yield make
    for pipe in made:
        await pipe.reset()


async def test_each_direction_ends_by_itself(pair: Pair, nursery: trio.Nursery) -> None:
    (client, near), (far, server) = pair(), pair()
    nursery.start_soon(pipes.relay, near, far)
    await client.send(b"question", last=True)
    assert await server.receive() == b"question"
    assert await server.receive() == b""
    await server.send(b"answer", last=True)
    assert await client.receive() == b"answer"
    assert await client.receive() == b""


async def test_a_break_on_one_side_ends_the_other(pair: Pair) -> None:
    (client, near), (far, server) = pair(), pair()
    async with trio.open_nursery() as nursery:

        async def carry() -> None:
            with pytest.raises(Unreachable):
                await pipes.relay(near, far)

        nursery.start_soon(carry)
        await client.send(b"x" * 10)
        await trio.testing.wait_all_tasks_blocked()
        await server.reset()
        await client.send(b"more")
        with suppress(Unreachable):
            assert await client.receive() == b""


async def test_a_pair_on_which_nothing_moves_is_let_go(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    (client, near), (far, server) = pair(), pair()
    begun = trio.current_time()
    await pipes.relay(near, far, idle_s=60)
    assert 60 <= trio.current_time() - begun < 70
    for pipe in (client, server):
        assert await pipe.receive() == b""


async def test_a_slow_reader_slows_the_sender(pair: Pair, nursery: trio.Nursery) -> None:
    (client, near), (far, server) = pair(), pair()
    nursery.start_soon(pipes.relay, near, far)
    sent = 0
    while True:
        with trio.move_on_after(0.2) as patience:
            await client.send(bytes(65536))
            sent += 65536
        if patience.cancelled_caught:
            break
        assert sent < 64 << 20
    heard = 0
    while heard < sent:
        heard += len(await server.receive())
    nursery.cancel_scope.cancel()


async def test_early_bytes_come_first(pair: Pair) -> None:
    one, other = pair()
    early = with_early(one, b"before")
    await other.send(b"after")
    assert await early.receive(3) == b"bef"
    assert pipes.is_stale(early)
    assert await early.receive() == b"ore"
    assert await early.receive() == b"after"
    assert not pipes.is_stale(early)
    await other.reset()
    assert pipes.is_stale(early)


async def test_nobody_there_is_unreachable_and_says_where() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
            await pipes.connect("127.0.0.1", port, 5)
        with pytest.raises(Unreachable, match="localhost"):
            await pipes.connect("localhost", port, 5)
        with pytest.raises(Failed, match=f"cannot listen on 127.0.0.1:{port}"):
            pipes.listen("127.0.0.1", port)


async def test_a_connection_that_raises_harms_no_other(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(pipe: TcpPipe) -> None:
        if await pipe.receive() == b"bad":
            raise ValueError("a mistake")
        await pipe.send(b"good")

    listener = pipes.listen("127.0.0.1", 0)
    host, port = listener.getsockname()
    nursery.start_soon(pipes.serve, listener, handle, 1)
    for said, heard in ((b"bad", b""), (b"ok", b"good"), (b"bad", b""), (b"ok", b"good")):
        pipe = await pipes.connect(host, port, 5)
        await pipe.send(said)
        assert await pipe.receive() == heard
        await pipe.reset()
    assert "a mistake" in caplog.text

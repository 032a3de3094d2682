"""One link under a flood leaves the loop to the others."""

from __future__ import annotations

import time

import trio
from trio.testing import MockClock

from mesh.agent.session import SLICE_S, Session
from mesh.core.tidings import FLUSH_S
from mesh.wire import frames, messages
from mesh.wire.messages import Hello, Ping

HELLO = Hello(1, b"m" * 16, b"", [], [], 0, 1, {}, "default")
FRAMES = 40
WRITE_S = 0.002


class Flood:
    """A stream on which there is always more, so that reading never waits."""

    public = b"p" * 32

    def __init__(self) -> None:
        self._left = [frames.pack(messages.encode(Ping(number, 0))) * 10 for number in range(FRAMES // 10)]

    async def send(self, data: bytes) -> None:
        raise AssertionError

    async def receive(self, max_bytes: int = 0) -> bytes:
        return self._left.pop() if self._left else b""

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


async def test_a_link_that_never_runs_dry_lets_others_have_their_turn() -> None:
    session = Session(Flood(), HELLO, frames.FrameReader(), dialled=False, now=trio.current_time())
    turns = frames_in = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def costly(body: bytes) -> None:
        nonlocal frames_in
        frames_in += 1
        until = time.perf_counter() + SLICE_S / 4
        while time.perf_counter() < until:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await session.read(costly)
        nursery.cancel_scope.cancel()
    assert frames_in == FRAMES
    assert turns >= FRAMES / 8


class Taking(Flood):
    """A stream that takes everything, each piece for WRITE_S, and says when."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, int]] = []

    async def send(self, data: bytes) -> None:
        self.sent.append((round(trio.current_time(), 3), len(data)))
        await trio.sleep(WRITE_S)


async def test_what_somebody_waits_for_leaves_early_and_alone(autojump_clock: MockClock) -> None:
    wire = Taking()
    session = Session(wire, HELLO, frames.FrameReader(), dialled=False, now=trio.current_time())
    live: list[bytes] = []
    state: list[bytes] = []

    def pull(whole: bool) -> list[bytes]:
        taken = live + state if whole else list(live)
        live.clear()
        if whole:
            state.clear()
        return taken

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write, pull)
        begun = round(trio.current_time(), 3)
        state.append(b"first")
        session.wake()
        await trio.sleep(0.005)
        state.append(b"gathered")
        session.wake()
        for _ in range(3):
            live.append(b"live")
            session.hurry()
            await trio.sleep(0.0005)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    head = len(frames.pack(b""))
    at = [(round(at - begun, 3), size - head) for at, size in wire.sent]
    assert at[0] == (0.0, 5)
    assert at[1] == (0.005, 4)
    assert at[2] == (0.007, 8 + head)  # what came while the former was written
    assert at[3] == (round(WRITE_S + FLUSH_S, 3), 8)
    assert len(at) == 4


async def test_what_comes_after_quiet_leaves_in_the_next_turn_of_the_loop() -> None:
    wire = Taking()
    session = Session(wire, HELLO, frames.FrameReader(), dialled=False, now=trio.current_time())
    ready = [b"first"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write, lambda whole: [ready.pop()] if ready else [])
        await trio.testing.wait_all_tasks_blocked()
        session.wake()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert len(wire.sent) == 1
        nursery.cancel_scope.cancel()

"""Calls whose caller speaks too: parts of the question and parts of the answer, both ways on one stream.

`wire/calls.py` draws it. Until the node says that somebody took the call nothing was done, so a caller may
ask elsewhere; from then on both sides send as they like. A part is read only when whoever it is for takes it:
the stream's windows slow a sender down, and there is no buffer between. The answer's end is the end of the
call, also for a caller that has more to say; one that goes away ends the call on the node as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from mesh.agent.callstream import Call, CallStream, error_of, shown
from mesh.errors import MeshError, PeerError, TimedOut, Unreachable
from mesh.wire.calls import Answer, Failure, Part, Request

WATCH_S = 5.0


class Talk(Protocol):
    """The caller's end. `by` is the node whose program it is, b"" for the one that was asked."""

    by: bytes

    async def send(self, part: Any) -> None:
        """Send a part; waits while the other side takes none. Raises Unreachable, UsageError: too large."""
        ...

    async def end(self) -> None:
        """Nothing more will be sent."""
        ...

    async def receive(self) -> Answer | None:
        """The next part of the answer, None at its end. Raises what the call failed with."""
        ...

    async def close(self) -> None:
        """Let go; what is not over is given up."""
        ...


class Heard:
    """The node's end: the caller's parts, read while a handler works. `ended`: it said that it is done."""

    def __init__(self, pipe: CallStream) -> None:
        self._pipe = pipe
        self._give, self.parts = trio.open_memory_channel[Any](0)
        self.ended = False

    async def until_gone(self) -> None:
        """Hand the parts over until the caller is gone, or breaks the order of messages."""
        try:
            while isinstance(message := await self._pipe.read(), Part) and not self.ended:
                if message.more:
                    await self._hand_over(message.body)
                else:
                    self.ended = True
                    self._give.close()
        except (Unreachable, PeerError):
            pass

    async def _hand_over(self, part: Any) -> None:
        """Wait until somebody takes it; a caller that goes meanwhile is noticed though nothing is read."""
        while not self._pipe.broken:
            try:
                with trio.move_on_after(WATCH_S) as patience:
                    await self._give.send(part)
            except trio.BrokenResourceError:
                return  # nobody wants them any more, and the answer goes on
            if not patience.cancelled_caught:
                return
        raise Unreachable("the caller is gone")


class Remote:
    """A talk with another node; `keep` takes the stream back once both sides are done."""

    def __init__(self, pipe: CallStream, keep: Callable[[CallStream], Awaitable[None]], by: bytes) -> None:
        self.by = by
        self._pipe = pipe
        self._keep = keep
        self._whole = True
        self._ended = self._over = False

    async def send(self, part: Any) -> None:
        await self._write(Part(part))

    async def end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._write(Part(more=False))

    async def _write(self, part: Part) -> None:
        if self._over:
            raise Unreachable("the call is over")
        self._whole = False  # a cancelled write may have left half a frame
        await self._pipe.write(part)
        self._whole = True

    async def receive(self) -> Answer | None:
        if self._over:
            return None
        message = await self._pipe.read()
        if isinstance(message, Answer) and message.more:
            return message
        self._over = True
        if isinstance(message, Answer):
            return None
        if isinstance(message, Failure):
            raise error_of(message)
        self._whole = False
        raise Unreachable("the node ended the call")

    async def close(self) -> None:
        if self._over and self._ended and self._whole:
            await self._keep(self._pipe)
        else:
            await self._pipe.reset()
        self._over, self._ended, self._whole = True, True, False


class Local:
    """A talk with a program of our own node: two channels, and the task of the call between them."""

    by = b""

    def __init__(self) -> None:
        self._give, self.parts = trio.open_memory_channel[Any](0)
        self._answer, self._take = trio.open_memory_channel[Answer | Failure](0)
        self._scope = trio.CancelScope()
        self.taken = trio.Event()
        self._first: Answer | Failure | None = None

    async def run(self, call: Call, outcome: Callable[[Call], Awaitable[Answer | Failure]]) -> None:
        """The call's task."""
        with self._scope:
            await self._answer.send(await outcome(call))

    async def emit(self, part: Any) -> None:
        await self._answer.send(Answer(part, more=True))

    async def ready(self, by: bytes) -> None:
        self.by = by
        self.taken.set()

    async def begun(self) -> None:
        """Wait until it is taken. Raises what it failed with before that."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._failed_early, nursery.cancel_scope)
            await self.taken.wait()
            nursery.cancel_scope.cancel()
        if self._first is not None:
            await self._judge(self._first)

    async def _failed_early(self, scope: trio.CancelScope) -> None:
        self._first = await self._take.receive()
        scope.cancel()

    async def _judge(self, message: Answer | Failure) -> None:
        if isinstance(message, Failure):
            await self.close()
            raise error_of(message)

    async def send(self, part: Any) -> None:
        try:
            await self._give.send(part)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Unreachable("the call is over") from None

    async def end(self) -> None:
        self._give.close()

    async def receive(self) -> Answer | None:
        message, self._first = self._first, None
        if message is None:
            try:
                message = await self._take.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return None
        if isinstance(message, Answer) and message.more:
            return message
        await self._judge(message)
        await self.close()
        return None

    async def close(self) -> None:
        self._scope.cancel()
        self._give.close()
        self._take.close()


async def with_self(
    public: bytes,
    request: Request,
    outcome: Callable[[Call], Awaitable[Answer | Failure]],
    nursery: trio.Nursery,
    deadline_s: float,
) -> Local:
    """A talk that does not leave the process, once it is taken. Raises what it failed with, TimedOut."""
    local = Local()
    call = Call(
        public,
        request.method,
        request.body,
        stream=True,
        deadline=trio.current_time() + request.deadline_ms / 1000,
        emit=local.emit,
        parts=local.parts,
        ready=local.ready,
    )
    # Not a nursery of the talk's own: one must not stay open when this returns.
    nursery.start_soon(local.run, call, outcome)
    try:
        with trio.move_on_after(max(0.0, deadline_s)):
            await local.begun()
            return local
    except BaseException:
        await local.close()
        raise
    await local.close()
    raise TimedOut(f"nobody took {shown(call.method)} within {deadline_s:g} s")


async def relay(call: Call, far: Talk) -> None:
    """Answer a call by a talk with another node: what its caller sends goes there, what comes back to it."""

    async def forth() -> None:
        if call.parts is not None:
            async for part in call.parts:
                await far.send(part)
        await far.end()

    failure: list[MeshError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_unless_over, forth)
        try:
            while (answer := await far.receive()) is not None:
                await call.emit(answer.body)
        except MeshError as error:
            failure.append(error)
        nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]


async def _unless_over(send: Callable[[], Awaitable[None]]) -> None:
    try:
        await send()
    except MeshError:
        pass  # the answer's end, or its failure, says why

"""The trio twin of `Client`: the same calls, each awaited."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

import trio

from mesh.client.blocking import (
    ANSWER_S,
    GIVEN_UP,
    IDLE_MAX,
    READ_BYTES,
    connect_error,
    default_socket,
    is_stale,
)
from mesh.client.calls import Calls
from mesh.client.http import (
    END_LINE,
    Json,
    Lines,
    Reply,
    Request,
    answer_of,
    bytes_hook,
    failure,
    head_end,
    part_line,
    replies_async,
)
from mesh.errors import Failed, MeshError, TimedOut, Unreachable

Handler: TypeAlias = Callable[..., Awaitable[Any] | AsyncIterator[Any]]
Connect: TypeAlias = Callable[[], Awaitable[trio.SocketStream]]


class AsyncClient(Calls):
    """Asks one agent; the arguments are those of `Client`."""

    def __init__(
        self, path: str | None = None, *, timeout_s: float = ANSWER_S, decode_bytes: bool = True
    ) -> None:
        self.path = path or default_socket()
        self._timeout_s = timeout_s
        self._decode = json.JSONDecoder(object_hook=bytes_hook if decode_bytes else None).decode
        self._idle: list[trio.SocketStream] = []

    def close(self) -> None:
        """Close the kept connections; the client may be used again."""
        while self._idle:
            self._idle.pop().socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def handle(self, name: str, function: Handler, *, at_once: int = 64, parts: bool = False) -> None:
        """Serve requests and queries for `name` until cancelled, up to `at_once` of them together.

        Args:
            function: async, from a payload to an answer; an async generator, or an iterator that is
                returned, answers in parts. Errors are treated as by `Client.handle`.
            parts: as for `Client.handle`; the second argument is an async iterator.
        """
        limit = trio.CapacityLimiter(at_once)
        async with self.serve(name) as calls, trio.open_nursery() as nursery:
            async for call in calls:
                await limit.acquire_on_behalf_of(call["call"])
                nursery.start_soon(self._handle_one, call, function, limit, parts)

    async def _handle_one(
        self, call: Json, function: Handler, limit: trio.CapacityLimiter, parts: bool
    ) -> None:
        try:
            async with AsyncExitStack() as open_:
                answer: Any
                try:
                    answer = function(call["payload"], *(await self._heard(call, open_) if parts else ()))
                    if isinstance(answer, Awaitable):
                        answer = await answer
                except Exception as error:
                    answer = error
                await self._reply(call, answer)
        finally:
            limit.release_on_behalf_of(call["call"])

    async def _heard(self, call: Json, open_: AsyncExitStack) -> tuple[AsyncIterator[Any]]:
        """What the caller of a call sends besides."""
        stream = await open_.enter_async_context(self.parts(call["call"])) if call.get("parts") else None
        return (_payloads(stream),)

    async def _reply(self, call: Json, answer: Any) -> None:
        try:
            async with aclosing(replies_async(answer, stream=call["stream"])) as found:
                async for reply in found:
                    await self.answer(call["call"], **reply)
        except GIVEN_UP:
            return
        except MeshError as error:
            with suppress(MeshError):
                await self.answer(call["call"], error=failure(error))

    async def _ask(self, request: Request) -> Any:
        stream, kept = await self._connection(), False
        try:
            reply = Reply()
            parts = await _send(stream, request, reply, self._timeout_s)
            kept = reply.keep
        finally:
            if kept and len(self._idle) < IDLE_MAX:
                self._idle.append(stream)
            else:
                stream.socket.close()
        return answer_of(reply.status, b"".join(parts), self._decode)

    def _lines(self, request: Request) -> Any:
        return AsyncStream(self.open, request, Lines(self._decode), self._timeout_s)

    def _bytes(self, request: Request) -> Any:
        return AsyncStream(self.open, request, Lines(None), self._timeout_s)

    async def _connect(self, request: Request) -> trio.SocketStream:
        stream = await self.open()
        try:
            with trio.move_on_after(request.answer_s or self._timeout_s):
                await self._switch(stream, request)
                return stream
            raise TimedOut(f"the agent gave no answer within {self._timeout_s:g} s")
        except OSError as error:
            stream.socket.close()
            raise Unreachable(f"the agent went away: {error}") from None
        except BaseException:
            stream.socket.close()
            raise

    async def _switch(self, stream: trio.SocketStream, request: Request) -> None:
        taken = b""
        await stream.send_all(request.switching())
        # Not a byte more than the head is read: what follows it is the service's.
        while not taken.endswith(b"\r\n\r\n"):
            seen = await stream.socket.recv(READ_BYTES, trio.socket.MSG_PEEK)
            if not seen:
                raise Unreachable("the agent closed the connection", "is it stopping?")
            taken += await stream.socket.recv(head_end(taken, seen))
        if not taken.startswith(b"HTTP/1.1 101"):
            reply = Reply()
            parts = reply.feed(taken)
            while not reply.done:
                parts += reply.feed(await _receive(stream))
            answer_of(reply.status, b"".join(parts), self._decode)
            raise Failed("the agent did not switch to a stream", "is it older than this client?")

    def _talk(self, request: Request) -> Any:
        return AsyncTalk(partial(self._connect, request), Lines(self._decode))

    async def _connection(self) -> trio.SocketStream:
        while self._idle:
            stream = self._idle.pop()
            if not is_stale(stream.socket.fileno()):
                return stream
            stream.socket.close()
        return await self.open()

    async def open(self) -> trio.SocketStream:
        """A connection of its own."""
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        try:
            await sock.connect(self.path)
        except OSError as error:
            sock.close()
            raise connect_error(self.path, error) from None
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)


async def _send(
    stream: trio.SocketStream, request: Request, reply: Reply, timeout_s: float, *, whole: bool = True
) -> list[bytes]:
    """Send a request and read the answer, or only until its head is there."""
    parts: list[bytes] = []
    answer_s = request.answer_s or timeout_s
    with trio.move_on_after(max(0.0, answer_s)):
        try:
            for data in request.wire():
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass  # refused early: the reason is waiting to be read
        while not reply.done and (whole or not reply.status):
            parts += reply.feed(await _receive(stream))
        return parts
    raise TimedOut(f"the agent gave no answer within {answer_s:g} s", "is it stopped or overloaded?")


async def _receive(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some(READ_BYTES))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""


class _Items:
    """Items that arrive on a connection of their own, which is there once an `async with` is entered."""

    def __init__(self, connect: Connect, lines: Lines) -> None:
        self._connect = connect
        self._lines = lines
        self._items: deque[Any] = deque()
        self._stream: trio.SocketStream | None = None

    def __aiter__(self) -> Self:
        return self

    def close(self) -> None:
        """Let go; what is not over is given up."""
        if self._stream is not None:
            self._stream.socket.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStream(_Items):
    """The items of a streamed answer; the request is sent on entering `async with`."""

    def __init__(self, connect: Connect, request: Request, lines: Lines, timeout_s: float) -> None:
        super().__init__(connect, lines)
        self._request = request
        self._reply = Reply()
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        self._stream = await self._connect()
        try:
            parts = await _send(self._stream, self._request, self._reply, self._timeout_s, whole=False)
            if self._reply.status != 200:
                while not self._reply.done:
                    parts += self._reply.feed(await _receive(self._stream))
                answer_of(self._reply.status, b"".join(parts), json.loads)
            self._items.extend(self._lines.feed(parts))
        except BaseException:
            self.close()
            raise
        return self

    async def __anext__(self) -> Any:
        assert self._stream is not None, "use it in an `async with`"
        while not self._items:
            if self._reply.done or self._stream.socket.fileno() < 0:
                self.close()
                raise StopAsyncIteration
            self._items.extend(self._lines.feed(self._reply.feed(await _receive(self._stream))))
        item = self._items.popleft()
        if isinstance(item, MeshError):
            self.close()
            raise item
        return item


class AsyncTalk(_Items):
    """The trio twin of `Talk`: the call is made on entering `async with`. One task may send, another read."""

    node = node_name = ""

    def __init__(self, connect: Connect, lines: Lines) -> None:
        super().__init__(connect, lines)
        self._over = False

    async def __aenter__(self) -> Self:
        self._stream = await self._connect()
        try:
            first = await self._line()
        except BaseException:
            self.close()
            raise
        self.node, self.node_name = str(first["node"]), str(first["node_name"])
        return self

    async def send(self, payload: Any) -> None:
        """Send a part; waits while the program takes nothing. Unreachable: the call is over."""
        await self._write(part_line(payload))

    async def end(self) -> None:
        """Say that no more parts follow."""
        await self._write(END_LINE)

    async def _write(self, data: bytes) -> None:
        assert self._stream is not None, "use it in an `async with`"
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Unreachable("the call is over") from None

    async def _line(self) -> Any:
        assert self._stream is not None, "use it in an `async with`"
        while not self._items:
            data = await _receive(self._stream)
            if not data:
                raise Unreachable(
                    "the agent closed the connection in the middle of a call", "is it stopping?"
                )
            self._items.extend(self._lines.feed([data]))
        item = self._items.popleft()
        if isinstance(item, MeshError):
            raise item
        return item

    async def __anext__(self) -> Any:
        if self._over:
            raise StopAsyncIteration
        try:
            item = await self._line()
        except MeshError:
            self._over = True
            raise
        if "payload" not in item:
            self._over = True
            raise StopAsyncIteration
        return item["payload"]


async def _payloads(stream: AsyncStream | None) -> AsyncIterator[Any]:
    if stream is not None:
        async for part in stream:
            yield part["payload"]

"""A small HTTP/1.1 client for engines: h11 over a stream, one connection for each request.

Engines answer streams that last as long as a container, and are asked rarely: a pool would save nothing.
Whatever the other end sends, what is kept of it is bounded.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import h11
import trio

from mesh.errors import Failed, TimedOut

READ_BYTES = 64 * 1024
BODY_BYTES_MAX = 8 * 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024

Open = Callable[[], Awaitable[trio.abc.Stream]]


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, {} when there is none. Raises Failed."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise Failed(f"an answer that is no JSON: {self.body[:80]!r}") from None


class Web:
    """A client of one server.

    Args:
        name: of the server, in messages.
        open: makes a connection.
        headers: sent with each request, `host` among them.
    """

    def __init__(self, name: str, open: Open, headers: Callable[[], Mapping[str, str]]) -> None:
        self._name = name
        self._open = open
        self._headers = headers

    async def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        timeout_s: float = 30.0,
        content_type: str = "application/json",
    ) -> Answer:
        """Send a request and read the whole answer.

        Raises:
            TimedOut: it takes longer.
            Failed: the server cannot be reached, or does not speak HTTP, or says too much.
        """
        with trio.move_on_after(max(0.0, timeout_s)):
            stream = await self._connect()
            async with stream:
                data = b""
                exchange = _Exchange(self._name, stream)
                status = await exchange.begin(method, target, self._headers(), body, content_type)
                while (piece := await exchange.piece()) is not None:
                    data += piece
                    if len(data) > BODY_BYTES_MAX:
                        raise Failed(f"{self._name} answers more than {BODY_BYTES_MAX >> 20} MiB")
                return Answer(status, data)
        raise TimedOut(f"{self._name} did not answer {method} {target[:80]} within {timeout_s:g} s")

    async def stream(self, target: str) -> AsyncGenerator[bytes, None]:
        """The body of a GET in pieces, as they come. The first piece is empty: the answer began well.

        Raises:
            Failed: as `ask`, or the status is not 200.
        """
        stream = await self._connect()
        try:
            exchange = _Exchange(self._name, stream)
            status = await exchange.begin("GET", target, self._headers(), None, "")
            if status != 200:
                text = (await exchange.piece() or b"")[:300].decode(errors="replace")
                raise Failed(f"{self._name} answers {status} to GET {target[:80]}: {text}")
            yield b""
            while (piece := await exchange.piece()) is not None:
                yield piece
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.abc.Stream:
        try:
            return await self._open()
        except OSError as error:
            raise Failed(f"{self._name} cannot be reached: {error.strerror or error}") from None


class _Exchange:
    """One request and its answer."""

    def __init__(self, name: str, stream: trio.abc.Stream) -> None:
        self._name = name
        self._stream = stream
        self._conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def begin(
        self, method: str, target: str, headers: Mapping[str, str], body: Any, content_type: str
    ) -> int:
        """Send; returns the status of the answer."""
        data = b"" if body is None else json.dumps(body).encode()
        head = {
            **headers,
            "content-length": str(len(data)),
            "connection": "close",
            "accept": "application/json",
        }
        if data:
            head["content-type"] = content_type
        try:
            out = self._conn.send(h11.Request(method=method, target=target, headers=list(head.items())))
            assert out is not None
            out += self._conn.send(h11.Data(data=data)) or b"" if data else b""
            out += self._conn.send(h11.EndOfMessage()) or b""
            await self._stream.send_all(out)
            while True:
                event = await self._next()
                if isinstance(event, h11.Response):
                    return event.status_code
                if not isinstance(event, h11.InformationalResponse):
                    raise Failed(f"{self._name} ended the connection without an answer")
        except h11.LocalProtocolError as error:
            raise Failed(f"{method} {target[:80]!r} cannot be asked: {error}") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Failed(f"{self._name} ended the connection") from None

    async def piece(self) -> bytes | None:
        """What comes next of the body, None at its end."""
        try:
            event = await self._next()
        except trio.BrokenResourceError:
            raise Failed(f"{self._name} ended the connection in the midst of an answer") from None
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def _next(self) -> Any:
        try:
            while True:
                event = self._conn.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._conn.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
        except h11.RemoteProtocolError as error:
            raise Failed(f"{self._name} does not speak HTTP: {error}") from None

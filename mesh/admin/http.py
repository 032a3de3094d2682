"""HTTP/1.1 on one accepted stream: h11 does the protocol, this adds deadlines and caps.

    idle ──first byte──> header ──> body ──> answer ──> idle | closed
    IDLE_S               HEADER_S   BODY_S   SEND_S

A client that is slower than these, or larger than the caps, is answered 408, 413 or 431 and closed: it can
hold one connection for seconds, never memory.

A whole request exactly as `mesh.client` writes it, whose answer has a length, is read by one expression and
answered without h11, which would take a fifth of a small write's time. Whatever differs by a byte, comes in
pieces, or is answered by a stream is h11's.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import h11
import msgspec
import trio

from mesh.admin.sockets import Socket
from mesh.admin.values import dumps
from mesh.errors import MeshError, TimedOut, UsageError

IDLE_S = 300.0
HEADER_S = 10.0
BODY_S = 30.0
SEND_S = 60.0
HEADER_BYTES_MAX = 16 << 10
_READ_BYTES = 64 << 10
JSON_TYPE = "application/json"
LINES_TYPE = "application/x-ndjson"
_OURS = re.compile(
    rb"(GET|PUT|POST|DELETE) (/[!-~]*) HTTP/1\.1\r\nHost: mesh\r\nContent-Length: ([0-9]{1,7})\r\n\r\n"
)
_STATUS_OF_CODE = {"peer": 502, "store_full": 507}
_STATUS_OF_EXIT = {2: 400, 3: 502, 4: 404, 5: 409, 6: 403, 7: 504}


class HttpError(Exception):
    """An answer that is no success, with a status of its own."""

    def __init__(self, status: int, error: MeshError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.headers = headers or {}


class Request(msgspec.Struct, frozen=True):
    """The head of a request. `target` is as sent, still percent-encoded."""

    method: str
    target: str
    content_type: str
    length: int | None


def status_of(error: MeshError) -> int:
    """The HTTP status under which an error is reported."""
    return _STATUS_OF_CODE.get(error.code) or _STATUS_OF_EXIT.get(error.exit_code, 500)


class HttpConnection:
    """One connection, one request after the other.

    Attributes:
        patience: the scope of the whole conversation, to be entered by whoever leads it. Its deadline ends
            one that idles for IDLE_S; a scope for each request would cost a tenth of a small one's time.
    """

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self.patience = trio.CancelScope()
        self._head_only = False
        self._ours: tuple[bytes, int] | None = None  # a request not told to h11, and where its body begins
        self._answered = False
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)

    async def next_request(self) -> Request | None:
        """The head of the next request, None when the client is done.

        Raises:
            HttpError: malformed, too large or too slow.
        """
        self._answered = False
        if self._h11.our_state is not h11.IDLE:
            if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                return None  # the connection is to close, or an unread body is in the way
            self._h11.start_next_cycle()
        if self._h11.trailing_data[0]:
            await trio.lowlevel.checkpoint()  # one client's pipeline must not keep all others waiting
        else:
            self.patience.deadline = trio.current_time() + IDLE_S
            data = await self._receive()
            self.patience.deadline = math.inf
            if not data:
                return None
            if (request := self._read_ours(data)) is not None:
                return request
            self._h11.receive_data(data)
        with trio.CancelScope(deadline=trio.current_time() + HEADER_S):
            event = await self._event()
            if not isinstance(event, h11.Request):
                return None
            self._head_only = event.method == b"HEAD"
            return _request(event)
        raise HttpError(408, TimedOut(f"no complete request within {HEADER_S:g} s"))

    def _read_ours(self, data: bytes) -> Request | None:
        """The request, if this is exactly one as our client writes it."""
        found = _OURS.match(data)
        if found is None or len(data) - found.end() != int(found[3]):
            return None
        self._ours = (data, found.end())
        self._head_only = False
        return Request(found[1].decode(), found[2].decode(), "", int(found[3]))

    def _tell_h11(self, *, body: bool) -> None:
        """Let h11 go on with a request that it has not seen, after its head or after its body."""
        if self._ours is not None:
            self._h11.receive_data(self._ours[0])
            self._ours = None
            last: type[h11.Event] = h11.EndOfMessage if body else h11.Request
            while not isinstance(self._h11.next_event(), last):
                pass

    async def body(self, size_max: int) -> bytes:
        """The whole body.

        Raises:
            HttpError: larger than `size_max` bytes, or not here within BODY_S.
        """
        if self._ours is not None:
            data, start = self._ours
            if len(data) - start > size_max:
                raise too_large(size_max)
            return data[start:]
        parts = []
        size = 0
        with trio.CancelScope(deadline=trio.current_time() + BODY_S):
            while isinstance(event := await self._event(), h11.Data):
                size += len(event.data)
                if size > size_max:
                    raise too_large(size_max)
                parts.append(bytes(event.data))
            return b"".join(parts)
        raise HttpError(408, TimedOut(f"the body was not here within {BODY_S:g} s"))

    async def upload(self) -> AsyncIterator[bytes]:
        """A body of any size in pieces, each within BODY_S.

        Raises:
            TimedOut: the client stalls.
            UsageError: it went away before the end.
        """
        self._tell_h11(body=False)
        while True:
            with trio.move_on_after(BODY_S) as scope:
                try:
                    event = await self._event()
                except HttpError as error:
                    raise error.error from None
            if scope.cancelled_caught:
                raise TimedOut(f"nothing of the body came for {BODY_S:g} s")
            if not isinstance(event, h11.Data):
                return
            yield bytes(event.data)

    async def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = JSON_TYPE,
        headers: Mapping[str, str] | None = None,
        stalled: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a whole answer; waits while the client does not read, so the caller sets a deadline.

        Args:
            stalled: called when it has to wait.
        """
        if self._ours is not None:
            self._ours, self._answered = None, True
            more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
            lines = f"HTTP/1.1 {status} \r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            await self._sock.send(f"{lines}{more}\r\n".encode() + body, stalled)
            return
        head = self._head(status, content_type, headers, ("Content-Length", str(len(body))))
        data = self._h11.send(head) or b""
        if not self._head_only:
            data += self._h11.send(h11.Data(body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        await self._sock.send(data, stalled)

    async def refuse(self, status: int, error: MeshError, headers: Mapping[str, str] | None = None) -> None:
        """Answer with an error; drop the connection when an answer has already begun."""
        if self._answered or self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise trio.BrokenResourceError
        with trio.CancelScope(deadline=trio.current_time() + SEND_S) as scope:
            await self.respond(status, dumps(error.body()), headers=headers)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError

    async def begin(self, content_type: str) -> None:
        """Start an answer of unknown length; `piece` and `end` go on. The connection closes afterwards."""
        self._tell_h11(body=True)
        head = self._head(200, content_type, {"Connection": "close"}, ("Transfer-Encoding", "chunked"))
        await self._sock.send(self._h11.send(head) or b"")

    async def piece(self, data: bytes) -> None:
        """Send a piece of the answer; waits while the client does not read."""
        if data and self._h11.their_http_version == b"1.1" and not self._head_only:
            framed = b"%x\r\n%b\r\n" % (len(data), data)  # as h11 would: it costs a third of a small piece
        else:
            framed = self._h11.send(h11.Data(data)) or b""
        await self._sock.send(framed)

    async def end(self) -> None:
        """End the answer as complete."""
        await self._sock.send(self._h11.send(h11.EndOfMessage()) or b"")

    async def switch(self, protocol: str) -> tuple[socket.socket, bytes]:
        """Give the connection up to another protocol: its socket, and what the client has sent since.

        Raises:
            HttpError: the client did not ask for that.
        """
        self._tell_h11(body=True)
        headers = [("Connection", "upgrade"), ("Upgrade", protocol)]
        if self._h11.their_state in (h11.DONE, h11.MUST_CLOSE):
            error = UsageError("this connection was not asked to switch", f"Upgrade: {protocol}")
            raise HttpError(426, error, {"Upgrade": protocol})
        head = self._h11.send(h11.InformationalResponse(status_code=101, headers=headers))
        await self._sock.send(head or b"")
        return self._sock.duplicate(), bytes(self._h11.trailing_data[0])

    async def gone(self) -> None:
        """Return when the client has closed its end (or sends what nobody asked for)."""
        await self._receive()

    def _head(
        self, status: int, content_type: str, headers: Mapping[str, str] | None, length: tuple[str, str]
    ) -> h11.Response:
        return h11.Response(
            status_code=status, headers=[("Content-Type", content_type), length, *(headers or {}).items()]
        )

    async def _receive(self) -> bytes:
        return await self._sock.receive(_READ_BYTES)

    async def _event(self) -> Any:
        """The next event of h11."""
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise HttpError(error.error_status_hint, UsageError(f"malformed HTTP: {error}")) from None
            if event is not h11.NEED_DATA:
                return event
            if self._h11.they_are_waiting_for_100_continue:
                go = h11.InformationalResponse(status_code=100, headers=[])
                await self._sock.send(self._h11.send(go) or b"")
            self._h11.receive_data(await self._receive())


def too_large(size_max: int) -> HttpError:
    """The answer to a body above the cap."""
    error = UsageError(
        f"the body is larger than {size_max} bytes", "send less at once (admin.body_bytes_max)"
    )
    return HttpError(413, error)


def _request(event: h11.Request) -> Request:
    content_type, length = "", None
    for name, value in event.headers:
        if name == b"content-type":
            content_type = value.decode("latin-1").partition(";")[0].strip().lower()
        elif name == b"content-length":
            length = int(value)
    return Request(event.method.decode("ascii"), event.target.decode("latin-1"), content_type, length)

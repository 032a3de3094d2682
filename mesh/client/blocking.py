"""The synchronous client, on the standard library alone."""

from __future__ import annotations

import json
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

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
    replies,
)
from mesh.errors import Denied, Failed, MeshError, NotFound, TimedOut, Unreachable, UsageError

ANSWER_S = 30.0
IDLE_MAX = 16
# What an answer meets when nobody waits for it any more: the deadline has passed, the caller takes no more
# parts, or the agent is gone, which the stream of calls tells too.
GIVEN_UP = (NotFound, TimedOut, Unreachable)
READ_BYTES = 64 << 10  # beyond 128 KiB each read would map and unmap memory
START_HINT = "start it (`meshd run`), or name its socket with --socket or MESHCTL_SOCKET"


def default_socket() -> str:
    """$MESHCTL_SOCKET, else the first of the usual places that exists, else where it is expected."""
    if named := os.environ.get("MESHCTL_SOCKET"):
        return named
    from mesh.places import places, socket_in

    usual = places()
    inside = socket_in(usual.data_dir)
    return inside if not os.path.exists(usual.socket) and os.path.exists(inside) else usual.socket


def connect_error(path: str, error: OSError) -> MeshError:
    """What a failed connect means."""
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        why = "there is no such socket" if isinstance(error, FileNotFoundError) else "nobody listens there"
        return Unreachable(f"no agent answers on {path}: {why}", START_HINT)
    if isinstance(error, PermissionError):
        return Denied(
            f"this user may not open {path}", "use the agent's user or root, or ask for admin.group"
        )
    if isinstance(error, TimeoutError):
        return TimedOut(f"the agent on {path} does not accept connections", "is it stopped or overloaded?")
    if "too long" in str(error):
        return UsageError(f"{path} is too long for a unix socket", "use a path of at most 107 bytes")
    return Unreachable(f"cannot connect to {path}: {error}", START_HINT)


def is_stale(fileno: int) -> bool:
    """Whether a kept connection cannot be used again: closed by the agent, or something unread is on it."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


class Client(Calls):
    """Asks one agent.

    Args:
        path: of the admin socket; the usual place when None.
        timeout_s: how long an answer may take where the call itself does not say.
        decode_bytes: False leaves bytes in answers as {"base64": text}.
    """

    def __init__(
        self, path: str | None = None, *, timeout_s: float = ANSWER_S, decode_bytes: bool = True
    ) -> None:
        self.path = path or default_socket()
        self._timeout_s = timeout_s
        self._decode = json.JSONDecoder(object_hook=bytes_hook if decode_bytes else None).decode
        self._idle: deque[socket.socket] = deque(maxlen=IDLE_MAX)

    def close(self) -> None:
        """Close the kept connections; the client may be used again."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def handle(self, name: str, function: Callable[..., Any], *, parts: bool = False) -> None:
        """Serve requests and queries for `name`, one at a time, until interrupted.

        Args:
            function: from a payload to an answer; an iterator answers in parts. A MeshError that it raises
                reaches the caller as it is. So does the error when its answer cannot be sent (no JSON form,
                too large, parts where the caller wants one answer): no call ends the serving.
            parts: it also takes what the caller of `stream` sends besides, as a second argument: an
                iterator, which is empty for every other caller.
        """
        with self.serve(name) as calls:
            for call in calls:
                with ExitStack() as open_:
                    try:
                        more = (open_.enter_context(self._heard(call)),) if parts else ()
                        answer = function(call["payload"], *more)
                    except Exception as error:
                        answer = error
                    self._reply(call, answer)

    @contextmanager
    def _heard(self, call: Json) -> Iterator[Iterator[Any]]:
        """What the caller of a call sends besides."""
        if not call.get("parts"):
            yield iter(())
            return
        with self.parts(call["call"]) as stream:
            yield (part["payload"] for part in stream)

    def _reply(self, call: Json, answer: Any) -> None:
        try:
            for reply in replies(answer, stream=call["stream"]):
                self.answer(call["call"], **reply)
        except GIVEN_UP:
            return
        except MeshError as error:
            with suppress(MeshError):
                self.answer(call["call"], error=failure(error))

    def _ask(self, request: Request) -> Any:
        sock, kept = self._connection(), False
        try:
            reply = Reply()
            parts = _send(sock, request, reply, self._timeout_s)
            while not reply.done:
                parts += reply.feed(_receive(sock))
            kept = reply.keep
        finally:
            if kept and len(self._idle) < IDLE_MAX:
                self._idle.append(sock)
            else:
                sock.close()
        return answer_of(reply.status, b"".join(parts), self._decode)

    def _lines(self, request: Request) -> Any:
        return Stream(self._open(), request, Lines(self._decode), self._timeout_s)

    def _bytes(self, request: Request) -> Any:
        return Stream(self._open(), request, Lines(None), self._timeout_s)

    def _connect(self, request: Request) -> socket.socket:
        sock, taken = self._open(), b""
        try:
            sock.settimeout(request.answer_s or self._timeout_s)
            sock.sendall(request.switching())
            # Not a byte more than the head is read: what follows it is the service's.
            while not taken.endswith(b"\r\n\r\n"):
                seen = sock.recv(READ_BYTES, socket.MSG_PEEK)
                if not seen:
                    raise Unreachable("the agent closed the connection", "is it stopping?")
                taken += sock.recv(head_end(taken, seen))
            if not taken.startswith(b"HTTP/1.1 101"):
                reply = Reply()
                parts = reply.feed(taken)
                while not reply.done:
                    parts += reply.feed(_receive(sock))
                answer_of(reply.status, b"".join(parts), self._decode)
                raise Failed("the agent did not switch to a stream", "is it older than this client?")
            sock.settimeout(None)
            return sock
        except TimeoutError:
            sock.close()
            raise TimedOut(f"the agent gave no answer within {self._timeout_s:g} s") from None
        except OSError as error:
            sock.close()
            raise Unreachable(f"the agent went away: {error}") from None
        except BaseException:
            sock.close()
            raise

    def _talk(self, request: Request) -> Any:
        return Talk(self._connect(request), Lines(self._decode))

    def _connection(self) -> socket.socket:
        while self._idle:
            sock = self._idle.pop()
            if not is_stale(sock.fileno()):
                return sock
            sock.close()
        return self._open()

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(self._timeout_s)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            raise connect_error(self.path, error) from None
        return sock


def _send(sock: socket.socket, request: Request, reply: Reply, timeout_s: float) -> list[bytes]:
    """Send a request and read until the head of the answer is there."""
    sock.settimeout(request.answer_s or timeout_s)
    try:
        for data in request.wire():
            sock.sendall(data)
    except TimeoutError:
        raise TimedOut("the agent does not read the request", "is it stopped or overloaded?") from None
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused early: the reason is waiting to be read
    parts: list[bytes] = []
    while not reply.status:
        parts += reply.feed(_receive(sock))
    return parts


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(READ_BYTES)
    except TimeoutError:
        raise TimedOut(
            f"the agent gave no answer within {sock.gettimeout():g} s", "is it overloaded?"
        ) from None
    except OSError:
        return b""


class _Items:
    """Items that arrive on a connection of their own."""

    def __init__(self, sock: socket.socket, lines: Lines) -> None:
        self._sock = sock
        self._lines = lines
        self._items: deque[Any] = deque()

    def __iter__(self) -> Self:
        return self

    def fileno(self) -> int:
        """For select: readable when the next item may be there."""
        return self._sock.fileno()

    def close(self) -> None:
        """Let go; what is not over is given up."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream(_Items):
    """The items of a streamed answer. Close it, or use it in a `with`."""

    def __init__(self, sock: socket.socket, request: Request, lines: Lines, timeout_s: float) -> None:
        super().__init__(sock, lines)
        self._reply = Reply()
        try:
            parts = _send(sock, request, self._reply, timeout_s)
            if self._reply.status != 200:
                while not self._reply.done:
                    parts += self._reply.feed(_receive(sock))
                answer_of(self._reply.status, b"".join(parts), json.loads)
            self._items.extend(lines.feed(parts))
        except BaseException:
            self.close()
            raise
        sock.settimeout(None)

    def __next__(self) -> Any:
        while not self._items:
            if self._reply.done or self._sock.fileno() < 0:
                self.close()
                raise StopIteration
            self._items.extend(self._lines.feed(self._reply.feed(_receive(self._sock))))
        item = self._items.popleft()
        if isinstance(item, MeshError):
            self.close()
            raise item
        return item


class Talk(_Items):
    """A call with parts both ways. Close it, or use it in a `with`; what is not over then is given up.

    `send` waits while the program takes nothing, so whoever sends much reads in another thread meanwhile.

    Attributes:
        node, node_name: who took the call.
    """

    def __init__(self, sock: socket.socket, lines: Lines) -> None:
        super().__init__(sock, lines)
        self._over = False
        try:
            first = self._line()
        except BaseException:
            self.close()
            raise
        self.node, self.node_name = str(first["node"]), str(first["node_name"])

    def send(self, payload: Any) -> None:
        """Send a part. Unreachable: the call is over; reading on tells why."""
        self._write(part_line(payload))

    def end(self) -> None:
        """Say that no more parts follow."""
        self._write(END_LINE)

    def _write(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise Unreachable(f"the call is over: {error}") from None

    def _line(self) -> Any:
        while not self._items:
            data = _receive(self._sock)
            if not data:
                raise Unreachable(
                    "the agent closed the connection in the middle of a call", "is it stopping?"
                )
            self._items.extend(self._lines.feed([data]))
        item = self._items.popleft()
        if isinstance(item, MeshError):
            raise item
        return item

    def __next__(self) -> Any:
        if self._over:
            raise StopIteration
        try:
            item = self._line()
        except BaseException:
            self._over = True
            raise
        if "payload" not in item:
            self._over = True
            raise StopIteration
        return item["payload"]

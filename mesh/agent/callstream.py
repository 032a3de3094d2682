"""One end of a call: the messages on its stream, the request being answered, errors there and back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import trio

from mesh.errors import Failed, MeshError, PeerError, Unreachable, UsageError, ours, parted
from mesh.wire import calls as wire
from mesh.wire import frames
from mesh.wire.calls import CallMessage, Failure, Part

log = logging.getLogger(__name__)

TEXT_CHARS_MAX = 1000
PROGRAMS = "call/"


class Stream(Protocol):
    """The part of a stream of `mesh/net` that calls need."""

    public: bytes

    async def send(self, data: bytes) -> None: ...

    async def receive(self, max_bytes: int = 65536) -> bytes: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class Call:
    """A request that is to be answered.

    Attributes:
        public: the caller's key.
        method, body: what is asked.
        stream: whether several answers are welcome.
        deadline: monotonic time after which nobody waits any more.
        parts: what the caller sends besides, or None: it sends nothing more.
    """

    def __init__(
        self,
        public: bytes,
        method: str,
        body: Any,
        *,
        stream: bool,
        deadline: float,
        emit: Callable[[Any], Awaitable[None]],
        parts: trio.MemoryReceiveChannel[Any] | None = None,
        ready: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        self.public = public
        self.method = method
        self.body = body
        self.stream = stream
        self.deadline = deadline
        self.parts = parts
        self._emit = emit
        self._ready = ready

    async def accept(self, by: bytes = b"") -> None:
        """Somebody takes the call (on the node `by`, if that is not this one): its parts may come."""
        if self._ready is not None:
            ready, self._ready = self._ready, None
            await ready(by)

    async def emit(self, part: Any) -> None:
        """Send one part of a streaming answer; waits while the caller does not take it.

        Raises:
            UsageError: the caller wants one answer only.
        """
        if not self.stream:
            raise UsageError(f"{self.method} answers in parts and was asked for one", "ask for a stream")
        await self._emit(part)


Handler: TypeAlias = Callable[[Call], Awaitable[Any]]


class CallStream:
    """A stream that carries call messages."""

    def __init__(self, stream: Stream) -> None:
        self.public = stream.public
        self.idle_since = 0.0
        # Parts of a call that ended before its caller did are still on their way.
        self.trailing = False
        self._stream = stream
        self._reader = frames.FrameReader(wire.FRAME_BYTES_MAX)
        self._ready: deque[bytes] = deque()

    @property
    def broken(self) -> bool:
        """Whether the stream, or its connection, was ended by the other side or broke."""
        return getattr(self._stream, "error", None) is not None

    @property
    def passing(self) -> bool:
        """Whether a third node carries it: the next call may find a better way."""
        return getattr(self._stream, "relayed", False)

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def write(self, message: CallMessage) -> None:
        """Raises UsageError if the message is too large, Unreachable if the stream is gone."""
        await self._stream.send(frames.pack(wire.encode(message)))

    async def read(self) -> CallMessage | None:
        """The next message, None at the end of the stream.

        Raises:
            PeerError: what came is not one.
            Unreachable: the stream or its connection is gone.
        """
        while not self._ready:
            data = await self._stream.receive()
            if not data:
                return None
            self._ready.extend(self._reader.feed(data))
        return wire.decode(self._ready.popleft())

    async def next_request(self) -> CallMessage | None:
        """The next message that is no leftover of the call before. Raises as `read`."""
        while isinstance(message := await self.read(), Part) and self.trailing:
            self.trailing = message.more
        return message

    async def until_gone(self) -> None:
        """Wait until the peer ends the stream, or breaks the order of messages."""
        try:
            await self._stream.receive()
        except Unreachable:
            pass

    async def reset(self) -> None:
        with trio.CancelScope(shield=True):
            await self._stream.reset()


def failure_of(error: MeshError) -> Failure:
    return Failure(error.code, error.message[:TEXT_CHARS_MAX], error.hint[:TEXT_CHARS_MAX])


def failure_in(method: str, error: BaseException) -> tuple[Failure, bool]:
    """What a caller is told of what a handler raised, and whether it is an error of ours; else it is logged.

    Raises:
        BaseException: what is no error but an end (trio.Cancelled); alone, if the handler failed of that.
    """
    failed, ended = parted(error)
    known = None if failed is None else ours(failed)
    if failed is not None and known is None:
        log.error("handler crashed", exc_info=failed, extra={"method": method})
    if ended is not None:
        raise ended
    if known is None:
        return Failure("failed", f"the handler of {method} crashed"), False
    code = "failed" if isinstance(known, Unreachable) else known.code
    return Failure(code, known.message[:TEXT_CHARS_MAX], known.hint[:TEXT_CHARS_MAX]), True


def shown(method: str) -> str:
    """A method as people know it: the program's name alone."""
    return repr(method.removeprefix(PROGRAMS)[:80])


def _kinds(base: type[MeshError]) -> dict[str, type[MeshError]]:
    found = {base.code: base}
    for kind in base.__subclasses__():
        found = {**_kinds(kind), **found}
    return found


def error_of(failure: Failure) -> MeshError:
    """The error that a failure tells of, of the same kind; one we do not know is a Failed."""
    kind = _kinds(MeshError).get(failure.code, Failed)
    kind = Failed if kind in (MeshError, PeerError) else kind
    return kind(failure.message[:TEXT_CHARS_MAX], failure.hint[:TEXT_CHARS_MAX])

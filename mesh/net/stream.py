"""One stream of a multiplexed connection: its two windows, what has arrived, what goes out.

A stream proposes its protocol together with the first bytes sent on it, and answers a proposal together
with the first bytes of the answer (see `negotiate`), so that agreeing costs neither time nor frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint

from mesh.errors import MeshError, NotFound, PeerError, Unreachable
from mesh.net import negotiate
from mesh.net.base import RECEIVE_BYTES
from mesh.net.channel import PLAIN_BYTES_MAX

if TYPE_CHECKING:
    from mesh.net.yamux import Mux

WINDOW_BYTES = 256 << 10
GRANT_BYTES = WINDOW_BYTES // 2
HEADER_BYTES = 12
PAYLOAD_MAX = PLAIN_BYTES_MAX - HEADER_BYTES  # a frame fits one Noise packet
FIN = 4


class MuxStream:
    """One stream; see `mesh.net.base.Stream`.

    At most one task receives at a time, as on a socket; sends of several tasks follow one another.

    Attributes:
        started: whether its first frame, which tells the peer of it, has been sent.
        error: why it ended, once it has ended otherwise than by both ends closing it.
    """

    def __init__(self, mux: Mux, number: int, protocol: str = "") -> None:
        self._mux = mux
        self.number = number
        self.public = mux.public
        self.peer_id = mux.peer_id
        self.protocol = protocol
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._consumed = 0
        self._send_window = WINDOW_BYTES
        self._receive_window = WINDOW_BYTES
        self.started = False
        self._expecting = bool(protocol)  # the answer to our proposal has not been read
        self._pending = negotiate.proposal(protocol) if protocol else b""  # goes before what is sent next
        self._sending: trio.StrictFIFOLock | None = None
        self._changed: trio.Event | None = None
        self._window_opened: trio.Event | None = None
        self.fin_sent = self.fin_received = False
        self.error: MeshError | None = None

    @property
    def relayed(self) -> bool:
        return self._mux.channel.relayed

    async def __aenter__(self) -> MuxStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reset()

    # -- writing ----------------------------------------------------------------------------------------

    async def send(self, data: bytes, *, last: bool = False) -> None:
        channel = self._mux.channel
        fits = len(self._pending) + len(data) <= self._send_window
        if fits and self._sending is None and not channel.backlog_bytes:
            self._check_writable()
            self._write(data, last)
            if channel.backlog_bytes:
                await channel.wait_emptied()
            return
        if self._sending is None:
            self._sending = trio.StrictFIFOLock()
        async with self._sending:
            await self._send_in_parts(data, last)
            if not self._sending.statistics().tasks_waiting:
                self._sending = None

    async def _send_in_parts(self, data: bytes, last: bool) -> None:
        sent = 0
        try:
            while True:
                await self._mux.channel.wait_emptied()
                self._check_writable()
                room = self._send_window - len(self._pending)
                if data and room <= 0:
                    await self._wait_window()
                    continue
                part = data[sent : sent + min(room, PAYLOAD_MAX)]
                sent += len(part)
                self._write(part, last and sent == len(data))
                if sent == len(data):
                    break
                await checkpoint()
            await self._mux.channel.wait_emptied()
        finally:
            if 0 < sent < len(data):
                # Part of it is out: what is sent next would be read as the rest of it.
                self._mux.finish(self, Unreachable("a send on this stream was cut short"), tell=True)

    async def _wait_window(self) -> None:
        self._window_opened = trio.Event()
        with trio.move_on_after(self._mux.stall_s) as patience:
            await self._window_opened.wait()
        if patience.cancelled_caught:
            stalled = Unreachable(f"{self.peer_id} took nothing on a stream for {self._mux.stall_s:g} s")
            self._mux.finish(self, stalled, tell=True)

    def _check_writable(self) -> None:
        if self.error is not None:
            raise _again(self.error)
        if self.fin_sent:
            raise Unreachable("this stream was closed for sending")

    def _write(self, data: bytes, last: bool) -> None:
        if self._pending:
            data, self._pending = self._pending + data, b""
        self._send_window -= len(data)
        if last:
            self.fin_sent = True
        self._mux.write_data(self, data, FIN if last else 0)
        if last:
            self._mux.forget_if_done(self)

    async def close(self) -> None:
        if not self.fin_sent and self.error is None:
            self._write(b"", last=True)

    async def reset(self) -> None:
        if self.fin_received:
            await self.close()  # the peer is done: closing will do, and nothing that we sent is lost
        self.abort()

    def abort(self) -> None:
        """End both directions, now."""
        if self.error is None and not (self.fin_sent and self.fin_received):
            self._mux.finish(self, Unreachable("this stream was reset here"), tell=True)
        self._chunks.clear()
        self._size = 0

    # -- writing as on a socket, for what is carried inside a stream --------------------------------------

    def try_send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken, without waiting. Raises Unreachable when the stream is gone."""
        self._check_writable()
        if self._sending is not None or self._mux.channel.backlog_bytes:
            return 0
        taken = bytes(data[: max(0, min(self._send_window - len(self._pending), PAYLOAD_MAX))])
        if taken:
            self._write(taken, last=False)
        return len(taken)

    async def wait_writable(self) -> None:
        """Wait until `try_send` may take something. Raises Unreachable when the stream is gone."""
        await self._mux.channel.wait_emptied()
        if self._send_window <= len(self._pending):
            await self._wait_window()
        self._check_writable()

    # -- reading ----------------------------------------------------------------------------------------

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        if self._expecting:
            await self._confirm()
        return await self._read(max_bytes)

    async def _confirm(self) -> None:
        try:
            await negotiate.confirm(self._read, self.protocol)
        except (NotFound, PeerError) as error:
            refused = NotFound(f"{self.peer_id}: {error.message}")
            self._mux.finish(self, refused, tell=True)
            raise refused from None
        self._expecting = False

    async def accept(self, known: Container[str]) -> None:
        """The listener's part of agreeing on a protocol; sets `protocol`.

        Raises:
            PeerError: the peer asks for nothing we speak.
        """
        self.protocol = await negotiate.choose(self._read, self._queue, known)

    def _queue(self, data: bytes) -> None:
        self._pending += data

    async def _read(self, max_bytes: int) -> bytes:
        while not self._size:
            if self.fin_received:
                return b""
            if self.error is not None:
                raise _again(self.error)
            if self._pending and not self.fin_sent:
                self._write(b"", last=False)  # a proposal or answer that would wait for our next data
            if self._changed is not None:
                raise trio.BusyResourceError("another task receives on this stream")
            self._changed = trio.Event()
            try:
                await self._changed.wait()
            finally:
                self._changed = None
        return self._take(max_bytes)

    def _take(self, max_bytes: int) -> bytes:
        data = self._chunks.popleft()
        if len(data) > max_bytes:
            self._chunks.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        elif self._chunks and len(data) + len(self._chunks[0]) <= max_bytes:
            parts, size = [data], len(data)
            while self._chunks and size + len(self._chunks[0]) <= max_bytes:
                parts.append(self._chunks.popleft())
                size += len(parts[-1])
            data = b"".join(parts)
        self._size -= len(data)
        self._consumed += len(data)
        if self._consumed >= GRANT_BYTES and not self.fin_received and self.error is None:
            granted, self._consumed = self._consumed, 0
            self._receive_window += granted
            self._mux.grant(self.number, granted)
        return data

    # -- told by the multiplexer ------------------------------------------------------------------------

    def arrived(self, data: bytes) -> None:
        """Raises PeerError when the peer sent more than it was granted."""
        self._receive_window -= len(data)
        if self._receive_window < 0:
            raise PeerError(f"overran the window of stream {self.number} by {-self._receive_window} bytes")
        self._chunks.append(data)
        self._size += len(data)
        self._wake()

    def granted(self, size: int) -> None:
        self._send_window += size
        if self._window_opened is not None:
            self._window_opened.set()

    def peer_closed(self) -> None:
        self.fin_received = True
        self._wake()

    def end(self, error: MeshError) -> None:
        if self.error is None:
            self.error = error
        self._wake()
        if self._window_opened is not None:
            self._window_opened.set()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()


def _again(error: MeshError) -> MeshError:
    return error.__class__(error.message, error.hint)

"""Many streams over one connection: Yamux (github.com/hashicorp/yamux, spec.md), as every libp2p speaks it.

    frame = version 0 | type | flags u16 | stream u32 | length u32     then, for DATA, length bytes
    types: DATA, WINDOW (length = bytes granted), PING, GO_AWAY        flags: SYN ACK FIN RST

A stream may have WINDOW_BYTES on the way; the receiver grants more as it consumes. The wire format is
py-libp2p's, the workings are our own, for each of these is a fault there:

- a sender without window looks every 10 ms whether it has some: here it waits for an event;
- every read, of one byte too, sends a grant and doubles the window up to 16 MiB: here the window is
  fixed, and one grant is sent per GRANT_BYTES;
- a peer that overruns its window is stored all the same (104 MB were): here it is cut off;
- five seconds without window reset the stream, which a WAN in trouble takes for nothing: here stall_s;
- the 257th stream waits for ever: here a cap of our own, and a deadline;
- answers are written by the task that reads, so two ends that both wait for the other to read stop for
  good: here nothing that reads ever waits for a write, and a peer that makes us queue answers without
  taking them is cut off;
- pings and sweeps wake every idle connection: here nothing runs on an idle one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import trio

from mesh.errors import MeshError, PeerError, TimedOut, Unreachable
from mesh.net.channel import Channel
from mesh.net.stream import FIN, HEADER_BYTES, PAYLOAD_MAX, WINDOW_BYTES, MuxStream

PROTOCOL = "/yamux/1.0.0"
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, RST = 1, 2, 8
ANSWERS_BYTES_MAX = 512 << 10
LINGER_S = 10.0
_HEADER = struct.Struct(">BBHII")
_ID_MAX = (1 << 32) - 1


class Mux:
    """All streams of one connection.

    Args:
        streams_max: open streams, each way; may be changed.
        accept: told of every stream that the peer opens; it must not wait.
        failed: told once, with the reason, when the connection has ended.

    Attributes:
        why: the reason once it has ended, else "".
    """

    def __init__(
        self,
        channel: Channel,
        *,
        public: bytes,
        peer_id: str,
        initiator: bool,
        stall_s: float,
        streams_max: int,
        accept: Callable[[MuxStream], None],
        failed: Callable[[str], None],
    ) -> None:
        self.channel = channel
        self.public = public
        self.peer_id = peer_id
        self.stall_s = stall_s
        self.streams_max = streams_max
        self._accept = accept
        self._failed = failed
        self._next = 1 if initiator else 2
        self._streams: dict[int, MuxStream] = {}
        self._lingering: dict[int, float] = {}
        self._open_here = 0
        self._slot_freed = trio.Event()
        self._rest = b""
        self.why = ""

    @property
    def stream_count(self) -> int:
        """Open streams, both ways."""
        return len(self._streams)

    # -- streams ----------------------------------------------------------------------------------------

    async def open(self, protocol: str, *, deadline_s: float) -> MuxStream:
        """A new stream. Nothing is sent before its first `send` or `receive`.

        Raises:
            Unreachable: the connection is gone.
            TimedOut: no stream became free in time.
        """
        if self._open_here >= self.streams_max:
            with trio.move_on_after(max(0.0, deadline_s)):
                while self._open_here >= self.streams_max and not self.why:
                    self._slot_freed = trio.Event()
                    await self._slot_freed.wait()
        if self._next > _ID_MAX:
            self.fail("its stream numbers are used up")
        if self.why:
            raise Unreachable(f"the connection with {self.peer_id} is gone: {self.why}")
        if self._open_here >= self.streams_max:
            raise TimedOut(f"all {self.streams_max} streams to {self.peer_id} are in use")
        stream = MuxStream(self, self._next, protocol)
        self._next += 2
        self._open_here += 1
        self._streams[stream.number] = stream
        return stream

    def finish(self, stream: MuxStream, error: MeshError, *, tell: bool) -> None:
        """End both directions of a stream."""
        told = stream.started or not self._is_ours(stream.number)
        if tell and told and stream.number in self._streams:
            self._answer(WINDOW, RST, stream.number, 0)
        stream.end(error)
        self._forget(stream)

    def forget_if_done(self, stream: MuxStream) -> None:
        if stream.fin_sent and stream.fin_received:
            self._forget(stream)

    async def linger(self, stream: MuxStream) -> None:
        """Its handler is done: close, and drop it when the peer has closed too, or makes no haste to."""
        await stream.close()
        if stream.number in self._streams:
            self._lingering[stream.number] = trio.current_time() + LINGER_S

    def _forget(self, stream: MuxStream) -> None:
        self._lingering.pop(stream.number, None)
        if self._streams.pop(stream.number, None) is not None and self._is_ours(stream.number):
            self._open_here -= 1
            self._slot_freed.set()

    def _is_ours(self, number: int) -> bool:
        return number & 1 == self._next & 1

    # -- writing ----------------------------------------------------------------------------------------

    def write_data(self, stream: MuxStream, data: bytes, flags: int) -> None:
        """One frame in one packet; several when the data is larger than that."""
        number, before = stream.number, b""
        if not stream.started:
            stream.started = True
            if self._is_ours(number):
                flags |= SYN
            else:
                # Not as a flag of the data: py-libp2p overlooks a FIN beside an ACK.
                before = _HEADER.pack(0, WINDOW, ACK, number, 0)
        if len(before) + len(data) <= PAYLOAD_MAX:
            self.channel.send_nowait(before + _HEADER.pack(0, DATA, flags, number, len(data)) + data)
            return
        parts = [before]
        for start in range(0, len(data), PAYLOAD_MAX):
            part = data[start : start + PAYLOAD_MAX]
            end = start + len(part) == len(data)
            own = flags & (SYN if start == 0 else 0) | flags & (FIN if end else 0)
            parts += (_HEADER.pack(0, DATA, own, number, len(part)), part)
        self.channel.send_nowait(b"".join(parts))

    def grant(self, number: int, size: int) -> None:
        self._answer(WINDOW, 0, number, size)

    def _answer(self, kind: int, flags: int, number: int, value: int) -> None:
        self.channel.send_nowait(_HEADER.pack(0, kind, flags, number, value))
        if self.channel.backlog_bytes > ANSWERS_BYTES_MAX:
            self.fail("the peer asks and does not take the answers")

    def say_goodbye(self) -> None:
        self._answer(GO_AWAY, 0, 0, 0)

    def fail(self, why: str) -> None:
        """End everything, now. The first reason stays."""
        if self.why:
            return
        self.why = why
        gone = Unreachable(f"the connection with {self.peer_id} is gone: {why}")
        for stream in self._streams.values():
            stream.end(gone)
        self._streams.clear()
        self._lingering.clear()
        self._slot_freed.set()
        self.channel.close_now()
        self._failed(why)

    # -- reading ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the connection ends."""
        try:
            while not self.why:
                packets = await self.channel.receive()
                if not packets:
                    self.fail("the peer closed it without a goodbye")
                for packet in packets:
                    self._packet(packet)
        except PeerError as error:
            self.fail(f"the peer broke the protocol: {error.message}")
        except Unreachable as error:
            self.fail(error.message)
        finally:
            self.fail("stopped")

    def _packet(self, packet: bytes) -> None:
        if self._rest:
            packet = self._rest + packet
        start, have = 0, len(packet)
        while have - start >= HEADER_BYTES and not self.why:
            version, kind, flags, number, length = _HEADER.unpack_from(packet, start)
            if version or kind > GO_AWAY:
                raise PeerError(f"a frame of version {version} and type {kind}")
            body = end = start + HEADER_BYTES
            if kind == DATA:
                if length > WINDOW_BYTES:
                    raise PeerError(f"a frame of {length} bytes, which no window allows")
                end = body + length
                if end > have:
                    break
            if kind <= WINDOW:
                self._frame(kind, flags, number, length, packet[body:end])
            elif kind == GO_AWAY:
                self.fail("the peer said goodbye")
            elif flags & SYN:
                self._answer(PING, ACK, 0, length)
            start = end
        self._rest = packet[start:]

    def _frame(self, kind: int, flags: int, number: int, length: int, data: bytes) -> None:
        if flags & SYN:
            self._opened(number)
        stream = self._streams.get(number)
        if stream is None:
            return  # of a stream that we have ended, or had no room for
        if kind == WINDOW:
            if length:
                stream.granted(length)
        elif data:
            if stream.fin_received:
                raise PeerError(f"sent data on stream {number} after closing it")
            if number in self._lingering:
                self.finish(stream, Unreachable("nobody reads this stream any more"), tell=True)
                return
            stream.arrived(data)
        if flags & RST:
            self.finish(stream, Unreachable(f"{self.peer_id} reset this stream"), tell=False)
        elif flags & FIN:
            stream.peer_closed()
            self.forget_if_done(stream)
        if flags & SYN:
            self._accept(stream)

    def _opened(self, number: int) -> None:
        if number in self._streams or self._is_ours(number) or not number:
            raise PeerError(f"opened stream {number}, which is not its to open")
        if self._has_room():
            self._streams[number] = MuxStream(self, number)
        else:
            self._answer(WINDOW, RST, number, 0)

    def _has_room(self) -> bool:
        if len(self._streams) - self._open_here < self.streams_max:
            return True
        now = trio.current_time()
        for number in [number for number, until in self._lingering.items() if until <= now]:
            self.finish(self._streams[number], Unreachable("the peer never closed this stream"), tell=True)
        return len(self._streams) - self._open_here < self.streams_max

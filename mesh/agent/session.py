"""One held link to a neighbour: the hello both ways, a reader, a paced sender.

Who dialled says hello first. The other answers with its own once it has judged the first, or with a refusal:
so the end that dials knows at once whether it may stay.

The sender pulls frames when the stream takes more. Idle, a frame leaves at once; under load frames are
gathered for a while (`flush_s`), because what a frame costs hardly depends on how many records are in it.
What somebody waits for (`hurry`) is gathered only while the stream does not take more, and leaves the rest
to be gathered on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from mesh.agent.removed import Proof
from mesh.core.tidings import flush_s
from mesh.errors import Denied, MeshError, PeerError, TimedOut
from mesh.wire import frames, messages
from mesh.wire.codec import FRAME_BYTES_MAX
from mesh.wire.messages import Bye, Hello, Message, Ping, Pong

HELLO_DEADLINE_S = 4.0
HELLO_BYTES_MAX = 64 << 10
READ_BYTES = 64 << 10
URGENT_MAX = 64
SLICE_S = 0.005  # one link's frames hold the loop no longer
DENIED = "denied: "


class Wire(Protocol):
    """The part of a stream of `mesh/net` that a session needs."""

    public: bytes

    @property
    def relayed(self) -> bool: ...

    async def send(self, data: bytes) -> None: ...

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class Session:
    """A link that has said hello.

    Attributes:
        dialled: whether we opened it.
        hello: what the neighbour said of itself.
        heard_at: monotonic time of its last frame.
        rtt_s: smoothed round trip on this stream, or None.
        taken_at: monotonic time when the stream last took something.
    """

    def __init__(
        self, wire: Wire, hello: Hello, reader: frames.FrameReader, *, dialled: bool, now: float
    ) -> None:
        self.wire = wire
        self._reader = reader
        self.aid = wire.public[:16]
        self.hello = hello
        self.dialled = dialled
        self.since = self.heard_at = now
        self.rtt_s: float | None = None
        self.bytes_in = self.bytes_out = 0
        self.eof = False
        self._urgent: deque[Message] = deque(maxlen=URGENT_MAX)
        self._woken = trio.Event()
        self._hurried = trio.Event()
        self._flushed_at = self.taken_at = -1.0
        self._nonce = 0
        self._answered = trio.Event()
        self._pinged: tuple[int, int, float] | None = None

    @property
    def relayed(self) -> bool:
        """Whether a third node carries it."""
        return self.wire.relayed

    def wake(self) -> None:
        """There is something to send."""
        self._woken.set()

    def hurry(self) -> None:
        """There is something in the live scope to send, for which somebody waits."""
        self._hurried.set()
        self._woken.set()

    def send_nowait(self, message: Message) -> None:
        """Queue a small message that overtakes everything; the oldest is dropped when the peer stalls."""
        self._urgent.append(message)
        self._woken.set()

    def ping(self, wall_ms: int) -> None:
        """Ask for the neighbour's clock; the answer also shows the stream's round trip."""
        self._nonce = (self._nonce + 1) & 0xFFFFFFFF
        self._pinged = (self._nonce, wall_ms, trio.current_time())
        self.send_nowait(Ping(self._nonce, wall_ms))

    def ponged(self, pong: Pong) -> tuple[int, float] | None:
        """The answer came: (own wall clock when asked, round trip in seconds), None if it answers nothing."""
        if self._pinged is None or pong.nonce != self._pinged[0]:
            return None
        _, sent_ms, at = self._pinged
        self._pinged = None
        self._answered.set()
        sample = trio.current_time() - at
        self.rtt_s = sample if self.rtt_s is None else self.rtt_s + (sample - self.rtt_s) / 8
        return sent_ms, sample

    async def round_trip(self, wall_ms: int) -> None:
        """Ping and wait for the answer; the caller has a deadline."""
        self._answered = trio.Event()
        self.ping(wall_ms)
        await self._answered.wait()

    async def read(self, on_frame: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand over frame bodies until the neighbour ends the stream.

        Raises:
            PeerError: an oversized frame was announced, or `on_frame` refused one.
            Unreachable: the connection broke.
        """
        data = b""
        breathe_at = trio.current_time() + SLICE_S
        while True:
            for body in self._reader.feed(data):
                await on_frame(body)
                if trio.current_time() >= breathe_at:  # neither that nor `receive` need to wait under a flood
                    await trio.lowlevel.checkpoint()
                    breathe_at = trio.current_time() + SLICE_S
            data = await self.wire.receive(READ_BYTES)
            if not data:
                break
            self.heard_at = trio.current_time()
            self.bytes_in += len(data)
        self.eof = True

    async def write(self, pull: Callable[[bool], list[bytes]]) -> None:
        """Send what is urgent and what `pull` gives, as long as the stream takes it.

        `pull` is told whether it may give everything, or only what does not wait for company.
        """
        while True:
            await self._woken.wait()
            whole = bool(self._urgent) or await self._gathered()
            self._hurried = trio.Event()
            if whole:
                self._woken = trio.Event()
            bodies = [_encoded(message) for message in self._urgent]
            self._urgent.clear()
            while True:
                bodies += pull(whole)
                if not bodies:
                    break
                data = b"".join(map(frames.pack, bodies))
                self.bytes_out += len(data)
                await self.wire.send(data)
                self.taken_at = trio.current_time()
                if whole:
                    self._flushed_at = self.taken_at
                bodies = []

    async def _gathered(self) -> bool:
        """Wait until a frame may leave; whether all may leave with it that has been gathered."""
        full_at = self._flushed_at + flush_s(self.rtt_s)
        if not self._hurried.is_set() and trio.current_time() < full_at:  # else a turn for naught
            with trio.move_on_at(full_at):
                await self._hurried.wait()
        return trio.current_time() >= full_at

    async def end(self, reason: str) -> None:
        """Say why, if the stream still takes it, and close."""
        with trio.move_on_after(0.5):
            try:
                await self.wire.send(frames.pack(messages.encode(Bye(reason[:200]))))
                await self.wire.close()
            except MeshError:
                await self.wire.reset()


class Hooks(Protocol):
    """What the node does with links."""

    def hello(self) -> Hello: ...

    async def welcome(self, wire: Wire, hello: Hello) -> None:
        """Judge a neighbour's hello; may write its admission.

        Raises:
            Denied: it is not (or no longer) a member.
        """
        ...

    def turned_away(self, public: bytes, bye: Bye) -> None:
        """A neighbour refuses us."""
        ...

    def proof_against(self, public: bytes) -> Proof:
        """What we show to a key that we refuse."""
        ...

    def link_up(self, session: Session) -> None: ...

    def link_down(self, session: Session, why: str) -> None: ...

    async def frame(self, session: Session, body: bytes) -> None: ...

    def pull(self, aid: bytes, whole: bool) -> list[bytes]: ...


class _Last:
    """The message encoded last: a question goes to all neighbours, one after the other."""

    message: Message | None = None
    body = b""


def _encoded(message: Message) -> bytes:
    if _Last.message is not message:
        _Last.message, _Last.body = message, messages.encode(message)
    return _Last.body


class TurnedAway(Denied):
    """The neighbour refuses us; the message is its reason."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.reason.removeprefix(DENIED))
        self.bye = bye


async def say_hello(wire: Wire, mine: Hello) -> None:
    """Send our hello. Raises Unreachable."""
    await wire.send(frames.pack(messages.encode(mine)))


async def read_hello(wire: Wire, mine: Hello) -> tuple[Hello, frames.FrameReader]:
    """Read the neighbour's hello; returns it and the reader with what came after it.

    Raises:
        TurnedAway: it sent its refusal instead.
        PeerError: the first frame is not a hello of our protocol version and mesh.
        TimedOut: no hello within HELLO_DEADLINE_S.
    """
    reader = frames.FrameReader(HELLO_BYTES_MAX)
    with trio.move_on_after(HELLO_DEADLINE_S):
        while data := await wire.receive(READ_BYTES):
            for body in reader.feed(data):
                hello = _check(messages.decode(body), mine)
                reader.size_max = FRAME_BYTES_MAX
                return hello, reader
        raise PeerError("the peer ended the link before its hello")
    raise TimedOut(f"no hello within {HELLO_DEADLINE_S} s")


def _check(message: object, mine: Hello) -> Hello:
    if isinstance(message, Bye) and message.reason.startswith(DENIED):
        raise TurnedAway(message)
    if isinstance(message, Bye):
        raise PeerError(f"the peer ended the link: {message.reason[:200]!r}")
    if not isinstance(message, Hello):
        raise PeerError("the first frame on a link is not a hello")
    if message.version != mine.version:
        raise PeerError(f"link protocol version {message.version}, ours is {mine.version}")
    if message.mesh_id != mine.mesh_id:
        raise PeerError(f"the peer belongs to another mesh, {message.mesh_id.hex()}")
    return message

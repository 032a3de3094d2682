"""Decoders between the socket and a stream: Noise, Yamux, datagrams, and what streams begin with.

The real code runs, on trio with a clock that jumps, fed by a wire that has all bytes already and then ends.
Two inputs in three of `noise` are given to a peer that makes the handshake as it should up to the place where
the input stands: else no input would get behind the first message, whose answer is made of fresh dice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from mesh.agent.callstream import CallStream
from mesh.errors import MeshError, PeerError, Unreachable
from mesh.identity.keys import NodeKey
from mesh.net import negotiate, parts, yamux
from mesh.net.channel import Channel
from mesh.net.datagram import OVERHEAD_BYTES, Datagrams
from mesh.net.handshake import SECURITY, Handshaker
from mesh.net.stream import FIN, MuxStream
from mesh.net.wire import Wire
from mesh.net.yamux import ACK, DATA, GO_AWAY, PING, RST, SYN, WINDOW, Mux
from mesh.wire import calls, forward, frames

ME, PEER = NodeKey.from_seed(b"1" * 32), NodeKey.from_seed(b"2" * 32)
PROLOGUE = b"mesh-link-1" + b"m" * 16
KNOWN = {"/mesh/link/1": None, "/mesh/call/1": None}
PIECE_BYTES = 700
Seeds = list[bytes]
Read = Callable[[bytes], object]


def every() -> list[tuple[str, Read, Seeds]]:
    """Name, reader and right inputs of each."""
    head = forward.pack(forward.Open("orders", "0" * 16, 1000, "192.0.2.1", 5000))
    call = frames.pack(calls.encode(calls.Request("echo", 5000, {"a": 1})))
    return [
        ("noise", _noise, _handshakes()),
        ("yamux", lambda data: in_trio(_muxed, data), _muxes()),
        ("packets", lambda data: in_trio(_packets, data), [b"\0\5hello\0\1x", b"\0\0", b"\0\5hel"]),
        ("datagram", _datagram, [_sealed(b"\x82\x00\x07"), bytes(OVERHEAD_BYTES)]),
        ("head", _head, [head, head + b"more", forward.pack(forward.Refused("denied", "no"))]),
        ("call stream", lambda data: in_trio(_called, data), [call, call + call]),
    ]


def in_trio(work: Callable[[bytes], Awaitable[object]], data: bytes) -> object:
    """On a loop of its own, whose clock jumps to the next deadline when nothing else is to be done."""
    return trio.run(work, data, clock=trio.testing.MockClock(autojump_threshold=0))


class FedWire(Wire):
    """All there will ever be has come; what is sent is kept."""

    def __init__(self, data: bytes, *, initiator: bool = False) -> None:
        super().__init__(("192.0.2.1", 1), "/ip4/192.0.2.1/tcp/1", initiator=initiator)
        self._data = data
        self.sent = bytearray()
        self.answered: Callable[[bytes], bytes] | None = None

    def close_now(self) -> None:
        self.closed = True

    def try_send(self, data: bytes | memoryview) -> int:
        self.sent += data
        if self.answered is not None:
            self._data += self.answered(bytes(data))
        return len(data)

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[:PIECE_BYTES], self._data[PIECE_BYTES:]
        return piece


class FedPipe:
    """A connection on which all has come already."""

    remote = ("192.0.2.1", 5000)

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.sent = bytearray()
        self.ended = False

    async def send(self, data: bytes, stalled: object = None, *, last: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        if self.ended:
            raise Unreachable("it was closed")
        self.sent += data

    async def receive(self, max_bytes: int = 700) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.ended:
            raise Unreachable("it was closed")
        piece, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return piece

    async def close(self) -> None: ...

    async def reset(self) -> None:
        self.ended = True

    # For readers that were made for trio's streams.
    async def send_all(self, data: bytes) -> None:
        await self.send(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.receive(max_bytes or 700)

    async def wait_send_all_might_not_block(self) -> None: ...

    async def aclose(self) -> None: ...


# -- Noise --------------------------------------------------------------------------------------------------


def _noise(data: bytes) -> object:
    """The first byte says where the rest of the input stands."""
    return in_trio(_handshaken, data)


async def _handshaken(data: bytes) -> object:
    place, rest = data[:1], data[1:]
    shaker = Handshaker(ME, PROLOGUE)
    proposal = negotiate.proposal(SECURITY)
    if place not in (b"\1", b"\2"):
        return await shaker.inbound(FedWire(proposal + rest), lambda public: None)
    peer = _Initiator(rest, behind=place == b"\2")
    wire = FedWire(proposal + peer.first)
    wire.answered = peer.answer
    return await shaker.inbound(wire, lambda public: None)


class _Initiator:
    """The other end of Noise XX. The input is its signed payload, or, `behind` that, what it sends sealed."""

    def __init__(self, data: bytes, *, behind: bool) -> None:
        self._data, self._behind, self._heard, self._done = data, behind, b"", False
        pair = parts.new_identity(PEER.seed)
        peer_id = parts.PeerId.from_pubkey(pair.public_key)
        self._pattern = parts.Pattern(
            peer_id, pair.private_key, parts.new_noise_key().private_key, prologue=PROLOGUE
        )
        self._state = self._pattern.create_noise_state(prologue=PROLOGUE)
        self._state.set_as_initiator()
        self._state.start_handshake()
        self.first = _packet(bytes(self._state.write_message(b"")))

    def answer(self, data: bytes) -> bytes:
        """What it sends when it hears this."""
        self._heard += data
        lines = negotiate.HEADER + negotiate._line(SECURITY)
        message = self._heard[len(lines) :]
        if self._done or len(message) < 2 or len(message) < 2 + int.from_bytes(message[:2], "big"):
            return b""
        self._done = True
        self._state.read_message(message[2 : 2 + int.from_bytes(message[:2], "big")])
        payload = self._pattern.make_handshake_payload().serialize() if self._behind else self._data
        out = _packet(bytes(self._state.write_message(payload)))
        if self._behind:
            out += _packet(bytes(self._state.encrypt(self._data[:60_000])))
        return out


def _packet(sealed: bytes) -> bytes:
    return len(sealed).to_bytes(2, "big") + sealed


def _handshakes() -> Seeds:
    peer = _Initiator(b"", behind=False)
    payload = peer._pattern.make_handshake_payload().serialize()
    muxer = negotiate.proposal(yamux.PROTOCOL)
    return [b"\0" + peer.first, b"\0" + peer.first + _packet(bytes(96)), b"\1" + payload, b"\2" + muxer]


# -- Yamux --------------------------------------------------------------------------------------------------


class _Plain:
    def encrypt(self, data: bytes) -> bytes:
        return data

    def decrypt(self, data: bytes) -> bytes:
        return data


def _channel(data: bytes, nursery: trio.Nursery) -> Channel:
    return Channel(
        FedWire(data),
        _Plain(),
        stall_s=30.0,
        spawn=lambda work: nursery.start_soon(work),
        fail=lambda why: None,
    )


async def _muxed(data: bytes) -> object:
    """A peer's frames, in packets; its streams are accepted and read, and a stream of ours is open too."""
    sealed = b"".join(_packet(data[at : at + 1400]) for at in range(0, len(data), 1400))
    async with trio.open_nursery() as nursery:
        streams: list[MuxStream] = []

        def accept(stream: MuxStream) -> None:
            streams.append(stream)
            nursery.start_soon(_listened, mux, stream)

        mux = Mux(
            _channel(sealed, nursery),
            public=PEER.public,
            peer_id=PEER.peer_id,
            initiator=True,
            stall_s=30.0,
            streams_max=8,
            accept=accept,
            failed=lambda why: None,
        )
        ours = await mux.open("/mesh/call/1", deadline_s=1.0)
        await ours.send(b"hello")
        await mux.run()
        nursery.cancel_scope.cancel()
    if mux.why.startswith("the peer broke"):
        raise PeerError(mux.why)
    return len(streams)


async def _listened(mux: Mux, stream: MuxStream) -> None:
    try:
        await stream.accept(KNOWN)
        while data := await stream.receive():
            await stream.send(data[:100])
        await mux.linger(stream)
    except MeshError:
        await stream.reset()


def _muxes() -> Seeds:
    def frame(kind: int, flags: int, number: int, body: bytes = b"", length: int | None = None) -> bytes:
        return yamux._HEADER.pack(0, kind, flags, number, len(body) if length is None else length) + body

    proposal = negotiate.proposal("/mesh/link/1")
    opened = frame(DATA, SYN, 2, proposal)
    answered = frame(WINDOW, ACK, 1) + frame(DATA, 0, 1, negotiate.proposal("/mesh/call/1") + b"more")
    return [
        opened + frame(DATA, FIN, 2, b"hello"),
        opened + frame(WINDOW, 0, 2, length=70_000) + frame(WINDOW, RST, 2),
        answered + frame(DATA, FIN, 1, b"bye"),
        frame(PING, SYN, 0, length=7) + frame(WINDOW, SYN, 4) + frame(DATA, 0, 4, proposal) + opened,
        b"".join(frame(WINDOW, SYN, 2 * number) for number in range(1, 12)) + frame(GO_AWAY, 0, 0),
    ]


async def _packets(data: bytes) -> object:
    """Noise packets as they are on the wire; the cipher is left out."""
    found = 0
    async with trio.open_nursery() as nursery:
        channel = _channel(data, nursery)
        try:
            while packets := await channel.receive():
                found += len(packets)
        except PeerError as error:
            refused = error
        else:
            return found
    raise refused


# -- datagrams, and the beginnings of streams ---------------------------------------------------------------


THEIRS = Datagrams(PEER, lambda aid: ME.public if aid == ME.aid else None, context=b"m" * 16)
OURS = Datagrams(ME, lambda aid: PEER.public if aid == PEER.aid else None, context=b"m" * 16)


def _datagram(data: bytes) -> object:
    """As it comes: nearly all are nobody's, or forged."""
    heard: list[bytes] = []
    OURS._on_datagram = lambda aid, source, payload: heard.append(payload)
    OURS._arrived(data, ("192.0.2.1", 1))
    return heard


def _sealed(payload: bytes) -> bytes:
    """A right one."""
    keys = THEIRS._keys_with(ME.public)
    assert keys is not None
    nonce = b"n" * 12
    return PEER.aid + nonce + crypto_aead_chacha20poly1305_ietf_encrypt(payload, None, nonce, keys[0])


class _OneStream:
    """A stream that gives what there is."""

    public = PEER.public
    peer_id = PEER.peer_id

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return piece

    async def send(self, data: bytes, *, last: bool = False) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


def _head(data: bytes) -> object:
    reader = forward.HeadReader()
    found = None
    for at in range(0, len(data), 7):
        found = reader.feed(data[at : at + 7])
        if found is not None:
            break
    if found is None:
        raise Unreachable("it ended before its head")
    return found


async def _called(data: bytes) -> object:
    stream = CallStream(_OneStream(data))
    found = []
    while (message := await stream.read()) is not None:
        found.append(message)
    return found

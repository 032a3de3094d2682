"""What a peer that has passed the handshake may send, and what it is cut off for."""

import struct

import pytest
import trio
import trio.testing

from mesh.errors import Unreachable
from mesh.identity.keys import NodeKey
from mesh.net.address import parse
from mesh.net.base import HostLimits
from mesh.net.channel import PACKETS_PER_TURN
from mesh.net.dialling import connect
from mesh.net.handshake import Handshaker
from mesh.net.negotiate import proposal
from mesh.net.stream import GRANT_BYTES, WINDOW_BYTES
from mesh.net.wire import TcpWire

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
HEADER = struct.Struct(">BBHII")


class RawPeer:
    """A peer that sends frames of its own making."""

    def __init__(self, wire, sealed):
        self.wire = wire
        self.cipher = sealed.cipher
        self.rest = sealed.early
        self.raw = b""

    @classmethod
    async def dial(cls, host) -> "RawPeer":
        wire = TcpWire(await connect(parse(host.addresses[0])), initiator=True)
        return cls(wire, await Handshaker(NodeKey.generate()).outbound(wire, host.public))

    async def send_packet(self, plain: bytes) -> None:
        sealed = self.cipher.encrypt(plain)
        await self.wire.write(len(sealed).to_bytes(2, "big") + sealed)
        await self.wire.flush()

    async def send(self, kind, flags, number, length, data=b"") -> None:
        await self.send_packet(HEADER.pack(0, kind, flags, number, length) + data)

    async def data(self, number, data, flags=0) -> None:
        for start in range(0, max(len(data), 1), 60_000):
            part = data[start : start + 60_000]
            await self.send(DATA, flags if not start else 0, number, len(part), part)

    async def frame(self):
        """The next frame received: (kind, flags, number, length, data), or None at the end."""
        while True:
            if len(self.rest) >= HEADER.size:
                _, kind, flags, number, length = HEADER.unpack_from(self.rest)
                end = HEADER.size + (length if kind == DATA else 0)
                if len(self.rest) >= end:
                    data, self.rest = self.rest[HEADER.size : end], self.rest[end:]
                    return kind, flags, number, length, data
            while len(self.raw) < 2 or len(self.raw) < 2 + int.from_bytes(self.raw[:2], "big"):
                more = await self.wire.receive()
                if not more:
                    return None
                self.raw += more
            size = 2 + int.from_bytes(self.raw[:2], "big")
            self.rest += self.cipher.decrypt(self.raw[2:size])
            self.raw = self.raw[size:]

    async def until_closed(self) -> None:
        with trio.fail_after(60):
            while await self.frame() is not None:
                pass


async def send_until_cut_off(send) -> None:
    with trio.fail_after(60):
        try:
            while True:
                await send()
                await trio.sleep(0.001)
        except Unreachable:
            pass


@pytest.fixture
async def host(sockets, echoing):
    host = await sockets.start()
    host.handle("/echo", echoing)
    host.hold = trio.Event()
    host.handle("/hold", lambda stream: host.hold.wait())
    yield host
    host.hold.set()


@pytest.fixture
async def peer(host, until):
    peer = await RawPeer.dial(host)
    await until(lambda: host.connections())
    yield peer
    peer.wire.close_now()


@pytest.fixture
def why(host):
    """Why the host ended the connection."""
    connections = []
    host.on_disconnected = lambda connection: connections.append(connection.why)
    return connections


async def test_frames_are_what_the_specification_says(peer):
    await peer.data(1, proposal("/echo") + b"hello", SYN)
    assert await peer.frame() == (WINDOW, ACK, 1, 0, b"")
    assert await peer.frame() == (DATA, 0, 1, 20 + 7 + 5, proposal("/echo") + b"hello")
    await peer.send(DATA, FIN, 1, 0)
    assert await peer.frame() == (DATA, FIN, 1, 0, b"")
    await peer.send(PING, SYN, 0, 77)
    assert await peer.frame() == (PING, ACK, 0, 77, b"")


async def test_frames_cut_anywhere_and_packed_together_are_read_alike(peer):
    frames = b"".join(
        HEADER.pack(0, DATA, SYN, number, len(proposal("/echo"))) + proposal("/echo") for number in (1, 3, 5)
    )
    for size in range(1, len(frames), 7):
        await peer.send_packet(frames[:size])
        frames = frames[size:]
    await peer.send_packet(frames)
    answered = set()
    while len(answered) < 3:
        _, _, number, _, data = await peer.frame()
        if data:
            assert data == proposal("/echo")
            answered.add(number)


async def test_one_grant_is_sent_per_half_window(peer):
    await peer.data(1, proposal("/echo"), SYN)
    sent = GRANT_BYTES + 1
    await peer.data(1, bytes(sent))
    grants, echoed = [], -len(proposal("/echo"))
    while echoed < sent:
        kind, _, _, length, data = await peer.frame()
        if kind == WINDOW and length:
            grants.append(length)
        echoed += len(data)
    assert len(grants) == 1
    assert GRANT_BYTES <= grants[0] <= sent + len(proposal("/echo"))


async def test_a_peer_that_overruns_its_window_is_cut_off(peer, why):
    await peer.data(1, proposal("/hold"), SYN)
    await send_until_cut_off(lambda: peer.data(1, bytes(WINDOW_BYTES // 4)))
    assert "overran the window of stream 1" in why[0]


async def test_no_more_than_a_window_is_ever_held_for_a_stream(peer, host):
    await peer.data(1, proposal("/hold"), SYN)
    await peer.data(1, bytes(WINDOW_BYTES - len(proposal("/hold"))))
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not host.connections()[0].closed


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (HEADER.pack(1, DATA, SYN, 1, 0), "version 1"),
        (HEADER.pack(0, 9, 0, 1, 0), "type 9"),
        (HEADER.pack(0, DATA, SYN, 1, WINDOW_BYTES + 1), "which no window allows"),
        (HEADER.pack(0, DATA, SYN, 2, 0), "not its to open"),
        (HEADER.pack(0, DATA, SYN, 0, 0), "not its to open"),
        (HEADER.pack(0, WINDOW, SYN, 1, 0) * 2, "not its to open"),
        (HEADER.pack(0, WINDOW, SYN | FIN, 1, 0) + HEADER.pack(0, DATA, 0, 1, 1) + b"x", "after closing"),
    ],
)
async def test_nonsense_ends_the_connection_and_says_why(peer, why, frame, reason):
    await peer.send_packet(frame)
    await peer.until_closed()
    assert reason in why[0]


async def test_a_packet_that_the_peers_key_did_not_seal_ends_the_connection(peer, why):
    await peer.wire.write(b"\x00\x20" + bytes(32))
    await peer.wire.flush()
    await peer.until_closed()
    assert "not sealed by the peer's key" in why[0]


async def test_frames_for_streams_long_gone_are_ignored(peer, host):
    await peer.send(WINDOW, 0, 99, 10)
    await peer.send(DATA, 0, 99, 3, b"abc")
    await peer.send(WINDOW, RST, 99, 0)
    await peer.send(PING, SYN, 0, 5)
    assert await peer.frame() == (PING, ACK, 0, 5, b"")


async def test_goodbye_ends_the_connection(peer, why):
    await peer.send(GO_AWAY, 0, 0, 0)
    await peer.until_closed()
    assert why == ["the peer said goodbye"]


async def test_an_end_without_a_goodbye_is_told_apart(peer, host, why, until):
    peer.wire.close_now()
    await until(lambda: why)
    assert why == ["the peer closed it without a goodbye"]


async def test_who_asks_and_does_not_take_the_answers_is_cut_off(peer, why):
    pings = b"".join(HEADER.pack(0, PING, SYN, 0, n) for n in range(5000))
    await send_until_cut_off(lambda: peer.send_packet(pings))
    assert "does not take the answers" in why[0]


async def test_a_stream_opened_and_left_silent_is_reset(sockets, until):
    host = await sockets.start(limits=HostLimits(negotiate_s=0.05))
    peer = await RawPeer.dial(host)
    await peer.send(WINDOW, SYN, 1, 0)
    with trio.fail_after(60):
        while True:
            kind, flags, number, _, _ = await peer.frame()
            if flags & RST:
                assert (kind, number) == (WINDOW, 1)
                break
    peer.wire.close_now()


async def test_streams_whose_handler_is_done_give_way_when_the_peer_never_closes_them(
    sockets, until, monkeypatch
):
    monkeypatch.setattr("mesh.net.yamux.LINGER_S", 0.0)
    host = await sockets.start(limits=HostLimits(streams_max=2))

    async def done(stream):
        await stream.send(b"done", last=True)

    host.handle("/done", done)
    peer = await RawPeer.dial(host)
    for number in (1, 3, 5, 7):
        await peer.data(number, proposal("/done"), SYN)
        with trio.fail_after(60):
            while True:
                _, flags, answered, _, _ = await peer.frame()
                if flags & FIN and answered == number:
                    break
    peer.wire.close_now()


async def test_whoever_sends_to_a_stream_that_nobody_reads_any_more_is_told(sockets):
    host = await sockets.start()

    async def done(stream):
        await stream.send(b"done", last=True)

    host.handle("/done", done)
    peer = await RawPeer.dial(host)
    await peer.data(1, proposal("/done"), SYN)
    while not (await peer.frame())[1] & FIN:
        pass
    await peer.data(1, b"more")
    assert await peer.frame() == (WINDOW, RST, 1, 0, b"")
    peer.wire.close_now()


async def test_a_flood_is_read_in_portions_between_which_others_get_their_turn(peer, host):
    pings = b"".join(
        len(sealed).to_bytes(2, "big") + sealed
        for sealed in (peer.cipher.encrypt(HEADER.pack(0, PING, SYN, 0, number)) for number in range(640))
    )
    await peer.wire.write(pings)
    await peer.wire.flush()
    turns = 0
    answered = host.connections()[0].wire
    before = answered.bytes_out
    while answered.bytes_out < before + 640 * (HEADER.size + 18):
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns >= 640 // PACKETS_PER_TURN


async def test_a_peer_that_stops_reading_gets_every_packet_whole_when_it_goes_on(peer, host):
    """Sends are cancelled while the kernel takes no more: no packet is cut, the ciphers stay in step."""
    connection = host.connections()[0]
    whole = bytes(range(256)) * 1000

    async def push(stream) -> None:
        await stream.send(whole)

    async with trio.open_nursery() as nursery:
        streams = [await connection.open("/x", deadline_s=60) for _ in range(60)]
        for stream in streams:
            nursery.start_soon(push, stream)
        with trio.fail_after(60):
            while not connection.mux.channel.backlog_bytes:
                await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    got: dict[int, bytes] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, PING, SYN, 0, 1)
        with trio.fail_after(60):
            while True:
                kind, _, number, _, data = await peer.frame()
                got[number] = got.get(number, b"") + data
                if kind == PING:
                    break
    assert len(got) > 10
    for number, data in got.items():
        assert not number or data[len(proposal("/x")) :] == whole[: len(data) - len(proposal("/x"))]
    assert not connection.closed

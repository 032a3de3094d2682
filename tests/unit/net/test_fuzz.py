"""Whatever a peer sends after the handshake, the host goes on, and what it holds for the peer is bounded."""

import logging
import random
import struct

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.identity.keys import NodeKey
from mesh.net.address import parse
from mesh.net.base import Admission, HostLimits
from mesh.net.memory import MemoryHost, MemoryWire, Switchboard
from mesh.net.negotiate import proposal
from mesh.net.stream import WINDOW_BYTES
from mesh.net.switchboard import Pipe

HEADER = struct.Struct(">BBHII")
STREAMS_MAX = 4
numbers = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 11, 13, 0xFFFFFFFF])
flags = st.sampled_from([0, 1, 1, 1, 2, 4, 5, 8, 9, 15, 0xFFFF])
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([proposal("/echo"), proposal("/nothing"), proposal("/hold"), bytes(60_000)]),
)
data_frames = st.builds(
    lambda flags, number, data: HEADER.pack(0, 0, flags, number, len(data)) + data, flags, numbers, bodies
)
other_frames = st.builds(
    lambda kind, flags, number, value: HEADER.pack(0, kind, flags, number, value),
    st.sampled_from([1, 1, 2, 3, 4]),
    flags,
    numbers,
    st.sampled_from([0, 1, WINDOW_BYTES, 0xFFFFFFFF]),
)
packets = st.lists(st.one_of(data_frames, data_frames, other_frames, st.binary(max_size=30)), max_size=25)


async def attack(packets: list[bytes]) -> None:
    board = Switchboard(random.Random(1))
    host = MemoryHost(
        board,
        NodeKey.from_seed(bytes([1] * 32)),
        listen=["/ip4/10.0.0.1/tcp/1"],
        gate=lambda public, ip: Admission.MEMBER,
        limits=HostLimits(streams_max=STREAMS_MAX),
    )

    async def echo(stream):
        while data := await stream.receive():
            await stream.send(data)

    host.handle("/echo", echo)
    host.handle("/hold", lambda stream: trio.sleep_forever())
    honest = MemoryHost(board, NodeKey.from_seed(bytes([2] * 32)), gate=lambda public, ip: Admission.MEMBER)
    attacker = NodeKey.from_seed(bytes([3] * 32)).public
    async with trio.open_nursery() as nursery:
        for each in (host, honest):
            await nursery.start(lambda task_status, each=each: each.run(task_status=task_status))
        out, back = Pipe(board, attacker, host.public), Pipe(board, host.public, attacker)
        host.arrive(MemoryWire(back, out, ("10.0.0.3", 1), initiator=False))
        wire = MemoryWire(out, back, ("10.0.0.1", 1), initiator=True)
        wire.collect(attacker + b"\0\0")
        assert await wire.read(32) == host.public
        for packet in packets:
            wire.try_send(len(packet).to_bytes(2, "big") + packet)
        await trio.testing.wait_all_tasks_blocked()
        connection = host.connection(attacker)
        if connection is not None:
            assert connection.mux.stream_count <= STREAMS_MAX
            held = sum(stream._size for stream in connection.mux._streams.values())
            assert held <= STREAMS_MAX * WINDOW_BYTES
        assert parse(host.addresses[0]).port == 1
        await honest.dial(host.addresses[0], host.public, deadline_s=60)
        async with await honest.open(host.public, "/echo", deadline_s=60) as stream:
            await stream.send(b"still there")
            assert await stream.receive() == b"still there"
        nursery.cancel_scope.cancel()


class Complaints(logging.Handler):
    """What was logged as an error: a mistake of ours, since a peer's nonsense is none."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.heard = []

    def emit(self, record):
        self.heard.append(self.format(record))


@settings(deadline=None, max_examples=300)
@given(packets)
async def test_no_frames_harm_the_host(packets):
    complaints = Complaints()
    logger = logging.getLogger("mesh.net")
    logger.addHandler(complaints)
    try:
        with trio.fail_after(60):
            await attack(packets)
    finally:
        logger.removeHandler(complaints)
    assert complaints.heard == []

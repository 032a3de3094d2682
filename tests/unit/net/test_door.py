"""Ports, and who stands in the doorway."""

import logging
import os
import socket
import struct

import pytest
import trio
import trio.testing
from hostnames import no_network

from mesh.errors import Denied, Failed, Unreachable, UsageError
from mesh.identity.keys import NodeKey
from mesh.net import host
from mesh.net.address import parse
from mesh.net.base import Admission, HostLimits
from mesh.net.dialling import connect
from mesh.net.door import bind
from mesh.net.handshake import Handshaker
from mesh.net.negotiate import HEADER, NOT_KNOWN, proposal
from mesh.net.wire import TcpWire


async def raw(host) -> trio.SocketStream:
    where = parse(host.addresses[0])
    return await trio.open_tcp_stream(where.host, where.port)


async def read_to_end(stream) -> bytes:
    data = b""
    with trio.fail_after(60):
        try:
            while more := await stream.receive_some():
                data += more
        except trio.BrokenResourceError:
            pass
    return data


# -- ports ------------------------------------------------------------------------------------------------


async def test_a_second_host_on_a_port_fails_and_names_it(sockets):
    host = await sockets.start()
    port = parse(host.addresses[0]).port
    with pytest.raises(Failed, match=f"port {port} on 127.0.0.1 is in use"):
        bind(host.addresses)


async def test_nobody_can_join_in_on_our_port(sockets):
    """py-libp2p listens with SO_REUSEPORT, and would take half of our connections."""
    host = await sockets.start()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", parse(host.addresses[0]).port))


async def test_a_port_can_be_listened_on_again_at_once(sockets, until):
    host = await sockets.start()
    where = host.addresses
    peer = await sockets.start()
    await sockets.dial(peer, host)
    sockets.stop(host)
    await until(lambda: not peer.connections())
    for sock in bind(where):
        sock.close()


def test_free_ports_are_one_number_for_both_families_and_udp():
    bound = bind(["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"])
    try:
        ports = {sock.getsockname()[1] for sock in bound}
        assert len(ports) == 1
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as udp:
                udp.bind((host, next(iter(ports))))
    finally:
        for sock in bound:
            sock.close()


@pytest.mark.parametrize(
    ("where", "error", "named"),
    [
        ("/ip4/192.0.2.7/tcp/0", Failed, "192.0.2.7"),
        ("/dns/localhost/tcp/0", Failed, "localhost"),
        ("127.0.0.1:80", UsageError, "127.0.0.1:80"),
    ],
)
def test_what_cannot_be_listened_on_is_named(where, error, named):
    with pytest.raises(error, match=named):
        bind(["/ip4/127.0.0.1/tcp/0", where])


async def test_ipv6_works_as_ipv4_does(sockets, echoing):
    one, other = await sockets.start(), await sockets.start()
    six = sockets.make()
    six._listen = ["/ip6/::1/tcp/0"]
    await sockets.run(six)
    six.handle("/echo", echoing)
    connection = await one.dial(six.addresses[0], six.public, deadline_s=60)
    assert connection.address == six.addresses[0]
    async with await connection.open("/echo", deadline_s=60) as stream:
        await stream.send(b"x")
        assert await stream.receive() == b"x"
    assert other.connections() == []


async def test_a_socket_that_is_reset_as_soon_as_it_is_taken_up_is_unreachable(sockets, monkeypatch):
    async def reset(to):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            mine = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
        with pytest.raises(ConnectionResetError):
            mine.recv(1)
        return mine

    one = await sockets.start()
    monkeypatch.setattr(host, "connect", reset)
    with pytest.raises(Unreachable, match="not connected"):
        await one.dial("/ip4/127.0.0.1/tcp/1", NodeKey.generate().public, deadline_s=60)


async def test_names_are_resolved_when_dialled(sockets):
    one, other = await sockets.start(), await sockets.start()
    port = parse(other.addresses[0]).port
    with no_network():
        for kind in ("dns", "dns4"):
            connection = await one.dial(f"/{kind}/localhost/tcp/{port}", other.public, deadline_s=60)
            assert connection.public == other.public
        with pytest.raises(Unreachable, match="Name or service not known"):
            await one.dial(f"/dns/nobody.invalid/tcp/{port}", other.public, deadline_s=60)
    with pytest.raises(Unreachable, match="cannot be a name"):
        await one.dial(f"/dns/nobody..invalid/tcp/{port}", other.public, deadline_s=60)


# -- the handshake ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_nothing_but_noise_is_offered(sockets, security):
    host = await sockets.start()
    async with await raw(host) as stream:
        await stream.send_all(proposal(security))
        await stream.send_eof()
        assert await read_to_end(stream) == HEADER + NOT_KNOWN
    assert host.connections() == []


async def test_who_stays_silent_is_sent_off_at_the_deadline(sockets, until):
    host = await sockets.start(limits=HostLimits(handshake_s=0.05))
    for said in (b"", HEADER, proposal("/noise"), proposal("/noise") + b"\x00\x20" + os.urandom(32)):
        async with await raw(host) as stream:
            if said:
                await stream.send_all(said)
            await read_to_end(stream)
    await until(lambda: host.pending == 0)
    assert host.counts["handshake_timed_out"] == 4


async def test_garbage_is_sent_off_at_once(sockets, until):
    host = await sockets.start(limits=HostLimits(handshake_s=60))
    for said in (
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(100),
        b"\xff" * 100,
        proposal("/noise") + b"\x00\x05" + bytes(5),
    ):
        async with await raw(host) as stream:
            await stream.send_all(said)
            await stream.send_eof()
            await read_to_end(stream)
    await until(lambda: host.pending == 0)
    assert host.counts["handshake_failed"] == 4


async def test_the_library_reports_no_ordinary_failure_as_an_error(sockets):
    heard = []

    class Listener(logging.Handler):
        def emit(self, record):
            heard.append((record.levelno, record.getMessage()))

    host, one = await sockets.start(), await sockets.start()
    root, ours, listener = logging.getLogger(), logging.getLogger("mesh.net"), Listener()
    level = ours.level
    root.addHandler(listener)
    ours.setLevel(logging.DEBUG)
    try:
        with pytest.raises(Denied):
            await one.dial(host.addresses[0], NodeKey.generate().public, deadline_s=60)
        logging.getLogger("libp2p.security").error("a failed dial")
    finally:
        root.removeHandler(listener)
        ours.setLevel(level)
    assert (logging.DEBUG, "libp2p: a failed dial") in heard
    assert max(level for level, _ in heard) == logging.DEBUG


async def test_a_refused_key_is_closed_before_it_gets_a_multiplexer(sockets):
    host = await sockets.start(gate=lambda public, ip: Admission.REFUSED)
    wire = TcpWire(await connect(parse(host.addresses[0])), initiator=True)
    with pytest.raises(Exception, match=r"closed|gone"):
        await Handshaker(NodeKey.generate()).outbound(wire, host.public)
    wire.close_now()
    assert host.counts["refused"] == 1


async def test_who_was_removed_during_its_handshake_does_not_get_in(sockets, until):
    verdicts = [Admission.MEMBER, Admission.REFUSED]
    host = await sockets.start(gate=lambda public, ip: verdicts.pop(0))
    one = await sockets.start()
    try:
        connection = await sockets.dial(one, host)
        await connection.wait_closed()
    except Unreachable:
        pass
    await until(lambda: host.counts["refused"] == 1)
    assert host.connections() == []


# -- the doorway ------------------------------------------------------------------------------------------


async def test_silent_sockets_give_way_to_a_member(sockets, until):
    host = await sockets.start(limits=HostLimits(pending_max=8, pending_per_address_max=8, handshake_s=60))
    silent = [await raw(host) for _ in range(40)]
    await until(lambda: host.counts["accepted"] == 40)
    assert host.pending == 8
    one = await sockets.start()
    connection = await sockets.dial(one, host)
    assert not connection.closed
    for stream in silent:
        await stream.aclose()


async def test_those_who_have_spoken_outlast_those_who_have_not(sockets, until):
    host = await sockets.start(limits=HostLimits(pending_per_address_max=4, handshake_s=60))
    speaking = await raw(host)
    await speaking.send_all(HEADER)
    await until(lambda: host.pending == 1)
    assert await speaking.receive_some() == HEADER
    silent = [await raw(host) for _ in range(12)]
    await until(lambda: host.counts["accepted"] == 13)
    await speaking.send_all(proposal("/nothing")[len(HEADER) :])
    assert await speaking.receive_some() == NOT_KNOWN
    for stream in [speaking, *silent]:
        await stream.aclose()


async def test_one_source_cannot_take_the_places_of_others(sockets, until):
    host = sockets.make(limits=HostLimits(pending_max=8, pending_per_address_max=6, handshake_s=60))
    host._listen = ["/ip4/0.0.0.0/tcp/0"]
    await sockets.run(host)
    port = parse(host.addresses[0]).port

    async def from_source(ip):
        sock = trio.socket.socket()
        await sock.bind((ip, 0))
        await sock.connect(("127.0.0.1", port))
        return trio.SocketStream(sock)

    honest = await from_source("127.0.0.2")
    flood = [await from_source("127.0.0.3") for _ in range(20)]
    await until(lambda: host.counts["accepted"] == 21)
    assert host.pending == 7
    more = [await from_source("127.0.0.4") for _ in range(3)]
    await until(lambda: host.counts["accepted"] == 24)
    assert host.pending == 8
    await honest.send_all(HEADER)
    assert await honest.receive_some() == HEADER
    for stream in [honest, *flood, *more]:
        await stream.aclose()


async def test_a_slot_is_free_again_when_its_connection_has_ended(sockets, until):
    host = await sockets.start(limits=HostLimits(inbound_max=2))
    for _ in range(20):
        peers = [sockets.make(listen=False) for _ in range(2)]
        for peer in peers:
            await sockets.run(peer)
            await sockets.dial(peer, host)
        for peer in peers:
            sockets.stop(peer)
        await until(lambda: not host.connections())
    assert host.counts["full"] == 0

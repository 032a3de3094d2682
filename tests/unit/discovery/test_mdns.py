"""Multicast DNS on real sockets: the loopback interface and a free port."""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

import dnslib
import pytest
import trio
from ports import free_port

from mesh.discovery import dns
from mesh.discovery.dnssd import SERVICE
from mesh.discovery.interfaces import Interface
from mesh.discovery.mdns import GROUP4, KNOWN_MAX, Mdns
from mesh.errors import Failed
from mesh.identity.keys import NodeKey

MESH = b"m" * 16
LO = Interface("lo", socket.if_nametoindex("lo"), True, ("127.0.0.1",), ("::1",))


@pytest.fixture
def port() -> int:
    return free_port()


def node(
    seed: int, port: int, *, mesh: bytes = MESH, listen: str = "/ip4/127.0.0.1/tcp/4001"
) -> tuple[NodeKey, Mdns]:
    key = NodeKey.from_seed(bytes([seed]) * 32)
    finder = Mdns(mesh, key.public, lambda: [listen], random.Random(seed), read=lambda: [LO], port=port)
    return key, finder


async def test_nodes_of_one_mesh_find_each_other(finds: Any, nursery: trio.Nursery, port: int) -> None:
    nodes = [node(seed, port, listen=f"/ip4/127.0.0.1/tcp/{4000 + seed}") for seed in range(3)]
    nodes.append(node(9, port, mesh=b"other mesh......"))
    for key, finder in nodes:
        nursery.start_soon(finder.run, lambda found, key=key: finds(found._replace(finder=key.peer_id)))
    expected = {
        (a.peer_id, f"/ip4/127.0.0.1/tcp/{4000 + seed}", b.public)
        for a, _ in nodes[:3]
        for seed, (b, _) in enumerate(nodes[:3])
        if a != b
    }
    await finds.until(lambda all: set(all) == expected)
    assert all(finder.dropped == 0 for _, finder in nodes)


async def test_a_node_that_says_goodbye_is_found_again_at_once(
    finds: Any, nursery: trio.Nursery, port: int
) -> None:
    _, stays = node(1, port)
    nursery.start_soon(stays.run, finds)
    for round in (1, 2):
        _, comes = node(2, port)
        async with trio.open_nursery() as inner:
            inner.start_soon(comes.run, lambda found: None)
            await finds.until(lambda all, round=round: len(all) == round)
            inner.cancel_scope.cancel()


async def test_a_poked_finder_follows_new_addresses(finds: Any, nursery: trio.Nursery, port: int) -> None:
    _, listens = node(1, port)
    nursery.start_soon(listens.run, finds)
    key = NodeKey.from_seed(b"2" * 32)
    addresses: list[str] = []
    moves = Mdns(MESH, key.public, lambda: addresses, random.Random(1), read=lambda: [LO], port=port)
    nursery.start_soon(moves.run, lambda found: None)
    for number in (4001, 4002):
        addresses[:] = [f"/ip4/127.0.0.1/tcp/{number}"]
        moves.poke()
        await finds.until(
            lambda all, number=number: all and all[-1].address == f"/ip4/127.0.0.1/tcp/{number}"
        )


async def ask(port: int, packet: bytes, *, reply: bool = True) -> dnslib.DNSRecord | None:
    """A one-shot query from another port, as dig sends it."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        sock.setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("@4s4si", bytes(4), bytes(4), LO.number)
        )
        while True:
            await sock.sendto(packet, (GROUP4, port))
            if not reply:
                return None
            with trio.move_on_after(0.3):
                return dnslib.DNSRecord.parse((await sock.recvfrom(9000))[0])


async def test_a_one_shot_query_of_a_general_library_is_answered(nursery: trio.Nursery, port: int) -> None:
    key, finder = node(1, port)
    nursery.start_soon(finder.run, lambda found: None)
    with trio.fail_after(60):
        answer = await ask(port, bytes(dnslib.DNSRecord.question("_mesh._tcp.local", "PTR").pack()))
    assert answer is not None
    assert str(answer.rr[0].rdata) == f"{key.peer_id}._mesh._tcp.local."
    srv = next(record for record in answer.ar if record.rtype == dns.SRV)
    assert srv.rdata.port == 4001


async def test_garbage_and_floods_are_counted_and_harmless(
    finds: Any, nursery: trio.Nursery, port: int
) -> None:
    _, finder = node(1, port)
    nursery.start_soon(finder.run, finds)
    with trio.fail_after(60):
        while finder.dropped < 5:
            await ask(port, b"\xff" * 40, reply=False)
            await trio.sleep(0.01)
        packet = dns.pack([dns.Question(SERVICE, dns.PTR)])
        before = finder.dropped
        while finder.dropped < before + 50:
            await ask(port, packet, reply=False)
    _, other = node(2, port)
    nursery.start_soon(other.run, lambda found: None)
    await finds.until(lambda all: len(all) == 1)


def test_the_table_of_the_known_is_bounded(port: int) -> None:
    _, finder = node(1, port)
    for number in range(KNOWN_MAX + 20):
        key = NodeKey.from_seed(number.to_bytes(32, "big"))
        about = Mdns(MESH, key.public, list, random.Random(1))._about
        finder._heard(dns.parse(about.announcement(["192.0.2.1"], 1)), 0.0, lambda found: None)
    assert len(finder._known) == KNOWN_MAX


async def test_a_port_that_cannot_be_had_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        four.bind(("", port))
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.bind(("::", port))
        _, finder = node(1, port)
        with pytest.raises(Failed, match=str(port)):
            await finder.run(lambda found: None)


async def test_an_interface_that_cannot_be_used_is_reported_and_spares_the_others(
    finds: Any, nursery: trio.Nursery, port: int
) -> None:
    ghost = Interface("ghost0", 9999, False, ("192.0.2.99",), ())
    key = NodeKey.from_seed(b"3" * 32)
    finder = Mdns(
        MESH,
        key.public,
        lambda: ["/ip4/0.0.0.0/tcp/4001"],
        random.Random(1),
        read=lambda: [ghost, LO._replace(loopback=False)],
        port=port,
    )
    nursery.start_soon(finder.run, lambda found: None)
    _, other = node(1, port)
    nursery.start_soon(other.run, finds)
    await finds.until(lambda all: len(all) == 1)
    assert "ghost0 IPv4" in finder.troubles

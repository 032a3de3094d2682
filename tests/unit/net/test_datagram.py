"""Sealed datagrams: who can open them, and what strangers cost."""

import os
import socket

import pytest
import trio
import trio.testing
from ports import free_port

from mesh.errors import Failed
from mesh.identity.keys import NodeKey
from mesh.net import datagram
from mesh.net.base import DATAGRAM_BYTES_MAX
from mesh.net.datagram import OVERHEAD_BYTES, Datagrams
from mesh.net.memory import MemoryDatagrams


class End:
    """One member's datagrams, and what it received."""

    def __init__(self, kind, board, members, key=None, **more):
        self.key = key or NodeKey.generate()
        self.members = members
        members[self.key.aid] = self.key.public
        if kind == "memory":
            self.datagrams = MemoryDatagrams(board, self.key, members.get)
        else:
            self.datagrams = Datagrams(self.key, members.get, hosts=["127.0.0.1"], **more)
        self.port = free_port()
        self.got = []

    @property
    def at(self):
        return "127.0.0.1", self.port

    async def start(self, nursery):
        await nursery.start(
            self.datagrams.run,
            self.port,
            lambda aid, source, payload: self.got.append((aid, source, payload)),
        )
        return self

    def send(self, other, payload):
        self.datagrams.send_nowait(other.key.public, other.at, payload)


@pytest.fixture
def members():
    return {}


@pytest.fixture
async def ends(world, nursery, members):
    return [await End(world.kind, world.board, members).start(nursery) for _ in range(3)]


async def test_a_member_receives_what_another_sends_and_knows_who_and_where_from(ends, until):
    one, other, _ = ends
    for payload in (b"", b"ping", os.urandom(DATAGRAM_BYTES_MAX)):
        one.send(other, payload)
        await until(lambda: other.got)
        assert other.got.pop() == (one.key.aid, one.at, payload)
        other.send(one, payload)
        await until(lambda: one.got)
        assert one.got.pop() == (other.key.aid, other.at, payload)


async def test_who_is_no_member_is_not_heard(ends, members, until):
    one, other, third = ends
    del members[one.key.aid]
    one.send(other, b"let me in")
    third.send(other, b"x")
    await until(lambda: other.got)
    assert [payload for _, _, payload in other.got] == [b"x"]
    assert other.datagrams.counts["unknown"] == 1


async def test_what_was_sealed_for_another_member_is_not_heard(ends, until):
    one, other, third = ends
    one.datagrams.send_nowait(third.key.public, other.at, b"for the third")
    one.send(other, b"x")
    await until(lambda: other.got)
    assert [payload for _, _, payload in other.got] == [b"x"]


async def test_a_handler_that_raises_harms_nobody(world, nursery, members, until, caplog):
    one = await End(world.kind, world.board, members).start(nursery)
    other = End(world.kind, world.board, members)
    got = []

    def handler(aid, source, payload):
        got.append(payload)
        raise RuntimeError("a mistake of ours")

    await nursery.start(other.datagrams.run, other.port, handler)
    one.send(other, b"a")
    await until(lambda: len(got) == 1)
    one.send(other, b"b")
    await until(lambda: len(got) == 2)
    assert "a mistake of ours" in caplog.text


async def test_sending_where_nobody_is_raises_nothing(ends):
    one, other, _ = ends
    one.datagrams.send_nowait(other.key.public, ("127.0.0.1", free_port()), b"x")
    one.datagrams.send_nowait(other.key.public, ("::1", other.port), b"x")
    one.datagrams.send_nowait(bytes(32), other.at, b"x")
    assert one.datagrams.counts["unsendable"] >= 1


# -- on sockets alone -------------------------------------------------------------------------------------


@pytest.fixture
async def end(sockets, nursery, members):
    return await End("sockets", None, members).start(nursery)


@pytest.fixture
def attacker():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(60)
        yield sock


def record(sender: End, receiver: End, attacker, payload=b"recorded") -> bytes:
    """What a datagram looks like on the network."""
    sender.datagrams.send_nowait(receiver.key.public, attacker.getsockname(), payload)
    return attacker.recv(2048)


async def test_datagrams_changed_on_their_way_are_not_heard(end, nursery, members, attacker, until):
    other = await End("sockets", None, members).start(nursery)
    recorded = record(other, end, attacker)
    assert b"recorded" not in recorded
    for place in range(16, len(recorded)):
        changed = bytearray(recorded)
        changed[place] ^= 1
        attacker.sendto(changed, end.at)
    for size in range(len(recorded)):
        attacker.sendto(recorded[:size], end.at)
    attacker.sendto(recorded + bytes(2000), end.at)
    attacker.sendto(recorded, end.at)
    await until(lambda: end.got)
    assert [payload for _, _, payload in end.got] == [b"recorded"]
    assert end.datagrams.counts["forged"] >= len(recorded) - 16


async def test_a_datagram_cannot_be_sent_back_to_its_sender_as_if_from_the_other(
    end, nursery, members, attacker, until
):
    other = await End("sockets", None, members).start(nursery)
    recorded = record(end, other, attacker)
    attacker.sendto(recorded, end.at)
    attacker.sendto(other.key.aid + recorded[16:], end.at)
    await until(lambda: end.datagrams.counts["forged"] == 1 and end.datagrams.counts["unknown"] == 1)
    assert end.got == []


async def test_meshes_do_not_hear_each_other(nursery, members, sockets, until):
    one = await End("sockets", None, members, context=b"mesh a").start(nursery)
    other = await End("sockets", None, members, context=b"mesh b").start(nursery)
    one.send(other, b"x")
    await until(lambda: other.datagrams.counts["forged"] == 1)
    assert other.got == []


async def test_strangers_are_dropped_before_any_cryptography(end, attacker, until, monkeypatch):
    def never(*_):
        raise AssertionError("cryptography for a stranger")

    monkeypatch.setattr(datagram, "crypto_aead_chacha20poly1305_ietf_decrypt", never)
    monkeypatch.setattr(datagram, "crypto_box_beforenm", never)
    for _ in range(100):
        attacker.sendto(os.urandom(200), end.at)
    await until(lambda: end.datagrams.counts["unknown"] == 100)


async def test_keys_are_agreed_once_per_member_and_few_are_kept(
    end, nursery, members, attacker, until, monkeypatch
):
    monkeypatch.setattr(datagram, "_KEYS_MAX", 8)
    agreed = []
    real = datagram.crypto_box_beforenm
    monkeypatch.setattr(datagram, "crypto_box_beforenm", lambda *keys: agreed.append(1) or real(*keys))
    other = await End("sockets", None, members).start(nursery)
    for _ in range(5):
        other.send(end, b"x")
    await until(lambda: len(end.got) == 5)
    assert len(agreed) == 2  # one at each end
    for _ in range(20):
        end.datagrams.send_nowait(NodeKey.generate().public, attacker.getsockname(), b"x")
    assert len(end.datagrams._keys) == 8


async def test_a_flood_is_left_to_the_kernel_beyond_the_budget(end, attacker, until, monkeypatch):
    monkeypatch.setattr(datagram, "RECEIVED_PER_S_MAX", 64)
    for _ in range(10):
        for _ in range(64):
            attacker.sendto(bytes(OVERHEAD_BYTES), end.at)
        await trio.testing.wait_all_tasks_blocked(0.005)
    assert end.datagrams.counts["paused"] >= 1
    assert end.datagrams.counts["unknown"] < 640


async def test_a_port_in_use_is_named(end, members):
    other = End("sockets", None, members)
    other.port = end.port
    with pytest.raises(Failed, match=str(end.port)):
        await other.datagrams.run(end.port, lambda *_: None)


async def test_the_hosts_free_port_is_free_for_datagrams_too(sockets, nursery, members):
    host = await sockets.start()
    end = End("sockets", None, members)
    end.port = int(host.addresses[0].rsplit("/", 1)[1])
    await end.start(nursery)

"""Reaching a node through another."""

import pytest
import trio

from mesh.errors import Denied, Unreachable, UsageError
from mesh.identity.keys import NodeKey
from mesh.net import relay
from mesh.net.base import Admission, HostLimits


@pytest.fixture
async def three(world, until):
    """A caller and a callee that both dialled a relay, and cannot be dialled."""
    caller, callee = await world.start(listen=False), await world.start(listen=False)
    middle = await world.start()
    for each in (caller, callee):
        await world.dial(each, middle)
    await until(lambda: len(middle.connections()) == 2)
    return caller, middle, callee


async def ask(host, other, data=b"x" * 100) -> bytes:
    async with (
        await host.open(other.public, "/echo", deadline_s=60) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(lambda: stream.send(data, last=True))
        got = b""
        while more := await stream.receive():
            got += more
    return got


async def test_two_that_cannot_dial_each_other_talk_through_a_third(three, echoing, until):
    caller, middle, callee = three
    caller.handle("/echo", echoing)
    callee.handle("/echo", echoing)
    connection = await caller.dial_via(middle.public, callee.public, deadline_s=60)
    assert connection.public == callee.public
    assert connection.relayed
    assert connection.address == f"/p2p/{middle.peer_id}/p2p-circuit"
    await until(lambda: callee.connection(caller.public))
    big = bytes(range(256)) * 8000
    assert await ask(caller, callee, big) == big
    assert await ask(callee, caller, big) == big
    assert middle.relay.carried == 1
    await connection.close()
    await until(lambda: not callee.connection(caller.public))
    await until(lambda: middle.relay.carried == 0)
    assert caller.connection(middle.public)
    assert callee.connection(middle.public)


async def test_the_key_behind_a_relay_is_proved(three, until):
    caller, middle, callee = three
    third = NodeKey.generate()
    real = middle.connection

    def lie(public):
        """A relay that puts its caller through to somebody else."""
        return real(callee.public) if public == third.public else real(public)

    middle.connection = lie
    with pytest.raises(Denied, match="another node"):
        await caller.dial_via(middle.public, third.public, deadline_s=60)
    assert caller.connection(third.public) is None


async def test_the_callees_gate_holds_behind_a_relay(world, until):
    caller, middle = await world.start(listen=False), await world.start()
    callee = await world.start(
        listen=False,
        gate=lambda public, ip: Admission.REFUSED if public == caller.public else Admission.MEMBER,
    )
    for each in (caller, callee):
        await world.dial(each, middle)
    await until(lambda: len(middle.connections()) == 2)
    with pytest.raises(Unreachable):
        await caller.dial_via(middle.public, callee.public, deadline_s=60)
    await until(lambda: middle.relay.carried == 0)
    assert callee.counts["refused"] == 1


async def test_a_relay_says_why_it_does_not_connect(three, world, until):
    caller, middle, callee = three
    with pytest.raises(Unreachable, match="not connected"):
        await caller.dial_via(middle.public, NodeKey.generate().public, deadline_s=60)
    with pytest.raises(Unreachable, match="not connected"):
        await caller.dial_via(NodeKey.generate().public, callee.public, deadline_s=60)
    for public in (caller.public, middle.public):
        with pytest.raises(UsageError, match="third"):
            await caller.dial_via(middle.public, public, deadline_s=60)


async def test_a_relay_carries_no_more_than_it_may(world, until):
    middle = await world.start(limits=HostLimits(relays_max=2, relays_per_peer_max=1))
    ends = [await world.start(listen=False) for _ in range(5)]
    for each in ends:
        await world.dial(each, middle)
    await until(lambda: len(middle.connections()) == 5)
    one, other, third, fourth, fifth = ends
    await one.dial_via(middle.public, other.public, deadline_s=60)
    with pytest.raises(Unreachable, match="as many"):
        await one.dial_via(middle.public, third.public, deadline_s=60)
    second = await third.dial_via(middle.public, fourth.public, deadline_s=60)
    with pytest.raises(Unreachable, match="as many"):
        await fifth.dial_via(middle.public, fourth.public, deadline_s=60)
    await second.close()
    await until(lambda: middle.relay.carried == 1)
    await fifth.dial_via(middle.public, fourth.public, deadline_s=60)


async def test_a_direct_connection_replaces_a_relayed_one_and_not_the_reverse(world, until, echoing):
    caller, callee, middle = await world.start(), await world.start(), await world.start()
    for each in (caller, callee):
        await world.dial(each, middle)
        each.handle("/echo", echoing)
    await until(lambda: len(middle.connections()) == 2)
    relayed = await caller.dial_via(middle.public, callee.public, deadline_s=60)
    direct = await world.dial(callee, caller)
    await until(lambda: relayed.closed)
    assert not direct.relayed
    again = await caller.dial_via(middle.public, callee.public, deadline_s=60)
    assert not again.relayed
    assert await ask(caller, callee) == b"x" * 100
    await until(lambda: middle.relay.carried == 0)


async def test_who_comes_through_a_relay_has_given_the_old_direct_connection_up(world, until, echoing):
    caller, callee = await world.start(), await world.start(limits=HostLimits(simultaneous_s=0.0))
    middle = await world.start()
    for each in (caller, callee):
        await world.dial(each, middle)
        each.handle("/echo", echoing)
    direct = await world.dial(caller, callee)
    await until(lambda: callee.connection(caller.public))
    old = callee.connection(caller.public)
    caller._peers.pop(callee.public)  # it thinks so; on the wire nothing was said
    relayed = await caller.dial_via(middle.public, callee.public, deadline_s=5)
    assert relayed.relayed
    await until(lambda: old.closed)
    assert await ask(callee, caller) == b"x" * 100
    await direct.close()
    assert caller.connection(callee.public) is relayed


async def test_what_is_open_on_a_relayed_connection_may_end_after_a_direct_one_stands(world, until, echoing):
    caller, callee, middle = await world.start(), await world.start(), await world.start()
    for each in (caller, callee):
        await world.dial(each, middle)
        each.handle("/echo", echoing)
    await until(lambda: len(middle.connections()) == 2)
    relayed = await caller.dial_via(middle.public, callee.public, deadline_s=5)
    async with await caller.open(callee.public, "/echo", deadline_s=5) as stream:
        await stream.send(b"before")
        assert await stream.receive() == b"before"
        direct = await world.dial(caller, callee)
        assert caller.connection(callee.public) is direct
        await stream.send(b"after")
        assert await stream.receive() == b"after"
        assert not relayed.closed
    await until(lambda: relayed.closed)
    await until(lambda: middle.relay.carried == 0)


async def test_relays_are_not_chained(three, world, until):
    caller, middle, callee = three
    await caller.dial_via(middle.public, callee.public, deadline_s=60)
    fourth = await world.start(listen=False)
    await world.dial(fourth, middle)
    await until(lambda: middle.connection(fourth.public))
    await fourth.dial_via(middle.public, caller.public, deadline_s=60)
    await until(lambda: caller.connection(fourth.public))
    with pytest.raises(Unreachable, match="not connected"):
        await fourth.dial_via(caller.public, callee.public, deadline_s=60)


async def test_the_end_of_a_relay_ends_what_it_carries(three, world, until):
    caller, middle, callee = three
    connection = await caller.dial_via(middle.public, callee.public, deadline_s=60)
    await until(lambda: callee.connection(caller.public))
    world.stop(middle)
    with trio.fail_after(60):
        await connection.wait_closed()
    await until(lambda: not callee.connections())


async def test_nonsense_to_a_relay_harms_nobody(three, until):
    caller, middle, callee = three
    for said in (b"", b"\x01", b"\x07" + bytes(32), relay._RING + caller.public):
        async with await caller.open(middle.public, relay.PROTOCOL, deadline_s=60) as stream:
            await stream.send(said, last=True)
            try:
                while await stream.receive():
                    pass
            except Unreachable:
                pass
    await caller.dial_via(middle.public, callee.public, deadline_s=60)

"""What any host does, on sockets and in memory alike."""

import logging

import pytest
import trio
import trio.testing

from mesh.errors import Denied, NotFound, TimedOut, Unreachable, UsageError
from mesh.identity.keys import NodeKey, peer_id_of
from mesh.net.base import Admission, HostLimits, Refused


async def read_all(stream) -> bytes:
    data = b""
    while more := await stream.receive():
        data += more
    return data


async def test_a_request_is_answered(world):
    one, other, connection = await world.pair()

    async def shout(stream):
        assert stream.public == one.public
        assert stream.peer_id == peer_id_of(one.public)
        await stream.send((await read_all(stream)).upper(), last=True)

    other.handle("/shout", shout)
    async with await one.open(other.public, "/shout", deadline_s=60) as stream:
        await stream.send(b"hello ")
        await stream.send(b"mesh", last=True)
        assert await read_all(stream) == b"HELLO MESH"
    assert connection.public == other.public
    assert connection.outbound
    assert connection.address == other.addresses[0]


async def test_the_listener_opens_streams_to_the_dialler(world, echoing, until):
    one, other, _ = await world.pair()
    one.handle("/echo", echoing)
    await until(lambda: other.connections())
    async with await other.open(one.public, "/echo", deadline_s=60) as stream:
        await stream.send(b"back")
        assert await stream.receive() == b"back"


async def test_a_server_may_speak_first(world):
    one, other, _ = await world.pair()

    async def greet(stream):
        await stream.send(b"welcome", last=True)

    other.handle("/greet", greet)
    async with await one.open(other.public, "/greet", deadline_s=60) as stream:
        assert await stream.receive() == b"welcome"
        assert await stream.receive() == b""


async def test_what_is_larger_than_every_window_arrives_whole(world, echoing):
    one, other, _ = await world.pair()
    other.handle("/echo", echoing)
    sent = bytes(range(256)) * 8192  # 2 MiB
    async with await one.open(other.public, "/echo", deadline_s=60) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: stream.send(sent, last=True))
        assert await read_all(stream) == sent


async def test_receive_hands_over_no_more_than_asked_and_loses_nothing(world):
    one, other, _ = await world.pair()

    async def greet(stream):
        await stream.send(b"abcdef")
        await stream.send(b"ghi", last=True)

    other.handle("/greet", greet)
    async with await one.open(other.public, "/greet", deadline_s=60) as stream:
        parts = []
        while part := await stream.receive(4):
            assert len(part) <= 4
            parts.append(part)
    assert b"".join(parts) == b"abcdefghi"


async def test_a_protocol_nobody_serves_is_not_found(world):
    one, other, _ = await world.pair()
    async with await one.open(other.public, "/nothing", deadline_s=60) as stream:
        await stream.send(b"?")
        with pytest.raises(NotFound, match="/nothing"):
            await stream.receive()


async def test_a_handler_that_raises_ends_its_stream_and_nothing_else(world, echoing, caplog):
    one, other, connection = await world.pair()

    async def broken(stream):
        await stream.receive()
        raise RuntimeError("a mistake of ours")

    other.handle("/broken", broken)
    other.handle("/echo", echoing)
    with caplog.at_level(logging.ERROR, "mesh.net"):
        async with await one.open(other.public, "/broken", deadline_s=60) as stream:
            await stream.send(b"x")
            with pytest.raises(Unreachable, match="reset"):
                await stream.receive()
    assert "a mistake of ours" in caplog.text
    assert other.counts["handlers_raised"] == 1
    async with await one.open(other.public, "/echo", deadline_s=60) as stream:
        await stream.send(b"still there")
        assert await stream.receive() == b"still there"
    assert not connection.closed


async def test_a_reset_by_the_peer_ends_one_stream_and_nothing_else(world, echoing, until):
    one, other, _ = await world.pair()
    other.handle("/echo", echoing)
    for _ in range(3):
        stream = await one.open(other.public, "/echo", deadline_s=60)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await stream.reset()
        with pytest.raises(Unreachable):
            await stream.receive()
    await until(lambda: other.counts["streams_failed"] == 3)
    async with await one.open(other.public, "/echo", deadline_s=60) as stream:
        await stream.send(b"y")
        assert await stream.receive() == b"y"


async def test_another_key_than_the_expected_one_is_denied(world):
    one, other = await world.start(), await world.start()
    with pytest.raises(Denied, match="another node"):
        await one.dial(other.addresses[0], NodeKey.generate().public, deadline_s=60)
    assert one.connections() == []


async def test_a_key_in_the_address_is_expected_too(world):
    one, other = await world.start(), await world.start()
    with pytest.raises(Denied, match="another node"):
        await one.dial(f"{other.addresses[0]}/p2p/{NodeKey.generate().peer_id}", None, deadline_s=60)
    connection = await one.dial(f"{other.addresses[0]}/p2p/{other.peer_id}", None, deadline_s=60)
    assert connection.public == other.public


async def test_whoever_answers_may_be_dialled_without_knowing_its_key(world):
    one, other = await world.start(), await world.start()
    connection = await one.dial(other.addresses[0], None, deadline_s=60)
    assert connection.public == other.public


async def test_a_port_where_nobody_listens_refuses(world):
    one, other = await world.start(), await world.start()
    where = other.addresses[0]
    world.stop(other)
    with trio.fail_after(60):
        while True:
            try:
                await one.dial(where, other.public, deadline_s=60)
            except Refused:
                break
            except Unreachable:
                await trio.sleep(0.01)  # it was still stopping


async def test_a_node_does_not_dial_itself(world):
    one = await world.start()
    with pytest.raises(UsageError, match="itself"):
        await one.dial(one.addresses[0], one.public, deadline_s=60)


async def test_both_ends_are_told_of_a_connection_and_of_its_end(world, until):
    one, other = await world.start(), await world.start()
    told = []
    for name, host in (("one", one), ("other", other)):
        host.on_connected = lambda c, name=name: told.append((name, "up", c.public))
        host.on_disconnected = lambda c, name=name: told.append((name, "down", c.public))
    await world.dial(one, other)
    await until(lambda: len(told) == 2)
    await one.close_peer(other.public)
    await until(lambda: len(told) == 4)
    assert sorted(told[:2]) == sorted([("one", "up", other.public), ("other", "up", one.public)])
    assert sorted(told[2:]) == sorted([("one", "down", other.public), ("other", "down", one.public)])
    assert one.connections() == other.connections() == []


async def test_a_callback_that_raises_harms_nobody(world, caplog):
    one, other = await world.start(), await world.start()
    one.on_connected = lambda connection: 1 / 0
    await world.dial(one, other)
    assert "ZeroDivisionError" in caplog.text
    assert [each.public for each in one.connections()] == [other.public]


async def test_streams_of_a_connection_that_ends_are_unreachable(world, echoing):
    one, other, connection = await world.pair()
    other.handle("/echo", echoing)
    stream = await one.open(other.public, "/echo", deadline_s=60)
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    async with trio.open_nursery() as nursery:

        async def read():
            with pytest.raises(Unreachable, match="gone"):
                await stream.receive()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await connection.close()
    with pytest.raises(Unreachable):
        await stream.send(b"y")
    with pytest.raises(Unreachable):
        await one.open(other.public, "/echo", deadline_s=60)


async def test_a_stopped_host_says_goodbye_and_leaves_no_task(world, until):
    _one, other, connection = await world.pair()
    world.stop(other)
    with trio.fail_after(60):
        await connection.wait_closed()
    assert connection.why == "the peer said goodbye"


async def test_a_connection_may_be_dialled_400_times_without_a_trace(world, until):
    one, other = await world.start(), await world.start()
    tasks = None
    for count in range(400):
        connection = await world.dial(one, other)
        await connection.close()
        if count == 20:
            await until(lambda: not other.connections())
            tasks = trio.lowlevel.current_statistics().tasks_living
    await until(lambda: not other.connections())
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)
    await world.dial(one, other)


# -- cancelled in the middle ------------------------------------------------------------------------------


async def test_cancelled_sends_and_receives_leave_the_connection_whole(world, echoing):
    one, other, connection = await world.pair()
    silent = trio.Event()

    async def ignore(stream):
        await silent.wait()

    other.handle("/ignore", ignore)
    other.handle("/echo", echoing)
    for size in (10, 100_000, 300_000, 3_000_000):
        async with await one.open(other.public, "/ignore", deadline_s=60) as stream:
            with trio.move_on_after(0.02):
                while True:
                    await stream.send(bytes(size))
        async with await one.open(other.public, "/ignore", deadline_s=60) as stream:
            with trio.move_on_after(0.005):
                await stream.receive()
        async with await one.open(other.public, "/echo", deadline_s=60) as stream:
            await stream.send(b"z" * 1000)
            assert len(await stream.receive()) > 0
    assert not connection.closed
    silent.set()


async def test_a_send_cut_short_spoils_its_stream_so_that_nothing_is_misread(world):
    one, other, _ = await world.pair()
    hold = trio.Event()
    other.handle("/hold", lambda stream: hold.wait())
    async with await one.open(other.public, "/hold", deadline_s=60) as stream:
        with trio.move_on_after(0.05) as scope:
            await stream.send(bytes(1_000_000))
        assert scope.cancelled_caught
        with pytest.raises(Unreachable, match="cut short"):
            await stream.send(b"the next message")
    hold.set()


async def test_sends_of_two_tasks_do_not_mix(world):
    one, other, _ = await world.pair()
    got = []

    async def collect(stream):
        got.append(await read_all(stream))

    other.handle("/collect", collect)
    async with await one.open(other.public, "/collect", deadline_s=60) as stream:
        async with trio.open_nursery() as nursery:
            for letter in (b"a", b"b"):
                nursery.start_soon(stream.send, letter * 700_000)
        await stream.close()
        assert await stream.receive() == b""
    assert got[0] in (b"a" * 700_000 + b"b" * 700_000, b"b" * 700_000 + b"a" * 700_000)


async def test_a_peer_that_takes_nothing_stalls_one_stream_for_a_limited_time(world, echoing):
    one = await world.start(limits=HostLimits(stall_s=0.2))
    other = await world.start()
    connection = await world.dial(one, other)
    hold = trio.Event()
    other.handle("/hold", lambda stream: hold.wait())
    other.handle("/echo", echoing)
    async with await one.open(other.public, "/hold", deadline_s=60) as stream:
        with pytest.raises(Unreachable, match="took nothing"):
            await stream.send(bytes(1_000_000))
    async with await one.open(other.public, "/echo", deadline_s=60) as stream:
        await stream.send(b"x")
        assert await stream.receive() == b"x"
    assert not connection.closed
    hold.set()


# -- how many streams -------------------------------------------------------------------------------------


async def test_our_streams_to_a_peer_are_limited_and_one_that_ends_frees_its_place(world):
    one = await world.start(limits=HostLimits(streams_max=4))
    other = await world.start()
    connection = await world.dial(one, other)
    hold = trio.Event()
    other.handle("/hold", lambda stream: hold.wait())
    streams = [await connection.open("/hold", deadline_s=60) for _ in range(4)]
    with pytest.raises(TimedOut, match="all 4"):
        await connection.open("/hold", deadline_s=0.05)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: connection.open("/hold", deadline_s=60))
        await trio.testing.wait_all_tasks_blocked()
        await streams[0].reset()
    hold.set()


async def test_a_peer_that_opens_too_many_streams_has_the_surplus_reset(world):
    one = await world.start()
    other = await world.start(limits=HostLimits(streams_max=4))
    connection = await world.dial(one, other)
    hold = trio.Event()

    async def serve(stream):
        await stream.send(b"in")
        await hold.wait()

    other.handle("/serve", serve)
    streams = [await connection.open("/serve", deadline_s=60) for _ in range(6)]
    for stream in streams[:4]:
        assert await stream.receive() == b"in"
    for stream in streams[4:]:
        with pytest.raises(Unreachable, match="reset"):
            await stream.receive()
    await streams[0].reset()
    stream = await connection.open("/serve", deadline_s=60)
    assert await stream.receive() == b"in"
    hold.set()


async def test_thousands_of_short_streams_leave_nothing_behind(world, echoing):
    _one, other, connection = await world.pair()
    other.handle("/echo", echoing)
    for _ in range(1000):
        async with await connection.open("/echo", deadline_s=60) as stream:
            await stream.send(b"x", last=True)
            assert await stream.receive() == b"x"
            assert await stream.receive() == b""
    assert connection.mux.stream_count == 0


# -- who is let in ----------------------------------------------------------------------------------------


async def test_who_is_refused_by_the_gate_gets_no_connection(world, until):
    one = await world.start()
    other = await world.start(gate=lambda public, ip: Admission.REFUSED)
    with pytest.raises(Unreachable):
        await world.dial(one, other)
    await until(lambda: other.counts["refused"] == 1)
    assert other.connections() == []


async def test_our_own_gate_holds_for_whom_we_dial(world):
    one = await world.start(gate=lambda public, ip: Admission.REFUSED)
    other = await world.start()
    with pytest.raises(Denied, match="not admitted"):
        await world.dial(one, other)
    assert one.connections() == []


async def test_the_gate_is_told_key_and_ip(world, until):
    asked = []

    def gate(public, ip):
        asked.append((public, ip))
        return Admission.MEMBER

    one = await world.start()
    other = await world.start(gate=gate)
    await world.dial(one, other)
    await until(lambda: asked)
    assert set(asked) == {(one.public, "127.0.0.1")}


async def test_strangers_reach_only_what_is_open_to_them(world, echoing):
    one = await world.start()
    other = await world.start(gate=lambda public, ip: Admission.STRANGER)
    connection = await world.dial(one, other)
    other.handle("/members", echoing)
    other.handle("/join", echoing, strangers=True)
    async with await connection.open("/members", deadline_s=60) as stream:
        await stream.send(b"x")
        with pytest.raises(NotFound):
            await stream.receive()
    async with await connection.open("/join", deadline_s=60) as stream:
        await stream.send(b"x")
        assert await stream.receive() == b"x"


async def test_strangers_share_few_places_and_never_take_a_members(world, until):
    members = set()

    def gate(public, ip):
        return Admission.MEMBER if public in members else Admission.STRANGER

    other = await world.start(gate=gate, limits=HostLimits(strangers_max=2, inbound_max=1))
    strangers = [await world.start() for _ in range(4)]
    connections = [await world.dial(each, other) for each in strangers]
    await until(lambda: other.counts["strangers_gave_way"] == 2)
    with trio.fail_after(60):
        await connections[0].wait_closed()
        await connections[1].wait_closed()
    assert not connections[3].closed
    member = await world.start()
    members.add(member.public)
    assert not (await world.dial(member, other)).closed
    surplus = await world.start()
    members.add(surplus.public)
    with pytest.raises(Unreachable):
        await world.dial(surplus, other)
    await until(lambda: other.counts["full"] == 1)


async def test_a_stranger_that_does_not_join_is_sent_off(world):
    one = await world.start()
    other = await world.start(gate=lambda public, ip: Admission.STRANGER, limits=HostLimits(stranger_s=0.05))
    connection = await world.dial(one, other)
    with trio.fail_after(60):
        await connection.wait_closed()


async def test_a_stranger_that_joins_is_a_member_and_one_that_is_removed_is_cut_off(world, echoing, until):
    verdict = Admission.STRANGER
    one = await world.start()
    other = await world.start(gate=lambda public, ip: verdict)
    connection = await world.dial(one, other)
    other.handle("/members", echoing)
    await until(lambda: other.connections())
    verdict = Admission.MEMBER
    other.recheck()
    assert other.connections()[0].admission is Admission.MEMBER
    async with await connection.open("/members", deadline_s=60) as stream:
        await stream.send(b"x")
        assert await stream.receive() == b"x"
    verdict = Admission.REFUSED
    other.recheck()
    assert other.connections() == []
    with trio.fail_after(60):
        await connection.wait_closed()


async def test_ends_with_different_prologues_never_connect(world):
    one, other = await world.start(prologue=b"mesh a"), await world.start(prologue=b"mesh b")
    with pytest.raises(Unreachable):
        await world.dial(one, other)
    assert one.connections() == other.connections() == []
    third = await world.start(prologue=b"mesh a")
    await world.dial(one, third)


# -- two connections with one peer ------------------------------------------------------------------------


async def test_of_two_simultaneous_dials_the_lower_keys_stays(world, keys, until, echoing):
    low, high = await world.start(keys[0]), await world.start(keys[1])
    low.handle("/echo", echoing)
    high.handle("/echo", echoing)
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.dial, low, high)
            nursery.start_soon(world.dial, high, low)
        await until(lambda: len(low.connections()) == len(high.connections()) == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [each.outbound for each in low.connections()] == [True]
        assert [each.outbound for each in high.connections()] == [False]
        for one, other in ((low, high), (high, low)):
            async with await one.open(other.public, "/echo", deadline_s=60) as stream:
                await stream.send(b"x")
                assert await stream.receive() == b"x"
        await low.close_peer(high.public)
        await until(lambda: not high.connections())


async def test_a_later_connection_replaces_one_that_its_other_end_has_forgotten(world, keys, until):
    low = await world.start(keys[0], limits=HostLimits(simultaneous_s=0.0))
    high = await world.start(keys[1])
    first = await world.dial(low, high)
    told = []
    low.on_disconnected = lambda c: told.append(("down", c))
    low.on_connected = lambda c: told.append(("up", c))
    await world.dial(high, low)
    await until(lambda: len(told) == 2)
    assert told[0] == ("down", first)
    assert told[1] == ("up", low.connections()[0])
    assert first.closed
    assert "replaced" in first.why


async def test_a_redial_replaces_the_connection_of_the_same_end(world, until):
    one, other, first = await world.pair()
    second = await world.dial(one, other)
    assert first.closed
    await until(lambda: len(other.connections()) == 1)
    assert one.connections() == [second]
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not second.closed


async def test_a_dial_that_nobody_answers_ends_at_its_deadline(world):
    one, other = await world.start(), await world.start()
    if world.kind == "memory":
        world.board.cut(one.public, other.public)
        with pytest.raises(TimedOut, match="did not answer"):
            await one.dial(other.addresses[0], other.public, deadline_s=0.05)
        return
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    with listener, pytest.raises(TimedOut, match="did not answer"):
        await one.dial(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}", other.public, deadline_s=0.05)


async def test_a_failed_dial_bans_nobody(world):
    other = world.make()
    one = await world.start()
    await world.run(other)
    with pytest.raises(Denied):
        await one.dial(other.addresses[0], NodeKey.generate().public, deadline_s=60)
    for _ in range(3):
        await (await world.dial(one, other)).close()

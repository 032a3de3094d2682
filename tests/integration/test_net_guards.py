"""Attacks on the port of a node in a process of its own, its death, and foreign libp2p peers."""

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import trio

from mesh.identity.keys import NodeKey
from mesh.net.address import parse
from mesh.net.base import Admission
from mesh.net.host import Host

# Members are the keys of seeds 1..9; it answers /echo, and reports on itself at /report. Its words: how many
# files it may have open (0: as many as it may anyway), and how long a handshake may take.
NODE = """
import json, resource, sys, trio
from mesh.identity.keys import NodeKey
from mesh.net.base import Admission, HostLimits
from mesh.net.host import Host

members = {NodeKey.from_seed(bytes([n] * 32)).public for n in range(1, 10)}
files, handshake_s = int(sys.argv[1]), float(sys.argv[2])
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

async def echo(stream):
    while data := await stream.receive():
        await stream.send(data)

async def report(stream):
    pages = int(open("/proc/self/statm").read().split()[1])
    connected = [c.public.hex() for c in host.connections()]
    said = {"mib": pages / 256, "counts": host.counts, "connected": connected}
    await stream.send(json.dumps(said).encode(), last=True)

host = Host(
    NodeKey.from_seed(bytes([1] * 32)),
    listen=["/ip4/127.0.0.1/tcp/0"],
    gate=lambda public, ip: Admission.MEMBER if public in members else Admission.REFUSED,
    limits=HostLimits(handshake_s=handshake_s),
)
host.handle("/echo", echo)
host.handle("/report", report)

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: host.run(task_status=task_status))
        print(host.addresses[0], flush=True)

trio.run(main)
"""
NODE_KEY = NodeKey.from_seed(bytes([1] * 32))
MEMBER = NodeKey.from_seed(bytes([2] * 32))
PATIENCE_S = 60.0  # how long a test waits for what must happen; never how long it may take


@asynccontextmanager
async def program(source: str, *arguments: str):
    """A running program, and the first line it said."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", source, *arguments], stdout=subprocess.PIPE
    )
    try:
        said = b""
        with trio.fail_after(2 * PATIENCE_S):
            while not said.endswith(b"\n"):
                more = await process.stdout.receive_some()
                assert more, "the program ended"
                said += more
        yield process, said.decode().strip()
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()


@asynccontextmanager
async def running(key: NodeKey, **more):
    host = Host(key, gate=lambda public, ip: Admission.MEMBER, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: host.run(task_status=task_status))
        yield host
        nursery.cancel_scope.cancel()


async def report_of(host: Host) -> dict:
    async with await host.open(NODE_KEY.public, "/report", deadline_s=PATIENCE_S) as stream:
        said = b""
        while more := await stream.receive():
            said += more
    return json.loads(said)


async def test_four_hundred_made_up_identities_get_nowhere_and_a_member_gets_in():
    async with program(NODE, "0", "4") as (_, where), trio.open_nursery() as nursery:
        refused = 0
        limit = trio.CapacityLimiter(50)

        async def intrude() -> None:
            nonlocal refused
            async with limit, running(NodeKey.generate()) as stranger:
                try:
                    await stranger.dial(where, NODE_KEY.public, deadline_s=PATIENCE_S)
                except Exception:
                    refused += 1

        for _ in range(400):
            nursery.start_soon(intrude)
        await trio.sleep(0.2)
        async with running(MEMBER) as member:
            await member.dial(where, NODE_KEY.public, deadline_s=PATIENCE_S)
            assert refused < 400, "it gets in while they are at the door, not after them"
            with trio.fail_after(3 * PATIENCE_S):
                while refused < 400:
                    await trio.sleep(0.02)
            assert (await report_of(member))["connected"] == [MEMBER.public.hex()]


async def test_silent_sockets_and_garbage_neither_keep_a_member_out_nor_grow_the_node():
    # Nobody silent is sent off by time alone before the member has given up.
    async with program(NODE, "0", str(5 * PATIENCE_S)) as (_, where), running(MEMBER) as member:
        await member.dial(where, NODE_KEY.public, deadline_s=PATIENCE_S)
        before = (await report_of(member))["mib"]
        await member.close_peer(NODE_KEY.public)
        at = parse(where)
        silent = [await trio.open_tcp_stream(at.host, at.port) for _ in range(400)]
        for _ in range(2000):
            garbage = await trio.open_tcp_stream(at.host, at.port)
            try:
                await garbage.send_all(os.urandom(64))
            except trio.BrokenResourceError:
                pass
            await garbage.aclose()
        await member.dial(where, NODE_KEY.public, deadline_s=PATIENCE_S)
        report = await report_of(member)
        assert report["mib"] - before < 30
        assert report["counts"]["accepted"] >= 2400
        for stream in silent:
            await stream.aclose()


async def test_a_node_out_of_files_goes_on_and_takes_members_in_when_it_has_some_again():
    async with program(NODE, "40", "4") as (process, where), running(MEMBER) as member:
        at = parse(where)
        silent = [await trio.open_tcp_stream(at.host, at.port) for _ in range(100)]
        await member.dial(where, NODE_KEY.public, deadline_s=PATIENCE_S)
        assert (await report_of(member))["counts"]["out_of_files"] > 0
        assert process.poll() is None
        for stream in silent:
            await stream.aclose()


async def test_the_death_of_a_peer_is_seen_by_whoever_reads_from_it():
    async with program(NODE, "0", "4") as (process, where), running(MEMBER) as member:
        connection = await member.dial(where, NODE_KEY.public, deadline_s=PATIENCE_S)
        async with await connection.open("/echo", deadline_s=PATIENCE_S) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            process.send_signal(signal.SIGKILL)
            with trio.fail_after(PATIENCE_S), pytest.raises(Exception, match="gone"):
                await stream.receive()
        assert connection.closed


# -- py-libp2p as it comes --------------------------------------------------------------------------------

STOCK = """
import sys, trio
from multiaddr import Multiaddr
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.host.ping import PingService
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport

async def echo(stream):
    try:
        while data := await stream.read(65536):
            await stream.write(data)
    except Exception:
        pass
    await stream.close()

async def ask(host, to):
    await host.connect(to)
    assert len(await PingService(host).ping(to.peer_id, 3)) == 3
    with trio.fail_after(60):
        while "/echo" not in host.get_peerstore().get_protocols(to.peer_id):
            await trio.sleep(0.05)
    stream = await host.new_stream(to.peer_id, ["/nothing", "/echo"])
    for size in (1, 1000, 70_000, 600_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, bytes(size))
            got = 0
            while got < size:
                got += len(await stream.read(65536))
    await stream.close_write()
    try:
        assert await stream.read(10) == b""
    except Exception as error:
        assert type(error).__name__ == "StreamEOF", error
    print("understood", flush=True)

async def main():
    keys = create_new_key_pair()
    noise = Transport(keys, create_noise_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={PROTOCOL_ID: noise})
    host.set_stream_handler("/echo", echo)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        if len(sys.argv) > 1:
            await ask(host, info_from_p2p_addr(Multiaddr(sys.argv[1])))
        else:
            print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def echo(stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def test_py_libp2p_dials_us_pings_identifies_and_is_echoed():
    async with running(NODE_KEY, listen=["/ip4/127.0.0.1/tcp/0"]) as host:
        host.handle("/echo", echo)
        async with program(STOCK, f"{host.addresses[0]}/p2p/{host.peer_id}") as (_, said):
            assert said == "understood"


async def test_we_dial_py_libp2p_and_are_echoed():
    async with program(STOCK) as (process, where), running(MEMBER) as host:
        connection = await host.dial(where, None, deadline_s=PATIENCE_S)
        async with await connection.open("/echo", deadline_s=PATIENCE_S) as stream:
            for size in (1, 1000, 70_000, 600_000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send, bytes(size))
                    got = 0
                    while got < size:
                        got += len(await stream.receive())
            await stream.close()
            assert await stream.receive() == b""
        process.send_signal(signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            await connection.wait_closed()

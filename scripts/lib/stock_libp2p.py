"""A held stream of stock py-libp2p, to be measured beside ours: `server`, or `client ADDRESS COUNT MIB`.

The server prints its address, echoes on one protocol and takes in bulk on another. The client prints JSON:
round trips in ms of 100 bytes on one held stream, then MB/s of one stream in writes of 64 KiB.
"""

import json
import sys
import time
from typing import Any

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

ECHO, SINK = TProtocol("/bench/echo/1"), TProtocol("/bench/sink/1")
PIECE = 64 << 10


def host_of() -> Any:
    """A host with Noise as its only security."""
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as noise_pair

    pair = create_new_key_pair()
    noise = NoiseTransport(libp2p_keypair=pair, noise_privkey=noise_pair().private_key, early_data=None)
    return new_host(key_pair=pair, sec_opt={NOISE: noise})


async def serve() -> None:
    host = host_of()

    async def echo(stream: Any) -> None:
        while data := await stream.read(4096):
            await stream.write(data)

    async def sink(stream: Any) -> None:
        left = int.from_bytes(await stream.read(8), "big")
        while left > 0:
            left -= len(await stream.read(PIECE))
        await stream.write(b"!")

    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        host.set_stream_handler(ECHO, echo)
        host.set_stream_handler(SINK, sink)
        print(f"{host.get_addrs()[0]}", flush=True)
        await trio.sleep_forever()


async def ask(address: str, count: int, mib: int) -> None:
    host = host_of()
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [ECHO])
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            await stream.write(bytes(100))
            left = 100
            while left:
                left -= len(await stream.read(left))
            times.append((time.perf_counter() - begun) * 1000)
        stream = await host.new_stream(info.peer_id, [SINK])
        size = mib << 20
        begun = time.perf_counter()
        await stream.write(size.to_bytes(8, "big"))
        for _ in range(size // PIECE):
            await stream.write(bytes(PIECE))
        await stream.read(1)
        rate = size / 1e6 / (time.perf_counter() - begun)
        print(json.dumps({"rtt_ms": times, "mb_per_s": rate}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        trio.run(serve)
    else:
        trio.run(ask, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

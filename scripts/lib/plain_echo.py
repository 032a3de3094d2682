"""Request and answer over plain trio TCP, to be measured beside ours: `server`, or `client PORT COUNT SIZE`.

The least that a request can cost in this language on this machine: no framing, no encryption, no names. The
server prints its port; the client keeps one connection, sends SIZE bytes, waits for as many, and prints its
round trips in ms as JSON.
"""

import json
import socket
import sys
import time

import trio


async def echo(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := await stream.receive_some(65536):
        await stream.send_all(data)


async def serve() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(echo, [listener])


async def ask(port: int, count: int, size: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await stream.send_all(bytes(size))
        left = size
        while left:
            left -= len(await stream.receive_some(left))
        times.append((time.perf_counter() - begun) * 1000)
    print(json.dumps(times), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        trio.run(serve)
    else:
        trio.run(ask, int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

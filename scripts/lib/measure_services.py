"""The measurements of `scripts/bench` about services: resolving, calls by name, instances that fall."""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from figures import Figures
from measure import Fleet, alive, fleet, running, wait

from mesh.client import Client

HERE = Path(__file__).resolve().parent
COUNT, MIB = 1000, 128
PIECE = 64 << 10

# A program behind a service, in a process of its own: echoes, or takes in bulk what begins with b"B" + size.
PROGRAM = """
import socket, threading
def serve(sock):
    first = sock.recv(65536)
    if first[:1] == b"B":
        left = int.from_bytes(first[1:9], "big") - (len(first) - 9)
        while left > 0:
            left -= len(sock.recv(1 << 20))
        sock.sendall(b"!")
        return
    while first:
        sock.sendall(first)
        first = sock.recv(65536)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    sock = listener.accept()[0]
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(sock,), daemon=True).start()
"""


class Instances:
    """A catalogue and surroundings for a router alone, as large as asked."""

    def __init__(self, services: int, each: int) -> None:
        from mesh.core.registry import Endpoint, Health, Instance, Service

        self.on_change: list[Callable[[frozenset[str] | None], None]] = []
        self.me = bytes(16)
        endpoints = (Endpoint("tcp", "127.0.0.1", 80),)
        self.listed = {
            f"s{number}": [
                Instance(
                    Service(f"{number:08x}{at:08x}", f"s{number}", "1", bytes([at + 1] * 16), endpoints),
                    Health.HEALTHY,
                    True,
                    labels={"name": f"n{at}", "tier": "edge"},
                )
                for at in range(each)
            ]
            for number in range(services)
        }

    def instances(self, name: str) -> Sequence[Any]:
        return self.listed.get(name, [])

    def place_of(self, aid: bytes) -> Any:
        from mesh.core.routing import Place

        return Place(aid, "default")

    def way_to(self, aid: bytes) -> tuple[float | None, float]:
        return 0.001, 0.0

    def free_of(self, aid: bytes) -> dict[str, float]:
        return {}

    def capabilities_of(self, aid: bytes) -> Sequence[str]:
        return ()

    def public_of(self, aid: bytes) -> bytes | None:
        return None

    def gateways_of(self, zone: str) -> Sequence[bytes]:
        return ()


def resolving(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Picks from kept decisions, and decisions anew, with 1,000 services of 10 instances, in one process."""
    from mesh.agent.picking import Picker

    town = Instances(1000, 10)
    picker = Picker(town, town, lambda name: None, random.Random(1), time.monotonic)
    names = list(town.listed)
    fresh = []
    for name in names:
        begun = time.perf_counter()
        picker.pick(name)
        fresh.append((time.perf_counter() - begun) * 1000)
    rates = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(20):
            for name in names:
                picker.pick(name)
        rates.append(20 * len(names) / (time.perf_counter() - begun))
    figures.add("resolve from the cache", rates, "/s", ">= 20000")
    figures.add("resolve anew, 1,000 services of 10", fresh, "ms", "<= 1")


def round_trips(port: int) -> list[float]:
    """Of 100 bytes on one kept connection, ms."""
    times = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(COUNT):
            begun = time.perf_counter()
            sock.sendall(bytes(100))
            left = 100
            while left:
                left -= len(sock.recv(left))
            times.append((time.perf_counter() - begun) * 1000)
    return times


def bulk(port: int) -> float:
    """MB/s of one connection."""
    size = MIB << 20
    with socket.create_connection(("127.0.0.1", port)) as sock:
        begun = time.perf_counter()
        sock.sendall(b"B" + size.to_bytes(8, "big"))
        for _ in range(size // PIECE):
            sock.sendall(bytes(PIECE))
        sock.recv(1)
        return size / 1e6 / (time.perf_counter() - begun)


def proxied(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """A connection through two agents beside a direct one and beside a held stream of stock py-libp2p."""
    stock = str(HERE / "stock_libp2p.py")
    with fleet(programs, 2) as made, running("-c", PROGRAM) as said, running(stock, "server") as address:
        port = int(said)
        _import(made, "echo")
        with Client(str(made.nodes[1].socket)) as client:
            client.register({"name": "echo", "port": port})
        with Client(str(made.nodes[0].socket)) as client:
            wait(lambda: bool(client.services("echo")))
            through = client.listeners()[0]["port"]
        ratios, rates, shares = [], [], []
        through_ms, direct_ms, stream_ms, bulk_stream, bulk_direct = [], [], [], [], []
        for _ in range(5):
            words = [sys.executable, stock, "client", address, str(COUNT), str(MIB)]
            found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            stream_ms.append(statistics.median(found["rtt_ms"]))
            bulk_stream.append(found["mb_per_s"])
            through_ms.append(statistics.median(round_trips(through)))
            rates.append(bulk(through))
            direct_ms.append(statistics.median(round_trips(port)))
            bulk_direct.append(bulk(port))
            ratios.append(through_ms[-1] / stream_ms[-1])
            shares.append(rates[-1] / bulk_stream[-1] * 100)
    direct = f"direct TCP {statistics.median(direct_ms):.3f}, stream {statistics.median(stream_ms):.3f} ms"
    figures.add("round trip through the proxy, 100 B", through_ms, "ms", "", direct)
    figures.add("the same, of a held py-libp2p stream's", ratios, "times", "<= 3")
    lines = f"direct {statistics.median(bulk_direct):.0f}, stream {statistics.median(bulk_stream):.0f} MB/s"
    figures.add("bulk through the proxy, one connection", rates, "MB/s", "", lines)
    figures.add("the same, of one py-libp2p stream's", shares, "%", ">= 80")


def _import(made: Fleet, name: str) -> None:
    """Start the first agent again, with a listener for a service."""
    node, pid = made.nodes[0], made.pids()[0]
    with node.config.open("a") as file:
        file.write(f'\n[proxy.imports]\n{name} = "0"\n')
    os.kill(pid, signal.SIGTERM)
    wait(lambda: node.pid() is None)
    node.start()
    wait(lambda: alive(made.clients()[0]) == len(made.nodes))


def falling(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """From a failed check, and from kill -9 of an agent, until nobody's rotation has the instance."""
    checked, killed = [], []
    for _ in range(3):
        with fleet(programs, options.small) as made:
            clients = made.clients()
            check = {"kind": "ttl"}
            for at in (1, 2, 3):
                clients[at].register({"name": "job", "port": 9, "ttl_s": 60, "checks": [check]})
                clients[at].report_health("job", "pass")
            for client in clients:
                wait(partial(_has, client, 3))
            others = [client for at, client in enumerate(clients) if at != 1]
            begun = time.monotonic()
            clients[3].report_health("job", "fail")
            checked.append(_out(clients, 2, begun))
            begun = time.monotonic()
            pid = made.nodes[1].pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed.append(_out(others, 1, begun))
    figures.add(f"check falls: out of every rotation of {options.small}", checked, "s", "<= 2")
    figures.add(f"kill -9: out of every rotation of {options.small}", killed, "s", "<= 1")


def _rotation(client: Client) -> list[str]:
    with suppress(Exception):
        rows = client.explain("job")["candidates"]
        return [row["node"] for row in rows if row["verdict"] != "refused"]
    return []


def _has(client: Client, count: int) -> bool:
    return len(_rotation(client)) == count


def _out(clients: Sequence[Client], left: int, begun: float) -> float:
    """Seconds until every client has only so many in rotation, asked by one thread each."""
    ends: list[float] = []

    def one(client: Client) -> None:
        wait(partial(_has, client, left), 0.005)
        ends.append(time.monotonic() - begun)

    threads = [threading.Thread(target=one, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(ends)


MEASUREMENTS = {each.__name__: each for each in (resolving, proxied, falling)}

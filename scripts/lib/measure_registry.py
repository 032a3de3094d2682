"""The measurements of `scripts/bench` about many services: registering, idling, calls beside Zenoh."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cluster
from brokers import GET
from figures import Figures, ratios
from measure import Fleet, fleet, wait
from measure_growth import usage

from mesh.client import Client

SERVICES, INSTANCES = 1000, 10
ROUNDS, WRITERS = 24, 8
CALLS = 300


class Heard:
    """When each agent's watch told of each service: one thread per stream, on one clock."""

    def __init__(self, streams: Sequence[Any]) -> None:
        self.times: dict[tuple[int, str], float] = {}
        self.ready = threading.Semaphore(0)
        self._streams = streams
        for at, stream in enumerate(streams):
            threading.Thread(target=self._read, args=(at, stream), daemon=True).start()
        for _ in streams:
            self.ready.acquire()

    def _read(self, at: int, stream: Any) -> None:
        with contextlib.suppress(Exception):
            for line in stream:
                if line["change"] == "ready":
                    self.ready.release()
                elif line["change"] == "registered":
                    self.times[at, line["service"]["name"]] = time.monotonic()

    def all(self, name: str) -> bool:
        return all((at, name) in self.times for at in range(len(self._streams)))

    def of(self, name: str) -> list[float]:
        return [self.times[at, name] for at in range(len(self._streams))]

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


def registering(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """From a registration on one agent until the watch of each, and of the last, of many agents tells it."""
    for count in sorted({options.small, options.large}):
        with fleet(programs, count) as made:
            each, last = _registered(made)
        reach = "<= 200" if count == options.large else ""
        figures.add(f"a registration seen by each of {count}", each, "ms", "")
        figures.add(f"a registration seen by the last of {count}", last, "ms", reach)


def _registered(made: Fleet) -> tuple[list[float], list[float]]:
    clients = made.clients()
    heard = Heard([client.watch_services() for client in clients])
    each, last = [], []
    try:
        for number in range(ROUNDS):
            name = f"seen-{number}"
            begun = time.monotonic()
            clients[number % min(WRITERS, len(clients))].register({"name": name, "port": 1})
            wait(partial(heard.all, name), 0.005)
            times = [(at - begun) * 1000 for at in heard.of(name)]
            each += times
            last.append(max(times))
            time.sleep(0.3)  # the next one meets a quiet mesh
    finally:
        heard.close()
    return each, last


def crowded(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """A quiet mesh in which 10 agents offer 1,000 services each: 1,000 names of 10 instances known to all."""
    with fleet(programs, INSTANCES) as made:
        for node, pid in zip(made.nodes, made.pids(), strict=True):
            with node.config.open("a") as file:
                file.write(f'\n[services]\nper_node_max = {SERVICES}\ndir = "{node.data}/services.d"\n')
            _offer(node.data / "services.d")
            os.kill(pid, signal.SIGTERM)
        wait(lambda: not made.pids())
        begun = time.monotonic()
        cluster.start(made.nodes)
        made.agree()
        for client in made.clients():
            for number in range(0, SERVICES, SERVICES // 10):
                wait(partial(_knows, client, f"s{number}"), 0.2)
        filled_s = time.monotonic() - begun
        found = usage(made)
        with Client(str(made.nodes[0].socket)) as client:
            resolved = [_timed(partial(client.resolve, f"s{number}")) for number in range(SERVICES)]
    what = f"{SERVICES:,} services of {INSTANCES}"
    figures.add(f"{what}: registered from files, known to all after the start", [filled_s], "s", "")
    figures.add(f"{what}: idle CPU per agent", found.cpu, "%", "<= 1")
    figures.add(f"{what}: idle bytes sent per agent", [found.bytes_per_s], "B/s", "<= 4096")
    figures.add(f"{what}: resident memory", found.mib, "MiB", "")
    figures.add(f"{what}: resolve over the admin socket", resolved, "ms", "")


def _offer(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    tables = (f'[[service]]\nname = "s{number}"\nport = {1000 + number}\n' for number in range(SERVICES))
    (folder / "all.toml").write_text("\n".join(tables))


def _knows(client: Client, name: str) -> bool:
    with contextlib.suppress(Exception):
        return len(client.services(name)) == INSTANCES
    return False


def _timed(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


# -- calls ------------------------------------------------------------------------------------------------

# A program of its own for each side, so that no interpreter is shared: serves, or asks COUNT times.
OURS = """
import json, sys, time
from mesh.client import Client
role, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = Client(path)
if role == "serve":
    print("ready", flush=True)
    client.handle("echo", lambda payload: payload)
times = []
for _ in range(count):
    begun = time.perf_counter()
    assert client.call("echo", "x" * 100)["payload"] == "x" * 100
    times.append((time.perf_counter() - begun) * 1000)
print(json.dumps(times))
"""
ZENOH = """
import json, sys, time
import zenoh
role, endpoint, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = zenoh.Config()
config.insert_json5("mode", '"peer"')
config.insert_json5("scouting/multicast/enabled", "false")
config.insert_json5("listen/endpoints" if role == "serve" else "connect/endpoints", json.dumps([endpoint]))
if role != "serve":
    config.insert_json5("listen/endpoints", "[]")
session = zenoh.open(config)
if role == "serve":
    def answer(query):
        query.reply(query.key_expr, query.payload)
    queryable = session.declare_queryable("echo", answer)
    print("ready", flush=True)
    sys.stdin.read()
    sys.exit(0)
time.sleep(0.5)
times = []
for _ in range(count):
    begun = time.perf_counter()
    replies = [reply.ok.payload.to_string() for reply in session.get("echo", payload="x" * 100)]
    assert replies == ["x" * 100], replies
    times.append((time.perf_counter() - begun) * 1000)
print(json.dumps(times))
"""


def calling(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """A call of a program by its service's name, through two agents, beside a query of Zenoh."""
    endpoint = f"tcp/127.0.0.1:{cluster.free_port(set())}"
    with fleet(programs, 2) as made, contextlib.ExitStack() as stack:
        one, other = (str(node.socket) for node in made.nodes)
        stack.enter_context(_serving(OURS, other))
        with Client(other) as client:
            client.register({"name": "echo", "port": 9})
        with Client(one) as client:
            wait(lambda: bool(client.services("echo")))
        theirs = _beside(figures, stack, endpoint)
        rounds = [(_asked(OURS, one), _asked(ZENOH, endpoint) if theirs else []) for _ in range(5)]
    peer = ""
    if theirs:
        peer = f"Zenoh get {statistics.median([took for _, each in rounds for took in each]):.2f} ms here"
    ours = [statistics.median(each) for each, _ in rounds]
    figures.add("call of a program by a service's name, p50 of a round", ours, "ms", "", peer)
    if theirs:
        zenoh = [statistics.median(each) for _, each in rounds]
        figures.add("the same, of a Zenoh query's", ratios(ours, zenoh), "times", "")
    if shutil.which("consul") is None:
        figures.skip("lookups beside Consul", "there is no program consul: Debian 12 has no such package")


def _beside(figures: Figures, stack: contextlib.ExitStack, endpoint: str) -> bool:
    try:
        import zenoh  # noqa: F401
    except ImportError:
        figures.skip("calls beside Zenoh's queries", f"eclipse-zenoh is not there: {GET}")
        return False
    stack.enter_context(_serving(ZENOH, endpoint))
    figures.configuration(
        "Zenoh, queries",
        "two peers, TCP without encryption, no multicast scouting; a queryable on one, get from the other",
    )
    return True


@contextlib.contextmanager
def _serving(code: str, where: str) -> Iterator[None]:
    words = [sys.executable, "-c", code, "serve", where, "0"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def _asked(code: str, where: str) -> list[float]:
    words = [sys.executable, "-c", code, "ask", where, str(CALLS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    return list(json.loads(done.stdout))


MEASUREMENTS = {each.__name__: each for each in (registering, crowded, calling)}

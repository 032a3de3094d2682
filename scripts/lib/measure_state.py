"""The measurements of `scripts/bench` about replicated state: writes, how they spread, how replicas join."""

import argparse
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cluster
from cluster import Node
from figures import Figures, ratios
from measure import Fleet, alive, fleet, wait

from mesh.client import Client

ROUNDS = 5
WRITERS = 32
BATCH = 100
SETTLE_S = 75.0
WARM = 3
EARLY_WRITES = 30
SPREAD_WRITES = 100
SPREAD_PAUSE_S = 0.15
VALUE = "x" * 200
QUERIES = 30


# -- writing ------------------------------------------------------------------------------------------------


def writes(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Durable signed puts of 200 bytes beside raw LMDB with fsync: one writer, 32 at once, 100 in a call.

    Each round takes ours and LMDB's own one after the other. LMDB takes as many puts into a commit as ours
    could at best: one, one of each writer, a hundred.
    """
    figures.configuration(
        "writes, ours",
        "one agent alone; programs in another process on kept connections to its admin socket, `put` with "
        "durable=local: answered after Ed25519 signature and fsync",
    )
    figures.configuration(
        "writes, LMDB", "py-lmdb, sync and metasync on, same file system, keys of 32 B, values of 200 B"
    )
    rates: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}

    def note(name: str, found: tuple[float, list[float]]) -> None:
        rates.setdefault(name, []).append(found[0])
        times.setdefault(name, []).extend(found[1])

    with fleet(programs, 1) as made:
        for round_ in range(ROUNDS):
            note("raw 1", _raw_lmdb(made.folder / f"raw-1-{round_}", 1))
            note("one", _puts(made, f"one/{round_}", 1))
            note("raw 32", _raw_lmdb(made.folder / f"raw-32-{round_}", WRITERS))
            note("many", _puts(made, f"many/{round_}", WRITERS))
            note("raw 100", _raw_lmdb(made.folder / f"raw-100-{round_}", BATCH))
            note("batch", _batches(made, f"batch/{round_}"))
    figures.add("raw LMDB: commits with fsync, one put each", rates["raw 1"], "/s", "")
    figures.add("raw LMDB: one such commit", times["raw 1"], "ms", "")
    figures.add("durable puts, one at a time", rates["one"], "/s", "", "etcd 1,570")
    figures.add("the same: until one is answered", times["one"], "ms", "", "etcd 0.64, NATS KV 0.19")
    figures.add("the same, of raw LMDB", ratios(rates["one"], rates["raw 1"], percent=True), "%", ">= 40")
    figures.add(f"durable puts, {WRITERS} writers at once", rates["many"], "/s", "", "etcd 4,900")
    figures.add("the same: until one is answered", times["many"], "ms", "")
    shares = ratios(rates["many"], rates["raw 32"], percent=True)
    figures.add(f"the same, of raw LMDB with {WRITERS} puts in a commit", shares, "%", "")
    figures.add(f"durable puts, {BATCH} in one call", rates["batch"], "/s", ">= 10,000")
    figures.add("the same: until a call is answered", times["batch"], "ms", "")
    shares = ratios(rates["batch"], rates["raw 100"], percent=True)
    figures.add(f"the same, of raw LMDB with {BATCH} puts in a commit", shares, "%", "")


def _raw_lmdb(path: Path, puts: int, seconds: float = 1.0) -> tuple[float, list[float]]:
    """Puts a second and the milliseconds of each commit."""
    import lmdb

    times = []
    with lmdb.open(str(path), map_size=1 << 30) as env:
        begun, done = time.perf_counter(), 0
        while (before := time.perf_counter()) - begun < seconds:
            with env.begin(write=True) as txn:
                for _ in range(puts):
                    txn.put(b"%032d" % done, VALUE.encode())
                    done += 1
            times.append((time.perf_counter() - before) * 1000)
        return done / (time.perf_counter() - begun), times


def _puts(made: Fleet, prefix: str, writers: int, seconds: float = 2.0) -> tuple[float, list[float]]:
    """Puts a second of so many writers, each on its own connection, and the milliseconds of each."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    def write(number: int) -> None:
        with Client(str(made.nodes[0].socket)) as client:
            done = 0
            while (before := time.perf_counter()) < until:
                client.put(f"{prefix}/{number}/{done}", VALUE)
                times.append((time.perf_counter() - before) * 1000)
                done += 1

    begun = time.perf_counter()
    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) / (time.perf_counter() - begun), times


def _batches(made: Fleet, prefix: str, seconds: float = 2.0) -> tuple[float, list[float]]:
    """Puts a second by calls of BATCH, and the milliseconds of each call."""
    times = []
    with Client(str(made.nodes[0].socket)) as client:
        begun, done = time.perf_counter(), 0
        while (before := time.perf_counter()) - begun < seconds:
            client.put_many([{"key": f"{prefix}/{done + n}", "value": VALUE} for n in range(BATCH)])
            times.append((time.perf_counter() - before) * 1000)
            done += BATCH
        return done / (time.perf_counter() - begun), times


# -- spreading ----------------------------------------------------------------------------------------------


class Sightings:
    """When which of many watches showed which key; one thread for each watch."""

    def __init__(self, streams: Sequence[Any]) -> None:
        self._streams = streams
        self._seen: dict[str, list[float]] = {}
        self._changed = threading.Condition()
        for stream in streams:
            threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: Any) -> None:
        with contextlib.suppress(Exception):  # ends with its agent
            for line in stream:
                now = time.perf_counter()
                with self._changed:
                    self._seen.setdefault(line.get("key", ""), []).append(now)
                    self._changed.notify_all()

    def times(self, key: str, patience_s: float) -> list[float]:
        """When each watch showed the key, as soon as all have."""
        with self._changed:
            self._changed.wait_for(lambda: self._all(key), patience_s)
            return list(self._seen.get(key, ()))

    def _all(self, key: str) -> bool:
        return len(self._seen.get(key, ())) >= len(self._streams)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


def spreading(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """A durable write on one agent until a watch on each of the others shows it, as a distribution; a query.

    One warm writer writes one value at a time, with pauses; the time runs from the call of `put`, its fsync
    and answer included. First just after the start, when agents are linked with nearly all others, then after
    SETTLE_S, when surplus links are closed. At last every agent writes once: nobody knows yet who needs whose
    writes from whom.
    """
    count = options.large
    figures.configuration(
        "spreading",
        f"{count} agents on this machine, profile lan, one zone; at rest: {SETTLE_S:.0f} s after the start",
    )
    with fleet(programs, count) as made:
        clients = made.clients()
        early = _spread(clients, [0] * (EARLY_WRITES + WARM), "early")[WARM:]
        early_query = _query(clients[0], count)
        time.sleep(SETTLE_S)
        rest = _spread(clients, [0] * (SPREAD_WRITES + WARM), "rest")[WARM:]
        query = _query(clients[0], count)
        cold = _spread(clients, list(range(count)), "cold")
    one = [time_ for times in rest for time_ in times]
    figures.add(f"a write seen on one of {count}", one, "ms", "", "Serf event 161", **_at("any", count))
    last, peer = [max(times) for times in rest], "Serf event 377"
    figures.add(f"a write seen on the last of {count}", last, "ms", "<= 100", peer, **_at("last", count))
    figures.add("the same, just after the start", [max(times) for times in early], "ms", "")
    figures.add(f"the first write of each of {count} seen on the last", [max(t) for t in cold], "ms", "")
    figures.add(f"query answered by all of {count}", query, "ms", "<= 150", "Serf 358", **_at("query", count))
    figures.add("the same, just after the start", early_query, "ms", "")


def _at(curve: str, count: int) -> dict[str, Any]:
    return {"series": f"time to everywhere by members: {curve}", "at": count}


def _spread(clients: Sequence[Client], writers: Sequence[int], name: str) -> list[list[float]]:
    """Of each write, the milliseconds until each of the other agents showed it."""
    sightings = Sightings([client.watch(f"bench/{name}/", initial=False) for client in clients])
    time.sleep(2.0)
    found = []
    try:
        for number, writer in enumerate(writers):
            key = f"bench/{name}/{number}"
            begun = time.perf_counter()
            clients[writer].put(key, VALUE)
            times = sightings.times(key, 10.0)
            if len(times) < len(clients):
                print(f"{key}: seen on {len(times)} of {len(clients)} within 10 s", flush=True)
            # The writer's own watch is among the first: it only tells of its own store.
            found.append([(at - begun) * 1000 for at in sorted(times)[1:]])
            time.sleep(SPREAD_PAUSE_S)
    finally:
        sightings.close()
    return found


def _query(client: Client, count: int) -> list[float]:
    times = []
    for _ in range(QUERIES + 2):
        begun = time.perf_counter()
        answer = client.query("mesh.status", timeout_s=5.0)
        times.append((time.perf_counter() - begun) * 1000)
        if len(answer["answered"]) < count:
            print(f"query: only {len(answer['answered'])} of {count} answered", flush=True)
        time.sleep(0.05)
    return times[2:]


def joining(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """100,000 records in a mesh of two: until a third, new node holds them all."""
    with fleet(programs, 2) as made:
        client = Client(str(made.nodes[0].socket))
        for start in range(0, 100_000, 1000):
            client.put_many([{"key": f"load/{n}", "value": "x" * 120} for n in range(start, start + 1000)])
        wait(lambda: cluster.same(made.nodes, {}), 0.2)
        node = Node(made.folder, 3, programs)
        cluster.enrol(node, made.nodes, "bench")
        begun = time.monotonic()
        node.start()
        made.nodes.append(node)
        third = Client(str(node.socket))
        root = client.status()["scopes"][0]["records"]
        wait(lambda: alive(third) > 0 and third.status()["scopes"][0]["records"] >= root, 0.05)
        figures.add("a new node takes 100,000 records", [time.monotonic() - begun], "s", "<= 15")


MEASUREMENTS: dict[str, Callable[[Figures, Path, argparse.Namespace], None]] = {
    each.__name__: each for each in (writes, spreading, joining)
}

"""The measurements of `scripts/bench`. Each prints its figures; how they are taken stands in its docstring.

The machine is shared and noisy: figures are medians with their spread, and what is compared is measured in
one run. One observer reads all agents on one clock.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cluster
import psutil
from cluster import Node

from mesh.client import Client
from mesh.errors import MeshError

IDLE_S = 60.0
SETTLE_S = 75.0
CLONE_NEWNET = 0x40000000
PATIENCE_S = 120.0


class Figures:
    """Collects figures, prints each at once."""

    def __init__(self, out: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self._out = out
        out.write_text("")

    def add(self, name: str, values: Sequence[float], unit: str, reach: str, peer: str = "") -> None:
        """One figure: the median of `values`, with least and most."""
        row = {
            "name": name,
            "median": round(statistics.median(values), 4),
            "min": round(min(values), 4),
            "max": round(max(values), 4),
            "n": len(values),
            "unit": unit,
            "reach": reach,
            "peer": peer,
        }
        self.rows.append(row)
        with self._out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def table(self) -> str:
        """All figures as a Markdown table."""
        lines = ["| what | measured (min..max, n) | reach | peer |", "|---|---|---|---|"]
        for row in self.rows:
            measured = f"{row['median']} {row['unit']} ({row['min']}..{row['max']}, {row['n']})"
            lines.append(f"| {row['name']} | {measured} | {row['reach']} | {row['peer']} |")
        return "\n".join(lines)


class Fleet:
    """Agents for measuring, in a folder of their own, gone afterwards."""

    def __init__(self, programs: Path, count: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mb-"))
        self.programs = programs
        self.nodes: list[Node] = []
        self.count = count

    def form(self) -> "Fleet":
        """Enrol everybody with one invite, start all, wait until all agree."""
        first = Node(self.folder, 1, self.programs)
        cluster.enrol(first, [], "bench")
        cluster.start([first])
        self.nodes = [first]
        if self.count > 1:
            token = first.ctl("invite", "create", "--uses", str(self.count)).strip()
            for number in range(2, self.count + 1):
                node = Node(self.folder, number, self.programs)
                words = [str(self.programs / "meshd"), "join", "-", "--data-dir", str(node.data)]
                cluster.run([*words, "--name", node.name], 60.0, node.name, token)
                taken = {port for other in self.nodes if (port := cluster.port_of(other))}
                cluster.configure(node, self.nodes, cluster.free_port(taken))
                self.nodes.append(node)
            cluster.start(self.nodes)
        self.agree()
        return self

    def clients(self) -> list[Client]:
        return [Client(str(node.socket)) for node in self.nodes]

    def agree(self) -> None:
        """Wait until everybody sees everybody alive."""
        for node in self.nodes:
            with Client(str(node.socket)) as client:
                wait(partial(_sees, client, len(self.nodes)))

    def pids(self) -> list[int]:
        return [pid for node in self.nodes if (pid := node.pid())]

    def end(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def fleet(programs: Path, count: int) -> Iterator[Fleet]:
    """A formed fleet."""
    made = Fleet(programs, count)
    try:
        yield made.form()
    finally:
        made.end()


def alive(client: Client) -> int:
    """How many members an agent sees alive; 0 when it does not answer."""
    try:
        return int(client.status()["members"]["alive"])
    except Exception:
        return 0


def _sees(client: Client, count: int) -> bool:
    return alive(client) == count


def _answers(client: Client) -> bool:
    return alive(client) > 0


def _concerns(key: str, line: Any) -> bool:
    return bool(line.get("key") == key)


def _logged(logs: Sequence[Path], text: bytes, times: int) -> bool:
    return all(log.read_bytes().count(text) >= times for log in logs)


def wait(condition: Callable[[], bool], pause_s: float = 0.01) -> float:
    """Seconds until a condition holds.

    Raises:
        TimeoutError: it does not, within PATIENCE_S.
    """
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > PATIENCE_S:
            raise TimeoutError("what was waited for did not come")
        time.sleep(pause_s)
    return time.monotonic() - begun


class Watchers:
    """One thread per stream that notes when the first line for which `wanted` holds arrives."""

    def __init__(self, streams: Sequence[Any], wanted: Callable[[Any], bool]) -> None:
        self.times: dict[int, float] = {}
        self.lines = 0
        self._streams = streams
        self._threads = [
            threading.Thread(target=self._read, args=(number, stream, wanted), daemon=True)
            for number, stream in enumerate(streams)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, number: int, stream: Any, wanted: Callable[[Any], bool]) -> None:
        with contextlib.suppress(Exception):
            for line in stream:
                if wanted(line) and number not in self.times:
                    self.times[number] = time.monotonic()

    def all(self) -> bool:
        return len(self.times) == len(self._streams)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


# -- measurements -----------------------------------------------------------------------------------------


def start(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """From exec to the first answer on the socket, of a node that has members and data of its own."""
    times = []
    with fleet(programs, 1) as made:
        node = made.nodes[0]
        for _ in range(7):
            pid = made.pids()[0]
            os.kill(pid, signal.SIGTERM)
            wait(lambda: node.pid() is None)
            begun = time.monotonic()
            node.start()
            client = Client(str(node.socket))
            wait(partial(_sees, client, 1), 0.002)
            times.append((time.monotonic() - begun) * 1000)
            client.close()
    figures.add("start to answering on the socket", times[1:], "ms", "<= 500", "Serf 6, Zenoh 90")


def command(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """`meshctl members` as a whole process."""
    with fleet(programs, 3) as made:
        words = [str(programs / "meshctl"), "--socket", str(made.nodes[0].socket), "members"]
        times = []
        for _ in range(15):
            begun = time.monotonic()
            subprocess.run(words, check=True, capture_output=True)
            times.append((time.monotonic() - begun) * 1000)
    figures.add("meshctl members", times, "ms", "<= 80", "serf 4, etcdctl 16, bare Python 23")


def idle(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Resident memory, processor time and bytes on loopback (headers counted), IDLE_S of quiet.

    Idle is a mesh whose surplus links of the start are closed: after SETTLE_S.
    """
    for count in (options.small, options.large):
        with fleet(programs, count) as made:
            time.sleep(SETTLE_S)
            processes = [psutil.Process(pid) for pid in made.pids()]
            spent = [sum(process.cpu_times()[:2]) for process in processes]
            begun, sent = time.monotonic(), _loopback()
            time.sleep(IDLE_S)
            seconds = time.monotonic() - begun
            rate = (_loopback() - sent) / seconds / count
            cpu = [
                (sum(process.cpu_times()[:2]) - before) / seconds * 100
                for process, before in zip(processes, spent, strict=True)
            ]
            resident = [process.memory_info().rss / 2**20 for process in processes]
        reach = "<= 1024" if count == options.small else "<= 2048"
        figures.add(f"idle bytes sent per agent of {count}", [rate], "B/s", reach, "Serf 300")
        figures.add(f"idle CPU per agent of {count}", cpu, "%", "<= 0.5", "Serf 0.2")
        figures.add(f"resident memory of {count}", resident, "MiB", "<= 60", "Serf 15, Zenoh 28")


def _loopback() -> int:
    """Bytes sent on the loopback of our own network namespace."""
    rows = Path("/proc/net/dev").read_text().splitlines()
    return next(int(row.split()[9]) for row in rows if row.split()[0] == "lo:")


def own_network() -> bool:
    """Measure on a loopback that nobody else uses, where we may make one; whether we could."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return True


def forming(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Agents that know of each other, started 0.1 s apart: all agree, after the last one answers."""
    times = []
    with fleet(programs, options.large) as made:
        for _ in range(3):
            for pid in made.pids():
                os.kill(pid, signal.SIGKILL)
            wait(lambda: not made.pids())
            for node in made.nodes:
                node.start()
                time.sleep(0.1)
            clients = made.clients()
            for client in clients:
                wait(partial(_answers, client))
            begun = time.monotonic()
            made.agree()
            times.append(time.monotonic() - begun)
    figures.add(f"{options.large} agents started 0.1 s apart: all agree", times, "s", "<= 2", "Serf 0.2-0.4")


def death(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """kill -9 and SIGSTOP of one: until the last of the others reports it dead; others suspected."""
    names = {
        signal.SIGKILL: ("kill -9", "<= 0.5", "Serf 8.0"),
        signal.SIGSTOP: ("SIGSTOP", "<= 8", "Serf 8.5"),
    }
    with fleet(programs, options.large) as made:
        for number, (word, reach, peer) in names.items():
            last, falsely = [], 0
            for victim in (made.nodes[-1], made.nodes[len(made.nodes) // 2], made.nodes[1]):
                times, wrong = _fall(made, victim, number)
                last.append(max(times))
                falsely += wrong
            figures.add(f"{word} one of {options.large}: all know", last, "s", reach, peer)
            figures.add(f"{word}: others suspected", [falsely], "members", "0")


def _fall(made: Fleet, victim: Node, number: signal.Signals) -> tuple[list[float], int]:
    others = [node for node in made.nodes if node is not victim]
    clients = [Client(str(node.socket)) for node in others]
    wrong: list[str] = []

    def dead(line: Any) -> bool:
        if line["type"] in ("member_suspect", "member_dead") and line["name"] != victim.name:
            wrong.append(line["name"])
        return bool(line["type"] == "member_dead" and line["name"] == victim.name)

    watchers = Watchers([client.watch_events() for client in clients], dead)
    time.sleep(2.0)
    pid = victim.pid()
    assert pid is not None
    begun = time.monotonic()
    os.kill(pid, number)
    wait(watchers.all)
    times = [at - begun for at in watchers.times.values()]
    if number == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
    else:
        wait(lambda: victim.pid() is None)
        cluster.start([victim])
    made.agree()
    watchers.close()
    return times, len(set(wrong))


def spreading(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """A durable write on one agent until a watch on the last of the others shows it; a query to all."""
    with fleet(programs, options.large) as made:
        clients = made.clients()
        last, query = [], []
        for round_ in range(12):
            key = f"bench/{round_}"
            streams = [client.watch(key, initial=False) for client in clients[1:]]
            watchers = Watchers(streams, partial(_concerns, key))
            time.sleep(0.5)
            begun = time.monotonic()
            clients[0].put(key, "x" * 200)
            wait(watchers.all, 0.001)
            last.append((max(watchers.times.values()) - begun) * 1000)
            watchers.close()
        for _ in range(12):
            begun = time.monotonic()
            answer = clients[0].query("mesh.status", timeout_s=5.0)
            query.append((time.monotonic() - begun) * 1000)
            if len(answer["answered"]) < options.large:
                print(f"query: only {len(answer['answered'])} of {options.large} answered", flush=True)
    figures.add(f"a write seen on the last of {options.large}", last[2:], "ms", "<= 100", "Serf event 377")
    figures.add(f"query answered by all of {options.large}", query[2:], "ms", "<= 150", "Serf 358")


def requests(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """A 64-byte request from a program here to a program at another agent, both at their admin sockets."""
    with fleet(programs, 2) as made:
        asker, server = made.clients()

        def serve() -> None:
            with contextlib.suppress(MeshError):  # ends with its agent
                server.handle("echo", lambda payload: payload)

        threading.Thread(target=serve, daemon=True).start()
        time.sleep(0.5)
        times, pings = [], []
        for _ in range(600):
            begun = time.perf_counter()
            asker.request("node-2", "echo", "x" * 64)
            times.append((time.perf_counter() - begun) * 1000)
            pings.append(asker.ping("node-2")["rtt_ms"])
            begun = time.perf_counter()
        sockets = []
        for _ in range(300):
            begun = time.perf_counter()
            asker.version()
            sockets.append((time.perf_counter() - begun) * 1000)
    figures.add("request through both sockets", times[100:], "ms", "", "NATS 0.39")
    figures.add(
        "round trip on the held link, inside", pings[100:], "ms", "<= 1.5 x a kept stream", "0.5-0.67"
    )
    figures.add("the socket's own cost", sockets, "ms", "")


def events(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """500 events a second over all agents for 5 s, each agent publishing its share: share delivered."""
    rate, seconds = 500, 5.0
    with fleet(programs, options.small) as made:
        clients = made.clients()
        counts = [0] * len(clients)

        def listen(number: int, stream: Any) -> None:
            with contextlib.suppress(Exception):
                for line in stream:
                    counts[number] += "payload" in line

        streams = [Client(str(node.socket)).subscribe("bench/#") for node in made.nodes]
        for number, stream in enumerate(streams):
            threading.Thread(target=listen, args=(number, stream), daemon=True).start()
        time.sleep(2.0)
        sent = [0] * len(clients)

        def publish(number: int) -> None:
            begun, share = time.monotonic(), rate / len(clients)
            while (elapsed := time.monotonic() - begun) < seconds:
                if sent[number] <= elapsed * share:
                    clients[number].publish("bench/event", {"n": sent[number], "pad": "x" * 40})
                    sent[number] += 1
                else:
                    time.sleep(0.001)

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(len(clients))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = sum(sent)
        with contextlib.suppress(TimeoutError):
            deadline = time.monotonic() + 10.0
            wait(lambda: min(counts) >= expected or time.monotonic() > deadline)
        for stream in streams:
            stream.close()
    figures.add("events sent per second", [expected / seconds], "1/s", "500")
    delivered = [count / expected * 100 for count in counts]
    figures.add(f"events delivered over {options.small} agents", delivered, "%", "100", "Serf 46")


def writes(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Durable signed puts of 200 bytes on one kept connection, beside raw LMDB with fsync in the same run."""
    single, batched, raw = [], [], []
    with fleet(programs, 1) as made:
        (client,) = made.clients()
        for round_ in range(5):
            raw.append(_raw_lmdb(made.folder / f"raw{round_}"))
            begun, done = time.monotonic(), 0
            while time.monotonic() - begun < 2.0:
                client.put(f"one/{round_}/{done}", "x" * 200)
                done += 1
            single.append(done / (time.monotonic() - begun))
            begun, done = time.monotonic(), 0
            while time.monotonic() - begun < 2.0:
                entries = [{"key": f"many/{round_}/{done}/{n}", "value": "x" * 200} for n in range(100)]
                client.put_many(entries)
                done += 100
            batched.append(done / (time.monotonic() - begun))
    figures.add("raw LMDB puts with fsync", raw, "1/s", "")
    figures.add("durable puts, one at a time", single, "1/s", "", "etcd 1,570")
    ratios = [ours / theirs * 100 for ours, theirs in zip(single, raw, strict=True)]
    figures.add("of the raw rate", ratios, "%", ">= 40")
    figures.add("durable puts, 100 in one call", batched, "1/s", ">= 10,000")


def _raw_lmdb(path: Path) -> float:
    import lmdb

    with lmdb.open(str(path), map_size=1 << 30) as env:
        begun, done = time.monotonic(), 0
        while time.monotonic() - begun < 1.0:
            with env.begin(write=True) as txn:
                txn.put(b"%032d" % done, b"x" * 200)
            done += 1
        return done / (time.monotonic() - begun)


def joining(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """100,000 records in a mesh of two: until a third, new node holds them all."""
    with fleet(programs, 2) as made:
        client = Client(str(made.nodes[0].socket))
        for start_ in range(0, 100_000, 1000):
            client.put_many([{"key": f"load/{n}", "value": "x" * 120} for n in range(start_, start_ + 1000)])
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


def difference(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """1,000 of 1,000,000 keys changed by 20 of 1,000 writers: bytes and time to find the difference.

    On the digests and messages themselves: what two neighbours exchange before the first record flows.
    """
    import random

    from mesh.core.heads import Digest
    from mesh.wire import messages

    rng = random.Random(1)
    heads = {rng.randbytes(16): (rng.getrandbits(60), rng.getrandbits(128)) for _ in range(1000)}
    times, sizes = [], []
    for _ in range(9):
        ours, theirs = Digest(), Digest()
        newer = dict(heads)
        for aid in rng.sample(sorted(heads), 20):
            newer[aid] = (heads[aid][0] + 1, rng.getrandbits(128))
        for aid, (head, fp) in heads.items():
            ours.update(aid, head, fp)
        for aid, (head, fp) in newer.items():
            theirs.update(aid, head, fp)
        begun = time.process_time()
        root = messages.encode(messages.Root("m", ours.root(), ours.buckets()))
        asked = messages.decode(root)
        assert isinstance(asked, messages.Root)
        assert asked.buckets is not None
        authors = theirs.authors_in(theirs.differing(asked.buckets))
        entries = [(aid, newer[aid][0], newer[aid][1].to_bytes(16, "big")) for aid in authors]
        reply = messages.encode(messages.Heads("m", entries, True))
        answer = messages.decode(reply)
        assert isinstance(answer, messages.Heads)
        wants = [
            messages.encode(messages.Want("m", aid, heads[aid][0]))
            for aid, head, _ in answer.heads
            if head > heads[aid][0]
        ]
        times.append((time.process_time() - begun) * 1000)
        assert len(wants) == 20
        sizes.append((len(root) + len(reply) + sum(map(len, wants))) / 1024)
    figures.add("1,000 of 1,000,000 keys differ: bytes to find them", sizes, "KiB", "<= 10", "range tree 551")
    figures.add("and processor time", times, "ms", "<= 100")


def serf(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Serf on the same machine: agents on loopback, time to agree, kill -9 until the last one logs it."""
    program = shutil.which("serf")
    if program is None:
        print("serf is not installed: apt-get install serf, to measure it beside us", flush=True)
        return
    folder = Path(tempfile.mkdtemp(prefix="serf-"))
    agents = []
    try:
        for number in range(options.large):
            bind, rpc = f"127.0.{10 + number}.1:7946", f"127.0.{10 + number}.1:7373"
            words = [
                program,
                "agent",
                f"-node=s{number}",
                f"-bind={bind}",
                f"-rpc-addr={rpc}",
                "-profile=lan",
            ]
            if number:
                words.append("-join=127.0.10.1:7946")
            log = (folder / f"{number}.log").open("wb")
            agents.append(subprocess.Popen(words, stdout=log, stderr=log))
            time.sleep(0.05)
        logs = [folder / f"{number}.log" for number in range(options.large)]
        wait(partial(_logged, logs, b"EventMemberJoin", options.large), 0.1)
        times = []
        for victim in (options.large - 1, options.large - 2):
            begun = time.monotonic()
            agents[victim].kill()
            name = b"EventMemberFailed: s%d " % victim
            wait(partial(_logged, logs[:victim], name, 1), 0.02)
            times.append(time.monotonic() - begun)
        figures.add(f"Serf here: kill -9 one of {options.large}: all know", times, "s", "")
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
        shutil.rmtree(folder, ignore_errors=True)


MEASUREMENTS: dict[str, Callable[[Figures, Path, argparse.Namespace], None]] = {
    each.__name__: each
    for each in (
        start,
        command,
        idle,
        forming,
        death,
        spreading,
        requests,
        events,
        writes,
        joining,
        difference,
        serf,
    )
}


def run(options: argparse.Namespace, programs: Path) -> int:
    """Take the measurements asked for; returns the exit status."""
    from measure_services import MEASUREMENTS as OF_SERVICES

    every = {**MEASUREMENTS, **OF_SERVICES}
    if options.list:
        for name, function in every.items():
            print(f"{name:12}{(function.__doc__ or '').splitlines()[0]}")
        return 0
    unknown = [name for name in options.only if name not in every]
    if unknown:
        print(f"scripts/bench: no measurement {unknown[0]!r}; there are {', '.join(every)}")
        return 2
    if not own_network():
        print("no network namespace of our own (needs root and ip): others' traffic counts too", flush=True)
    figures = Figures(options.out)
    status = 0
    for name, function in every.items():
        if not options.only or name in options.only:
            print(f"-- {name}", flush=True)
            try:
                function(figures, programs, options)
            except Exception as error:
                status = 1
                print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
    print(figures.table())
    return status

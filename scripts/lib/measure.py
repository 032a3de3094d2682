"""The measurements of `scripts/bench`. Each prints its figures; how they are taken stands in its docstring.

The machine is shared and noisy: figures are medians with their spread, and what is compared is measured in
one run. One observer reads all agents on one clock.
"""

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cluster
import sweeping
from cluster import Node
from figures import Figures, plot
from setup import say

from mesh.client import Client

CLONE_NEWNET = 0x40000000
PATIENCE_S = 120.0


class Fleet:
    """Agents for measuring, in a folder of their own, gone afterwards."""

    def __init__(self, programs: Path, count: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"mb-{sweeping.mark()}-"))
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
        sweeping.end_all(self.folder)  # also one that was just being started
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def fleet(programs: Path, count: int) -> Iterator[Fleet]:
    """A formed fleet."""
    made = Fleet(programs, count)
    try:
        yield made.form()
    finally:
        made.end()


@contextlib.contextmanager
def running(*words: str) -> Iterator[str]:
    """The first line of a Python program, which runs meanwhile."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


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
    each.__name__: each for each in (start, command, forming, death, serf)
}


def every() -> dict[str, Callable[[Figures, Path, argparse.Namespace], None]]:
    """All measurements by name, in the order in which they are taken."""
    import measure_growth
    import measure_messages
    import measure_reconciling
    import measure_registry
    import measure_services
    import measure_state
    import measure_workloads

    modules = (
        *(measure_state, measure_messages, measure_reconciling, measure_growth, measure_services),
        *(measure_registry, measure_workloads),
    )
    found = dict(MEASUREMENTS)
    for module in modules:
        found |= module.MEASUREMENTS
    return found


def _interrupted(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was started is ended first
    raise KeyboardInterrupt


def run(options: argparse.Namespace, programs: Path) -> int:
    """Take the measurements asked for; returns the exit status."""
    measurements = every()
    if options.list:
        for name, function in measurements.items():
            print(f"{name:12}{(function.__doc__ or '').splitlines()[0]}")
        return 0
    unknown = [name for name in options.only if name not in measurements]
    if unknown:
        print(f"scripts/bench: no measurement {unknown[0]!r}; there are {', '.join(measurements)}")
        return 2
    if swept := sweeping.sweep():
        say(f"scripts/bench: {swept}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that agents are ended
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)
    if not own_network():
        print("no network namespace of our own (needs root and ip): others' traffic counts too", flush=True)
    figures = Figures(options.out)
    status = 0
    for name, function in measurements.items():
        if not options.only or name in options.only:
            print(f"-- {name}", flush=True)
            try:
                function(figures, programs, options)
            except Exception as error:
                status = 1
                figures.skip(name, f"failed: {type(error).__name__}: {error}")
    plots = plot(figures, options.out.parent, kind=options.plots) if options.out.is_file() else []
    if options.markdown:
        options.markdown.write_text(figures.markdown(plots))
    print(figures.table())
    for path in plots:
        print(f"drawn: {path}")
    return status

"""Rows about work: an instance whose node dies, freezes or is cut off runs elsewhere, and soon only once.

The instance writes a line 50 times a second to a file that all nodes share: its node, its epoch and the one
monotonic clock of the machine. So the program itself says when it runs where, not what agents believe of it.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sweeping import processes, signal_all

from fault.base import Row, Run
from fault.field import Agent, Field, GaveUp, alive, wait
from fault.watching import Watch

PYTHON = "/usr/bin/python3"
BEAT_S = 0.02
# Two nodes that both wrote within this time run it both.
TOGETHER_S = 0.2
LEASE_S = 30.0
SETTLE_S = 3.0
SLOW_S = 2.0
SETTINGS = "[membership]\nflap_window_s = 0\n[workloads]\nalone_s = 1\n"
PROGRAM = f"""
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
node, epoch = os.environ["MESH_NODE"], os.environ["MESH_EPOCH"]
while True:
    os.write(file, f"{{time.monotonic():.4f}} {{node}} {{epoch}}\\n".encode())
    time.sleep({BEAT_S})
"""


class Beat(NamedTuple):
    """One line of the program."""

    at_s: float
    node: str
    epoch: int


class Beats:
    """What the program wrote, read as it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._rest = b""
        self.all: list[Beat] = []

    def look(self) -> list[Beat]:
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self._read += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            words = [line.decode().split() for line in lines]
            self.all += [Beat(float(at), node, int(epoch)) for at, node, epoch in words]
        return self.all

    def since(self, at_s: float) -> list[Beat]:
        return [beat for beat in self.look() if beat.at_s >= at_s]

    def now(self) -> set[str]:
        """Where it runs at this moment."""
        return {beat.node for beat in self.since(time.monotonic() - TOGETHER_S)}

    def last_together(self, since_s: float) -> float:
        """When it last ran on two nodes at once; `since_s` if never."""
        last, newest = since_s, dict[str, float]()
        for beat in sorted(self.since(since_s)):
            newest[beat.node] = beat.at_s
            if any(node != beat.node and beat.at_s - at < TOGETHER_S for node, at in newest.items()):
                last = beat.at_s
        return last

    def backwards(self) -> int:
        """Lines under a smaller epoch than one before them."""
        highest, found = 0, 0
        for beat in sorted(self.look()):
            found += beat.epoch < highest
            highest = max(highest, beat.epoch)
        return found


class Work:
    """A field whose agents run the program once."""

    def __init__(self, made: Field, **spec: Any) -> None:
        self.made = made
        program = made.folder / "beat.py"
        program.write_text(PROGRAM)
        self.beats = Beats(made.folder / "beats")
        amounts = {"requests": {"cpu": 0.01, "memory": "4Mi"}, "limits": {"memory": "64Mi"}}
        command = [PYTHON, "-S", str(program), str(made.folder / "beats")]
        spec = {"name": "beat", "command": command, "resources": amounts, **spec}
        first = made.agents[0]
        wait("all offer to take work", lambda: len(_offers(first, spec)) == len(made.agents))
        first.ask(lambda client: client.apply([spec]))
        self.holder()

    def holder(self) -> Agent:
        """The one agent that runs it, once there is exactly one, for a while."""
        wait("it runs on one node", lambda: len(self.beats.now()) == 1)
        time.sleep(SETTLE_S)
        wait("it runs on one node", lambda: len(self.beats.now()) == 1)
        name = next(iter(self.beats.now()))
        return next(agent for agent in self.made.agents if agent.name == name)

    def elsewhere(self, holder: Agent, since_s: float) -> float:
        """Seconds from a moment to the first line of another node."""

        def others() -> list[Beat]:
            return [beat for beat in self.beats.since(since_s) if beat.node != holder.name]

        wait("it runs elsewhere", others)
        return others()[0].at_s - since_s


def _offers(agent: Agent, spec: dict[str, Any]) -> list[Any]:
    admitted: list[Any] = agent.ask(lambda client: client.test_admission([spec]))
    return admitted


@contextlib.contextmanager
def working(run: Run, **spec: Any) -> Iterator[Work]:
    """A field at work; nothing of it is left running."""
    with run.field(SETTINGS) as made:
        try:
            if "voters" in spec:
                names = [agent.name for agent in made.agents[:3]]
                made.agents[0].ask(lambda client: client.create_quorum(spec["voters"], names))
            yield Work(made, **spec)
        finally:
            while left := processes(made.folder):
                signal_all(left, signal.SIGKILL)


def hit(agent: Agent, number: signal.Signals) -> float:
    """A signal to a whole node, its agent and what it runs; when."""
    pids = processes(agent.data)
    begun = time.monotonic()
    agent.signal(number)
    signal_all(pids, number)
    return begun


def failover(run: Run) -> None:
    """kill -9 of the node that runs an instance: until the program runs elsewhere."""
    times = []
    with working(run) as work, Watch(work.made.agents) as watch:
        for _ in range(run.runs):
            victim = work.holder()
            begun = hit(victim, signal.SIGKILL)
            times.append(work.elsewhere(victim, begun))
            if times[-1] > SLOW_S:
                run.report.note(f"{times[-1]:.1f} s: {_who_knew(watch, work.made, victim, begun)}")
            _again(work.made, victim)
        backwards = work.beats.backwards()
    run.report.bar(f"kill -9 of one of {run.nodes}: it runs elsewhere", times, "s", 4.0, "Nomad: tens")
    run.report.bar("the median of these", [sorted(times)[len(times) // 2]], "s", 2.0)
    run.report.fact("lines under an older epoch after a newer one: at least one is promised", backwards)


def _who_knew(watch: Watch, made: Field, victim: Agent, begun: float) -> str:
    """When each of the others found a node dead."""
    found = {
        agent.name: watch.first(agent.name, victim.name, "dead", begun)
        for agent in made.agents
        if agent is not victim
    }
    known = [f"{name} {at - begun:.1f} s" if at else f"{name} not yet" for name, at in found.items()]
    return f"{victim.name} was found dead by {', '.join(known)}"


def _again(made: Field, victim: Agent) -> None:
    assert victim.process is not None
    victim.process.wait()
    while left := processes(victim.data):
        signal_all(left, signal.SIGKILL)
    victim.start()
    victim.ready()
    made.agree()


def frozen(run: Run) -> None:
    """SIGSTOP of the whole node: until the program runs elsewhere; thawed: until it runs once again."""
    times, once = [], []
    with working(run) as work:
        for _ in range(run.runs):
            victim = work.holder()
            begun = hit(victim, signal.SIGSTOP)
            times.append(work.elsewhere(victim, begun))
            time.sleep(SETTLE_S)
            thawed = hit(victim, signal.SIGCONT)
            work.made.agree()
            work.holder()
            once.append(work.beats.last_together(thawed) - thawed)
    run.report.bar(f"SIGSTOP of one of {run.nodes}: it runs elsewhere", times, "s", 12.0)
    run.report.bar("after SIGCONT: it runs once again", once, "s", 5.0)


def one_again(run: Run) -> None:
    """A split with an instance on each side: until after the heal exactly one runs."""
    away, once, twice = [], [], 0
    with working(run) as work:
        made = work.made
        assert made.network is not None
        names = {agent.name for agent in made.agents}
        for _ in range(run.runs):
            holder = work.holder()
            begun = time.monotonic()
            made.network.cut_sides()
            away.append(work.elsewhere(holder, begun))
            time.sleep(max(0.0, run.seconds - (time.monotonic() - begun)))
            twice += len(work.beats.now()) == 2
            made.network.heal()
            healed = time.monotonic()
            wait("all see all", lambda: all(alive(agent) == names for agent in made.agents))
            work.holder()
            once.append(work.beats.last_together(healed) - healed)
    if twice < run.runs:
        raise GaveUp(f"only in {twice} of {run.runs} splits each side ran it")
    run.report.bar(f"split of {run.nodes}: the other side runs it", away, "s", 15.0)
    run.report.bar("after the heal: exactly one runs", once, "s", 5.0)


def exclusive(run: Run) -> None:
    """The node with the lease dies: until the next one runs, and no line under an older token after that."""
    times, dice = [], random.Random(run.seed)
    with working(run, mode="exclusive", voters="main") as work:
        for _ in range(run.runs):
            victim = work.holder()
            time.sleep(dice.random() * LEASE_S / 3)  # at any moment between two renewals
            begun = hit(victim, signal.SIGKILL)
            times.append(work.elsewhere(victim, begun))
            _again(work.made, victim)
        epochs = list(dict.fromkeys(beat.epoch for beat in sorted(work.beats.look())))
        backwards = work.beats.backwards()
    run.report.bar(f"holder of a {LEASE_S:g} s lease killed: it runs elsewhere", times, "s", LEASE_S + 3)
    run.report.fact("tokens seen, each above the one before", len(epochs))
    run.report.promise("lines under an older token after a newer one", backwards, anchor="etcd lock: unsafe")


ROWS = {
    "failover": Row(failover, nodes=5, runs=20),
    "frozen": Row(frozen, nodes=5, runs=5),
    "one-again": Row(one_again, nodes=6, seconds=25, runs=5, network=True),
    "exclusive": Row(exclusive, nodes=5, least=3, runs=3),
}

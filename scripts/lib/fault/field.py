"""Real agents to do harm to: a folder, a mesh, and where root a network namespace for each of them.

The field's agents are `cluster.Node`s with a process that can be killed, frozen and started again, and an
address of their own. Without root all sit on loopback: what needs the network between them cannot be done.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cluster
import sweeping
from cluster import Node

from fault.network import NO_DELAY, Delay, Network
from mesh.client import Client
from mesh.errors import MeshError

PORT = 6374
PATIENCE_S = 180.0  # how long anything may take before the row gives up on it
ENROL_AT_ONCE = 4
ASKED_AT_ONCE = 8
T = TypeVar("T")


class GaveUp(Exception):
    """Something never came; the message says what, and where to look."""


def wait(
    what: str, condition: Callable[[], Any], patience_s: float = PATIENCE_S, pause_s: float = 0.02
) -> float:
    """Seconds until a condition holds; an agent that does not answer counts as no.

    Raises:
        GaveUp: it never held.
    """
    begun = time.monotonic()
    while True:
        with contextlib.suppress(MeshError):
            if condition():
                return time.monotonic() - begun
        if time.monotonic() - begun > patience_s:
            raise GaveUp(f"after {patience_s:.0f} s it is not so that {what}")
        time.sleep(pause_s)


class Agent(Node):
    """One agent, its process and its client."""

    def __init__(self, directory: Path, number: int, programs: Path) -> None:
        super().__init__(directory, number, programs)
        self.config = directory / f"{self.name}.toml"  # `init` and `join` want an empty data directory
        self.side = 1
        self.address = "127.0.0.1"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.process = super().start()
        return self.process

    def client(self, timeout_s: float = 30.0) -> Client:
        return Client(str(self.socket), timeout_s=timeout_s)

    def ask(self, question: Callable[[Client], T], timeout_s: float = 30.0) -> T:
        """One question on a connection of its own.

        Raises:
            MeshError: no answer, or a refusal.
        """
        with self.client(timeout_s) as client:
            return question(client)

    def answers(self) -> bool:
        """Whether it answers and takes part; False before it does.

        Raises:
            GaveUp: its process has ended.
        """
        if not self.running:
            raise GaveUp(f"{self.name} ended with {self.process and self.process.returncode}: {self.tail()}")
        return bool(self.ask(lambda client: client.status())["state"] == "alive")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ready(self) -> float:
        """Seconds until it answers."""
        return wait(f"{self.name} answers", self.answers, pause_s=0.005)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int | None:
        """SIGTERM; the exit status, or None if it had to be killed."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(cluster.STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def resident_mib(self) -> float:
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE") / 2**20

    def tail(self) -> str:
        return cluster.tail(self)


class Field:
    """Agents of one mesh."""

    def __init__(self, programs: Path, *, network: bool, delay: Delay = NO_DELAY) -> None:
        self.network = Network(delay) if network else None
        self.folder = Path(tempfile.mkdtemp(prefix=f"mf-{sweeping.mark()}-"))
        self.programs = programs
        self.agents: list[Agent] = []
        self.halves = 0

    def form(self, count: int, settings: str = "") -> None:
        """Enrol and start this many agents, the first half on side 1; wait until all agree."""
        self.halves = (count + 1) // 2
        first = self.place(1, settings)
        init = ["init", "--data-dir", str(first.data), "--name", first.name, "--mesh", "yard"]
        cluster.run([str(self.programs / "meshd"), *init], 60.0, first.name)
        first.start()
        first.ready()
        if count > 1:
            token = self.invite(uses=count)
            others = [self.place(number, settings) for number in range(2, count + 1)]
            with ThreadPoolExecutor(ENROL_AT_ONCE) as pool:
                list(pool.map(lambda agent: self.enrol(agent, token), others))
            self.start(others)
        self.agree()

    def place(self, number: int, settings: str = "", at_side: int = 0) -> Agent:
        """An agent's folder, namespace and configuration; not enrolled yet."""
        agent = Agent(self.folder, number, self.programs)
        agent.side = at_side or (1 if number <= self.halves else 2)
        if self.network is None:
            agent.port = cluster.free_port({other.port for other in self.agents})
        else:
            agent.port = PORT
            agent.address, agent.prefix = self.network.plug(number, agent.side)
        seeds = [f"/ip4/{other.address}/tcp/{other.port}" for other in self._seeds()]
        agent.config.write_text(
            f'[net]\nlisten = ["/ip4/{agent.address}/tcp/{agent.port}"]\nseeds = {json.dumps(seeds)}\n'
            f"[discovery]\nmdns = false\n{settings}"
        )
        self.agents.append(agent)
        return agent

    def _seeds(self) -> list[Agent]:
        """Two of each side, so that each side finds itself again when both are apart."""
        return [agent for at_side in (1, 2) for agent in self.on_side(at_side)[:2]]

    def enrol(self, agent: Agent, token: str) -> None:
        words = [str(self.programs / "meshd"), "join", "-", "--data-dir", str(agent.data)]
        cluster.run([*words, "--name", agent.name], 120.0, agent.name, token)

    def invite(self, uses: int) -> str:
        return str(self.agents[0].ask(lambda client: client.create_invite(uses=uses))["token"])

    def start(self, agents: Sequence[Agent]) -> None:
        """Start these and wait until each answers."""
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.ready()

    def on_side(self, at_side: int) -> list[Agent]:
        return [agent for agent in self.agents if agent.side == at_side]

    def agree(self, agents: Sequence[Agent] | None = None) -> float:
        """Wait until these see each other, and nobody else, alive; returns how long it took."""
        chosen = self.agents if agents is None else list(agents)
        names = {agent.name for agent in chosen}
        begun = time.monotonic()
        for agent in chosen:
            wait(f"{agent.name} sees {len(names)} alive", partial(_sees, agent, names))
        return time.monotonic() - begun

    def identical(self, agents: Sequence[Agent] | None = None) -> float:
        """Wait until the durable scopes of these are byte-identical; returns how long it took."""
        chosen = self.agents if agents is None else list(agents)
        return wait("all replicas are the same", lambda: same_roots(chosen), pause_s=0.05)

    def end(self) -> None:
        for agent in self.agents:
            if agent.running:
                agent.signal(signal.SIGKILL)
                agent.signal(signal.SIGCONT)
        for agent in self.agents:
            if agent.process is not None:
                agent.process.wait()
        if self.network is not None:
            self.network.end()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def field(
    programs: Path, count: int, *, network: bool, settings: str = "", delay: Delay = NO_DELAY
) -> Iterator[Field]:
    """A formed field, gone afterwards."""
    made = Field(programs, network=network, delay=delay)
    try:
        if count:
            made.form(count, settings)
        yield made
    finally:
        made.end()


def _sees(agent: Agent, names: set[str]) -> bool:
    return alive(agent) == names


def alive(agent: Agent) -> set[str]:
    """The names that an agent sees alive."""
    rows = agent.ask(lambda client: client.members())
    return {row["name"] for row in rows if row["state"] == "alive"}


def roots(agent: Agent) -> dict[str, str]:
    """The digests of what an agent keeps on disk."""
    scopes = agent.ask(lambda client: client.status())["scopes"]
    return {scope["scope"]: scope["root"] for scope in scopes if scope["scope"] != "live"}


def of_each(agents: Sequence[Agent], ask: Callable[[Agent], T]) -> list[T]:
    """What each answers; asked side by side, because each of many on a busy machine lets us wait."""
    with ThreadPoolExecutor(min(ASKED_AT_ONCE, len(agents))) as pool:
        return list(pool.map(ask, agents))


def same_roots(agents: Sequence[Agent]) -> bool:
    """Whether all hold the same."""
    found = of_each(agents, roots)
    return all(root == found[0] for root in found)

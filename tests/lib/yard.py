"""A yard of real agents: real processes, sockets and stores on loopback, gone when the test ends.

No test passes over an agent that ended by itself or that logged a traceback: `eventually` says so in place of
waiting on, each test of real agents is followed by a look (`sound`), and so is the end of a yard. A test that
means an agent to end uses `kill`, `stop` or `ended`; one that provokes a traceback says which (`provokes`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leftovers import end_all
from ports import free_port

from mesh.client import Client
from mesh.errors import MeshError
from mesh.runtimes.folders import sheltered

PROGRAMS = Path(sys.executable).parent
ENVIRONMENT = dict(os.environ)
if ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", ""):  # else each agent would compile all sources at each start
    ENVIRONMENT.setdefault("PYTHONPYCACHEPREFIX", str(PROGRAMS.parent / "pycache"))
# A bound against hanging for ever, not a measure: nothing is asserted about how long a thing takes.
PATIENCE_S = 180.0
TRACEBACK = "Traceback (most recent call last)"
LAST_BYTES = 4000
TINY = {"requests": {"cpu": 0.01, "memory": "4Mi"}, "limits": {"memory": "64Mi"}}


def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Ask until the answer is true; returns it. A MeshError counts as no.

    Raises:
        AssertionError: the time is over, or an agent ended by itself: what is wrong with any is told.
    """
    end = time.monotonic() + patience_s
    last: object = None
    while time.monotonic() < end and not any(agent.fell() for agent in AGENTS):
        try:
            last = condition()
            if last:
                return last
        except MeshError as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"never came true: {what}; last answer: {last!r}\n{troubles()}")


def troubles() -> str:
    """What is wrong with the agents that there are and was not told yet."""
    return "\n".join(filter(None, (agent.trouble() for agent in list(AGENTS))))


def sound() -> None:
    """Fail if something is wrong with an agent."""
    found = troubles()
    assert not found, found


class Agent:
    """One node of a yard."""

    def __init__(self, folder: Path, name: str, seeds: list[str]) -> None:
        self.data = folder / name
        self.name = name
        self.socket = folder / f"{name}.sock"
        self.log = folder / f"{name}.log"
        self.seeds = seeds
        self.process: subprocess.Popen[bytes] | None = None
        # Chosen here, not by the kernel at the first start: a later start must find it free as well.
        self.listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
        self.settings: dict[str, str] = {}
        self.words: list[str] = []
        self.prefix: list[str] = []
        self._to_end = False
        self._expected: list[str] = []
        self._told = 0
        AGENTS.append(self)

    def start(self) -> Agent:
        """Start the agent and wait until it answers."""
        self._stands()
        words = ["run", "--data-dir", self.data, "--listen", self.listen, "--admin-socket", self.socket]
        for seed in self.seeds:
            words += ["--seed", seed]
        words += self.words
        env = {**ENVIRONMENT, "MESHD_DISCOVERY__MDNS": "false", **self.settings}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, str(PROGRAMS / "meshd"), *map(str, words)], stdout=log, stderr=log, env=env
            )
        self._to_end = False
        eventually(lambda: self.alive() and self.status()["addresses"], f"{self.name} answers: {self.tail()}")
        self.listen = self.status()["addresses"][0]  # with its port, where a test has left that open
        return self

    def alive(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            self._to_end = True  # the test is told now
            raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.tail()}")
        return True

    def fell(self) -> bool:
        """Whether it ended by itself, which no test meant and none was told yet."""
        return self.process is not None and self.process.poll() is not None and not self._to_end

    def ended(self, patience_s: float = PATIENCE_S) -> int:
        """Wait until it ends by itself, as the test means it to; returns the exit status."""
        self.may_end()
        assert self.process is not None
        return self.process.wait(timeout=patience_s)

    def may_end(self) -> None:
        """From here on it is no fault if it ends by itself: it leaves, or is removed."""
        self._to_end = True

    def provokes(self, text: str) -> None:
        """Tracebacks of this agent that name the text are meant."""
        self._expected.append(text)

    def trouble(self) -> str:
        """What is wrong with it and was not told yet: that it ended by itself, or tracebacks in its log."""
        found = []
        if self.fell():
            assert self.process is not None
            self._to_end = True
            found.append(f"{self.name} ended by itself with {self.process.returncode}: {self.tail()}")
        new = self.said()[self._told :]
        for place in _places(TRACEBACK, new):
            shown = new[max(0, place - LAST_BYTES // 8) : place + LAST_BYTES]
            if not any(text in shown for text in self._expected):
                found.append(f"{self.name} logged a traceback: {shown}")
                break
        self._told += len(new)
        return "\n".join(found)

    def _stands(self) -> None:
        """What is ended or started anew has not ended by itself before."""
        if self.fell():
            raise AssertionError(self.trouble())

    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self) -> str:
        """The end of its log, for the words of a failure."""
        return self.said()[-2000:]

    def client(self) -> Client:
        return Client(str(self.socket))

    def status(self) -> Any:
        with self.client() as client:
            return client.status()

    def states(self) -> dict[str, str]:
        """State of each member by name, as this agent sees it."""
        with self.client() as client:
            return {row["name"]: row["state"] for row in client.members()}

    def signal(self, number: int) -> None:
        self._stands()
        assert self.process is not None
        self._to_end |= number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_S)

    def ctl(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run meshctl against this agent."""
        return subprocess.run(
            [str(PROGRAMS / "meshctl"), "--socket", str(self.socket), *words],
            capture_output=True,
            text=True,
            input=stdin,
            check=False,
            timeout=PATIENCE_S,
        )


AGENTS: list[Agent] = []  # of all yards that there are


def _places(text: str, where: str) -> Iterator[int]:
    at = where.find(text)
    while at >= 0:
        yield at
        at = where.find(text, at + 1)


class Yard:
    """Agents of one mesh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents: list[Agent] = []

    def first(self, name: str = "n1", *, start: bool = True) -> Agent:
        """Make the mesh and start its first node."""
        agent = Agent(self.folder, name, [])
        self.meshd("init", "--data-dir", agent.data, "--name", name, "--mesh", "yard")
        self.agents.append(agent)
        return agent.start() if start else agent

    def join(self, token: str, name: str | None = None, *, start: bool = True) -> Agent:
        """Enrol and start one more node."""
        name = name or f"n{len(self.agents) + 1}"
        agent = Agent(self.folder, name, [])
        self.meshd("join", token, "--data-dir", agent.data, "--name", name)
        self.agents.append(agent)
        return agent.start() if start else agent

    def form(self, count: int) -> list[Agent]:
        """A mesh of `count` agents that all see each other alive."""
        first = self.first()
        token = self.invite(first, uses=count)
        for _ in range(count - 1):
            self.join(token)
        self.agree()
        return self.agents

    def invite(self, agent: Agent, *, uses: int = 1) -> str:
        with agent.client() as client:
            return str(client.create_invite(uses=uses)["token"])

    def agree(self, agents: list[Agent] | None = None) -> None:
        """Wait until these agents see each other, and only each other, alive."""
        chosen = self.agents if agents is None else agents
        names = {agent.name for agent in chosen}
        for agent in chosen:
            eventually(
                lambda agent=agent: {n for n, s in agent.states().items() if s == "alive"} == names,
                f"{agent.name} sees {sorted(names)} alive",
            )

    def same_roots(self, agents: list[Agent] | None = None) -> None:
        """Wait until the durable scopes of these agents are byte-identical."""
        chosen = self.agents if agents is None else agents

        def roots() -> bool:
            found = [
                {
                    scope["scope"]: scope["root"]
                    for scope in agent.status()["scopes"]
                    if scope["scope"] != "live"
                }
                for agent in chosen
            ]
            return all(each == found[0] for each in found)

        eventually(roots, "all replicas are the same")

    def meshd(self, *words: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(PROGRAMS / "meshd"), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        return done

    def end(self) -> str:
        """End all agents; what was wrong with them and was not told yet."""
        found = troubles()
        for agent in self.agents:
            if agent.process is not None and agent.process.poll() is None:
                agent.signal(signal.SIGCONT)
                agent.kill()
        end_all(self.folder)  # instances outlive their agents
        AGENTS[:] = [agent for agent in AGENTS if agent.socket.parent != self.folder]
        return found


@contextmanager
def fresh_yard() -> Iterator[Yard]:
    """A folder for agents, gone afterwards; not tmp_path, because a unix socket's path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="yard-"))
    made = Yard(folder)
    found = ""
    try:
        yield made
    finally:
        found = made.end()
        if found and (failed := sys.exc_info()[1]) is not None:
            failed.add_note(found)
        for data in folder.glob("n*/"):  # killed, nobody was there to remove their secrets
            shutil.rmtree(sheltered(data.absolute() / "work"), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    assert not found, found


def open_to_work(agent: Agent) -> int:
    """How many nodes have offered to take work, as an agent sees it."""
    with agent.client() as client:
        return len(client.test_admission([{"name": "probe", "command": ["/bin/true"], "resources": TINY}]))

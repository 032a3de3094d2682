"""Programs that sleep, as workloads of a yard: ordered, awaited, looked for among the processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leftovers import belonging_to, end_all
from yard import TINY, Agent, Yard, eventually, fresh_yard, open_to_work

SLEEPER = {"command": ["/bin/sleep", "100000"], "resources": TINY}


@contextmanager
def workers(count: int) -> Iterator[Yard]:
    """A mesh of agents that take work; the first is the admin."""
    with fresh_yard() as made:
        starting(made.first(start=False))
        token = made.invite(made.agents[0], uses=count)
        for _ in range(count - 1):
            starting(made.join(token, start=False))
        made.agree()
        yield made


def starting(agent: Agent) -> None:
    # Nodes fall here again and again, and are to be given work nevertheless.
    agent.settings = {"MESHD_WORKLOADS__ALONE_S": "1", "MESHD_MEMBERSHIP__FLAP_WINDOW_S": "0"}
    agent.start()


@contextmanager
def all_open(yard: Yard) -> Iterator[Agent]:
    """The admin, when all nodes are up and have heard each other's offers; no workload is left afterwards."""
    for agent in yard.agents:
        if agent.process is None or agent.process.poll() is not None:
            agent.start()
    yard.agree()
    count = len(yard.agents)
    for agent in yard.agents:
        eventually(lambda agent=agent: open_to_work(agent) == count, f"{agent.name} has heard {count} offers")
    yield yard.agents[0]
    with yard.agents[0].client() as client:
        for name in sorted((row["name"] for row in client.workloads()), reverse=True):
            client.delete_workload(name)  # "front" depends on "back"
    for agent in yard.agents:
        if agent.process is not None and agent.process.poll() is None:
            eventually(lambda agent=agent: not sleepers(agent), f"nothing runs on {agent.name}")


def sleepers(agent: Agent) -> list[int]:
    """Processes of instances of an agent, without their shims."""
    found = []
    for pid in belonging_to(agent.data / "work"):
        try:
            words = Path("/proc", str(pid), "cmdline").read_bytes()
        except OSError:
            continue  # it ended just now
        if words and b"shim" not in words:
            found.append(pid)
    return found


def cut_power(agent: Agent) -> None:
    """Everything of a device ends at once: the agent and what it runs."""
    agent.kill()
    end_all(agent.data)


def places(agent: Agent, name: str) -> dict[str, str]:
    """Node of each running instance, as an agent sees it."""
    with agent.client() as client:
        rows = client.workload(name)["instances"]
    return {row["instance"]: row["node_name"] for row in rows if row["state"] == "running"}


def claimed(agent: Agent, name: str) -> int:
    """How many claims there are, whatever their state."""
    with agent.client() as client:
        rows = client.workload(name)["instances"]
    return sum(row["node"] is not None and row["state"] != "lost" for row in rows)


def busy(yard: Yard, name: str) -> Agent:
    """An agent that runs an instance, and is not the admin's."""
    nodes = places(yard.agents[0], name).values()
    return next(agent for agent in yard.agents[1:] if agent.name in nodes)


def apply(agent: Agent, **spec: Any) -> None:
    with agent.client() as client:
        client.apply([{**SLEEPER, **spec}])


def settled(yard: Yard, name: str, count: int) -> dict[str, str]:
    """Where a workload runs once all agents that are there say the same."""

    def same() -> dict[str, str] | None:
        live = [agent for agent in yard.agents if agent.process is not None and agent.process.poll() is None]
        found = [places(agent, name) for agent in live]
        once = all(claimed(agent, name) == count for agent in live) and len(found[0]) == count
        there = {agent.name for agent in live}
        return (
            found[0] if once and there >= set(found[0].values()) and found == found[:1] * len(found) else None
        )

    found: dict[str, str] = eventually(same, f"{count} instances of {name} run, and all agree where")
    return found


def settled_each(yard: Yard, name: str, nodes: list[str]) -> None:
    """Wait until a workload runs once on each of these nodes and nowhere else."""

    def found() -> list[str]:
        with yard.agents[0].client() as client:
            rows = client.workload(name)["instances"]
        return sorted(row["node_name"] for row in rows if row["state"] == "running")

    eventually(lambda: found() == nodes, f"{name} runs on {nodes}")

"""Rows about who belongs: a member revoked while it writes, an invite used again across a split."""

from __future__ import annotations

import contextlib
import threading
import time

from fault.base import Row, Run
from fault.field import Agent, Field, alive, of_each, wait
from fault.watching import Watch
from mesh.errors import MeshError

LATE_S = 10.0
PREFIX = "revoked/"


class Stubborn:
    """A member that writes 50 times a second, whatever it is told; when each write was made."""

    def __init__(self, agent: Agent) -> None:
        self.written: dict[str, float] = {}
        self._ended = threading.Event()
        self._agent = agent
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        number = 0
        with self._agent.client(timeout_s=5.0) as client:
            while not self._ended.wait(0.02):
                number += 1
                with contextlib.suppress(MeshError):
                    client.put(f"{PREFIX}{number}", number)
                    self.written[f"{PREFIX}{number}"] = time.monotonic()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def revoke(run: Run) -> None:
    """A member that goes on writing is revoked: until the last of its writes that anybody still accepts."""
    with run.field() as made:
        victim, others = made.agents[-1], made.agents[:-1]
        stubborn = Stubborn(victim)
        wait("it writes", lambda: len(stubborn.written) > 50)
        revoked = time.monotonic()
        others[0].ask(lambda client: client.revoke(victim.name, reason="a drill"))
        gone_s = wait("nobody counts it as a member", lambda: not _counted(others, victim))
        time.sleep(LATE_S)
        stubborn.end()
        made.identical(others)
        last_s = _last(others, stubborn) - revoked
        links = sum(_linked(agent, victim) for agent in others)
    name = f"{run.nodes} nodes"
    anchor = ""
    run.report.bar(f"{name}: the last record of the revoked that was accepted", [last_s], "s", 5.0, anchor)
    run.report.bar(f"{name}: nobody counts it as a member", [gone_s], "s", 5.0)
    run.report.promise("links with the revoked that are still up", links)


def revoke_split(run: Run) -> None:
    """Revoked on the other side of a split: until, after the heal, nobody accepts anything from it."""
    with run.field() as made:
        assert made.network is not None
        victim, others = made.agents[-1], made.agents[:-1]
        made.network.cut_sides()
        stubborn = Stubborn(victim)
        made.agents[0].ask(lambda client: client.revoke(victim.name, reason="a drill"))
        time.sleep(run.seconds)
        made.network.heal()
        healed = time.monotonic()
        gone_s = wait("nobody counts it as a member", lambda: not _counted(others, victim))
        time.sleep(LATE_S)
        stubborn.end()
        made.identical(others)
        made.agree(others)
        last_s = max(0.0, _last(others, stubborn) - healed)
        links = sum(_linked(agent, victim) for agent in others)
    name = f"{run.nodes} nodes, revoked during {run.seconds:g} s of a split"
    run.report.bar(f"{name}: its last record that was accepted, after the heal", [last_s], "s", 5.0)
    run.report.bar(f"{name}: nobody counts it as a member, after the heal", [gone_s], "s", 5.0)
    run.report.promise("links with the revoked that are still up", links)


def _counted(others: list[Agent], victim: Agent) -> bool:
    def counts(agent: Agent) -> bool:
        rows = agent.ask(lambda client: client.members())
        return any(victim.name == row["name"] and row["state"] not in ("removed", "left") for row in rows)

    return any(of_each(others, counts))


def _linked(agent: Agent, victim: Agent) -> bool:
    rows = agent.ask(lambda client: client.links())
    return any(row["name"] == victim.name and row["state"] == "connected" for row in rows)


def _last(others: list[Agent], stubborn: Stubborn) -> float:
    """When the newest of its writes that any of the others holds was acknowledged to it."""
    held = set()
    for agent in others:
        with agent.client() as client:
            held |= {row["key"] for row in client.export(PREFIX)}
    return max((at for key, at in stubborn.written.items() if key in held), default=0.0)


def invite_replay(run: Run) -> None:
    """An invite for one, used again and again on both sides of a split: at most one may live in the end."""
    with run.field() as made, Watch(made.agents) as watch:
        assert made.network is not None
        first = list(made.agents)
        token = made.invite(uses=1)
        made.network.cut_sides()
        replays = [
            _replayed(made, token, run.nodes + 1 + number, 1 + number % 2) for number in range(run.runs)
        ]
        time.sleep(SETTLE_S)
        living = {agent.name for agent in replays} & set().union(*(alive(agent) for agent in first))
        made.network.heal()
        wait("at most one is alive everywhere", lambda: all(len(_new(a, replays)) <= 1 for a in first))
        made.identical(first)
        time.sleep(SETTLE_S)
        surplus = max(len(_new(agent, replays)) for agent in first)
        alarms = sorted({kind for _, kind, _ in watch.alarms})
    run.report.fact("replays of an invite for one", run.runs)
    run.report.fact("of them alive while the split lasted, both sides together", len(living))
    run.report.promise("live identities after the heal", surplus, at_most=1)
    run.report.promise("no alarm was raised", int(not alarms))
    run.report.note(f"alarms: {', '.join(alarms) or 'none'}")


SETTLE_S = 8.0


def _replayed(made: Field, token: str, number: int, at_side: int) -> Agent:
    agent = made.place(number, at_side=at_side)
    made.enrol(agent, token)
    agent.start()
    return agent


def _new(agent: Agent, replays: list[Agent]) -> set[str]:
    return alive(agent) & {replay.name for replay in replays}


ROWS = {
    "revoke": Row(revoke, nodes=32),
    "revoke-split": Row(revoke_split, nodes=8, seconds=15, network=True),
    "invite-split": Row(invite_replay, nodes=4, runs=10, network=True),
}

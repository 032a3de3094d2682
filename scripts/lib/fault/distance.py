"""The row about distance: two halves far apart, each packet on its way for a while."""

from __future__ import annotations

import signal
import time

from fault.base import Row, Run
from fault.field import Agent, Field, wait
from fault.history import History, Writers
from fault.membership import SETTLE_S, known_after
from fault.network import Delay
from fault.watching import Watch

APART = Delay(near_ms=1.0, far_ms=40.0, jitter=0.25)
WRITES = 20
WRITES_PER_S = 25.0


def latency(run: Run) -> None:
    """Halves 40 ms apart (or --latency), a quarter more or less: nobody is doubted, nothing lost."""
    history = History()
    with run.field() as made, Watch(made.agents) as watch:
        time.sleep(SETTLE_S)
        begun = time.monotonic()
        writers = [*made.on_side(1)[:2], *made.on_side(2)[:2]]
        with Writers(history, writers, WRITES_PER_S, "far"):
            time.sleep(run.seconds)
        doubted = watch.count("suspect", since_s=begun)
        dead = watch.count("dead", since_s=begun)
        near, far = _round_trips(made)
        seen = [_seen_after(made.on_side(1)[0], made.on_side(2)[-1], number) for number in range(WRITES)]
        same_s = made.identical()
        lost = [sentence for agent in made.agents for sentence in history.lost(agent)]
        known = _death(made, watch)
    name = f"{run.nodes} agents, {run.delay.far_ms:g} ms apart for {run.seconds:g} s"
    run.report.bar("round trip on links within a side", near, "ms", None)
    run.report.bar("round trip on links between sides", far, "ms", None)
    run.report.fact(f"{name}: writes acknowledged", history.acknowledged)
    run.report.promise(f"{name}: false dead", dead)
    run.report.fact(f"{name}: suspicions", doubted)
    run.report.promise("acknowledged writes lost", len(lost))
    run.report.bar("a write is seen on the other side", seen, "s", None)
    run.report.bar("byte-identical after the last write", [same_s], "s", 5.0)
    run.report.bar("kill -9 of one: all know", [known], "s", None)


def _round_trips(made: Field) -> tuple[list[float], list[float]]:
    """Round trips that agents measured on their links, within a side and between sides, ms."""
    at_side = {agent.name: agent.side for agent in made.agents}
    found: tuple[list[float], list[float]] = [], []
    for agent in made.agents:
        for row in agent.ask(lambda client: client.links()):
            if row["rtt_ms"] is not None and row["name"] in at_side:
                found[at_side[row["name"]] != agent.side].append(float(row["rtt_ms"]))
    return found


def _seen_after(writer: Agent, reader: Agent, number: int) -> float:
    key = f"far/seen/{number}"
    writer.ask(lambda client: client.put(key, number))
    with reader.client() as client:
        return wait("it is seen", lambda: client.get(key)["value"] == number, pause_s=0.001)


def _death(made: Field, watch: Watch) -> float:
    victim = made.agents[-1]
    others = [agent.name for agent in made.agents if agent is not victim]
    begun = time.monotonic()
    victim.signal(signal.SIGKILL)
    return known_after(watch, others, victim, begun)[-1]


ROWS = {"latency": Row(latency, nodes=16, seconds=120, network=True, delay=APART)}

"""Rows about attacks on a member's port: silent sockets, garbage, made-up identities, a flooding member."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fault.base import Row, Run
from fault.field import Agent, Field, wait

ATTACKER = Path(__file__).with_name("attacker.py")
POISONER = Path(__file__).with_name("poisoner.py")
MEMBER_S = 2.0
SAMPLE_S = 0.2


@contextmanager
def _attack(
    made: Field, what: str, victim: Agent, count: int, data: str = "", number: int = 250
) -> Iterator[Any]:
    """An attacker at work, from a namespace of its own if there are any; `number` is its last byte."""
    prefix = [] if made.network is None else made.network.plug(number, 3)[1]
    script = [str(POISONER)] if what == "poison" else [str(ATTACKER), what]
    words = [*script, victim.address, str(victim.port), str(count), *([data] if data else [])]
    process = subprocess.Popen(
        [*prefix, sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def sockets(run: Run) -> None:
    """2,000 silent sockets at one member's port: another must still get in, and memory stay."""
    with run.field() as made:
        victim, member = made.agents[0], made.agents[1]
        before = victim.resident_mib()
        with _attack(made, "silent", victim, run.runs) as attacker:
            held = json.loads(attacker.stdout.readline())["held"]
            entered = [_enters(victim, member) for _ in range(3)]
            grown = victim.resident_mib() - before
        made.agree()
    run.report.fact("silent sockets that connected", held)
    run.report.bar("a member gets in", entered, "s", MEMBER_S)
    run.report.bar("memory grew by", [grown], "MiB", 30.0)


def garbage(run: Run) -> None:
    """10,000 connects that send random bytes: another must still get in, and memory stay."""
    with run.field() as made:
        victim, member = made.agents[0], made.agents[1]
        before = victim.resident_mib()
        with _attack(made, "garbage", victim, run.runs) as attacker:
            entered = [_enters(victim, member) for _ in range(3)]
            sent = json.loads(attacker.stdout.readline())["sent"]
        grown = victim.resident_mib() - before
        made.agree()
    run.report.fact("connects with garbage", sent)
    run.report.bar("a member gets in", entered, "s", MEMBER_S)
    run.report.bar("memory grew by", [grown], "MiB", 30.0)


def identities(run: Run) -> None:
    """400 made-up keys that know the mesh's id knock at once: none may get in, a member must."""
    with run.field() as made:
        victim, member = made.agents[0], made.agents[1]
        with _attack(made, "identities", victim, run.runs, str(member.data)) as attacker:
            time.sleep(0.5)
            entered = [_enters(victim, member) for _ in range(3)]
            done = json.loads(attacker.stdout.readline())
        known = len(victim.ask(lambda client: client.members()))
        made.agree()
    run.report.fact("made-up identities", done["tried"])
    run.report.promise("of them members afterwards", known - len(made.agents))
    run.report.bar("a member gets in", entered, "s", MEMBER_S)


def _enters(victim: Agent, member: Agent) -> float:
    """How long a member that starts again takes from its first answer until it is linked."""
    member.kill()
    wait("its end was noticed", lambda: not _linked(victim, member))
    member.start()
    member.ready()
    return wait("it is linked", lambda: _linked(victim, member), pause_s=0.005)


def _linked(victim: Agent, member: Agent) -> bool:
    rows = victim.ask(lambda client: client.links())
    return any(row["name"] == member.name and row["state"] == "connected" for row in rows)


def flood(run: Run) -> None:
    """A member sends bad signatures, nonsense, questions and its own records as fast as it can."""
    with run.field("[metrics]\ninterval_s = 1.0\n") as made:
        victim, flooder, others = made.agents[0], made.agents[-1], made.agents[:-1]
        flooder.stop()
        calm, _ = _watched(victim, 5.0)
        with _attack(made, "flood", victim, int(run.seconds), str(flooder.data)) as attacker:
            lags, resident = _watched(victim, run.seconds)
            done = json.loads(attacker.stdout.readline())
        written = victim.ask(lambda client: client.put("after", 1))
        wait("the others see one another alive", lambda: _see(others))
        made.identical(others)
    half = len(resident) // 2
    slope = max(resident[half:]) - max(resident[:half])
    run.report.fact("links the flooder made, cut off each time it broke a rule", done["links"])
    run.report.fact("it sent", round(done["bytes"] / 2**20, 1), "MiB")
    run.report.bar("loop lag before", [_p99(calm)], "ms, p99 of seconds", None)
    run.report.bar("loop lag under the flood", [_p99(lags)], "ms, p99 of seconds", 50.0)
    run.report.bar("memory grew in the second half", [slope], "MiB", 5.0)
    run.report.promise("writes refused to others", int(not written))


def poison(run: Run) -> None:
    """A member, then an admin, signs records with values that nobody expects, at all paths: no agent ends."""
    told: dict[str, int] = {"records": 0, "messages": 0, "links": 0}
    with run.field() as made:
        victim, wrong = made.agents[1], [made.agents[-1], made.agents[0]]
        others = [agent for agent in made.agents if agent not in wrong]
        before = [agent.resident_mib() for agent in others]
        for number, poisoner in enumerate(wrong):
            poisoner.stop()
            with _attack(made, "poison", victim, run.runs // 2, str(poisoner.data), 250 + number) as attacker:
                done = json.loads(attacker.stdout.readline())
            told = {what: told[what] + done[what] for what in told}
        time.sleep(run.seconds)
        ended = sum(not agent.running for agent in others)
        grown = [
            agent.resident_mib() - was for agent, was in zip(others, before, strict=True) if agent.running
        ]
        errors = [line for agent in others for line in _unforeseen(agent)]
        for agent in others:
            agent.stop()
            agent.start()
        again = [agent.ready() for agent in others]
        written = victim.ask(lambda client: client.put("after", 1))
    for what, count in told.items():
        run.report.fact(f"of a member and an admin: {what}", count)
    run.report.promise("agents that ended", ended)
    run.report.promise("errors that nobody foresaw, in their logs", len(errors))
    for line in sorted(set(errors))[:8]:
        run.report.note(line)
    run.report.bar("memory grew by", grown, "MiB", 20.0)
    run.report.bar("started again with all of it: until it answers", again, "s", None)
    run.report.promise("writes refused afterwards", int(not written))


def _unforeseen(agent: Agent) -> list[str]:
    """What each traceback in an agent's log ends with, and where; the log has them on one line each."""
    found = []
    for line in agent.log.read_text(errors="replace").splitlines():
        if "Traceback (most recent call last)" in line:
            parts = line.split("\\n")
            place = [part.strip() for part in parts if part.lstrip(" |+").startswith('File "')]
            found.append(f"{parts[-1][:160]} ({place[-1][-90:] if place else 'nowhere'})")
    return found


def _see(others: list[Agent]) -> bool:
    names = {agent.name for agent in others}
    return all(
        names <= {row["name"] for row in agent.ask(lambda c: c.members()) if row["state"] == "alive"}
        for agent in others
    )


def _watched(agent: Agent, seconds: float) -> tuple[list[float], list[float]]:
    """Worst lateness of each second, and resident memory, while time passes."""
    lags, resident, seen = [], [], ""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sample = agent.ask(lambda client: client.metrics())
        if sample["time"] != seen:
            seen = sample["time"]
            lags.append(float(sample["groups"]["process"]["loop_lag_ms"]))
            resident.append(agent.resident_mib())
        time.sleep(SAMPLE_S)
    return lags, resident


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


ROWS = {
    "sockets": Row(sockets, nodes=3, runs=2_000),
    "garbage": Row(garbage, nodes=3, runs=10_000),
    "identities": Row(identities, nodes=3, runs=400),
    "flood": Row(flood, nodes=4, least=3, seconds=60),
    "poison": Row(poison, nodes=4, least=3, seconds=5, runs=20_000),
}

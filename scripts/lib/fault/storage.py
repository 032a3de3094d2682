"""Rows about the disk and the clock: full, failing, and off by years."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from fault import shim
from fault.base import Row, Run
from fault.field import Agent, Field, wait
from fault.history import PREFIX, History, Writers
from fault.shim import Shim
from mesh.client import Client
from mesh.errors import MeshError

YEARS_S = 10 * 366 * 86_400
DISK = "24m"
MORE_DISK = "96m"
VALUE = "x" * 30_000


def full_disk(run: Run) -> None:
    """A member's disk runs full: reads and deletes go on, others are not disturbed, room mends it."""
    history = History()
    with run.field(count=2) as made, _small_disk(made) as agent, agent.client() as client:
        client.register({"name": "kept", "port": 9})
        refused = _fill(client, history, "full")
        answered = len(client.scan(PREFIX, limit=10, values=False))
        doctor = [check["check"] for check in client.doctor() if check["result"] != "ok"]
        gone = sorted(history.values)[:20]
        for key in gone:
            client.delete(key)
            del history.values[key]
        others = made.agents[0].ask(lambda other: other.put("elsewhere", 1))
        _fill(client, history, "again")  # what the deletes gave back
        for other in made.agents[:2]:  # who comes back is remembered, in writing
            other.kill()
            other.start()
            other.ready()
        time.sleep(run.seconds)
        ended = int(not agent.running)
        agent.kill()
        agent.start()
        again_s = agent.ready()
        made.agree()
        time.sleep(run.seconds)
        ended += int(not agent.running)
        subprocess.run(["mount", "-o", f"remount,size={MORE_DISK}", agent.data], check=True)
        begun = time.monotonic()
        wait("it takes writes again", partial(_takes, client, history))
        back_s = time.monotonic() - begun
        made.identical()
        lost = [sentence for each in made.agents for sentence in history.lost(each)]
        wait("its service is offered again", lambda: made.agents[0].ask(lambda other: other.service("kept")))
    run.report.fact("writes acknowledged before the disk was full", history.acknowledged)
    run.report.promise("no clear refusal when full", int(not refused))
    run.report.promise("reads that failed while full", int(not answered))
    run.report.promise("alarms missing", int(not doctor or not others))
    run.report.promise("acknowledged writes lost", len(lost))
    run.report.promise("it ended by itself while full", ended)
    run.report.bar("killed while full: start until it answers", [again_s], "s", None)
    run.report.bar("writes are taken again after room was made", [back_s], "s", 60.0)


@contextmanager
def _small_disk(made: Field) -> Iterator[Agent]:
    """One more member, whose data lies on a file system of its own."""
    agent = made.place(3)
    agent.data.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(agent.data)]
    subprocess.run(words, check=True)
    try:
        made.enrol(agent, made.invite(uses=1))
        agent.log, agent.pid_file = made.folder / "small.log", made.folder / "small.pid"
        made.start([agent])
        made.agree()
        yield agent
    finally:
        if agent.running:
            agent.kill()
        subprocess.run(["umount", "-l", str(agent.data)], check=False)


def _fill(client: Client, history: History, tag: str) -> str:
    """Write until it is refused; returns the refusal."""
    for number in range(5_000):
        try:
            history.put(client, f"{tag}/{number}", f"{number} {VALUE}")
        except MeshError as error:
            return error.message
    return ""


def _takes(client: Client, history: History) -> bool:
    history.put(client, "full/again", "there is room")
    return True


def broken_disk(run: Run) -> None:
    """Every flush to disk fails for a while: nothing is acknowledged that is not there afterwards."""
    history, acknowledged, statuses = History(), 0, []
    with run.field() as made:
        agent = made.agents[0]
        cheat = _under(made, agent)
        for number in range(run.runs):
            with Writers(history, [agent], 0, f"good{number}"):
                time.sleep(0.5)
                cheat.break_disk()
                history.mark()  # what was flushed before it broke may be answered at any time after
                time.sleep(1.5)
                acknowledged += history.begun_since_mark
            statuses.append(agent.process.poll() if agent.process else None)
            agent.kill()
            cheat.mend_disk()
            agent.start()
            agent.ready()
        made.agree()
        made.identical()
        lost = [sentence for each in made.agents for sentence in history.lost(each)]
    run.report.fact("times that the disk broke", run.runs)
    run.report.promise("writes acknowledged while no flush worked", acknowledged)
    run.report.promise("acknowledged writes lost", len(lost))
    ended = sum(status is not None for status in statuses)
    run.report.note(f"the agent ended by itself {ended} of {run.runs} times, with status {statuses[0]}")


def _under(made: Field, agent: Agent) -> Shim:
    """Start an agent again with the shim loaded."""
    cheat = Shim(made.folder, agent.name)
    agent.environment = cheat.environment
    agent.stop()
    agent.start()
    agent.ready()
    return cheat


def clocks(run: Run) -> None:
    """A quarter of the nodes ten years ahead or behind: from their start, then jumping to and fro."""
    history = History()
    with run.field() as made:
        wrong = made.agents[-max(1, run.nodes // 4) :]
        cheats = {agent.name: Shim(made.folder, agent.name) for agent in wrong}
        true = [agent for agent in made.agents if agent not in wrong]
        for number, agent in enumerate(wrong):
            agent.environment = cheats[agent.name].environment
            cheats[agent.name].set_clock(YEARS_S if number % 2 == 0 else -YEARS_S)
            agent.kill()
        for agent in wrong:
            agent.start()
        for agent in wrong:
            agent.ready()
        lost, moved = [], 0.0
        for step, factor in enumerate((None, 0, 1, -1, 0)):
            for number, agent in enumerate(wrong if factor is not None else ()):
                sign = 1 if number % 2 == 0 else -1
                cheats[agent.name].set_clock(YEARS_S * sign * (factor or 0))
            with Writers(history, made.agents, 20.0, f"step{step}"):
                time.sleep(run.seconds)
            moved = max([moved, *(_offset_s(agent) for agent in true)])
        identical_s = made.identical()
        made.agree()
        lost = [sentence for agent in made.agents for sentence in history.lost(agent)]
    for sentence in lost[:5]:
        run.report.note(sentence)
    name = f"{len(wrong)} of {run.nodes} clocks off by ten years"
    run.report.fact(f"{name}: writes acknowledged", history.acknowledged)
    run.report.promise("acknowledged writes lost", len(lost), anchor="Aerospike loses at 27 s")
    run.report.bar("the clock of a true node was moved by at most", [moved], "s", 1.0)
    run.report.bar("byte-identical after the last writes", [identical_s], "s", None)


def _offset_s(agent: Agent) -> float:
    clock = agent.ask(lambda client: client.status())["clock"]
    return abs(float(clock["offset_ms"] or 0.0)) / 1000


def _not_mountable() -> str:
    return "" if os.geteuid() == 0 else "needs root, to mount a small file system"


ROWS = {
    "full-disk": Row(full_disk, nodes=3, seconds=30, lacking=_not_mountable),
    "broken-disk": Row(broken_disk, nodes=3, runs=5, lacking=shim.lacking),
    "clocks": Row(clocks, nodes=32, seconds=5, lacking=shim.lacking),
}

"""Rows about what a node remembers: killed while it writes, power cut, its store damaged or rolled back."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from setup import ROOT

from fault.base import Row, Run
from fault.field import Agent, Field, GaveUp, field, wait
from fault.history import PREFIX, History, Writers

POWERCUT = ROOT / "tests" / "fault" / "powercut.py"
CUTS_PER_CHILD = 500
MEMORY_DISK = Path("/dev/shm")
HARMS = ("truncated", "bits flipped", "page zeroed", "pages exchanged", "garbage", "headers")


def kill_writes(run: Run) -> None:
    """kill -9 at a random moment of 8 concurrent writers, again and again; alone: no peer can help."""
    ready, history, lost = [], History(), 0
    with field(run.programs, 1, network=False) as made:
        agent = made.agents[0]
        dice = run.dice
        for number in range(run.runs):
            before = history.acknowledged
            with Writers(history, [agent] * 8, 0, f"kill{number}", alike=True):
                wait("it writes", partial(history.above, before), pause_s=0.001)
                time.sleep(dice.random() * 0.3)
                agent.kill()
            agent.start()
            ready.append(agent.ready())
            lost += len(_told(run, history.lost(agent)))
            history.forget()
    run.report.fact("kill -9 during writes", run.runs, "times")
    run.report.fact("writes acknowledged", history.acknowledged)
    run.report.promise("acknowledged writes lost", lost, anchor="raw LMDB 0 of 300")
    run.report.bar("start until it answers", ready, "s", 1.0)


def kill_among_others(run: Run) -> None:
    """The same with two members that go on writing: nothing lost, and all byte-identical after each."""
    ready, same, history, lost = [], [], History(), 0
    with field(run.programs, 3, network=run.network) as made:
        dice = run.dice
        for number in range(run.runs):
            with Writers(history, made.agents, 100.0, f"kill{number}"):
                time.sleep(0.2 + dice.random() * 0.5)
                victim = dice.choice(made.agents)
                victim.kill()
                victim.start()
                ready.append(victim.ready())
            same.append(made.identical())
            lost += sum(len(_told(run, history.lost(agent))) for agent in made.agents)
            history.forget()
    run.report.fact("kill -9 of one of 3 during writes", run.runs, "times")
    run.report.fact("writes acknowledged", history.acknowledged)
    run.report.promise("acknowledged writes lost", lost)
    run.report.bar("start until it answers", ready, "s", 1.0)
    run.report.bar("byte-identical after the writers end", same, "s", None)


def _told(run: Run, lost: list[str], most: int = 3) -> list[str]:
    for sentence in lost[:most]:
        run.report.note(sentence)
    return lost


def power_cut(run: Run) -> None:
    """A store's own recorded writes, cut at random points, torn at 512 and 4096 bytes, opened and judged."""
    sound, wrong, left, seed = 0, dict[str, int](), run.runs, run.seed
    folder = {"POWERCUT_DIR": str(MEMORY_DISK)} if MEMORY_DISK.is_dir() else {}
    while left > 0:
        states = min(left, CUTS_PER_CHILD)
        done = subprocess.run(
            [sys.executable, str(POWERCUT), str(states), str(seed)],
            capture_output=True,
            text=True,
            env={**os.environ, **folder},
            check=False,
        )
        if done.returncode != 0:
            wrong[f"ended with {done.returncode} at seed {seed}"] = 1
        else:
            found = json.loads(done.stdout)
            sound += found["sound"]
            for what, times in found["wrong"].items():
                wrong[what] = wrong.get(what, 0) + times
        left, seed = left - states, seed + 1
    run.report.fact("states after a power cut", sound + sum(wrong.values()))
    anchor = "NATS JetStream lost 14.1 %"
    run.report.promise(
        "acknowledged writes lost, or a store that is not whole", sum(wrong.values()), anchor=anchor
    )
    for what, times in wrong.items():
        run.report.note(f"{times} times: {what}")


def damage(run: Run) -> None:
    """A member's store harmed in six ways while it is down: it must start, and get back what is right."""
    dice, back, unclean, wrong = run.dice, [], 0, 0
    history = History()
    with field(run.programs, 3, network=run.network) as made:
        with Writers(history, made.agents, 100.0, "damage"):
            time.sleep(3.0)
        made.identical()
        victim, right = made.agents[1], _content(made.agents[0])
        for number in range(run.runs):
            how = HARMS[number % len(HARMS)]
            victim.kill()
            file = victim.data / "store" / "data.mdb"
            file.write_bytes(harmed(file.read_bytes(), how, dice))
            begun = time.monotonic()
            victim.start()
            try:
                victim.ready()
                made.agree()
                made.identical()
            except GaveUp as error:
                unclean += 1
                run.report.note(f"{how}: {error}")
                break
            back.append(time.monotonic() - begun)
            if _content(victim) != right:
                wrong += 1
                run.report.note(f"{how}, run {number}: other content under the same digest")
            shutil.rmtree(victim.data / "store" / "damaged", ignore_errors=True)
    run.report.fact("stores damaged", len(back))
    anchor = "LMDB: SIGBUS at 36 of 40 truncations"
    run.report.promise("unclean deaths, or never whole again", unclean, anchor=anchor)
    anchor = "LMDB: 37 of 40 unnoticed; NATS lost 49.7 % to one bit"
    run.report.promise("wrong values served", wrong, anchor=anchor)
    run.report.bar("start until it holds what the others hold", back, "s", 60.0)


def harmed(data: bytes, how: str, dice: random.Random) -> bytes:
    """A store's file with one kind of damage."""
    image, pages = bytearray(data), len(data) // 4096
    if how == "truncated":
        return data[: dice.randrange(len(data))]
    if how == "bits flipped":
        for _ in range(8):
            image[dice.randrange(len(image))] ^= 1 << dice.randrange(8)
    elif how == "page zeroed":
        at = dice.randrange(pages) * 4096
        image[at : at + 4096] = bytes(4096)
    elif how == "pages exchanged":
        one, other = (dice.randrange(2, pages) * 4096 for _ in range(2))
        image[one : one + 4096], image[other : other + 4096] = (
            data[other : other + 4096],
            data[one : one + 4096],
        )
    elif how == "garbage":
        at = dice.randrange(len(image))
        piece = dice.randbytes(min(dice.randrange(1, 9000), len(image) - at))
        image[at : at + len(piece)] = piece
    else:
        for _ in range(4):
            image[dice.randrange(pages) * 4096 + dice.randrange(32)] = dice.randrange(256)
    return bytes(image)


def _content(agent: Agent) -> dict[str, object]:
    with agent.client() as client:
        return {row["key"]: row["value"] for row in client.export(PREFIX)}


def _fallen(run: Run, forget: Callable[[Run, Field, Agent, History, int], Iterator[None]]) -> None:
    """Writes, a fall in which the node forgets, more writes, and the judgement; `runs` times.

    `forget` is a generator: before its yield it does what comes before the writes that will be forgotten, and
    after it, it makes the node forget and lets it start.
    """
    dice, back, lost = run.dice, [], 0
    history = History()
    with run.field() as made:
        for number in range(run.runs):
            victim = dice.choice(made.agents[1:])
            with Writers(history, made.agents, 50.0, f"early{number}"):
                time.sleep(1.0)
            falling = forget(run, made, victim, history, number)
            next(falling)
            with Writers(history, made.agents, 50.0, f"late{number}"):
                time.sleep(1.0)
            made.identical()
            begun = time.monotonic()
            next(falling, None)
            with Writers(history, [victim], 50.0, f"after{number}"):
                time.sleep(1.0)
            made.agree()
            made.identical()
            back.append(time.monotonic() - begun - 1.0)
            lost += sum(len(_told(run, history.lost(agent))) for agent in made.agents)
    run.report.fact("falls", run.runs)
    run.report.fact("writes acknowledged", history.acknowledged)
    run.report.promise("acknowledged writes lost", lost, anchor="Riak kv679 loses silently")
    run.report.bar("until it holds again what the others hold", back, "s", 60.0)


def rolled_back(run: Run) -> None:
    """A store that is a copy of an older one, put back behind the agent's back (a snapshot of a disk)."""

    def forget(run: Run, made: Field, victim: Agent, history: History, number: int) -> Iterator[None]:
        victim.kill()
        old = made.folder / f"old{number}"
        shutil.copytree(victim.data / "store", old)
        victim.start()
        victim.ready()
        yield
        victim.kill()
        shutil.rmtree(victim.data / "store")
        shutil.move(old, victim.data / "store")
        victim.start()
        victim.ready()

    _fallen(run, forget)


def restored(run: Run) -> None:
    """A backup taken by the agent, and restored by it after more was written."""

    def forget(run: Run, made: Field, victim: Agent, history: History, number: int) -> Iterator[None]:
        with victim.client() as client:
            pieces = list(client.backup())
        yield
        with victim.client() as client:
            started = client.restore(iter(pieces), force=True)["started"]
        wait(
            f"{victim.name} has begun anew with the backup",
            lambda: victim.ask(lambda client: client.status())["started"] != started,
        )

    _fallen(run, forget)


def disk_lost(run: Run) -> None:
    """The whole store gone, the keys still there: everything comes back, its own writes too."""

    def forget(run: Run, made: Field, victim: Agent, history: History, number: int) -> Iterator[None]:
        yield
        victim.kill()
        shutil.rmtree(victim.data / "store")
        victim.start()
        victim.ready()

    _fallen(run, forget)


ROWS = {
    "kill-writes": Row(kill_writes, runs=1000),
    "kill-among": Row(kill_among_others, runs=100),
    "power-cut": Row(power_cut, runs=10_000),
    "damage": Row(damage, runs=120),
    "rolled-back": Row(rolled_back, nodes=4, runs=5),
    "restored": Row(restored, nodes=4, runs=5),
    "disk-lost": Row(disk_lost, nodes=4, runs=5),
}

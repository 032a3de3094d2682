"""Troubles with a name: each takes a fleet's size, a seed and perhaps a broken machine, and returns measures.

Keys ending in `_s` are seconds (infinity: it never happened), `false_dead` counts verdicts about healthy
members, `others` counts changes of mind about members that nothing was done to.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from mesh.core.vitals import State
from mesh.sim.fleet import Fleet

Measures: TypeAlias = dict[str, float]


def _others(fleet: Fleet, since: int, touched: range) -> int:
    return sum(change.subject not in touched for change in fleet.changes[since:])


def kill(nodes: int, seed: int, *, rounds: int = 8, **options: Any) -> Measures:
    """kill -9, one after another, with time between for the rings to settle."""
    fleet = Fleet(nodes, seed, **options).form()
    worst, touched = 0.0, range(min(rounds, nodes - 1))
    since = len(fleet.changes)
    for number in touched:
        fleet.kill(number)
        worst = max(worst, fleet.until(lambda number=number: fleet.know_gone(number), 60))  # type: ignore[misc]
        fleet.run(40)
    others = _others(fleet, since, touched)
    return {"worst_s": worst, "others": others, "false_dead": len(fleet.false_dead)}


def freeze(nodes: int, seed: int, **options: Any) -> Measures:
    """SIGSTOP one, then SIGCONT it."""
    fleet = Fleet(nodes, seed, **options).form()
    since = len(fleet.changes)
    fleet.freeze(0)
    found_s = fleet.until(fleet.whole, 120)
    fleet.run(20)
    fleet.resume(0)
    back_s = fleet.until(fleet.whole, 60)
    fleet.run(20)
    return {"found_s": found_s, "back_s": back_s, "others": _others(fleet, since, range(1))}


def loss(nodes: int, seed: int, *, rate: float = 0.2, minutes: float = 10, **options: Any) -> Measures:
    """Independent loss each way, nothing else."""
    fleet = Fleet(nodes, seed, **options).form()
    fleet.net.loss = rate
    fleet.run(60 * minutes)
    dead = sum(change.new == State.DEAD for change in fleet.changes)
    return {"false_dead": dead, "suspicions": sum(c.new == State.SUSPECT for c in fleet.changes)}


def split(nodes: int, seed: int, *, side: int = 0, hold_s: float = 60.0, **options: Any) -> Measures:
    """Cut `side` nodes (half, if 0) off from the others, and heal after `hold_s`."""
    fleet = Fleet(nodes, seed, **options).form()
    fleet.split(range(side or nodes // 2))
    settled_s = fleet.until(fleet.whole, 120)
    fleet.run(max(0.0, hold_s - min(settled_s, 120.0)))
    fleet.heal()
    whole_s = fleet.until(fleet.whole, 60)
    return {"settled_s": settled_s, "whole_s": whole_s, "false_dead": len(fleet.false_dead)}


def flap(nodes: int, seed: int, *, rounds: int = 40, **options: Any) -> Measures:
    """Four nodes frozen again and again, with about a second of life between."""
    fleet = Fleet(nodes, seed, **options).form()
    since, touched = len(fleet.changes), range(4)
    for _ in range(rounds):
        for number in touched:
            fleet.freeze(number, for_s=9 + fleet.rng.random() / 2)
        fleet.run(10.5)
    changes = len(fleet.changes) - since
    whole_s = fleet.until(fleet.whole, 30)
    return {"changes": changes, "others": _others(fleet, since, touched), "whole_s": whole_s}


def restart(nodes: int, seed: int, *, rounds: int = 5, **options: Any) -> Measures:
    """Everybody killed and started again, over up to 4 s."""
    fleet = Fleet(nodes, seed, **options).form()
    worst = 0.0
    for _ in range(rounds):
        for number in range(nodes):
            fleet.kill(number)
        fleet.run(0.2 + fleet.rng.random() * 20)
        fleet.start(spread_s=fleet.rng.random() * 4)
        worst = max(worst, fleet.until(fleet.whole, 60))
        fleet.run(fleet.rng.random() * 20)
    return {"worst_s": worst, "false_dead": len(fleet.false_dead)}


def one_way(nodes: int, seed: int, *, minutes: float = 5, **options: Any) -> Measures:
    """One link lets nothing through in one direction, another in neither."""
    fleet = Fleet(nodes, seed, **options).form()
    since = len(fleet.changes)
    for number, both_ways in ((0, False), (1, True)):
        machine = fleet.nodes[number].machine
        assert machine is not None
        fleet.cut([number], [fleet.number[machine.wanted()[0]]], both_ways=both_ways)
    fleet.run(60 * minutes)
    return {"changes": len(fleet.changes) - since}


def idle(nodes: int, seed: int, **options: Any) -> Measures:
    """Nothing happens: what does it cost?"""
    fleet = Fleet(nodes, seed, **options).form(60)
    return {"bytes_per_s": round(fleet.bytes_per_second(120), 1), "changes": len(fleet.changes)}


def busy(nodes: int, seed: int, *, minutes: float = 3, **options: Any) -> Measures:
    """Small processors: every node stands still for 0.4 s on average, every 5 s on average."""
    fleet = Fleet(nodes, seed, **options).form()
    rng = fleet.rng

    def stall(number: int) -> None:
        if not fleet.nodes[number].frozen:
            fleet.freeze(number, for_s=rng.expovariate(1 / 0.4))
        fleet.world.after(rng.expovariate(1 / 5), lambda: stall(number))

    for number in range(nodes):
        stall(number)
    fleet.run(60 * minutes)
    return {"false_dead": sum(change.new == State.DEAD for change in fleet.changes)}

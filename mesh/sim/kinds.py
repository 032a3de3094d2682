"""Scenarios of the features that have a simulator of their own: placement, quorums, rollouts.

A scenario with a table `[placement]`, `[quorum]` or `[rollout]` is played there instead of by the fleet: the
same file, seeds, report and exit status. Faults are part of the table, because each has its own: nodes that
die and return, voters that lose their disk, versions that are bad.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mesh.core.rollout import Plan
from mesh.sim import greens
from mesh.sim.greens import Greens
from mesh.sim.linear import Operation, linearizable
from mesh.sim.locks import Locks
from mesh.sim.placement import Trial, Trouble
from mesh.sim.rolling import Rolling, Scene
from mesh.sim.run import Failure, Result
from mesh.sim.stopwatch import Stopwatch

if TYPE_CHECKING:
    from mesh.sim.scenario import Rollout, Scenario

Figures = dict[str, Any]
Played = tuple[float, Figures, Failure | None, str]


def play(scenario: Scenario, seed: int) -> Result:
    """Play a scenario in the simulator that its table names."""
    watch = Stopwatch()
    virtual_s, figures, failure, digest = _player(scenario)(scenario, seed)
    figures |= watch.figures(virtual_s)
    return Result(scenario.name, seed, failure, figures, [], digest, [])


def _player(scenario: Scenario) -> Callable[[Scenario, int], Played]:
    if scenario.placement is not None:
        return _placement
    if scenario.rollout is not None and scenario.rollout.strategy == "bluegreen":
        return _bluegreen
    return _quorum if scenario.quorum is not None else _rollout


def _digest(*what: object) -> str:
    return hashlib.blake2b(repr(what).encode(), digest_size=16).hexdigest()


def _placement(scenario: Scenario, seed: int) -> Played:
    trial, failure = Trial(scenario.mesh.nodes, seed, scenario.placement), None
    begin = trial.world.now
    try:
        trial.run()
    except Trouble as trouble:
        failure = Failure(trouble.check, trouble.text, round(trial.world.now - begin, 1))
    digest = _digest(trial.figures, sorted(trial.world.running().items()))
    return trial.world.now - begin, trial.figures, failure, digest


def _quorum(scenario: Scenario, seed: int) -> Played:
    sim = Locks(seed, None, scenario.quorum).run(scenario.mesh.duration_s)
    failure = None
    if sim.troubles:
        at_s, _, text = sim.troubles[0].partition(": ")
        failure = Failure("exclusion", text, float(at_s))
    elif not linearizable([Operation(*op) for op in sim.history]):
        failure = Failure("linearizable", "the register is not", sim.world.now)
    ends = [op for op in sim.history if op.returned < math.inf]
    figures = {**sim.counts, "changes_of_register": len(ends)}
    return sim.world.now, figures, failure, _digest(sim.history, sorted(sim.counts.items()))


def _rollout(scenario: Scenario, seed: int) -> Played:
    table = scenario.rollout
    assert table is not None
    every = table.bad_every
    scene = Scene(
        nodes=scenario.mesh.nodes,
        plan=_plan(table),
        bad=(lambda number: number % every == 0) if every else None,
        falls_every_s=table.falls_every_s,
        delay_s=table.delay_s,
    )
    sim = Rolling(seed, scene).run(scenario.mesh.duration_s)
    failure = None
    if sim.troubles:
        at_s, _, text = sim.troubles[0].partition(": ")
        failure = Failure("gate", text, float(at_s))
    return _rolled_out(sim, table, failure, {"moving_max": sim.moving_max})


def _plan(table: Rollout) -> Plan:
    return Plan(
        strategy=table.strategy,
        max_unavailable=table.max_unavailable,
        pause_s=table.pause_s,
        bake_s=table.bake_s,
        deadline_s=table.deadline_s,
        drain_s=table.drain_s,
        max_fail=table.max_fail,
    )


def _bluegreen(scenario: Scenario, seed: int) -> Played:
    table = scenario.rollout
    assert table is not None
    nodes, every = scenario.mesh.nodes, table.bad_every
    bad = -(-nodes // every) if every else 0
    sim = Greens(seed, greens.Scene(nodes, _plan(table), bad, table.delay_s)).run(scenario.mesh.duration_s)
    failure = None
    if sim.troubles:
        at_s, check, text = sim.troubles[0]
        failure = Failure(check, text, at_s)
    return _rolled_out(sim, table, failure, {})


def _rolled_out(sim: Rolling | Greens, table: Rollout, failure: Failure | None, more: Figures) -> Played:
    """How a rollout came out, if nothing went wrong on the way: it has to end as its table says."""
    outcome = sim.outcome()
    if failure is None and outcome != table.ends:
        failure = Failure("outcome", f"it is {outcome}, not {table.ends}", sim.world.now)
    digest = _digest(sorted(sim.counts.items()), outcome)
    return sim.world.now, {**sim.counts, **more, "outcome": outcome}, failure, digest

"""One run of a scenario: form the mesh, deal the blows, set everything right, and judge.

    forming      all start at once and must see each other
    trouble      faults and load for `duration_s`, with every check awake
    peace        no faults, no load: within `bound_s` all agree, and all replicas are equal
    judgement    the oracle of acknowledged writes, and the figures of [expect]

A run is a function of the scenario, the seed and the parts; its digest is the proof.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mesh.core.record import MESH, ZONE
from mesh.core.rings import Place
from mesh.core.vitals import PROFILES, State
from mesh.sim import formed
from mesh.sim.checks import Violation
from mesh.sim.disk import DURABLE
from mesh.sim.faults import Blow, Hand, plan
from mesh.sim.fleet import Fleet
from mesh.sim.load import Writers
from mesh.sim.node import Node
from mesh.sim.parts import Parts
from mesh.sim.scenario import Scenario
from mesh.sim.stopwatch import Stopwatch

FORM_S = 60.0
STEP_S = 1.0
LOOK_EVERY_STEPS = 4
UNMEASURED = "unmeasured"
_WHY_NOT = {
    "found_s": "nobody was down for so long that all others knew",
    "settled_s": "no split lasted until both sides saw the other as gone",
}
Progress = Callable[[str, float], None]
Line = Callable[[float, str, int, str], None]


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, and when."""

    check: str
    text: str
    at_s: float


class Result(msgspec.Struct, frozen=True):
    """One run. `figures` are its measures; `samples` a row per virtual second for the picture."""

    scenario: str
    seed: int
    failure: Failure | None
    figures: dict[str, Any]
    plan: list[Blow]
    digest: str
    samples: list[tuple[float, int, float]]


class Run:
    """One run.

    Args:
        blows: another plan than the seed's own, for shrinking and replaying.
        parts: broken ones, in the mutation yard.
        line: called with (virtual time, what, node number or -1, more) for everything traced.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        blows: Sequence[Blow] | None = None,
        parts: Parts | None = None,
        line: Line | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.scenario, self.seed = scenario, seed
        self.plan = list(blows) if blows is not None else plan(scenario, seed)
        self._progress = progress or (lambda phase, share: None)
        lines, mesh = scenario.lines, scenario.mesh
        places = [
            Place(f"zone-{number % mesh.zones}" if mesh.zones > 1 else "default", gateway=self._able(number))
            for number in range(mesh.nodes)
        ]
        self.fleet = Fleet(
            mesh.nodes,
            seed,
            config=PROFILES[mesh.profile],
            near=lines.near.line(),
            far=(lines.far or lines.near).line(),
            places=places,
            parts=parts,
            shared=mesh.shared,
        )
        self.fleet.lines = line
        self._rng = random.Random(f"look/{seed}")
        self._samples: list[tuple[float, int, float]] = []
        self._figures: dict[str, Any] = {}
        self._hand: Hand | None = None
        self._bytes = 0

    def _able(self, number: int) -> bool:
        mesh = self.scenario.mesh
        return number // mesh.zones < mesh.gateways

    def execute(self) -> Result:
        """Run it; a broken rule is in the result, not raised."""
        watch, failure = Stopwatch(), None
        gc.disable()  # nothing here makes many circles, and looking for them costs a fifth of the time
        try:
            self._form()
            self._trouble()
            self._peace()
            self._judge()
        except Violation as broken:
            failure = Failure(broken.check, broken.text, round(self.fleet.world.now, 3))
        except AssertionError as broken:
            failure = Failure("views", str(broken)[:500] or "an assertion", round(self.fleet.world.now, 3))
        finally:
            gc.enable()
        self._measure(watch)
        if failure is not None:
            self.fleet.trace("failure", -1, f"{failure.check}: {failure.text}")
        return Result(
            self.scenario.name,
            self.seed,
            failure,
            self._figures,
            self.plan,
            self.fleet.digest,
            self._samples,
        )

    # -- the phases -------------------------------------------------------------------------------------

    def _form(self) -> None:
        fleet = self.fleet
        self._progress("forming", 0.0)
        formed.build(fleet) if self.scenario.mesh.formed else fleet.start()
        formed_s = fleet.until(fleet.whole, FORM_S)
        if formed_s > FORM_S:
            fleet.checks.fail("agreement", f"the mesh did not form within {FORM_S:g} s")
        self._figures["formed_s"] = round(formed_s, 3)
        fleet.run(self.scenario.mesh.quiet_s)

    def _trouble(self) -> None:
        fleet, mesh = self.fleet, self.scenario.mesh
        begin = fleet.world.now
        self._bytes = sum(fleet.net.bytes_sent)
        self._sent = (fleet.gauges.frames, fleet.gauges.messages)
        self._since = len(fleet.changes)
        self._hand = Hand(fleet, self.plan, self.seed)
        writers = Writers(fleet, self.scenario.load, self.seed)
        steps = 0
        while fleet.world.now < begin + mesh.duration_s:
            before = sum(fleet.net.bytes_sent)
            fleet.run(min(STEP_S, begin + mesh.duration_s - fleet.world.now))
            sent = (sum(fleet.net.bytes_sent) - before) / len(fleet.nodes)
            self._samples.append((round(fleet.world.now, 3), fleet.dead_beliefs, round(sent, 1)))
            steps += 1
            if steps % LOOK_EVERY_STEPS == 0:
                self._look()
            self._progress("trouble", (fleet.world.now - begin) / max(mesh.duration_s, STEP_S))
        writers.over = True
        self._overdue()
        seconds = max(fleet.world.now - begin, STEP_S)
        self._figures["bytes_per_s"] = round(
            (sum(fleet.net.bytes_sent) - self._bytes) / seconds / len(fleet.nodes), 1
        )
        self._frames()

    def _overdue(self) -> None:
        """What should have been noticed by now, and was not."""
        fleet, expect = self.fleet, self.scenario.expect
        if expect.found_s is not None and (late := fleet.overdue(expect.found_s)):
            fleet.checks.fail("expected", f"found_s: node {late[0]} is down, and not all know")
        since, bound_s = fleet.split_at, expect.settled_s
        if bound_s is not None and since is not None and fleet.net.cut:
            late_s = fleet.world.now - since - bound_s
            if late_s > 0:
                fleet.checks.fail("expected", f"settled_s: {fleet.disagreement()}")

    def _frames(self) -> None:
        gauges, writes = self.fleet.gauges, self.fleet.ledger.acknowledged
        frames, messages = gauges.frames - self._sent[0], gauges.messages - self._sent[1]
        self._figures["acknowledged"] = writes
        self._figures["frames"] = frames
        if writes:
            self._figures["frames_per_write"] = round(frames / writes, 2)
            self._figures["messages_per_write"] = round(messages / writes, 2)

    def _peace(self) -> None:
        fleet, bound_s = self.fleet, self.scenario.mesh.bound_s
        assert self._hand is not None
        self._hand.set_right()
        begin = fleet.world.now
        self._progress("agreement", 0.0)
        agree_s = fleet.until(fleet.whole, bound_s)
        if agree_s > bound_s:
            fleet.checks.fail("agreement", f"after {bound_s:g} s of peace: {fleet.disagreement()}")
        while not self.scenario.mesh.shared and not fleet.abroad():
            if fleet.world.now >= begin + bound_s:
                fleet.checks.fail("agreement", f"after {bound_s:g} s of peace zones misjudge each other")
            fleet.run(STEP_S / 4)
        self._figures["agree_s"] = round(fleet.world.now - begin, 3)
        while difference := self._difference():
            self._progress("equality", (fleet.world.now - begin) / bound_s)
            if fleet.world.now >= begin + bound_s:
                fleet.checks.fail("identical", f"after {bound_s:g} s of peace: {difference}")
            fleet.run(STEP_S / 4)
        self._figures["identical_s"] = round(fleet.world.now - begin, 3)

    def _difference(self) -> str:
        """The first difference between two replicas, or nothing."""
        first: dict[str, Node] = {}
        for node in self.fleet.nodes:
            for scope in DURABLE:
                other = first.setdefault(scope if scope == MESH else scope + node.place.zone, node)
                mine, theirs = node.disk.logs[scope], other.disk.logs[scope]
                if other is not node and list(mine.authors()) != list(theirs.authors()):
                    ours, others = dict(mine.authors()), dict(theirs.authors())
                    for aid in sorted({*ours, *others}):
                        if ours.get(aid) != others.get(aid):
                            author = self.fleet.number.get(aid)
                            return (
                                f"scope {scope}, author {author}: node {node.number} has {ours.get(aid)}, "
                                f"node {other.number} has {others.get(aid)}"
                            )
        return ""

    def _look(self) -> None:
        """Somebody's head is a promise: what its author still says up to there is held."""
        assert self._hand is not None
        nodes = [node for node in self.fleet.nodes if node.machine is not None]
        if len(nodes) < 2 or self._hand.omitting:
            return
        node, author = self._rng.sample(nodes, 2)
        for scope in (MESH, ZONE):
            if scope == ZONE and not node.near(author):
                continue
            log, state = node.disk.logs[scope], node.disk.logs[scope].author(author.aid)
            for rec in author.disk.logs[scope].since(author.aid, state.floor):
                held = log.peek(rec.slot)
                if rec.hlc <= state.head and (held is None or held[0] < rec.hlc):
                    text = f"node {node.number} claims {state.head} of {author.number}, and lacks {rec.path}"
                    self.fleet.checks.fail("heads", f"{text} @{rec.hlc}")

    # -- judging ----------------------------------------------------------------------------------------

    def _judge(self) -> None:
        fleet = self.fleet
        seen: set[tuple[str, str]] = set()
        for node in fleet.nodes:
            for scope in DURABLE:
                place = (scope, "" if scope == MESH else node.place.zone)
                if place not in seen:
                    seen.add(place)
                    problems = fleet.ledger.problems(node, scope)
                    if problems:
                        check = problems[0].partition(":")[0]
                        fleet.checks.fail(check, f"{len(problems)} times, first {problems[0]}")
        self._expected()

    def _expected(self) -> None:
        self._verdicts()
        expect, gauges = self.scenario.expect, self.fleet.gauges
        measured = {
            "found_s": gauges.found_s.largest,
            "settled_s": gauges.settled_s.largest,
            "reach_p50_s": gauges.reach_s.quantile(0.5),
            "reach_max_s": gauges.reach_s.largest,
            **self._figures,
        }
        bars = {name: bar for name in expect.__struct_fields__ if (bar := getattr(expect, name)) is not None}
        for name, bar in bars.items():
            if (value := measured.get(name, math.nan)) > bar:
                check = "verdict" if name == "false_dead" else "expected"
                self.fleet.checks.fail(check, f"{name} is {value:g}, allowed is {bar:g}")
        for name, bar in bars.items():
            if not math.isfinite(measured.get(name, math.nan)):
                why = _WHY_NOT.get(name, "no write was acknowledged and went anywhere")
                self.fleet.checks.fail(UNMEASURED, f"expected {name} <= {bar:g}, never measured: {why}")

    def _verdicts(self) -> None:
        touched = self._hand.touched if self._hand is not None else set()
        fleet = self.fleet
        self._figures["false_dead"] = len(fleet.false_dead)
        self._figures["flickers"] = len(fleet.flickers)
        self._figures["changes"] = len(fleet.changes) - self._since
        self._figures["others"] = sum(
            change.subject not in touched and change.settled and change.new in (State.SUSPECT, State.DEAD)
            for change in fleet.changes[self._since :]
        )

    def _measure(self, watch: Stopwatch) -> None:
        fleet, gauges = self.fleet, self.fleet.gauges
        if self._hand is not None:
            self._verdicts()
        self._figures |= {
            **watch.figures(fleet.world.now),
            "events": fleet.world.calls,
            "duplicates": sum(n.replica.machine.duplicates for n in fleet.nodes if n.replica is not None),
            "found": gauges.found_s.figures(),
            "settled": gauges.settled_s.figures(),
            "reach": gauges.reach_s.figures(),
            "reach_all": gauges.all_s.figures(),
            "hops": gauges.hops.figures(),
        }

    _since = 0
    _sent = (0, 0)

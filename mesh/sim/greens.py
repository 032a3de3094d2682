"""A simulated blue-green rollout: nodes that run both generations, and those who ask for the service.

Every node and some strangers ask all the time, each by its own view, which is late. `Greens.troubles` lists
what must never be:

    early     the switch is said before all of the new generation is healthy
    ahead     somebody gets the new generation without having the record of the switch
    both      somebody gets both generations
    nobody    somebody gets a generation of which nothing runs

The same seed gives the same run.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import msgspec

from mesh.core.bluegreen import Sides, sides
from mesh.core.mover import Mover, Running
from mesh.core.rollout import Course, Order, Picture, Plan, Statement, Target
from mesh.sim.world import World

IDENT = "wl-web-2"
BEFORE, AFTER = 1, 2
TICK_S, ASK_S = 0.5, 0.5
STRANGERS = 3


class Rules:
    """The true ones: what a node has, and which generations somebody gets who asks."""

    mover: type[Mover] = Mover

    def sides(self, aid: bytes, picture: Picture, held: int) -> Sides:
        return sides(aid, picture, held)

    def asked(self, aid: bytes, picture: Picture) -> frozenset[int]:
        its = sides(aid, picture)
        return frozenset({AFTER if its.shown == picture.order.colour else BEFORE})


class Scene(msgspec.Struct, frozen=True):
    """What happens.

    Attributes:
        bad: on so many nodes the new generation fails.
        delay_s: news may be so late.
        start_s: until an instance is healthy, at most.
    """

    nodes: int = 6
    plan: Plan = Plan(strategy="bluegreen", bake_s=3, deadline_s=40, drain_s=10)
    bad: int = 0
    delay_s: float = 4.0
    start_s: float = 8.0


class Node:
    """One who has a view: a target, or a stranger who only asks."""

    def __init__(self, sim: Greens, number: int) -> None:
        self.sim, self.number = sim, number
        self.aid = bytes([number + 1]) * 16
        self.target = number < sim.scene.nodes
        self.held = BEFORE
        # Of each generation that is here, whether it is healthy yet.
        self.runs: dict[int, bool] = {BEFORE: True} if self.target else {}
        self.heard: dict[bytes, Statement] = {}
        self.order = sim.order
        self.mover = sim.rules.mover(self.aid)

    def picture(self) -> Picture:
        targets = [Target(it.aid) for it in self.sim.nodes if it.target]
        return Picture(IDENT, self.order, targets, self.heard)

    def tick(self) -> None:
        """Take part: the next word, and then what is to run here."""
        sim, picture = self.sim, self.picture()
        its = sim.rules.sides(self.aid, picture, self.held)
        part = its.beside or self.held
        failing = part == AFTER and self.number < sim.scene.bad and self.runs.get(AFTER, False)
        healthy = self.runs.get(part, False) and not failing
        running = Running(part, healthy, failing, "it is bad" if failing else "")
        word, _ = self.mover.step(picture, running, sim.now_ms)
        if word is not None:
            sim.said(self, word, picture)
            its = sim.rules.sides(self.aid, self.picture(), self.held)
        self.held = its.gen
        for gen in {its.gen, its.beside} - {0, *self.runs}:
            self.runs[gen] = False
            sim.world.after(sim.rng.uniform(0.5, sim.scene.start_s), partial(self._well, gen))
        for gen in self.runs.keys() - {its.gen, its.beside}:
            del self.runs[gen]
        sim.world.after(TICK_S * sim.rng.uniform(0.8, 1.2), self.tick)

    def _well(self, gen: int) -> None:
        if gen in self.runs:
            self.runs[gen] = True

    def ask(self) -> None:
        """Call the service, by our own view."""
        sim, picture = self.sim, self.picture()
        found = sim.rules.asked(self.aid, picture)
        sim.counts["asked"] += 1
        if len(found) != 1:
            sim.trouble("both", f"{self.number} gets both generations")
        if AFTER in found and not (picture.switched_ms or picture.final):
            sim.trouble("ahead", f"{self.number} gets the new generation without the switch")
        for gen in found:
            if not any(node.runs.get(gen) for node in sim.nodes):
                sim.trouble("nobody", f"{self.number} gets generation {gen}, of which nothing runs")
        sim.world.after(ASK_S * sim.rng.uniform(0.8, 1.2), self.ask)

    def hear(self, aid: bytes, word: Statement) -> None:
        held = self.heard.get(aid)
        if held is None or _rank(held) <= _rank(word):
            self.heard[aid] = word


def _rank(word: Statement) -> tuple[int, int, bool, bool]:
    return word.gen, word.since_ms, bool(word.switch_ms), word.final


class Greens:
    """One run."""

    def __init__(self, seed: int, scene: Scene, rules: Rules | None = None) -> None:
        self.rng = random.Random(seed)
        self.scene, self.rules = scene, rules or Rules()
        self.world = World()
        self.order = Order(1, "workload/web", BEFORE, AFTER, 0, scene.plan, colour="green")
        self.counts: Counter[str] = Counter()
        self.troubles: list[tuple[float, str, str]] = []
        self._switched = False
        self.nodes = [Node(self, number) for number in range(scene.nodes + STRANGERS)]
        for node in self.nodes:
            if node.target:
                self.world.after(self.rng.uniform(0, 1), node.tick)
            self.world.after(self.rng.uniform(0, 1), node.ask)

    @property
    def now_ms(self) -> int:
        return 1_000_000 + int(self.world.now * 1000)

    def run(self, until_s: float) -> Greens:
        self.world.run(until_s)
        return self

    def outcome(self) -> str:
        return self.nodes[0].picture().state

    def say(self, course: Course) -> None:
        """The operator's word."""
        self.order = msgspec.structs.replace(self.order, course=course)
        for node in self.nodes:
            self.world.after(
                self.rng.uniform(0, self.scene.delay_s), partial(self._ordered, node, self.order)
            )

    @staticmethod
    def _ordered(node: Node, order: Order) -> None:
        node.order = order

    def trouble(self, check: str, text: str) -> None:
        self.troubles.append((round(self.world.now, 1), check, text))

    def said(self, by: Node, word: Statement, picture: Picture) -> None:
        """A node's word is on its way to the others."""
        self.counts[str(word.st)] += 1
        if word.switch_ms and not picture.switched_ms and not self._switched:
            self._switched = True
            late = [node.number for node in self.nodes if node.target and not node.runs.get(AFTER)]
            if late:
                self.trouble(
                    "early", f"{by.number} says the switch, but the new one is not healthy on {late}"
                )
        by.hear(by.aid, word)
        for node in self.nodes:
            if node is not by:
                delay_s = self.rng.uniform(0, self.scene.delay_s)
                self.world.after(delay_s, partial(node.hear, by.aid, word))

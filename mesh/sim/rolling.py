"""A simulated mesh that rolls a new generation out: delayed views, nodes that fall, versions that are bad.

`Rolling.troubles` lists what must never be: more moving at once than the plan allows, a node that enters
after a halt has reached it, or while it is paused. The same seed gives the same run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec

from mesh.core import rollout
from mesh.core.mover import Mover, Running
from mesh.core.rollout import Course, Order, Picture, Plan, St, Statement, Target
from mesh.sim.world import World

IDENT = "wl-web-2"
TICK_S = 0.5


class Scene(msgspec.Struct, frozen=True):
    """What happens. `bad`: of which nodes (by number) the new generation fails; None: of none."""

    nodes: int = 12
    plan: Plan = Plan(pause_s=5, bake_s=5, deadline_s=60)
    bad: Callable[[int], bool] | None = None
    falls_every_s: float = 0.0
    delay_s: float = 0.5


class Node:
    """One target."""

    def __init__(self, sim: Rolling, number: int) -> None:
        self.sim, self.number = sim, number
        self.aid = bytes([number + 1]) * 16
        self.region = ("north", "south", "")[number % 3]
        self.gen, self.healthy, self.up = 1, True, True
        self.fell_ms = 0
        self.moving_to = 1
        self.order = sim.order
        self.heard: dict[bytes, Statement] = {}
        self.fallen: dict[bytes, int] = {}
        self.mover = sim.mover(self.aid)

    def picture(self) -> Picture:
        targets = [Target(it.aid, it.region, self.fallen.get(it.aid, 0)) for it in self.sim.nodes]
        return Picture(IDENT, self.order, targets, self.heard)

    def tick(self) -> None:
        if self.up:
            picture = self.picture()
            bad = self.sim.scene.bad is not None and self.sim.scene.bad(self.number)
            failing = self.gen == 2 and bad
            running = Running(self.gen, self.healthy and not failing, failing, "it is bad" if failing else "")
            word, _ = self.mover.step(picture, running, self.sim.now_ms)
            if word is not None:
                self.heard[self.aid] = word
                self.sim.said(self, word, picture)
            wanted = self.sim.generation_for(self.aid, self.picture())
            if wanted not in (self.gen, self.moving_to):
                self._change(wanted)
        self.sim.world.after(TICK_S * self.sim.rng.uniform(0.8, 1.2), self.tick)

    def _change(self, wanted: int) -> None:
        self.moving_to, self.healthy = wanted, False

        def changed() -> None:
            self.gen, self.moving_to, self.healthy = wanted, wanted, True

        self.sim.world.after(self.sim.rng.uniform(0.5, 3), changed)


class Rolling:
    """One run."""

    def __init__(
        self,
        seed: int,
        scene: Scene,
        *,
        mover: Callable[[bytes], Mover] = Mover,
        picture: type[Picture] = Picture,
    ) -> None:
        self.rng = random.Random(seed)
        self.scene, self.mover = scene, mover
        self.world = World()
        self.generation_for = rollout.generation_for
        self.order = Order(1, "workload/web", 1, 2, 0, scene.plan)
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.moving_max = 0
        self.nodes = [Node(self, number) for number in range(scene.nodes)]
        for node in self.nodes:
            self.world.after(self.rng.uniform(0, 1), node.tick)
        if scene.falls_every_s:
            self._fall_soon()

    @property
    def now_ms(self) -> int:
        return 1_000_000 + int(self.world.now * 1000)

    def run(self, until_s: float) -> Rolling:
        self.world.run(until_s)
        return self

    def states(self) -> Counter[str]:
        """How far the nodes are that are up, as the first of them sees it."""
        up = [node for node in self.nodes if node.up]
        picture = up[0].picture()
        return Counter(str(picture.st(node.aid)) for node in up)

    def outcome(self) -> str:
        return next(node for node in self.nodes if node.up).picture().state

    def say(self, order: Order) -> None:
        """The operator's word."""
        self.order = order
        for node in self.nodes:
            self.world.after(self.rng.uniform(0, self.scene.delay_s), partial(self._hear, node, order))

    def _hear(self, node: Node, order: Order) -> None:
        node.order = order

    def said(self, by: Node, word: Statement, picture: Picture) -> None:
        self.counts[str(word.st)] += 1
        if word.st == St.MOVE:
            if any(said.halt and said.gen == by.order.gen for said in by.heard.values()):
                self.troubles.append(f"{self.world.now:.1f}: {by.number} moves though it heard of a halt")
            if by.order.course != Course.RUN:
                self.troubles.append(
                    f"{self.world.now:.1f}: {by.number} moves though it is {by.order.course}"
                )
        for node in self.nodes:
            if node is not by:
                self.world.after(self.rng.uniform(0, self.scene.delay_s), self._delivery(node, by.aid, word))
        moving = sum(
            it.up and (said := it.heard.get(it.aid)) is not None and said.st in rollout.BUSY
            for it in self.nodes
        )
        self.moving_max = max(self.moving_max, moving)
        one_by_one = self.scene.plan.strategy in ("rolling", "canary")
        if one_by_one and moving > self.scene.plan.max_unavailable:
            self.troubles.append(f"{self.world.now:.1f}: {moving} move at once")

    def _delivery(self, node: Node, aid: bytes, word: Statement) -> Callable[[], None]:
        def deliver() -> None:
            held = node.heard.get(aid)
            if held is None or (held.gen, held.since_ms) <= (word.gen, word.since_ms):
                node.heard[aid] = word

        return deliver

    def _fall_soon(self) -> None:
        def fall() -> None:
            up = [node for node in self.nodes if node.up]
            if len(up) > 2:
                self.fall(self.rng.choice(up), back_s=self.rng.uniform(5, 60))
            self._fall_soon()

        self.world.after(self.rng.expovariate(1 / self.scene.falls_every_s), fall)

    def fall(self, node: Node, back_s: float) -> None:
        """A node dies, all others find out, it comes back."""
        node.up = False
        self.counts["falls"] += 1
        for other in self.nodes:
            self.world.after(self.rng.uniform(0.2, 2), partial(self._found, other, node))

        def back() -> None:
            node.up = True
            for other in self.nodes:
                self.world.after(self.rng.uniform(0.2, 2), partial(self._heard_again, other, node))

        self.world.after(back_s, back)

    def _heard_again(self, other: Node, node: Node) -> None:
        other.fallen.pop(node.aid, None)

    def _found(self, other: Node, node: Node) -> None:
        if not node.up:
            other.fallen[node.aid] = self.now_ms

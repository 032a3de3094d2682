"""Placement put to the test: many workloads, nodes that die, return and are parted, and what is demanded.

begin    so many workloads are applied at once: each runs once, soon
death    some nodes die together: all runs again within PLACED_S, nothing else is moved, few instances run
         twice for a moment, and none for a second
return   they come back: nothing is moved for them
split    half of the nodes is parted: each side runs everything; after the heal one of each is left
patience what waits for its owner is not started elsewhere before its time, and comes home
tight    where not all fits, no node takes more than it has
"""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.core.claims import Seat
from mesh.core.placement import Placement
from mesh.core.placing import Config
from mesh.sim.placing import Node, World, spec

PLACED_S = 10.0
TWICE_SHARE, TWICE_FEW, TWICE_S = 0.03, 2, 1.0
HEALED_S = 5.0
STEP_S = 0.1
FULL = 0.4
CPU = 8.0


class Scene(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Size of a run.

    Attributes:
        dead: so many nodes die at once.
        split: whether the mesh is parted afterwards.
    """

    workloads: int = 60
    dead: int = 3
    split: bool = True


class Trouble(AssertionError):
    """What was demanded and is not so; its name is one of the acts."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.text = text


class Trial:
    """One run; `figures` are its measures.

    Args:
        machine: a broken one, in the mutation yard. config: likewise.
    """

    def __init__(
        self,
        nodes: int,
        seed: int,
        scene: Scene | None = None,
        *,
        config: Config | None = None,
        machine: type[Placement] = Placement,
    ) -> None:
        self.scene = scene or Scene()
        self._seed, self._config, self._machine = seed, config, machine
        self.world = World(nodes, seed, config, machine)
        self.figures: dict[str, Any] = {}
        self._since: dict[Seat, float] = {}
        self._twice_s: dict[Seat, float] = {}
        self.world.watchers.append(self._watch)

    def run(self) -> dict[str, Any]:
        """Play all acts.

        Raises:
            Trouble: what is demanded is not so.
        """
        self._begin()
        dead = self._death()
        self._return(dead)
        if self.scene.split:
            self._split()
        self._patience()
        self._tight()
        return self.figures

    def _watch(self) -> None:
        now = self.world.now
        for seat, nodes in self.world.running().items():
            if len(nodes) > 1:
                self._since.setdefault(seat, now)
            elif seat in self._since:
                self._twice_s[seat] = max(self._twice_s.get(seat, 0.0), now - self._since.pop(seat))

    def _until_once(self, limit_s: float) -> float:
        """Seconds until everything runs once; infinity if it does not come to that."""
        world, begin = self.world, self.world.now
        while world.now < begin + limit_s:
            world.run(STEP_S)
            if once(world):
                return world.now - begin
        return float("inf")

    def _sound(self, world: World | None = None) -> None:
        for text in (world or self.world).troubles[:1]:
            raise Trouble("room" if "cpu" in text else "epoch", text.partition(": ")[2])

    # -- the acts ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        count = self.scene.workloads
        cpu = round(FULL * CPU * len(self.world.nodes) / count, 3)
        self.world.apply(*(spec(f"w{number}", **_takes(cpu)) for number in range(count)))
        begun_s = self._until_once(30)
        if begun_s > 30:
            raise Trouble("begin", f"not everything runs once after 30 s: {missing(self.world)}")
        self.figures["begun_s"] = round(begun_s, 1)
        self.world.run(30 - begun_s)
        self._sound()

    def _death(self) -> list[Node]:
        world = self.world
        dead = world.nodes[: self.scene.dead]
        before = {seat: nodes for seat, nodes in world.running().items() if nodes[0] not in _aids(dead)}
        self._since, self._twice_s = {}, {}
        world.kill(*dead)
        placed_s = self._until_once(PLACED_S)
        self.figures["placed_s"] = round(placed_s, 1)
        if placed_s > PLACED_S:
            raise Trouble("failover", f"after {PLACED_S:g} s: {missing(world)}")
        world.run(PLACED_S - placed_s)
        self._sound()
        twice = {**self._twice_s, **{seat: world.now - since for seat, since in self._since.items()}}
        share, longest = len(twice) / self.scene.workloads, max(twice.values(), default=0.0)
        self.figures |= {"twice": round(share, 4), "twice_s": round(longest, 2)}
        allowed = max(TWICE_FEW, TWICE_SHARE * self.scene.workloads)
        if len(twice) > allowed or longest >= TWICE_S:
            raise Trouble("twice", f"{share:.1%} of all ran twice, for {longest:.2f} s at most")
        after = world.running()
        moved = [seat for seat, nodes in before.items() if after[seat] != nodes]
        if moved:
            raise Trouble("moved", f"{len(moved)} instances whose nodes live, {moved[0]} first")
        return dead

    def _return(self, dead: list[Node]) -> None:
        before = self.world.running()
        for node in dead:
            self.world.revive(node)
        self.world.run(120)
        self._sound()
        if self.world.running() != before:
            raise Trouble("moved", "nodes that came back were given work that ran elsewhere")

    def _split(self) -> None:
        world = self.world
        half = len(world.nodes) // 2
        near, far = world.nodes[:half], world.nodes[half:]
        world.split(far)
        world.run(30)
        for side in (near, far):
            if {seat for node in side for seat in node.runs} != set(_seats(world)):
                raise Trouble("split", "a side does not run everything")
        world.heal()
        healed_s = self._until_once(HEALED_S)
        self.figures["healed_s"] = round(healed_s, 1)
        if healed_s > HEALED_S:
            raise Trouble("heal", f"after {HEALED_S:g} s: {missing(world)}")
        self._sound()

    def _patience(self) -> None:
        world = World(4, self._seed, self._config, self._machine)
        world.apply(spec("kept", failover_after_s=60))
        world.run(10)
        owner = next((node for node in world.nodes if node.runs), None)
        if owner is None:
            raise Trouble("begin", "one workload on four nodes does not run")
        world.kill(owner)
        world.run(40)
        if world.running():
            raise Trouble("patience", "was started elsewhere 20 s before its time")
        world.revive(owner)
        world.run(10)
        if list(world.running().values()) != [[owner.aid]]:
            raise Trouble("patience", "does not run where it was though its owner came back in time")
        self._sound(world)

    def _tight(self) -> None:
        world = World(4, self._seed, self._config, self._machine)
        world.apply(*(spec(f"large{number}", **_takes(3.0)) for number in range(8)))
        world.run(60)
        world.kill(world.nodes[0])
        world.run(30)
        self._sound(world)


def _takes(cpu: float) -> dict[str, Any]:
    amounts = {"cpu": cpu, "memory": "16Mi"}
    return {"resources": {"requests": amounts, "limits": {"cpu": cpu, "memory": "64Mi"}}}


def once(world: World) -> bool:
    """Whether everything runs, and nothing twice."""
    running = world.running()
    return len(running) == len(world.specs) and all(len(nodes) == 1 for nodes in running.values())


def missing(world: World) -> str:
    """What is not as it should be, in words."""
    running = world.running()
    none = [str(seat) for seat in _seats(world) if seat not in running]
    more = [str(seat) for seat, nodes in running.items() if len(nodes) > 1]
    return f"{len(none)} run nowhere {none[:2]}, {len(more)} more than once {more[:2]}"


def _seats(world: World) -> list[Seat]:
    return [Seat(name, 0) for name in world.specs]


def _aids(nodes: list[Node]) -> set[bytes]:
    return {node.aid for node in nodes}

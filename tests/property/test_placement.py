"""Whatever befalls a small mesh: when it is whole again, everything runs exactly once."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.core.claims import Seat
from mesh.sim.placing import Node, World, spec

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["kill", "revive", "split", "heal", "drain", "undrain", "apply", "wait"]),
        st.integers(0, 4),
        st.floats(0.0, 30.0),
    ),
    max_size=12,
)
NAMES = [f"w{number}" for number in range(6)]
RULES = st.sampled_from(["keep_replacement", "keep_original", "best_score", "longest_running"])


class Harm:
    """Carries steps out."""

    def __init__(self, world: World, reconcile: str) -> None:
        self.world = world
        self.reconcile = reconcile
        self.gen = 1

    def apply(self) -> None:
        self.gen += 1
        more = {"reconcile": self.reconcile, "resources": {"requests": {"cpu": 0.1}, "limits": {}}}
        self.world.apply(*(spec(name, self.gen, **more) for name in NAMES))

    def step(self, what: str, node: Node) -> None:
        world = self.world
        match what:
            case "kill" if node.up:
                world.kill(node)
            case "revive" if not node.up:
                world.revive(node)
            case "split" if not world.sides:
                world.split([each for each in world.nodes if each.aid <= node.aid], verdict_s=5.0)
            case "heal" if world.sides:
                world.heal()
            case "drain" | "undrain" if node.up and not world.sides:
                world.set_offer(node, "drain" if what == "drain" else "up")
            case "apply" if not world.sides:
                self.apply()

    def mend(self) -> None:
        """Everything up, whole and open again."""
        world = self.world
        if world.sides:
            world.heal()
            world.run(1)
        for node in world.nodes:
            if not node.up:
                world.revive(node)
        for node in world.nodes:
            if world.sites[node.aid].offer.st != "up":
                world.set_offer(node, "up")
        self.apply()


@settings(max_examples=40, deadline=None)
@example(  # the one who is drained stays after all, while another one has just taken the seat from it
    steps=[("drain", 3, 0.0), ("kill", 0, 30.0), ("drain", 2, 0.0625)], seed=0, reconcile="keep_replacement"
)
@given(steps=STEPS, seed=st.integers(0, 1 << 16), reconcile=RULES)
def test_once_it_is_whole_everything_runs_exactly_once(
    steps: list[tuple[str, int, float]], seed: int, reconcile: str
) -> None:
    world = World(5, seed)
    harm = Harm(world, reconcile)
    harm.apply()
    world.run(5)
    for what, number, seconds in steps:
        harm.step(what, world.nodes[number])
        world.run(seconds)
    harm.mend()
    world.run(150)
    running = world.running()
    assert sorted(running) == [Seat(name, 0) for name in NAMES]
    assert all(len(nodes) == 1 for nodes in running.values())
    assert sum(len(node.stored) for node in world.nodes) == len(NAMES)

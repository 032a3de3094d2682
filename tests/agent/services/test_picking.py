"""Decisions are kept, and dropped when what they stand on moves."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import trio
from town import Town

from mesh.agent.picking import FRESH_S, Picker
from mesh.core.registry import Health
from mesh.core.routes import Route
from mesh.core.routing import Wants
from mesh.errors import UsageError


class Counted:
    """A catalogue that counts how often it is asked."""

    def __init__(self, town: Town) -> None:
        self.inner = town.catalogue
        self.on_change = self.inner.on_change
        self.asked = 0

    def instances(self, name: str) -> object:
        self.asked += 1
        return self.inner.instances(name)


class Scene:
    def __init__(self, town: Town) -> None:
        self.town = town
        self.now = 0.0
        self.documents: dict[str, Route] = {}
        self.catalogue = Counted(town)
        self.picker = Picker(
            self.catalogue,  # type: ignore[arg-type]
            town.nodes[0],
            self.documents.get,
            random.Random(1),
            lambda: self.now,
        )


@pytest.fixture
async def scene(town: Town) -> Scene:
    await town.add(3)
    made = Scene(town)
    for name in ("orders", "stock"):
        town.catalogue.put(*(node.offer(name, 1) for node in town.nodes[1:]))
    return made


async def test_a_decision_is_kept_until_its_own_service_moves(scene: Scene) -> None:
    for _ in range(10):
        scene.picker.pick("orders")
        scene.picker.pick("stock")
    assert scene.catalogue.asked == 2
    scene.town.catalogue.put(scene.town.nodes[1].offer("orders", 1, health=Health.ERROR))
    scene.picker.pick("stock")
    assert scene.catalogue.asked == 2
    with pytest.raises(Exception, match="1 it is error"):
        scene.picker.pick("orders")


async def test_a_decision_grows_old(scene: Scene) -> None:
    scene.picker.pick("orders")
    scene.now = FRESH_S / 2
    scene.picker.pick("orders")
    assert scene.catalogue.asked == 1
    scene.now = FRESH_S
    scene.picker.pick("orders")
    assert scene.catalogue.asked == 2


async def test_each_kind_of_call_has_a_decision_of_its_own(scene: Scene) -> None:
    scene.picker.pick("orders", Wants(latency_ms=1))
    scene.picker.pick("orders", Wants(latency_ms=2))
    assert scene.catalogue.asked == 2


async def test_an_alias_is_followed_and_moves_with_what_stands_behind_it(scene: Scene) -> None:
    scene.documents["shop"] = Route(to="orders")
    assert scene.picker.pick("shop").service == "orders"
    scene.town.catalogue.put(scene.town.nodes[2].offer("orders", 1))
    assert {scene.picker.pick("shop").candidate.node for _ in range(4)} == {"n3"}
    scene.documents["orders"] = Route(to="shop")
    scene.picker.forget_plans()
    with pytest.raises(UsageError, match="circle"):
        scene.picker.pick("shop")


async def test_another_way_of_taking_turns_counts_at_once(scene: Scene) -> None:
    scene.documents["orders"] = Route(algorithm="hash", default="optimal")
    assert len({scene.picker.pick("orders", source=b"10.0.0.1").candidate.key for _ in range(8)}) == 1
    scene.documents["orders"] = Route(algorithm="round-robin", default="optimal")
    scene.picker.forget_plans()
    assert len({scene.picker.pick("orders", source=b"10.0.0.1").candidate.key for _ in range(8)}) == 2


async def test_a_group_comes_back_when_its_time_has_come(scene: Scene) -> None:
    from mesh.core.routes import parse

    nodes = scene.town.nodes
    groups = [{"name": "primary", "select": "name=n2"}, {"name": "secondary", "select": "name=n3"}]
    scene.documents["orders"] = parse({"default": "optimal", "groups": groups})
    both = (nodes[1].offer("orders", 1), nodes[2].offer("orders", 1))
    scene.picker.pick("orders")
    scene.town.catalogue.put(nodes[1].offer("orders", 1, health=Health.UNHEALTHY), both[1])
    assert scene.picker.pick("orders").candidate.node == "n3"
    scene.town.catalogue.put(*both)
    assert scene.picker.pick("orders").candidate.node == "n3"
    scene.now = 299.0
    assert scene.picker.pick("orders").candidate.node == "n3"
    scene.now = 300.0
    assert scene.picker.pick("orders").candidate.node == "n2"


async def test_a_thousand_names_stay_within_bounds(scene: Scene) -> None:
    for number in range(10_000):
        with pytest.raises(Exception, match="no available instances"):
            scene.picker.pick(f"s{number}")
    assert len(scene.picker._plans) <= 8192
    assert scene.picker.kept == {}
    await trio.lowlevel.checkpoint()


def test_what_nobody_configured_is_not_loaded() -> None:
    code = "import sys, mesh.agent.features; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {f"mesh.agent.{name}" for name in ("proxy", "gateway", "names", "web", "socks")}
    assert names & set(loaded.stdout.split()) == set()

"""Two sites in two network namespaces, cut apart and joined again. Needs root, `ip` and `iptables`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from labour import apply, places, settled
from namespaces import missing
from sites import Sites, joined
from yard import Agent, Yard, eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture
def sites() -> Iterator[Sites]:
    with joined(2) as made:
        yield made


RULES = {"kept": "keep_original", "longest": "longest_running", "moved": "keep_replacement"}


def ran_twice(agent: Agent, name: str) -> list[dict[str, Any]]:
    """What an agent says ran on two nodes at once."""
    with agent.client() as client:
        return list(client.workload(name)["duplicates"])


def duplicates(agent: Agent) -> list[dict[str, Any]]:
    """The events of those nodes that saw it."""
    with agent.client() as client:
        return list(client.events(type="workload_duplicate"))


def callable_(agent: Agent) -> set[str]:
    """Nodes that calls of the service `job` may go to."""
    with agent.client() as client:
        rows = client.explain("job")["candidates"]
    return {row["node"] for row in rows if row["verdict"] != "refused"}


@pytest.mark.slow
def test_a_split_mesh_serves_on_both_sides_and_is_whole_after_the_heal(yard: Yard, sites: Sites) -> None:
    first = sites.place(yard.first(start=False), 0)
    first.start()
    token = yard.invite(first, uses=3)
    for site in (0, 1, 1):
        sites.place(yard.join(token, start=False), site).start()
    near, far = yard.agents[:2], yard.agents[2:]
    yard.agree()
    with near[0].client() as client:
        client.put("both", "before")
    yard.same_roots()
    for agent in (near[1], far[1]):
        with agent.client() as client:
            client.register({"name": "job", "port": 9})
    for agent in yard.agents:
        eventually(lambda agent=agent: callable_(agent) == {near[1].name, far[1].name}, "both may be called")

    before = {}
    for name, rule in RULES.items():
        apply(near[0], name=name, reconcile=rule, recovery_after_s=1)
        before |= settled(yard, name, 1)

    sites.cut()
    for side, others in ((near, far), (far, near)):
        for agent in side:
            lost = {other.name for other in others}
            eventually(
                lambda agent=agent, lost=lost: {n for n, s in agent.states().items() if s == "dead"} == lost,
                f"{agent.name} finds the other side gone",
            )
            own = near[1] if side is near else far[1]
            eventually(
                lambda agent=agent, own=own: callable_(agent) == {own.name},
                f"{agent.name} calls its own side",
            )
            for name in RULES:
                eventually(
                    lambda agent=agent, name=name, lost=lost: set(places(agent, name).values()) - lost,
                    f"{agent.name} has {name} on its own side",
                )
    with near[0].client() as client:
        client.put("near", 1)
        client.put("both", "near")
        client.counter_add("hits", 1)
    with far[0].client() as client:
        client.put("far", 2)
        client.put("both", "far")
        client.counter_add("hits", 1)

    sites.heal()
    yard.agree()
    yard.same_roots()
    for agent in yard.agents:
        eventually(
            lambda agent=agent: callable_(agent) == {near[1].name, far[1].name}, "both may be called again"
        )
        with agent.client() as client:
            assert client.get("near")["value"] == 1
            assert client.get("far")["value"] == 2
            assert client.get("hits")["value"] == 2
            found = client.get("both")
            assert found["value"] == "far"
            assert "near" in {each["value"] for each in found["conflicts"]}
    for name, rule in RULES.items():
        after = settled(yard, name, 1)
        if rule != "keep_replacement":
            assert after == {instance: node for instance, node in before.items() if instance in after}
        else:
            assert not after.items() <= before.items()
        for agent in yard.agents:
            twice = eventually(
                lambda agent=agent, name=name: ran_twice(agent, name),
                f"{agent.name} says that {name} ran twice",
            )
            assert {each["instance"] for each in twice} == set(after)
    eventually(
        lambda: {row["data"]["workload"] for agent in yard.agents for row in duplicates(agent)} == set(RULES),
        "it is told of each, and of no other",
    )

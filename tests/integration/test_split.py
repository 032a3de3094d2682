"""Two sites in two network namespaces, cut apart and joined again. Needs root, `ip` and `iptables`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sites import NEEDED, Sites, able, two_sites
from yard import Agent, Yard, eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not able, reason=f"needs root and the programs {' and '.join(NEEDED)}"),
]


@pytest.fixture
def sites() -> Iterator[Sites]:
    with two_sites() as made:
        yield made


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

"""Where real agents let work run: taints, company, weights, rules of admission, directories that stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labour import SLEEPER, all_open, apply, cut_power, settled, settled_each, workers
from yard import TINY, Agent, Yard, eventually

from mesh.errors import Denied

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with workers(3) as made:
        yield made


@pytest.fixture
def first(yard: Yard) -> Iterator[Agent]:
    with all_open(yard) as admin:
        yield admin


def label(agent: Agent, node: str, **labels: str | None) -> None:
    words = {key.replace("_", "."): value for key, value in labels.items()}
    with agent.client() as client:
        client.label(node, words)


def verdicts(agent: Agent, name: str) -> dict[str, dict[str, Any]]:
    """What is said of each node as a place for a workload."""
    with agent.client() as client:
        return {row["node_name"]: row for row in client.explain_workload(name)}


def test_a_taint_keeps_away_what_does_not_tolerate_it(yard: Yard, first: Agent) -> None:
    label(first, "n2", taint_power="battery")
    apply(first, name="app", replicas="each")
    apply(first, name="frugal", replicas="each", tolerations=["power=battery"])
    settled_each(yard, "frugal", ["n1", "n2", "n3"])
    settled_each(yard, "app", ["n1", "n3"])
    why = "taint power=battery is not tolerated"
    for agent in yard.agents:
        eventually(lambda agent=agent: verdicts(agent, "app")["n2"]["why"] == why, f"{agent.name} says why")
    label(first, "n2", taint_power=None)
    settled_each(yard, "app", ["n1", "n2", "n3"])


def test_work_stands_beside_or_apart_from_other_work_and_is_spread_over_sites(
    yard: Yard, first: Agent
) -> None:
    for node, site in (("n1", "north"), ("n2", "north"), ("n3", "south")):
        label(first, node, site=site)
    apply(first, name="base", selector="name=n2")
    settled(yard, "base", 1)  # apart is mutual: what comes first keeps the other away
    apply(first, name="beside", affinity={"near": ["base"]})
    apply(first, name="away", replicas=2, affinity={"apart": ["base"]})
    apply(first, name="wide", replicas=2, affinity={"spread": "site"})
    assert settled(yard, "beside", 1) == {"beside/0": "n2"}
    # Which of the two others is a matter of who moves first: one that is slow to claim is passed over.
    assert "n2" not in settled(yard, "away", 2).values()
    wide = set(settled(yard, "wide", 2).values())
    assert "n3" in wide
    assert len(wide) == 2


def test_each_way_of_placing_weighs_nodes_by_what_it_is_named_for(yard: Yard, first: Agent) -> None:
    far = yard.agents[2]
    far.stop()
    far.settings |= {
        "MESHD_NODE__BASE_LATENCY_MS": "5000",
        "MESHD_NODE__CPU_CORES": "64",
        "MESHD_NODE__MEMORY_BYTES": str(1 << 40),
    }
    far.start()
    yard.agree()
    big = {**TINY, "requests": {"cpu": 0.5, "memory": "64Mi"}}
    apply(first, name="quick", placement="latency", near="default")
    apply(first, name="roomy", placement="resource", resources=big)
    apply(first, name="there", placement="location", near="default")
    apply(first, name="nowhere", placement="location", near="elsewhere")

    def weights(name: str) -> dict[str, float]:
        return {node: row["weight"] for node, row in verdicts(first, name).items()}

    eventually(lambda: weights("quick")["n3"] * 100 < weights("quick")["n1"], "the slow node weighs little")
    eventually(lambda: weights("roomy")["n3"] > weights("roomy")["n1"] * 4, "the large node weighs much")
    settled(yard, "there", 1)
    with first.client() as client:
        eventually(lambda: client.workload("nowhere")["state"] == "unplaced", "nobody is there")
    assert {row["why"] for row in verdicts(first, "nowhere").values()} == {
        "neither in zone elsewhere nor in its region"
    }


RULES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"requests": True}, {"resources": {"requests": {"cpu": 0, "memory": 0}}}, "requests"),
    ({"limits": True}, {"resources": {**TINY, "limits": {}}}, "limits"),
    ({"users": ["www-*"]}, {"user": "nobody"}, "nobody"),
    ({"images": ["registry.site/*"]}, {"runtime": "container", "image": "docker.io/a:1"}, "docker.io/a:1"),
    ({"dirs": ["/srv/*"]}, {"mounts": [{"name": "d", "kind": "host", "source": "/etc"}]}, "/etc"),
    ({"networks": ["none"]}, {"network": "host"}, "host"),
    ({"runtimes": ["container"]}, {}, "process"),
    ({"modes": ["exclusive"]}, {}, "available"),
    ({"memory_max": 1 << 20}, {}, "memory"),
    ({"cpu_max": 0.001}, {"resources": {**TINY, "limits": {"cpu": 1, "memory": "4Mi"}}}, "cpu"),
]


@pytest.mark.parametrize(("rule", "spec", "word"), RULES, ids=[next(iter(rule)) for rule, _, _ in RULES])
def test_a_rule_of_admission_refuses_what_it_is_made_for(
    first: Agent, rule: dict[str, Any], spec: dict[str, Any], word: str
) -> None:
    with first.client() as client:
        client.set_admission_rules([{"name": "strict", **rule}])
        try:
            with pytest.raises(Denied) as refused:
                client.apply([{**SLEEPER, "name": "app", **spec}])
            assert "admission rule strict" in refused.value.message
            assert word in refused.value.message
            assert client.workloads() == []
        finally:
            client.delete_admission_rule("strict")


def test_a_persistent_directory_waits_for_its_node_and_is_found_again(yard: Yard, first: Agent) -> None:
    write = 'echo "$MESH_INSTANCE" >> "$DIR_DATA/starts"; exec sleep 100000'
    apply(
        first,
        name="keeper",
        command=["/bin/sh", "-c", write],
        mounts=[{"name": "data", "kind": "persistent"}],
        selector="name!=n1",
    )
    ((_, node),) = settled(yard, "keeper", 1).items()
    agent = next(each for each in yard.agents if each.name == node)
    (file,) = eventually(lambda: list(Path(agent.data).rglob("starts")), "it has begun")
    eventually(lambda: file.read_text() == "keeper/0\n", "it has written")
    cut_power(agent)
    eventually(lambda: first.states()[node] == "dead", f"{node} is found dead")

    def where() -> list[tuple[str, str]]:
        with first.client() as client:
            return [(row["node_name"], row["state"]) for row in client.workload("keeper")["instances"]]

    eventually(lambda: where() == [(node, "lost")], "it waits for its node")
    agent.start()
    yard.agree()
    assert settled(yard, "keeper", 1) == {"keeper/0": node}
    eventually(lambda: file.read_text() == "keeper/0\n" * 2, "it was started once more")

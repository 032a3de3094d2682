"""What rules of admission would do to a workload, told beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mesh.core.candidates import Site
from mesh.core.claims import Offer
from mesh.core.guard import Rule
from mesh.core.guard import parse as rule
from mesh.core.outlook import Outlook, outlook, why_none
from mesh.core.workload import Workload, parse

FEW = rule({"name": "few", "replicas_max": 2})
EDGE = rule({"name": "edge", "root": False, "selector": "tier=edge"})


def site(number: int, **labels: str) -> Site:
    return Site(bytes([number]) * 16, Offer(1, runtimes=("process",)), {"name": f"n{number}", **labels})


def workload(**fields: Any) -> Workload:
    return parse({"name": "web", "command": ["/bin/web"], **fields})


MIXED = [site(1, tier="edge"), site(2, tier="cloud")]


@pytest.mark.parametrize(
    ("fields", "sites", "rules", "refused"),
    [
        ({"replicas": 3}, MIXED, [FEW], "more than 2 replicas"),
        ({"replicas": 3}, [], [FEW], "more than 2 replicas"),
        ({"replicas": 2}, MIXED, [FEW], ""),
        ({}, MIXED, [EDGE], ""),
        ({}, [], [EDGE], ""),
        ({"selector": "tier=edge"}, MIXED, [EDGE], "may be root"),
        ({"selector": "tier=space"}, MIXED, [EDGE], ""),
        ({"selector": "tier=space", "replicas": 3}, MIXED, [FEW], "more than 2 replicas"),
    ],
)
def test_what_the_rules_leave_no_node_is_refused(
    fields: Any, sites: list[Site], rules: list[Rule], refused: str
) -> None:
    found = outlook(workload(**fields), sites, rules).refused
    assert (refused in found and found.startswith("admission rule")) if refused else found == ""


def test_where_rules_keep_it_off_is_told_with_the_nodes() -> None:
    found = outlook(workload(), [*MIXED, site(3, tier="edge")], [EDGE])
    assert found.warnings == ["admission rule edge: user of the agent may be root (not on n1, n3)"]
    assert outlook(workload(), MIXED, []) == Outlook()


def test_nodes_are_looked_at_only_for_what_a_rule_objects_to() -> None:
    def nodes() -> Iterator[Site]:
        raise AssertionError
        yield

    assert outlook(workload(), nodes(), []) == Outlook()
    assert outlook(workload(replicas=2), nodes(), [FEW]) == Outlook()


def test_different_reasons_of_all_nodes_are_told_together() -> None:
    found = outlook(workload(replicas=3, selector="tier"), MIXED, [FEW, EDGE]).refused
    assert found.count("admission rule") == 2


def test_why_no_node_has_it_names_the_commonest_reason_first() -> None:
    assert why_none([("n1", "is drained"), ("n2", "is drained")]) == "is drained"
    mixed = [("n1", "is drained"), ("n3", "has no gpu"), ("n2", "has no gpu")]
    assert why_none(mixed) == "has no gpu (n2, n3); is drained (n1)"
    many = why_none((f"n{number}", f"reason {number}") for number in range(9))
    assert many.endswith("; ...")
    assert len(many) < 100
    assert why_none((f"n{number}", f"{number < 8}") for number in range(9)).startswith(
        "True (n0, n1, n2, n3, n4 and 3"
    )

"""Costs, rules, groups and the decision with its reasons."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.routes import UNWRITTEN, Route, parse, path_of, resolve_alias
from mesh.core.routes import name_of as name_of_path
from mesh.core.routing import (
    ANYTHING,
    Candidate,
    Place,
    Wants,
    costs_of,
    decide,
    great_circle_km,
    require,
    shown,
)
from mesh.errors import NoInstances, UsageError

HERE = Place(b"h" * 16, "hall", "eu", "berlin", (52.5, 13.4))


def one(key, **more):
    place = more.pop("place", None) or Place(
        more.pop("aid", key.encode() * 16), more.pop("zone", "hall"), more.pop("region", "eu")
    )
    return Candidate(key=key, node=f"n-{key}", place=place, **more)


def taken(plan):
    return [choice.key for choice in plan.choices]


def why(plan, key):
    return next(f"{row.verdict}: {row.why}" for row in plan.rows if row.candidate.key == key)


def test_costs_lie_between_0_and_1_and_the_score_is_their_weighted_mean():
    costs = costs_of(one("a", rtt_s=0.05, load=0.4), HERE, Route().weights)
    assert (costs.distance, costs.network, costs.load) == (0.2, 0.5, 0.4)
    assert costs.score == pytest.approx(0.5 * 0.2 + 0.3 * 0.5 + 0.2 * 0.4)


def test_what_is_here_costs_no_way():
    costs = costs_of(one("a", place=HERE, load=0.0), HERE, Route().weights)
    assert costs.score == 0


def test_distance_is_the_great_circle_where_both_places_are_known():
    hamburg = Place(b"x" * 16, "far", "us", "", (53.55, 10.0))
    assert great_circle_km(HERE.location, hamburg.location) == pytest.approx(255, abs=5)
    assert costs_of(one("a", place=hamburg), HERE, Route().weights).distance == pytest.approx(0.338, abs=0.01)


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (Place(b"x" * 16, "hall", "eu", "berlin"), 0.1),
        (Place(b"x" * 16, "hall", "eu"), 0.2),
        (Place(b"x" * 16, "attic", "eu"), 0.5),
        (Place(b"x" * 16, "attic", "us"), 1.0),
        (Place(b"x" * 16, "attic"), 1.0),
    ],
)
def test_distance_without_places_is_that_of_site_zone_and_region(there, expected):
    assert costs_of(one("a", place=there), HERE, Route().weights).distance == expected


def test_the_least_score_is_taken_and_the_rest_stand_by():
    plan = decide(UNWRITTEN, ANYTHING, HERE, [one("far", zone="x", region="us"), one("near", rtt_s=0.001)])
    assert taken(plan) == ["near"]
    assert plan.standby == ("far",)
    assert why(plan, "far").startswith("standby: 0.")


def test_instances_within_the_margin_take_turns():
    near = [one("a", rtt_s=0.001), one("b", rtt_s=0.002), one("c", rtt_s=0.5, load=1.0)]
    assert taken(decide(UNWRITTEN, ANYTHING, HERE, near)) == ["a", "b"]
    exact = parse({"margin": 0, "default": "optimal"})
    assert taken(decide(exact, ANYTHING, HERE, near)) == ["a"]


def test_only_healthy_instances_are_taken_and_nobody_left_is_an_error_that_tells_why():
    plan = decide(UNWRITTEN, ANYTHING, HERE, [one("a", refused="unhealthy"), one("b", weight=0)])
    assert taken(plan) == []
    with pytest.raises(NoInstances, match="1 its weight is 0, 1 unhealthy") as caught:
        require(plan, "orders")
    assert caught.value.code == "no_instances"
    with pytest.raises(NoInstances, match="no available instances of orders"):
        require(decide(UNWRITTEN, ANYTHING, HERE, []), "orders")


def test_shares_of_the_score_are_configurable():
    busy, far = one("busy", load=1.0, rtt_s=0.001), one("far", load=0.0, zone="x", region="us", rtt_s=0.2)
    assert taken(decide(UNWRITTEN, ANYTHING, HERE, [busy, far])) == ["busy"]
    load_only = parse({"weights": {"distance": 0, "network": 0, "load": 1}, "default": "optimal"})
    assert taken(decide(load_only, ANYTHING, HERE, [busy, far])) == ["far"]


def test_a_document_may_go_by_cost():
    dear, cheap = one("dear", cost=1.0, rtt_s=0.001), one("cheap", cost=0.0, rtt_s=0.2, region="us", zone="x")
    by_cost = parse({"weights": {"distance": 0, "network": 0, "load": 0, "cost": 1}, "default": "optimal"})
    assert taken(decide(by_cost, ANYTHING, HERE, [dear, cheap])) == ["cheap"]


EDGE_CLOUD = [one("e", tier="edge"), one("c", tier="cloud", zone="x", region="us")]
RULES = parse(
    {
        "rules": [
            {"type": ["camera"], "target": "edge"},
            {"latency_ms": 50, "target": "edge"},
            {"size_above_bytes": 1e6, "target": "edge"},
            {"capabilities": ["gpu"], "target": "cloud"},
            {"size_below_bytes": 100, "target": "optimal"},
        ]
    }
)


@pytest.mark.parametrize(
    ("wants", "kind", "expected", "because"),
    [
        (ANYTHING, "camera", "e", "rule 1"),
        (Wants(latency_ms=20), "", "e", "rule 2"),
        (Wants(latency_ms=200), "", "c", "no rule holds"),
        (Wants(size_bytes=2e6), "", "e", "rule 3"),
        (Wants(latency_ms=20, size_bytes=2e6), "", "e", "rule 2"),
        (Wants(size_bytes=10), "", "e", "rule 5"),
        (ANYTHING, "", "c", "no rule holds"),
    ],
)
def test_the_first_rule_that_holds_decides_between_edge_and_cloud(wants, kind, expected, because):
    candidates = [msgspec.structs.replace(each, kind=kind) for each in EDGE_CLOUD]
    plan = decide(RULES, wants, HERE, candidates)
    assert (taken(plan), plan.because) == ([expected], because)


def test_capabilities_that_are_needed_are_a_condition():
    with_gpu = one("g", tier="cloud", capabilities=frozenset({"gpu"}))
    plan = decide(RULES, Wants(capabilities=("gpu",)), HERE, [*EDGE_CLOUD, with_gpu])
    assert taken(plan) == ["g"]
    assert plan.because == "rule 4"
    assert why(plan, "e") == "refused: lacks gpu"


def test_a_target_without_anybody_falls_back_unless_it_is_strict():
    edge_only = [EDGE_CLOUD[0]]
    assert taken(decide(parse({}), ANYTHING, HERE, edge_only)) == ["e"]
    strict = decide(parse({"strict": True}), ANYTHING, HERE, edge_only)
    assert why(strict, "e") == "refused: tier edge is not cloud"
    with pytest.raises(NoInstances):
        require(strict, "x")


def test_a_service_without_a_document_goes_to_the_best_anywhere():
    assert taken(decide(UNWRITTEN, ANYTHING, HERE, EDGE_CLOUD)) == ["e"]


def test_regions_scale_the_weights():
    route = parse({"default": "optimal", "margin": 1, "regions": {"us": 70, "ap": 0}})
    candidates = [
        one("e"),
        one("u", region="us", zone="x", weight=50),
        one("p", region="ap", zone="y"),
    ]
    plan = decide(route, ANYTHING, HERE, candidates)
    assert {choice.key: choice.weight for choice in plan.choices} == {"e": 100, "u": 35}
    assert why(plan, "p") == "refused: its region has weight 0"


GROUPS = {
    "default": "optimal",
    "margin": 1,
    "groups": [{"name": "primary", "select": "rack=1"}, {"name": "secondary", "select": "rack in (2|3)"}],
}
RACKS = [one(str(rack), labels={"rack": str(rack)}) for rack in (1, 2, 3, 4)]


def test_active_passive_uses_one_group_and_keeps_the_other_on_standby():
    plan = decide(parse(GROUPS), ANYTHING, HERE, RACKS, group="primary")
    assert taken(plan) == ["1"]
    assert set(plan.standby) == {"2", "3"}
    assert why(plan, "4") == "refused: in no group"
    assert taken(decide(parse(GROUPS), ANYTHING, HERE, RACKS, group="secondary")) == ["2", "3"]


def test_manual_failover_calls_no_other_group_before_people_say_so():
    plan = decide(
        parse({**GROUPS, "failover": "manual", "active": "primary"}), ANYTHING, HERE, RACKS, "primary"
    )
    assert (taken(plan), plan.standby) == (["1"], ())
    assert why(plan, "2").startswith("refused: group primary is in use")


def test_active_active_uses_all_groups():
    plan = decide(parse({**GROUPS, "mode": "active-active"}), ANYTHING, HERE, RACKS)
    assert sorted(taken(plan)) == ["1", "2", "3"]


def test_local_first_goes_through_its_stages():
    route = parse({"default": "optimal", "local_first": True, "margin": 1})
    wants = Wants(data=("maps",), need=(("cpu", 1.0),))
    here = one("here", place=HERE, data=frozenset({"maps"}), free={"cpu": 2.0})
    peer = one("peer", data=frozenset({"maps"}), free={"cpu": 2.0})
    capable = one("capable")
    cloud = one("cloud", tier="cloud")
    everyone = [here, peer, capable, cloud]
    for left in (["here"], ["peer"], ["capable"], ["cloud"]):
        plan = decide(route, wants, HERE, everyone)
        assert taken(plan) == left
        everyone = everyone[1:]
    full = msgspec.structs.replace(here, free={"cpu": 0.5})
    assert taken(decide(route, wants, HERE, [full, peer])) == ["peer"]


def test_the_decision_does_not_depend_on_the_order_of_candidates():
    rng = random.Random(5)
    candidates = [one(f"{n:02}", rtt_s=rng.random(), load=rng.random()) for n in range(20)]
    plans = []
    for _ in range(5):
        rng.shuffle(candidates)
        plans.append(decide(UNWRITTEN, ANYTHING, HERE, candidates))
    assert all(plan == plans[0] for plan in plans)


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(rtt=st.none() | numbers, loss=numbers, load=st.none() | numbers, cost=numbers)
def test_whatever_is_claimed_costs_stay_between_0_and_1(rtt, loss, load, cost):
    costs = costs_of(one("a", rtt_s=rtt, loss=loss, load=load, cost=cost), HERE, Route().weights)
    for each in (costs.network, costs.load, costs.cost, costs.score):
        assert 0 <= each <= 1
        assert math.isfinite(each)


def test_the_explanation_has_every_candidate_once():
    rows = shown(decide(parse(GROUPS), ANYTHING, HERE, RACKS, group="primary"))
    assert sorted(row["id"] for row in rows) == ["1", "2", "3", "4"]
    assert {row["verdict"] for row in rows} == {"taken", "standby", "refused"}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "object"),
        ({"algorithm": "fastest"}, "algorithm"),
        ({"weights": {"distance": -1}}, "weights.distance"),
        ({"weights": {"distance": 0, "network": 0, "load": 0}}, "all 0"),
        ({"weights": {"colour": 1}}, "colour"),
        ({"margin": 2}, "margin"),
        ({"rules": [{"target": "moon"}]}, "moon"),
        ({"rules": [{"target": "edge", "latency_ms": -1}]}, "number 1"),
        ({"rules": [{"target": "edge"}] * 65}, "65 rules"),
        ({"groups": [{"name": "a", "select": "a b"}]}, "a b"),
        ({"groups": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"groups": [{"name": "a"}], "failover": "manual"}, "active"),
        ({"groups": [{"name": "a"}], "active": "b"}, "active"),
        ({"regions": {"eu": -5}}, "regions.eu"),
        ({"regions": {"eu": float("nan")}}, "regions.eu"),
        ({"failures": 0}, "failures"),
        ({"return_s": 1e9}, "return_s"),
        ({"to": "a\x1b[2J"}, "service"),
        ({"to": "*"}, "not a service"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_document_that_does_not_count_names_what_is_wrong(value, named):
    with pytest.raises(UsageError) as caught:
        parse(value)
    assert named in caught.value.message + caught.value.hint


def test_an_alias_leads_to_the_service_that_stands_for_it():
    routes = {"shop": Route(to="green"), "green": Route(algorithm="hash"), "*": Route(margin=0.5)}
    assert resolve_alias("shop", routes.get) == ("green", routes["green"])
    assert resolve_alias("other", routes.get) == ("other", routes["*"])
    assert resolve_alias("other", {}.get) == ("other", UNWRITTEN)


def test_aliases_in_a_circle_are_refused():
    routes = {"a": Route(to="b"), "b": Route(to="c"), "c": Route(to="a")}
    with pytest.raises(UsageError, match="circle: a -> b -> c -> a"):
        resolve_alias("a", routes.get)
    endless = {f"s{n}": Route(to=f"s{n + 1}") for n in range(50)}
    with pytest.raises(UsageError, match="circle"):
        resolve_alias("s0", endless.get)


@pytest.mark.parametrize("name", ["orders", "*", "a-b-c"])
def test_a_name_survives_its_path(name):
    assert name_of_path(path_of(name)) == name


words = st.sampled_from(["", "eu", "us", "ap"])
candidates_ = st.builds(
    Candidate,
    key=st.text("abcdef", min_size=1, max_size=4),
    place=st.builds(Place, st.binary(min_size=16, max_size=16), words, words),
    tier=st.sampled_from(["device", "edge", "region", "cloud"]),
    labels=st.dictionaries(st.sampled_from(["rack", "name"]), st.sampled_from(["1", "2"])),
    refused=st.sampled_from(["", "", "it is unhealthy"]),
    avoid=st.sampled_from(["", "", "draining"]),
    weight=st.sampled_from([0.0, 1.0, 100.0]),
    rtt_s=st.none() | st.floats(0, 10),
    load=st.none() | st.floats(0, 1),
    capabilities=st.frozensets(st.sampled_from(["gpu", "fpga"])),
    data=st.frozensets(st.sampled_from(["maps"])),
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "margin": st.floats(0, 1),
        "default": st.sampled_from(["edge", "cloud", "optimal"]),
        "strict": st.booleans(),
        "local_first": st.booleans(),
        "regions": st.dictionaries(st.sampled_from(["eu", "us"]), st.sampled_from([0, 70, 100])),
        "groups": st.sampled_from([[], GROUPS["groups"]]),
        "mode": st.sampled_from(["active-passive", "active-active"]),
        "rules": st.just([{"capabilities": ["gpu"], "target": "cloud"}]),
    },
)
demands = st.builds(
    Wants,
    capabilities=st.sampled_from([(), ("gpu",)]),
    data=st.sampled_from([(), ("maps",)]),
    need=st.sampled_from([(), (("cpu", 1.0),)]),
)


@given(
    documents,
    demands,
    st.lists(candidates_, max_size=12, unique_by=lambda each: each.key),
    st.sampled_from(["", "primary", "secondary"]),
)
def test_every_candidate_has_one_verdict_and_whoever_is_well_is_not_lost(document, wants, candidates, group):
    plan = decide(parse(document), wants, HERE, candidates, group)
    assert sorted(row.candidate.key for row in plan.rows) == sorted(each.key for each in candidates)
    verdicts = {row.candidate.key: row.verdict for row in plan.rows}
    assert {key for key, verdict in verdicts.items() if verdict == "taken"} == set(taken(plan))
    assert {verdicts[key] for key in plan.standby} <= {"standby"}
    assert all(row.why for row in plan.rows)
    assert all(choice.weight > 0 for choice in plan.choices)
    for row in plan.rows:
        if row.candidate.refused:
            assert row.verdict == "refused"
    if "standby" in verdicts.values() and not parse(document).regions:
        assert taken(plan) or plan.standby

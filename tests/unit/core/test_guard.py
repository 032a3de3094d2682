"""Rules of admission, and a device's own word."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.claims import Offer
from mesh.core.guard import document, objection, parse, refused_by_device, unreadable
from mesh.core.workload import Workload
from mesh.core.workload import parse as parse_workload
from mesh.errors import UsageError

EDGE = {"name": "n1", "tier": "edge"}


def workload(**fields: Any) -> Workload:
    return parse_workload({"name": "web", "command": ["/bin/web"], **fields})


@pytest.mark.parametrize(
    ("rule", "fields", "why"),
    [
        ({"root": False}, {}, "user of the agent may be root"),
        ({"root": False}, {"user": "0"}, "user 0 is root"),
        ({"root": False}, {"user": "www"}, ""),
        ({"requests": True}, {"resources": {"requests": {"cpu": 0}}}, "requests of cpu and memory"),
        ({"requests": True}, {}, ""),
        ({"limits": True}, {"resources": {"limits": {}}}, "limits of cpu and memory"),
        ({"runtimes": ["container"]}, {}, "runtime process"),
        ({"runtimes": []}, {}, "runtime process"),
        ({"images": ["reg/*"]}, {"runtime": "container", "image": "evil/x"}, "image evil/x"),
        ({"images": ["reg/*"]}, {"runtime": "container", "image": "reg/x"}, ""),
        ({"users": ["www"]}, {"user": "bob"}, "user bob"),
        (
            {"dirs": ["/srv/*"]},
            {"mounts": [{"name": "e", "kind": "host", "source": "/etc"}]},
            "directory /etc",
        ),
        ({"networks": ["none"]}, {}, "network host"),
        ({"replicas_max": 3}, {"replicas": 4}, "more than 3 replicas"),
        ({"replicas_max": 3}, {"replicas": "each"}, "more than 3 replicas"),
        ({"memory_max": 1 << 20}, {}, "a memory limit above"),
        ({"root": False, "selector": "tier=cloud"}, {}, ""),
        ({"root": False, "classes": ["public"]}, {}, ""),
        ({"root": False, "classes": ["public"]}, {"admission": "public"}, "root"),
        ({"root": False, "workloads": "team=a"}, {"labels": {"team": "a"}}, "root"),
    ],
)
def test_a_rule_takes_away_what_it_names_and_nothing_else(rule: Any, fields: Any, why: str) -> None:
    found = objection([parse({"name": "r", **rule})], workload(**fields), EDGE)
    assert (why in found and found.startswith("admission rule r: ")) if why else found == ""


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("replicas_max", 10**20, "is not a whole number of at most 1000000"),
        ("cpu_max", float("nan"), "nan is not a number of at least 0"),
        ("memory_max", -1, "-1 is not a whole number of at least 0"),
        ("root", "no", "'no' is not true or false"),
    ],
)
def test_a_number_out_of_range_is_refused_in_plain_words(field: str, value: object, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse({"name": "r", field: value})
    assert refused.value.message.startswith(f"admission rule r: {field}: ")
    assert why in refused.value.message


def test_every_rule_must_be_kept_and_the_first_by_name_is_told() -> None:
    rules = [parse({"name": "b", "root": False}), parse({"name": "a", "modes": ["pinned"]})]
    assert objection(rules, workload(), EDGE).startswith("admission rule a")


def test_a_rule_that_cannot_be_read_allows_nothing() -> None:
    assert "cannot be read" in objection([unreadable("odd", "unknown field")], workload(), EDGE)


def test_a_rule_is_read_strictly_and_kept_whole() -> None:
    rule = parse({"name": "r", "runtimes": [], "cpu_max": 2})
    assert parse(document(rule)) == rule
    for wrong in (
        {"name": "R"},
        {"name": "r", "rot": 1},
        {"name": "r", "root": "no"},
        {"name": "r", "selector": "?"},
    ):
        with pytest.raises(UsageError):
            parse(wrong)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"runtime": "container", "image": "x"}, "runtime container"),
        ({"user": "bob"}, "user bob"),
        ({"user": "www"}, ""),
        ({"mounts": [{"name": "d", "kind": "host", "source": "/srv/data/x"}]}, ""),
        ({"mounts": [{"name": "d", "kind": "host", "source": "/srv/database"}]}, "directory /srv/database"),
    ],
)
def test_a_device_has_the_last_word(fields: Any, why: str) -> None:
    offer = Offer(1, runtimes=("process",), users=("www",), dirs=("/srv/data",))
    found = refused_by_device(offer, workload(**fields))
    assert why in found if why else found == ""


def test_a_device_that_runs_none_says_so() -> None:
    assert "workloads.enabled" in refused_by_device(Offer(1, "away", ("process",)), workload())


def test_a_rule_with_a_misspelt_name_says_which_field_it_is() -> None:
    with pytest.raises(UsageError, match="an admission rule without a name: unknown field 'nmae'") as refused:
        parse({"nmae": "no-root", "root": False})
    assert refused.value.hint == "did you mean name?"

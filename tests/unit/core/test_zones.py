"""What one zone tells the others of its services, and what they believe of it."""

from __future__ import annotations

import random
from typing import Any

from mesh.core.health import Health
from mesh.core.registry import Endpoint, Instance, parse
from mesh.core.zones import BEST, BUCKETS, NAMES_MAX, bucket_of, path_of, read, summary, zone_of
from mesh.wire import codec

KEYS = {bytes([n]) * 16: bytes([n]) * 32 for n in range(1, 9)}


def instance(n: int, name: str = "orders", health: Health = Health.HEALTHY, **more: Any) -> Instance:
    spec = {"name": name, "port": 80, "tags": ["blue"], "capabilities": ["gpu"], **more}
    return Instance(parse(spec).service(KEYS[bytes([n]) * 16], "berlin"), health, alive=True)


def told(*instances: Instance) -> Any:
    return codec.decode(codec.encode(summary([("orders", instances)])), 1 << 16)


def test_the_count_and_the_best_few_are_told_whatever_the_order() -> None:
    group = [instance(n, weight=n) for n in range(1, 7)]
    group += [instance(7, health=Health.UNHEALTHY, weight=1000)]
    value = told(*group)
    assert value["orders"][:2] == [6, 7]
    found = read(value, "berlin", KEYS.get)["orders"]
    assert [each.weight for each in found] == [6, 5, 4]
    assert len(found) == BEST
    assert found[0].tags == ("blue",)
    assert (found[0].zone, found[0].endpoints) == ("berlin", (Endpoint("tcp", "127.0.0.1", 80),))
    random.Random(1).shuffle(group)
    assert told(*group) == value


def test_nothing_that_can_be_called_is_told_as_such() -> None:
    value = told(instance(1, health=Health.ERROR))
    assert value == {"orders": [0, 1, []]}
    assert read(value, "berlin", KEYS.get) == {}


def test_only_services_of_members_of_the_zone_with_their_own_ids_are_believed() -> None:
    value = told(instance(1), instance(2))
    (one, other) = value["orders"][2]
    assert len(read(value, "berlin", KEYS.get)["orders"]) == 2
    assert read(value, "berlin", lambda aid: None) == {}
    swapped = [[other[0], *one[1:]]]
    assert read({"orders": [1, 1, swapped]}, "berlin", KEYS.get) == {}


def test_nonsense_of_a_gateway_is_left_out() -> None:
    good = told(instance(1))["orders"][2][0]
    for at, wrong in (
        (2, "a b"),
        (2, 5),
        (3, "gopher"),
        (5, -1),
        (5, "9"),
        (6, "moon"),
        (7, [1]),
        (8, None),
        (9, 5),
        (9, "169.254.169.254"),
        (10, 70_000),
        (10, "80"),
    ):
        bad = [*good[:at], wrong, *good[at + 1 :]]
        assert read({"orders": [1, 1, [bad]]}, "berlin", KEYS.get) == {}
    for value in (None, [], {"a\nb": [1, 1, [good]]}, {"orders": 7}, {"orders": [1, 1, 7]}, {5: []}):
        assert read(value, "berlin", KEYS.get) == {}
    many = {f"n{number}": [1, 1, [good] * 99] for number in range(NAMES_MAX + 9)}
    assert len(read(many, "berlin", lambda aid: b"x")) <= NAMES_MAX


def test_what_an_older_gateway_tells_has_no_endpoint() -> None:
    good = told(instance(1))["orders"][2][0]
    for older in (good[:9], [*good[:9], "", 0]):
        (found,) = read({"orders": [1, 1, [older]]}, "berlin", KEYS.get)["orders"]
        assert found.endpoints == ()


def test_names_spread_over_the_buckets() -> None:
    assert len({bucket_of(f"service-{number}") for number in range(500)}) == BUCKETS
    assert zone_of(path_of("berlin", "a")) == ("berlin", "a")

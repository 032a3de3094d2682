"""Services: specs that are refused with a reason, and records that only their owner can make."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.health import Health, Word
from mesh.core.lookup import Lookup, parse_lookup
from mesh.core.registry import (
    Instance,
    health_of,
    parse,
    path_of,
    read,
    service_id,
    value_of,
)
from mesh.errors import PeerError, UsageError
from mesh.wire import codec

PUBLIC, OTHER = b"k" * 32, b"o" * 32
FULL: dict[str, Any] = {
    "name": "orders",
    "version": "1.4.2",
    "protocol": "grpc",
    "endpoints": [{"host": "10.0.0.7", "port": 8080}, "http://[2001:db8::1]:81", "tcp://db.site:5432"],
    "tags": ["blue", "blue", "eu"],
    "meta": {"team": "shop", "shards": 3, "beta": True},
    "ttl_s": 12,
    "weight": 7,
    "checks": [{"kind": "http", "path": "/health"}, {"kind": "ttl"}],
    "capabilities": ["gpu"],
    "tier": "edge",
    "type": "inference",
}

REFUSED: list[tuple[dict[str, Any] | Any, str]] = [
    ("orders", "table"),
    ({}, "has no name"),
    ({"name": "Orders"}, "'Orders'"),
    ({"name": "a\x1b[2J"}, r"a\x1b[2J"),
    ({"name": "-a", "port": 1}, "'-a'"),
    ({"name": "a" * 64, "port": 1}, "not allowed"),
    ({"name": "a"}, "needs a port"),
    ({"name": "a", "port": 0}, "port is 0"),
    ({"name": "a", "port": 65_536}, "port is 65536"),
    ({"name": "a", "port": "80"}, "port is '80'"),
    ({"name": "a", "port": True}, "port is True"),
    ({"name": "a", "port": 80, "endpoints": ["tcp://a:1"]}, "both port and endpoints"),
    ({"name": "a", "host": "b"}, "without port"),
    ({"name": "a", "endpoints": ["gopher://a:1"]}, "'gopher'"),
    ({"name": "a", "endpoints": ["tcp://a"]}, "'tcp://a'"),
    ({"name": "a", "endpoints": [7]}, "7"),
    ({"name": "a", "endpoints": ["tcp://a:1"] * 17}, "1 to 16"),
    ({"name": "a", "port": 80, "protocol": "smtp"}, "'smtp'"),
    ({"name": "a", "port": 80, "host": "169.254.169.254"}, "169.254.169.254"),
    ({"name": "a", "port": 80, "host": "fe80::1"}, "fe80::1"),
    ({"name": "a", "port": 80, "host": "::ffff:169.254.1.1"}, "not allowed"),
    ({"name": "a", "port": 80, "host": "300.1.1.1"}, "'300.1.1.1'"),
    ({"name": "a", "port": 80, "host": "a b"}, "'a b'"),
    ({"name": "a", "port": 80, "ttl_s": 0}, "ttl_s is 0"),
    ({"name": "a", "port": 80, "ttl_s": float("nan")}, "ttl_s is nan"),
    ({"name": "a", "port": 80, "weight": -1}, "weight is -1"),
    ({"name": "a", "port": 80, "weight": 1.5}, "weight is 1.5"),
    ({"name": "a", "port": 80, "version": "1 2"}, "'1 2'"),
    ({"name": "a", "port": 80, "version": 2}, "version is 2"),
    ({"name": "a", "port": 80, "tags": "blue"}, "tags"),
    ({"name": "a", "port": 80, "tags": ["a b"]}, "'a b'"),
    ({"name": "a", "port": 80, "meta": {"k": "\x07"}}, r"\x07"),
    ({"name": "a", "port": 80, "meta": {"k": ["x"]}}, "meta.k"),
    ({"name": "a", "port": 80, "meta": {"caller": "proxy"}}, "header, proxy-v2"),
    ({"name": "a", "port": 80, "tier": "moon"}, "'moon'"),
    ({"name": "a", "port": 80, "tls": True}, "'tls'"),
    ({"name": "a", "port": 80, "checks": [{"kind": "icmp"}]}, "'icmp'"),
    ({"name": "a", "port": 80, "checks": [{"kind": "tcp", "argv": ["x"]}]}, "'argv'"),
    ({"name": "a", "port": 80, "checks": [{"kind": "command", "argv": "rm -rf /"}]}, "argv"),
    ({"name": "a", "port": 80, "checks": [{"kind": "command", "argv": ["rm"]}]}, "absolute"),
    ({"name": "a", "port": 80, "checks": [{"kind": "command", "argv": ["/a\0b"]}]}, "argv"),
    ({"name": "a", "port": 80, "checks": [{"kind": "http", "path": "no"}]}, "'no'"),
    ({"name": "a", "port": 80, "checks": [{"kind": "http", "path": "/a\r\nX: y"}]}, "path"),
    ({"name": "a", "port": 80, "checks": [{"kind": "http", "status": [99]}]}, "status is 99"),
    ({"name": "a", "port": 80, "checks": [{"kind": "http", "headers": {"a": "b\r\nc: d"}}]}, "headers"),
    ({"name": "a", "port": 80, "checks": [{"kind": "http", "timeout_s": 0}]}, "timeout_s is 0"),
    ({"name": "a", "port": 80, "checks": [{"kind": "tcp", "interval_s": 0.01}]}, "interval_s"),
    ({"name": "a", "port": 80, "checks": [{"kind": "tcp", "rise": 0}]}, "rise is 0"),
    ({"name": "a", "port": 80, "checks": [{"kind": "tcp"}] * 9}, "at most 8"),
]


@pytest.mark.parametrize(("spec", "named"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_spec_is_refused_naming_what_is_wrong(spec: Any, named: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(spec)
    assert named in error.value.message + error.value.hint


def test_a_whole_spec_is_read_and_defaults_are_the_documented_ones() -> None:
    spec = parse(FULL)
    assert [each.protocol for each in spec.endpoints] == ["grpc", "http", "tcp"]
    assert spec.endpoints[1].host == "2001:db8::1"
    assert spec.tags == ("blue", "eu")
    assert spec.meta == {"beta": "true", "shards": "3", "team": "shop"}
    assert (spec.checks[0].host, spec.checks[0].port) == ("10.0.0.7", 8080)
    plain = parse({"name": "a", "port": 80})
    assert (plain.version, plain.ttl_s, plain.weight, plain.endpoints[0].host) == (
        "1",
        30.0,
        100,
        "127.0.0.1",
    )
    kinds = {"http": 5.0, "tcp": 3.0, "command": 10.0, "grpc": 5.0}
    for kind, timeout_s in kinds.items():
        more = {"argv": ["/bin/true"]} if kind == "command" else {}
        (check,) = parse({"name": "a", "port": 80, "checks": [{"kind": kind, **more}]}).checks
        assert (check.interval_s, check.timeout_s, check.rise, check.fall) == (30.0, timeout_s, 2, 3)


def test_a_record_holds_what_was_registered_but_not_how_it_is_checked() -> None:
    service = parse(FULL).service(PUBLIC, "site")
    value = codec.decode(codec.encode(value_of(service)), 1 << 16)
    assert read(path_of(service), value, PUBLIC, "site") == service
    assert value["checks"] == ["http", "ttl"]
    assert read(path_of(service), {**value, "of a newer version": 1}, PUBLIC, "site") == service
    longer = [[*endpoint, "of a newer version"] for endpoint in value["endpoints"]]
    assert read(path_of(service), {**value, "endpoints": longer}, PUBLIC, "site") == service


def test_a_record_counts_at_its_owners_path_with_the_id_of_its_content_only() -> None:
    service = parse(FULL).service(PUBLIC)
    path, value = path_of(service), value_of(service)
    for wrong_path, wrong_value, public in (
        (path, value, OTHER),
        (path.replace(service.id, "0" * 16), value, PUBLIC),
        (path + "x", value, PUBLIC),
        (path, {**value, "version": "9"}, PUBLIC),
        (path, {**value, "name": "a\nb"}, PUBLIC),
        (path, {**value, "endpoints": [["tcp", "a"]]}, PUBLIC),
        (path, {**value, "endpoints": 7}, PUBLIC),
        (path, [], PUBLIC),
    ):
        with pytest.raises(PeerError):
            read(wrong_path, wrong_value, public)


def test_owners_never_share_an_id() -> None:
    ids = {service_id(name, version, key) for name in "ab" for version in "12" for key in (PUBLIC, OTHER)}
    assert len(ids) == 8
    assert service_id("a", "b", PUBLIC) != service_id("a\0b"[:1], "b" + "", OTHER)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FULL)), anything))
def test_nothing_that_is_written_breaks_the_reader(changes: dict[str, Any]) -> None:
    spec = {**FULL, **changes}
    try:
        service = parse(spec).service(PUBLIC)
    except UsageError:
        return
    assert read(path_of(service), value_of(service), PUBLIC) == service


# -- health and looking up -------------------------------------------------------------------------------


def test_a_service_with_checks_is_unknown_until_its_owner_speaks() -> None:
    checked, bare = parse(FULL).service(PUBLIC), parse({"name": "a", "port": 1}).service(PUBLIC)
    assert health_of(checked, None).health == Health.UNKNOWN
    assert health_of(checked, {}).health == Health.HEALTHY
    assert health_of(checked, {checked.id: Word(Health.UNHEALTHY, 5)}).health == Health.UNHEALTHY
    assert health_of(bare, None).health == Health.HEALTHY


def instance(health: Health = Health.HEALTHY, alive: bool = True, **changes: Any) -> Instance:
    service = parse({**FULL, **changes}).service(PUBLIC)
    return Instance(service, health, alive, labels={"site": "attic", "zone": "z", "tier": "region"})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, True),
        ({"name": "orders"}, True),
        ({"name": "other"}, False),
        ({"tags": "eu,blue"}, True),
        ({"tags": "eu,red"}, False),
        ({"labels": "site=attic,!battery"}, True),
        ({"labels": "site=cellar"}, False),
        ({"tier": "edge"}, True),
        ({"tier": "region"}, False),
        ({"version": ">=1.4,<2"}, True),
        ({"version": "~1.5"}, False),
        ({"owner": PUBLIC[:16]}, True),
        ({"owner": OTHER[:16]}, False),
    ],
)
def test_services_are_found_by_what_is_asked(asked: dict[str, Any], found: bool) -> None:
    assert parse_lookup(**asked).takes(instance()) is found


def test_only_what_can_be_called_is_found_unless_everything_is_asked_for() -> None:
    cases = [instance(health) for health in Health] + [instance(alive=False)]
    assert [Lookup().takes(each) for each in cases] == [False, True, True, False, False, False]
    assert all(Lookup(everything=True).takes(each) for each in cases)


def test_the_tier_of_a_service_is_its_nodes_unless_it_has_one() -> None:
    assert instance().tier == "edge"
    bare = instance()
    assert (
        msgspec.structs.replace(bare, service=parse({"name": "a", "port": 1}).service(PUBLIC)).tier
        == "region"
    )
    for words in ({"name": "A"}, {"tier": "moon"}, {"version": ">=x y"}, {"labels": "=="}):
        with pytest.raises(UsageError):
            parse_lookup(**words)

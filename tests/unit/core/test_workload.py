"""Specs of workloads: what is read, and how what cannot be is refused."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.dependencies import circle, refuse_circle
from mesh.core.quantity import cores, size
from mesh.core.workload import Workload, document, parse, schema, service_spec
from mesh.errors import UsageError

WEB: dict[str, Any] = {"name": "web", "command": ["/bin/web", "--port", "${PORT}"]}


def test_what_is_written_is_read_back_the_same() -> None:
    workload = parse(
        {
            **WEB,
            "replicas": "each",
            "mode": "pinned",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "ports": [{"name": "http", "protocol": "http"}],
            "mounts": [{"name": "data", "kind": "persistent"}],
            "checks": [{"kind": "http", "path": "/health"}],
            "rollout": {"strategy": "canary"},
        }
    )
    assert workload.each
    assert workload.stateful
    assert workload.patience_s == 300
    assert workload.resources.requests.cpu == 0.1
    assert workload.resources.limits.memory == 1 << 30
    assert parse(document(workload)) == workload


def test_defaults_are_left_out_of_what_is_stored() -> None:
    assert document(parse(WEB)) == {"name": "web", "command": ("/bin/web", "--port", "${PORT}")}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "Web"}, "workload name 'Web'"),
        ({"command": []}, "command is missing"),
        ({"command": ["web"]}, "'web' is not an absolute path"),
        ({"command": "/bin/web"}, "command: '/bin/web'"),
        ({"replicas": 0}, "replicas 0"),
        ({"replicas": -1}, "replicas -1"),
        ({"replicas": "many"}, "replicas: 'many'"),
        ({"colour": "red"}, "colour"),
        ({"mode": "best-effort"}, "mode: 'best-effort'"),
        ({"rollout": {"strategy": "yolo"}}, "rollout.strategy: 'yolo'"),
        ({"rollout": {"waves": [0.5, 0.1]}}, "rollout.waves"),
        ({"mode": "exclusive"}, "needs `voters`"),
        ({"mode": "exclusive", "voters": "main", "replicas": "each"}, "cannot have replicas"),
        ({"voters": "main"}, "voters are for mode exclusive"),
        ({"runtime": "container"}, "image is missing"),
        ({"image": "busybox"}, "is for containers"),
        ({"network": "none"}, "a process has the node's network"),
        ({"env": {"MESH_EPOCH": "7"}}, "MESH_EPOCH"),
        ({"env": {"A B": "7"}}, "'A B'"),
        ({"stop_signal": "SIGFOO"}, "SIGFOO"),
        ({"selector": "a=b,c=="}, "'c==' has no value"),
        ({"selector": "?"}, "'?'"),
        ({"user": "Robert'); --"}, "is not a user"),
        ({"resources": {"requests": {"cpu": 2}, "limits": {"cpu": 1}}}, "limit of cpu (1.0) is below"),
        ({"resources": {"requests": {"memory": "lots"}}}, "resources.requests.memory: 'lots'"),
        ({"ports": [{"name": "a"}, {"name": "a"}]}, "port a is there twice"),
        ({"ports": [{"port": 70_000}]}, "ports[0].port: 70000"),
        ({"mounts": [{"name": "etc", "kind": "host"}]}, "mount etc"),
        ({"mounts": [{"name": "etc", "kind": "host", "source": "/etc/../root"}]}, "mount etc"),
        ({"depends": ["web"]}, "depends on itself"),
        ({"checks": [{"kind": "http"}]}, "checks need a port"),
        ({"ports": [{}], "checks": [{"kind": "command", "argv": ["/bin/true"]}]}, "command checks"),
        ({"ports": [{}], "checks": [{"kind": "smell"}]}, "'smell'"),
        ({"placement": "location"}, "needs `near`"),
        ({"version": "a b", "ports": [{}]}, "version 'a b'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse({**WEB, **changes})
    assert named in caught.value.message


def test_an_unknown_choice_is_told_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        parse({**WEB, "reconcile": "newest"})
    assert "longest_running" in caught.value.hint


@settings(max_examples=20)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_nothing_but_a_usage_error_comes_of_nonsense(value: Any) -> None:
    for field in Workload.__struct_fields__:
        with suppress(UsageError):
            parse({**WEB, field: value})


def test_amounts_of_every_unit() -> None:
    assert [cores("x", value) for value in ("100m", 2, 0.5, "1.5")] == [0.1, 2.0, 0.5, 1.5]
    assert [size("x", value) for value in ("128Mi", "1G", 7, "2Ki", "1.5Gi")] == [
        128 << 20,
        10**9,
        7,
        2048,
        3 << 29,
    ]
    for wrong in ("-1", "1e9", True, 1.5, None, "5 Mi", "9" * 40):
        with pytest.raises(UsageError):
            size("x", wrong)


def test_its_service_has_an_endpoint_for_each_instance() -> None:
    workload = parse({**WEB, "ports": [{"name": "http", "protocol": "http"}], "checks": [{"kind": "tcp"}]})
    service = service_spec(workload, [2001, 2002])
    assert service is not None
    assert [endpoint.port for endpoint in service.endpoints] == [2001, 2002]
    assert service.checks[0].port == 2001
    assert service_spec(parse(WEB), [2001]) is None
    assert service_spec(workload, []) is None


def test_the_schema_names_every_field() -> None:
    assert set(schema()["$defs"]["Workload"]["properties"]) == set(Workload.__struct_fields__)


def made(name: str, *depends: str) -> Workload:
    return parse({"name": name, "command": ["/x"], "depends": list(depends)})


def test_a_circle_of_dependencies_is_found_and_refused() -> None:
    specs = {"a": made("a", "b", "gone"), "b": made("b", "c"), "c": made("c", "a"), "d": made("d", "a")}
    assert circle(specs) == ["a", "b", "c", "a"]
    with pytest.raises(UsageError, match="a -> b -> c -> a"):
        refuse_circle(specs)
    specs["c"] = made("c")
    assert circle(specs) == []


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"), max_size=3)))
def test_a_circle_is_told_exactly_when_there_is_one(edges: dict[str, set[str]]) -> None:
    specs = {name: made(name, *sorted(to - {name})) for name, to in edges.items()}
    found = circle(specs)
    left = {name: set(spec.depends) & specs.keys() for name, spec in specs.items()}
    while free := [name for name, to in left.items() if not to]:
        for name in free:
            del left[name]
        for to in left.values():
            to.difference_update(free)
    assert bool(found) == bool(left)
    for one, other in pairwise(found):
        assert other in specs[one].depends


def test_a_version_that_would_write_on_somebodys_terminal_is_refused() -> None:
    with pytest.raises(UsageError, match=r"version .* control characters"):
        parse({**WEB, "version": "1\x1b[2J"})


def test_an_unknown_strategy_is_told_those_that_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        parse({**WEB, "rollout": {"strategy": "blue-green"}})
    assert refused.value.hint == "one of rolling, canary, gradual, regional, bluegreen"


def test_a_command_written_as_a_line_is_told_to_be_a_list() -> None:
    with pytest.raises(UsageError, match="command: '/bin/web -v'") as refused:
        parse({"name": "web", "command": "/bin/web -v"})
    assert refused.value.hint == 'a list: ["...", "..."]'


@pytest.mark.parametrize(
    ("value", "words", "hint"),
    [
        (5, "env.PORT: 5 is not text", 'write "5"'),
        (True, "env.PORT: true is not text", 'write "true"'),
        (["x"], "env.PORT: ['x'] is neither text nor a secret", '"..." or {secret = "name"}'),
        ({"sekret": "x"}, "env.PORT: {'sekret': 'x'} is neither", '"..." or {secret = "name"}'),
    ],
)
def test_a_variable_of_another_type_is_named_and_the_others_are_not_told(
    value: Any, words: str, hint: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parse({**WEB, "env": {"TOKEN": "hidden", "PORT": value}})
    assert words in refused.value.message
    assert "hidden" not in refused.value.message
    assert refused.value.hint == hint


def test_a_misspelt_name_is_told_as_such_and_so_is_every_other_field() -> None:
    for raw, words, hint in (
        (
            {"nmae": "web", "command": ["/x"]},
            "a workload without a name: unknown field 'nmae'",
            "did you mean name?",
        ),
        ({"command": ["/x"]}, "a workload has no name", 'name = "..."'),
        ({**WEB, "replica": 3}, "workload web: unknown field 'replica'", "did you mean replicas?"),
    ):
        with pytest.raises(UsageError) as refused:
            parse(raw)
        assert (refused.value.message, refused.value.hint) == (words, hint)


def test_a_lease_is_for_exclusive_workloads_and_has_its_bounds() -> None:
    exclusive = {**WEB, "mode": "exclusive", "voters": "main"}
    assert parse(exclusive).lease_s == 30
    assert parse({**exclusive, "lease_s": 5}).lease_s == 5
    for raw in ({**exclusive, "lease_s": 1}, {**WEB, "lease_s": 5}):
        with pytest.raises(UsageError, match="lease_s"):
            parse(raw)

"""Secrets as records: whose wraps count, whom they are for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core import secret as core
from mesh.core.record import AID_BYTES
from mesh.core.secret import More, Readers, Secret
from mesh.core.workload import document, parse
from mesh.errors import PeerError, UsageError

A, B, C = (bytes([number]) * AID_BYTES for number in (1, 2, 3))
SECRET = Secret(3, b"box", {A: b"wrap"})
APP: dict[str, Any] = {
    "name": "app",
    "command": ["/bin/app", "--key", "${SECRET_KEY}"],
    "env": {"PASSWORD": {"secret": "db"}, "PLAIN": "x"},
    "secrets": ["key"],
}


def test_a_record_is_read_back_as_it_was_said() -> None:
    secret = Secret(3, b"box", {A: b"wrap"}, "zone=north", (A, B))
    assert core.decode(core.encode(secret)) == secret


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        {},
        {"gen": 0, "box": b"x", "wraps": {}},
        {"gen": 1, "box": "text", "wraps": {}},
        {"gen": 1, "box": b"x", "wraps": {b"short": b""}},
        {"gen": 1, "box": b"x" * (1 << 20), "wraps": {}},
        {"gen": 1, "box": b"x", "wraps": {}, "selector": "site=attic"},
        {"gen": 1, "box": b"x", "wraps": {}, "selector": "((("},
    ],
)
def test_a_record_that_makes_no_sense_is_none(value: Any) -> None:
    with pytest.raises(PeerError):
        core.decode(value)


def test_wraps_that_others_said_count_for_the_same_box_only() -> None:
    said = [
        core.encode(More(SECRET.digest, {B: b"later"})),
        core.encode(More(core.digest_of(b"older box"), {C: b"stale"})),
        core.encode(More(SECRET.digest, {A: b"another"})),
        {"box": 1},
        None,
    ]
    held = core.held(SECRET, said)
    assert held.wraps == {A: b"wrap", B: b"later"}
    assert held.exposed([A]) == [B]
    assert held.exposed([A, B, C]) == []


def test_whom_it_is_for_is_asked_of_certificates_alone() -> None:
    secret = Secret(1, b"", {}, "zone=north", (A,))
    assert secret.allows(A, {"zone": "north"})
    assert not secret.allows(A, {"zone": "south"})
    assert not secret.allows(B, {"zone": "north"})
    assert Secret(1, b"", {}).allows(B, {})
    assert core.check_selector("zone=north,tier in (edge|cloud)")
    for text in ("site=attic", "name=n1", "!gpu"):
        with pytest.raises(UsageError, match="a node gives that label to itself"):
            core.check_selector(text)


def test_a_node_that_cannot_open_what_a_workload_names_is_told_why() -> None:
    app = parse(APP)
    assert app.secrets_named == ["db", "key"]
    assert "secret db is not there" in core.why_closed(app, A, {})
    both = {"db": Readers(frozenset({A})), "key": Readers(frozenset({A, B}), frozenset({C}))}
    assert core.why_closed(app, A, both) == ""
    assert "secret db is not sealed to it yet" in core.why_closed(app, B, both)
    both["db"] = Readers(frozenset({A, C}))
    assert "secret key is not for it" in core.why_closed(app, C, both)
    assert core.why_closed(parse({"name": "app", "command": ["/x"]}), C, both) == ""


def test_a_spec_names_secrets_and_shows_no_more_than_their_names() -> None:
    app = parse(APP)
    assert app.plain_env == {"PLAIN": "x"}
    assert app.secret_env == {"PASSWORD": "db"}
    assert document(app)["env"]["PASSWORD"] == {"secret": "db"}
    assert parse(document(app)) == app


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env": {"X": {"secret": "Not A Name"}}}, "env"),
        ({"env": {"X": {"sekret": "db"}}}, "sekret"),
        ({"env": {"X": 3}}, "env"),
        ({"secrets": ["a", "a"]}, "secret a is there twice"),
        ({"args": [{"secret": "db"}]}, "args"),
        ({"rotation": "sometimes"}, "rotation"),
        ({"runtime": "kubernetes", "image": "x"}, "secrets are not given to runtime kubernetes"),
    ],
)
def test_a_reference_that_cannot_be_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse({**APP, **change})


@pytest.mark.parametrize(
    ("path", "name"), [("secret/db", "db"), ("secret/db/wraps", "db"), ("secret/", None)]
)
def test_a_path_tells_its_secret(path: str, name: str | None) -> None:
    assert core.name_in(path) == name


def test_a_value_is_neither_empty_nor_too_large_and_no_message_has_it() -> None:
    assert core.check_value(b"x") == b"x"
    for value in (b"", b"hunter2" * 3000):
        with pytest.raises(UsageError) as refused:
            core.check_value(value)
        assert "hunter" not in str(refused.value)
    with pytest.raises(UsageError, match=r"'\.\./x'"):
        core.path_of("../x")

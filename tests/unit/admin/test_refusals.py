"""What is wrong with a request is told in words."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from mesh.admin.router import parse_body, parse_query
from mesh.errors import UsageError


class Inner(Struct, forbid_unknown_fields=True):
    key: str


class Form(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=5)]
    uses: Annotated[int, Meta(ge=1, le=9)] = 1
    wait_s: Annotated[float, Meta(gt=0)] = 1.0
    qos: Literal[0, 1, 2] = 0
    dry: bool = False
    labels: dict[str, str] = {}
    rows: list[Inner] = []
    nodes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=2)] = ("a",)
    zone: str | None = None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"name": "a", "uses": 0}', "uses: 0 is not a whole number of at least 1"),
        ('{"name": "a", "uses": 10}', "uses: 10 is not a whole number of at most 9"),
        ('{"name": "a", "uses": "x"}', 'uses: "x" is not a whole number'),
        ('{"name": "a", "uses": 1.5}', "uses: 1.5 is not a whole number"),
        ('{"name": "a", "wait_s": 0}', "wait_s: 0 is not a number above 0"),
        ('{"name": ""}', 'name: "" is not a text that is not empty'),
        ('{"name": "abcdef"}', 'name: "abcdef" is not a text of at most 5 characters'),
        ('{"name": 7}', "name: 7 is not a text"),
        ('{"name": "a", "qos": 3}', "qos: 3 is not one of the values that are possible"),
        ('{"name": "a", "dry": 1}', "dry: 1 is not true or false"),
        ('{"name": "a", "zone": 1}', "zone: 1 is not a text"),
        ('{"name": "a", "labels": []}', "labels: [] is not an object"),
        ('{"name": "a", "nodes": []}', "nodes: [] is not a list that is not empty"),
        (
            '{"name": "a", "nodes": ["a", "b", "c"]}',
            'nodes: ["a", "b", "c"] is not a list of at most 2 entries',
        ),
        ('{"name": "a", "labels": {"k": 1}}', "labels: a value in it is not a text"),
        ('{"name": "a", "rows": [{"key": 1}]}', "rows[0].key: 1 is not a text"),
        ('{"name": "a", "rows": [{}]}', "rows[0].key is missing"),
        ("{}", "name is missing"),
        ("[]", "the request: [] is not an object"),
        ('{"name": "a", "use": 1}', "'use' is not known here"),
    ],
)
def test_a_refusal_names_the_field_its_value_and_what_it_has_to_be(body: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_body(body.encode(), Form)
    assert caught.value.message == message


def test_a_hint_names_the_field_that_was_meant() -> None:
    with pytest.raises(UsageError) as caught:
        parse_body(b'{"name": "a", "use": 1}', Form)
    assert caught.value.hint == "did you mean uses?"


def test_a_query_string_is_refused_in_the_same_words() -> None:
    with pytest.raises(UsageError, match='uses: "x" is not a whole number'):
        parse_query("name=a&uses=x", Form)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(Form.__struct_fields__) | TEXT, VALUES))
def test_whatever_is_sent_is_taken_or_refused_in_words(fields: dict[str, Any]) -> None:
    sent = json.dumps(fields, ensure_ascii=False)
    said = ""
    try:
        parse_body(sent.encode(), Form)
    except UsageError as error:
        said = error.message
    assert all(word in sent or word not in said for word in ("$", "`", "Expected", "Object"))

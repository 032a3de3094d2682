"""JSON at the door, and which node a word means."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.admin.names import resolve
from mesh.admin.values import dumps, with_bytes
from mesh.errors import NotFound, UsageError

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def looks_like_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == {"base64"} or any(map(looks_like_bytes, value.values()))
    return isinstance(value, list) and any(map(looks_like_bytes, value))


@given(values.filter(lambda value: not looks_like_bytes(value)))
def test_values_survive_json_with_their_bytes(value: Any) -> None:
    assert with_bytes(json.loads(dumps(value))) == value


def test_what_json_cannot_say_is_made_sayable() -> None:
    odd = {"a": math.nan, b"\xff": [math.inf, (1, -math.inf)], 7: "\ud800"}
    assert json.loads(dumps(odd)) == {"a": None, "base64:/w==": [None, [1, None]], "7": "?"}


def test_an_unknown_type_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError):
        dumps(object())


def test_bad_base64_is_refused_with_its_text() -> None:
    with pytest.raises(UsageError, match="a!b"):
        with_bytes([{"base64": "a!b"}])


NAMES = [
    ("12D3KooW" + "A" * 40 + "aaa1", "attic"),
    ("12D3KooW" + "B" * 40 + "aaa2", "cellar"),
    ("12D3KooW" + "C" * 40 + "aaa1", "cellar"),
    ("12D3KooW" + "D" * 40 + "ttic", "roof"),
]


def test_a_name_an_id_and_a_unique_end_mean_a_node() -> None:
    assert resolve("attic", NAMES) == NAMES[0][0]
    assert resolve(NAMES[1][0], NAMES) == NAMES[1][0]
    assert resolve("aaa2", NAMES) == NAMES[1][0]


def test_a_name_wins_over_the_end_of_an_id() -> None:
    assert resolve("ttic", NAMES) == NAMES[3][0]
    assert resolve("ttic", [*NAMES, ("12D3KooW" + "E" * 44, "ttic")]) == "12D3KooW" + "E" * 44


@pytest.mark.parametrize("word", ["cellar", "aaa1"])
def test_an_ambiguous_word_lists_what_it_may_mean(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(word, NAMES)
    assert caught.value.message.count("12D3KooW") == 2


@pytest.mark.parametrize("word", ["", "a1", "atticc", "AAA1", "12D3KooW"])
def test_a_word_that_means_nobody_is_not_found(word: str) -> None:
    with pytest.raises(NotFound):
        resolve(word, NAMES)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(NotFound) as caught:
        resolve("atic", NAMES)
    assert "attic" in caught.value.hint


def test_a_whole_id_nobody_knows_passes() -> None:
    stranger = "12D3KooW" + "Z" * 44
    assert resolve(stranger, NAMES) == stranger

"""Bringing answers together."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import combine
from mesh.core.combine import absorb, parse_combine
from mesh.errors import PeerError, UsageError
from mesh.wire import codec

NUMBER = st.one_of(
    st.integers(-(10**12), 10**12), st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: abs(x) > 1e-9)
)


def aid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def fold(word: str, values: list[Any], rng: random.Random) -> Any:
    """The state over all values, merged in a random tree and sent over the wire at every step."""
    how = parse_combine(word)
    states = [how.lift(aid(index), value) for index, value in enumerate(values)]
    while len(states) > 1:
        rng.shuffle(states)
        a, b = states.pop(), codec.decode(codec.encode(states.pop()))
        states.append(absorb(how, a, b))
    return how.finish(states[0], lambda name: str(int.from_bytes(name, "big")))


VALUES = st.lists(NUMBER, min_size=1, max_size=20)


@given(VALUES, st.randoms())
def test_numbers_come_out_as_over_one_list(values: list[Any], rng: random.Random) -> None:
    assert fold("count", values, rng) == len(values)
    assert fold("sum", values, rng) == pytest.approx(math.fsum(values), abs=1e-2)
    assert fold("mean", values, rng) == pytest.approx(math.fsum(values) / len(values), abs=1e-2)
    assert fold("min", values, rng) == {"value": min(values), "node": str(values.index(min(values)))}
    assert fold("max", values, rng) == {"value": max(values), "node": str(values.index(max(values)))}


@given(VALUES, st.integers(1, 25), st.randoms())
def test_the_largest_come_out_whatever_the_tree(values: list[Any], size: int, rng: random.Random) -> None:
    result = fold(f"top:{size}", values, rng)
    assert [entry["value"] for entry in result] == sorted(values, reverse=True)[:size]


def test_top_takes_pairs_and_keeps_their_items() -> None:
    result = fold("top:2", [[[5, "a"], [9, "b"]], [[7, {"c": 1}]]], random.Random(1))
    assert [(entry["value"], entry["item"]) for entry in result] == [(9, "b"), (7, {"c": 1})]


@given(VALUES, st.randoms())
def test_each_answer_is_collected(values: list[Any], rng: random.Random) -> None:
    expected = {str(index): value for index, value in enumerate(values)}
    assert fold("collect", values, rng) == {"answers": expected, "left_out": 0}


def test_what_does_not_fit_is_counted() -> None:
    values = ["x" * 60_000] * 5
    result = fold("collect", values, random.Random(1))
    assert len(result["answers"]) + result["left_out"] == 5
    assert len(result["answers"]) == 3


@given(st.lists(st.lists(NUMBER, min_size=1, max_size=50), min_size=1, max_size=6), st.randoms())
def test_quantiles_are_right_within_one_per_cent(values: list[list[Any]], rng: random.Random) -> None:
    result = fold("histogram", values, rng)
    flat = sorted(number for numbers in values for number in numbers)
    assert result["count"] == len(flat)
    assert result["min"] == flat[0]
    assert result["max"] == flat[-1]
    for word, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        exact = flat[math.floor(share * (len(flat) - 1))]
        assert result[word] == pytest.approx(exact, rel=0.0101)


def test_a_histogram_of_nothing_is_empty() -> None:
    assert fold("histogram", [[], []], random.Random(1)) == {"count": 0}


def test_a_histogram_of_any_range_stays_bounded() -> None:
    how = parse_combine("histogram")
    wide = [
        sign * math.ldexp(1.0 + fraction / 4, power)
        for power in range(-1000, 1000)
        for fraction in range(4)
        for sign in (1, -1)
    ]
    state = how.lift(aid(1), wide)
    state = absorb(how, state, how.lift(aid(2), [value * 1.01 for value in wide]))
    assert all(len(state[index]) <= combine.BUCKETS_MAX for index in (1, 2))
    assert how.fits(state)
    assert how.finish(state, str)["count"] == 2 * len(wide)


@pytest.mark.parametrize("size", [0, 1, 100, 5_000, 60_000])
def test_different_values_are_estimated(size: int) -> None:
    values = [[f"value {index}" for index in range(start, size, 3)] for start in range(3)]
    values.append(values[0])
    assert fold("distinct", values, random.Random(1)) == pytest.approx(size, rel=0.06)


def test_a_sum_beyond_64_bits_still_travels() -> None:
    assert fold("sum", [2**62, 2**62, 2**62], random.Random(1)) == pytest.approx(3 * 2.0**62)


@pytest.mark.parametrize("word", ["sum", "mean", "min", "max", "histogram", "top:3"])
@pytest.mark.parametrize("value", ["text", None, True, math.nan, math.inf, {"a": 1}, [["x"]]])
def test_an_answer_of_the_wrong_type_is_refused(word: str, value: Any) -> None:
    with pytest.raises(UsageError):
        parse_combine(word).lift(aid(1), value)


def test_an_oversized_answer_is_refused() -> None:
    with pytest.raises(UsageError):
        parse_combine("collect").lift(aid(1), "x" * 70_000)
    with pytest.raises(UsageError):
        parse_combine("top:2").lift(aid(1), [1, "x" * 1000])


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 2**63),
        st.floats(),
        st.binary(max_size=20),
        st.text(max_size=3),
    ),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


@given(
    st.sampled_from(["count", "sum", "mean", "min", "max", "collect", "histogram", "distinct", "top:3"]), JUNK
)
def test_a_peers_nonsense_is_refused_or_harmless(word: str, junk: Any) -> None:
    how = parse_combine(word)
    mine = how.lift(aid(1), 7)
    try:
        state = absorb(how, mine, junk)
    except PeerError:
        return
    how.finish(state, lambda name: name.hex())
    codec.encode(state)


@pytest.mark.parametrize(
    "word", ["", "median", "top", "top:", "top:0", "top:1001", "top:x", "sum:3", "top:-1"]
)
def test_an_unknown_combine_is_refused_by_name(word: str) -> None:
    with pytest.raises(UsageError):
        parse_combine(word)

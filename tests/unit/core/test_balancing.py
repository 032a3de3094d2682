"""Who takes the next call."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.balancing import ALGORITHMS, Choice, Meter, Usage, balancer

A, B, C = Choice("a", 5), Choice("b", 1), Choice("c", 1)


def picks(name, choices, count, usages=None, source=b""):
    made = balancer(name, random.Random(1))
    return "".join(made.pick(choices, usages or {}, source).key for _ in range(count))


def test_smooth_weighted_round_robin_never_bursts():
    assert picks("smooth", [A, B, C], 14) == "aabacaa" * 2


def test_round_robin_takes_one_after_the_other():
    assert picks("round-robin", [A, B, C], 6) == "abcabc"


def test_round_robin_goes_on_after_one_that_left():
    made = balancer("round-robin", random.Random(1))
    assert [made.pick([A, B, C], {}, b"").key for _ in range(2)] == ["a", "b"]
    assert made.pick([A, C], {}, b"").key == "c"
    assert made.pick([A, B, C], {}, b"").key == "a"


def test_least_connections_counts_by_weight():
    usages = {"a": Usage(in_flight=6), "b": Usage(in_flight=1), "c": Usage(in_flight=2)}
    assert picks("least-connections", [A, B, C], 1, usages) == "a"


def test_least_time_takes_the_soonest_and_tries_the_unknown_first():
    usages = {"a": Usage(time_s=0.01), "b": Usage(time_s=0.001, in_flight=2)}
    equal = [Choice("a", 100), Choice("b", 100)]
    assert picks("least-time", equal, 1, usages) == "b"
    assert picks("least-time", [*equal, Choice("c", 100)], 1, usages) == "c"


def test_two_choices_spreads_evenly_though_the_view_is_shared():
    meter = Meter()
    made = balancer("two-choices", random.Random(3))
    choices = [Choice(str(number), 100) for number in range(10)]
    for _ in range(1000):
        meter.begin(made.pick(choices, meter.usages, b"").key)
    loads = [meter.usages[choice.key].in_flight for choice in choices]
    assert max(loads) - min(loads) <= 4


def test_hash_keeps_a_caller_and_moves_only_those_of_one_that_left():
    choices = [Choice(str(number), 100) for number in range(10)]
    sources = [f"10.0.{number // 256}.{number % 256}".encode() for number in range(1000)]
    before = {source: picks("hash", choices, 1, source=source) for source in sources}
    after = {source: picks("hash", choices[1:], 1, source=source) for source in sources}
    assert all(after[source] == before[source] for source in sources if before[source] != "0")
    shares = Counter(before.values())
    assert min(shares.values()) > 60


def test_hash_follows_the_weights():
    sources = [str(number).encode() for number in range(2000)]
    shares = Counter(picks("hash", [Choice("a", 70), Choice("b", 30)], 1, source=s) for s in sources)
    assert 1300 < shares["a"] < 1500


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name in ("smooth", "round-robin")])
def test_turns_are_exact_over_a_whole_round(name):
    equal = [Choice(key, 100) for key in "abcd"]
    assert set(Counter(picks(name, equal, 400)).values()) == {100}


@given(
    st.sampled_from(ALGORITHMS),
    st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0.01, 1000), min_size=1, max_size=12),
    st.integers(0, 2**32),
    st.binary(max_size=80),
)
def test_every_balancer_takes_one_of_the_choices(name, weights, seed, source):
    choices = [Choice(key, weight) for key, weight in sorted(weights.items())]
    made = balancer(name, random.Random(seed))
    for _ in range(5):
        assert made.pick(choices, {}, source) in choices


def test_a_meter_stays_bounded():
    meter = Meter()
    busy = meter.begin("busy")
    for number in range(10_000):
        meter.end(meter.begin(str(number)))
    assert len(meter.usages) <= 4096
    assert meter.usages["busy"] is busy
    busy.answered(0.1)
    busy.answered(0.2)
    assert 0.1 < busy.time_s < 0.2

"""Topic names and patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import topics
from mesh.errors import UsageError

LEVEL = st.sampled_from(["a", "b", "$x", "", "long level", "Ω"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
PATTERN = (
    st.lists(st.one_of(LEVEL, st.just("+")), min_size=0, max_size=4)
    .flatmap(lambda levels: st.sampled_from([levels, [*levels, "#"]]))
    .map("/".join)
    .filter(bool)
)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("+/+", "/x", True),
        ("#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("+/b/#", "a/b/c", True),
        ("#", "$sys/x", False),
        ("+/x", "$sys/x", False),
        ("$sys/#", "$sys/x", True),
    ],
)
def test_wildcards_match_as_mqtt_says(pattern: str, topic: str, expected: bool) -> None:
    assert topics.matches(pattern, topic) is expected


@given(st.lists(PATTERN, max_size=12), TOPIC)
def test_the_index_finds_exactly_what_matching_one_by_one_finds(patterns: list[str], topic: str) -> None:
    index: topics.PatternIndex[str] = topics.PatternIndex()
    for pattern in patterns:
        index.add(pattern, pattern)
    assert len(index) == len(set(patterns))
    assert sorted(index.match(topic)) == sorted({p for p in patterns if topics.matches(p, topic)})
    assert index.match(topic) is index.match(topic)
    for pattern in patterns:
        index.remove(pattern, pattern)
    assert len(index) == 0
    assert index.match(topic) == []
    assert not index._root.children


@given(PATTERN, TOPIC)
def test_every_matching_topic_lies_under_the_literal_prefix(pattern: str, topic: str) -> None:
    if topics.matches(pattern, topic):
        assert topics.topic_path(topic).startswith(topics.literal_prefix(pattern))


@given(TOPIC)
def test_a_topic_comes_back_from_its_path(topic: str) -> None:
    topics.check_topic(topic)
    assert topics.topic_of(topics.topic_path(topic)) == topic


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0b", "x" * 300, "a/" * 70 + "a", "ä" * 200, "\ud800"])
def test_a_topic_that_cannot_be_published_to_is_refused(topic: str) -> None:
    with pytest.raises(UsageError):
        topics.check_topic(topic)


@pytest.mark.parametrize("pattern", ["", "a/b+", "a#", "#/a", "a/#/b", "x" * 600, "a\0", "/" * 100])
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        topics.check_pattern(pattern)


@given(PATTERN)
def test_a_well_formed_pattern_is_accepted(pattern: str) -> None:
    topics.check_pattern(pattern)


def test_removing_what_was_never_added_changes_nothing() -> None:
    index: topics.PatternIndex[int] = topics.PatternIndex()
    index.add("a/b", 1)
    index.remove("a/c", 1)
    index.remove("a/b", 2)
    assert index.match("a/b") == [1]


def test_the_cache_of_answers_is_bounded() -> None:
    index: topics.PatternIndex[int] = topics.PatternIndex()
    index.add("#", 1)
    for number in range(topics.CACHE_MAX + 10):
        assert index.match(f"t/{number}") == [1]
    assert len(index._cache) <= topics.CACHE_MAX


@pytest.mark.parametrize("pattern", ["#", "+", "/#", "/+/a", "+/a"])
def test_a_pattern_without_a_first_literal_level_scans_all_topics(pattern: str) -> None:
    assert topics.literal_prefix(pattern) == topics.PREFIX


def test_few_messages_are_few_and_many_are_many_until_they_have_passed() -> None:
    pace, now = topics.Pace(), 0.0
    for _ in range(1000):
        now += 1 / 200
        pace.note(1, now)
        assert pace.calm(now)
    for _ in range(1000):
        now += 1 / 500
        pace.note(1, now)
    assert not pace.calm(now)
    pace.note(1_000_000, now)
    assert pace.calm(now + 2 * topics.PROMPT_BURST / topics.PROMPT_PER_S)

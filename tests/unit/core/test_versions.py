"""Versions: their order, and ranges of them."""

from __future__ import annotations

import pytest

from mesh.core.versions import key, parse_range
from mesh.errors import UsageError

ASCENDING = [
    "0.9",
    "1.0-alpha",
    "1.0-alpha.1",
    "1.0-alpha.beta",
    "1.0-rc1",
    "1.0",
    "1.0.1",
    "1.2",
    "1.10",
    "2",
]


def test_versions_are_ordered_as_semantic_versioning_says() -> None:
    assert sorted(set(ASCENDING), key=key) == ASCENDING
    assert key("1.0") == key("1") == key("1.0.0+build7")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", ["1", "x", "0.0.1-rc"], []),
        ("1.4.2", ["1.4.2", "1.4.2+b", "1.4.2.0"], ["1.4.3", "1.4"]),
        ("=1.4", ["1.4.0"], ["1.4.1"]),
        ("1.4.*", ["1.4", "1.4.0", "1.4.9-rc1"], ["1.40", "1.5"]),
        ("1.x", ["1", "1.9"], ["10", "2"]),
        (">=1.2,<2", ["1.2", "1.10"], ["1.1.9", "2", "2.1"]),
        (">1.2", ["1.2.1"], ["1.2", "1.2.0"]),
        ("<=1.2", ["1.2", "1.2-rc1"], ["1.2.1"]),
        ("!=1.5", ["1.4"], ["1.5", "1.5.0"]),
        ("~1.4.2", ["1.4.2", "1.4.9"], ["1.4.1", "1.5", "1.5-rc1"]),
        ("^1.4.2", ["1.4.2", "1.9"], ["1.4.1", "2", "2-rc1"]),
        ("^0.4.2", ["0.4.2", "0.4.9"], ["0.5"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        (" >= 1 , < 3 ", ["2"], ["3"]),
        ("=canary", ["canary"], ["1", "canary2"]),
        ("v1.4", ["v1.4.0"], ["1.4"]),
    ],
)
def test_a_range_takes_what_it_says(text: str, inside: list[str], outside: list[str]) -> None:
    found = parse_range(text)
    assert [version for version in [*inside, *outside] if found.takes(version)] == inside


@pytest.mark.parametrize(
    "text", [">=", "1 2", "~1.*", "1.4.**", ">=1;<2", "1,ü", ",".join(["1"] * 17), "1" * 80]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_range(text)


@pytest.mark.parametrize("text", ["abc", ">=abc", "~latest", "^x", "abc.*", "1.2,abc"])
def test_a_range_of_words_is_refused_and_says_how_to_ask_for_one(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number") as caught:
        parse_range(text)
    assert "=" in caught.value.hint

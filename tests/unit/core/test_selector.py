"""Label filters."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.selector import EVERY_NODE, parse_selector
from mesh.errors import UsageError

LABELS = {"tier": "edge", "region": "eu-west", "gpu": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("tier=edge", True),
        ("tier==edge, region=eu-west", True),
        ("tier=cloud", False),
        ("tier!=cloud", True),
        ("zone!=a", True),
        ("gpu", True),
        ("!gpu", False),
        ("! battery", True),
        ("tier in (edge|cloud)", True),
        ("tier in (cloud)", False),
        ("tier notin (cloud|region)", True),
        ("zone notin (a)", True),
        ("zone in (a)", False),
        ("tier=edge,!gpu", False),
    ],
)
def test_every_term_must_hold(text: str, expected: bool) -> None:
    assert parse_selector(text).takes(LABELS) is expected


def test_an_empty_selector_takes_every_node() -> None:
    assert parse_selector(" , ") == EVERY_NODE
    assert EVERY_NODE.takes({})


@pytest.mark.parametrize("text", ["=edge", "tier in edge", "tier in (a", "a b", "!!a", "tier>3", "x" * 2000])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_selector(text)


@pytest.mark.parametrize(
    "text", ["tier==", "tier=", "tier!= ", "tier===edge", "tier in ()", "tier in (a||b)", "gpu, tier="]
)
def test_a_value_that_is_left_out_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="has no value") as caught:
        parse_selector(text)
    assert "key=value" in caught.value.hint


@given(st.text(max_size=60))
def test_any_text_is_either_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_selector(text).takes(LABELS)

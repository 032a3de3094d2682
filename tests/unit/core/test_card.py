"""Node cards."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.card import check_card
from mesh.errors import UsageError


def test_a_full_card_is_accepted_and_unknown_fields_are_ignored() -> None:
    card = check_card(
        {
            "kind": "camera",
            "tier": "edge",
            "location": [47.4, 8.5],
            "cpu_cores": 4,
            "capabilities": ["gpu"],
            "endpoints": {"api": "http://x"},
            "labels": {"a": "b"},
            "future": {"x": 1},
        }
    )
    assert card.location == (47.4, 8.5)
    assert check_card({}).kind == ""


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"tier": "moon"}, "tier"),
        ({"location": [91, 0]}, "location[0]"),
        ({"location": [1]}, "location"),
        ({"cpu_cores": -1}, "cpu_cores"),
        ({"cpu_cores": "4"}, "cpu_cores"),
        ({"capabilities": ["x"] * 65}, "capabilities"),
        ({"labels": {"a": 1}}, "labels[...]"),
        ({"kind": "x" * 300}, "kind"),
        ([], "card"),
        (None, "card"),
    ],
)
def test_a_bad_field_is_named(raw: Any, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_card(raw)
    assert repr(field) in caught.value.message

"""Fixtures of tests on real agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from yard import Yard, fresh_yard


@pytest.fixture
def yard() -> Iterator[Yard]:
    """A yard of a test's own."""
    with fresh_yard() as made:
        yield made

"""Fixtures of tests on real agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from yard import Yard, fresh_yard, sound


@pytest.fixture
def yard() -> Iterator[Yard]:
    """A yard of a test's own."""
    with fresh_yard() as made:
        yield made


@pytest.fixture(autouse=True)
def agents_stay_sound() -> Iterator[None]:
    """A test in which an agent ended by itself or logged a traceback has failed, whatever it looked at."""
    yield
    sound()

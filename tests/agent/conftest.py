"""What tests of whole nodes share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from nodes import Village


@pytest.fixture
async def village(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Village]:
    """Nodes that are all stopped afterwards."""
    made = Village(tmp_path, nursery)
    yield made
    for scope in made.scopes.values():
        scope.cancel()

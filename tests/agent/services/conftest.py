"""A town of nodes that offer services."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from town import Town


@pytest.fixture
async def town(nursery: trio.Nursery) -> AsyncIterator[Town]:
    made = Town(nursery)
    yield made
    for node in made.nodes:
        node.scope.cancel()
    nursery.cancel_scope.cancel()

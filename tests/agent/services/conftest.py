"""A town of nodes that offer services."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from front import Front
from town import Town, running


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Here bytes go through the kernel, which on a busy machine hands them on a moment later."""
    return trio.testing.MockClock(autojump_threshold=0.05)


@pytest.fixture
async def town(nursery: trio.Nursery) -> AsyncIterator[Town]:
    made = Town(nursery)
    yield made
    for node in made.nodes:
        node.scope.cancel()
    nursery.cancel_scope.cancel()


@pytest.fixture
async def front(town: Town, nursery: trio.Nursery) -> Front:
    await town.add(3)
    made = Front(town)
    made.gateway.check()
    await running(nursery, made.gateway.run)
    return made

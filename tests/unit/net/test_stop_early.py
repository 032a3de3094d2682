"""A host that is told to stop while it starts."""

from __future__ import annotations

import trio


async def test_a_host_that_is_cancelled_while_it_starts_ends(world):
    for checkpoints in range(4):
        host = world.make()
        with trio.fail_after(60), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.run)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()


async def test_a_host_whose_start_is_cancelled_ends(world):
    host = world.make()
    with trio.fail_after(60), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            scope.cancel()
            await nursery.start(host.run)

"""What nobody foresaw in one feature costs that feature a pause, and not the agent.

An error that leaves a task of trio ends all tasks beside it, and so the agent. That is right for the store,
the links and liveness: without one of them a node is worse than none. A feature that reads what the store
holds and acts on it is another matter. What it fails of may be a record that somebody wrote, which every
store of the mesh holds, and still holds after a restart: all agents would end of it at once, again and again.

    lasting(run)     a loop: begun anew after a pause, which doubles while it keeps failing
    sparing(task)    something done once: it failed, and the rest goes on

Fit are loops that keep nothing in variables of their own that others count on, and tasks for whose end nobody
waits for ever. Placing, and whatever holds instances, is not: it would go on with half of what it knew. The
first failure of a kind is logged with its traceback, and `doctor` tells how many there were
(`mesh/observe/logs.py`). What is wrong in the configuration still ends the agent, because a person is to read
it; and so does a store that is broken.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mesh.errors import ConfigError, StoreError, StoreFull, leaves, ours, parted
from mesh.observe.logs import UNFORESEEN

PAUSE_S = 1.0
PAUSE_S_MAX = 60.0
CALM_S = 300.0

log = logging.getLogger(__name__)

Run = Callable[..., Awaitable[object]]


async def lasting(run: Run, *args: Any) -> None:
    """Do it until it returns; begun anew when it fails.

    Raises:
        ConfigError, StoreError: the agent cannot go on.
    """
    pause_s, kinds = PAUSE_S, set[str]()
    while True:
        begun = trio.current_time()
        if not await _failed(run, args, kinds):
            return
        if trio.current_time() - begun >= CALM_S:
            pause_s = PAUSE_S
        await trio.sleep(min(PAUSE_S_MAX, pause_s))
        pause_s = min(PAUSE_S_MAX, pause_s) * 2


async def sparing(task: Run, *args: Any) -> None:
    """Do it once; if it fails that is told, and nothing comes out of here. Raises as `lasting`."""
    await _failed(task, args, set())


async def _failed(run: Run, args: tuple[Any, ...], kinds: set[str]) -> bool:
    try:
        await run(*args)
    except BaseException as error:
        failed, ended = parted(error)
        if failed is not None:
            if any(_final(leaf) for leaf in leaves(failed)):
                raise
            _tell(getattr(run, "__qualname__", repr(run)), failed, kinds)
        if ended is not None:
            raise ended from None
        return True
    return False


def _final(error: BaseException) -> bool:
    return isinstance(error, ConfigError | StoreError) and not isinstance(error, StoreFull)


def _tell(name: str, error: Exception, kinds: set[str]) -> None:
    known, kind = ours(error), repr(leaves(error)[0])[:200]
    if known is not None:
        log.error("%s failed: %s", name, known.message)
    elif kind in kinds:
        log.error("%s failed again: %s", name, kind, extra={UNFORESEEN: True})
    else:
        log.error("%s failed", name, exc_info=error)
        if len(kinds) < 100:
            kinds.add(kind)

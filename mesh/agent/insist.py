"""Writes that nobody waits for: said again until the store takes them.

A task that ends with an error ends the agent, and a full disk refuses writes at any moment. So what the agent
writes by itself goes through here: while the disk is full it is tried again now and then, and anything else
that is in its way is told in the log. What is passed must look anew at each try, and may be done twice.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mesh.errors import MeshError, StoreFull

AGAIN_S = 10.0

log = logging.getLogger(__name__)


async def insist(write: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Do it, however often it takes; no error comes out of here."""
    told = False
    while True:
        try:
            await write(*args)
            return
        except StoreFull as error:
            if not told:
                log.warning("waits for room on the disk: %s: %s", _name(write), error.message)
            told = True
        except MeshError as error:
            log.error("%s failed: %s", _name(write), error.message)
            return
        except Exception:
            log.exception("%s failed", _name(write))
            return
        await trio.sleep(AGAIN_S)


async def forgive(write: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Do it once, where it is tried again anyway; no error comes out of here."""
    try:
        await write(*args)
    except MeshError as error:
        log.warning("%s is put off: %s", _name(write), error.message)
    except Exception:
        log.exception("%s is put off", _name(write))


async def attempt(nursery: trio.Nursery, write: Callable[[], Awaitable[object]]) -> None:
    """Do it now; where the disk has no room for it go on without, and insist beside."""
    try:
        await write()
    except StoreFull as error:
        log.warning("waits for room on the disk: %s: %s", _name(write), error.message)
        nursery.start_soon(insist, write)


def _name(write: Callable[..., object]) -> str:
    return getattr(write, "__qualname__", repr(write))

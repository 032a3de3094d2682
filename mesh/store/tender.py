"""Looks after the rows: scrubs all the time, a little, and mends what it or a reader finds damaged."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import lmdb
import trio

from mesh.errors import MeshError
from mesh.store.log import Tables
from mesh.store.mend import drop_row, mend_author
from mesh.store.rows import Damaged
from mesh.store.scrub import STEP_ROWS, Scrub, concerns
from mesh.store.txn import Txn

log = logging.getLogger(__name__)

DAMAGED_MAX = 1000
PAUSE_S_MIN = 0.05
RETRY_S = 60.0


class Tender:
    """One store's.

    Args:
        write: `Store.write`.
        identity: named values that are written again when their rows are damaged.
        interval_s: one round of scrubbing takes about this long; 0: none.

    Attributes:
        damaged: rows found and not yet mended.
        on_damage: called with each row found.
        me: our own aid, if known: our own head survives the loss of its row.
    """

    def __init__(
        self,
        env: lmdb.Environment,
        tables: Tables,
        write: Callable[..., Awaitable[Any]],
        identity: dict[str, bytes],
        interval_s: float,
    ) -> None:
        self._env = env
        self._tables = tables
        self._write = write
        self._identity = identity
        self._interval_s = interval_s
        self._trouble = trio.Event()
        self.damaged: dict[tuple[str, bytes], Damaged] = {}
        self.mended = 0
        self.on_damage: Callable[[Damaged], None] | None = None
        self.me: bytes | None = None

    def note(self, damaged: Damaged) -> None:
        """A damaged row was met; it is mended soon."""
        name = (damaged.table, damaged.key)
        if name in self.damaged or len(self.damaged) >= DAMAGED_MAX:
            return
        self.damaged[name] = damaged
        self._trouble.set()
        if self.on_damage is not None:
            self.on_damage(damaged)

    async def run(self) -> None:
        """Scrub and mend until cancelled."""
        scrub = Scrub(self._env, self._tables, self.note)
        while True:
            with trio.move_on_after(RETRY_S if self.damaged else self._pause_s(scrub)):
                await self._trouble.wait()
            self._trouble = trio.Event()
            if self.damaged:
                await self._try_to_mend()
            else:
                scrub.step()

    def _pause_s(self, scrub: Scrub) -> float:
        if not self._interval_s:
            return math.inf
        return max(PAUSE_S_MIN, self._interval_s * STEP_ROWS / max(scrub.total(), STEP_ROWS))

    async def scrub(self) -> int:
        """Visit every row once, now, and mend; returns the number of damaged rows found.

        Raises:
            MeshError: it could not be mended now.
        """
        found: set[tuple[str, bytes]] = set()

        def note(damaged: Damaged) -> None:
            found.add((damaged.table, damaged.key))
            self.note(damaged)

        scrub = Scrub(self._env, self._tables, note)
        while scrub.rounds == 0:
            scrub.step()
            await trio.lowlevel.checkpoint()
        await self._mend()
        return len(found)

    async def _try_to_mend(self) -> None:
        try:
            await self._mend()
        except MeshError as error:
            log.error("damaged rows wait to be mended: %s", error.message)

    async def _mend(self) -> None:
        """Mend what was noted, author by author."""
        while self.damaged:
            damaged = next(iter(self.damaged.values()))
            whose = concerns(damaged)
            if whose is None:
                await self._write(partial(self._drop_row, damaged), spare=True)
                self.damaged.pop((damaged.table, damaged.key), None)
            else:
                await self._write(partial(self._mend_author, *whose))
                for name in [name for name, noted in self.damaged.items() if concerns(noted) == whose]:
                    del self.damaged[name]
            self.mended += 1

    def _mend_author(self, scope: str, aid: bytes, txn: Txn) -> Any:
        return mend_author(txn, self._tables, scope, aid, self.me)

    def _drop_row(self, damaged: Damaged, txn: Txn) -> None:
        drop_row(txn, self._tables, damaged)
        name = damaged.key.decode("utf-8", "replace")
        if damaged.table == "meta" and name in self._identity:
            txn.put_meta(name, self._identity[name])

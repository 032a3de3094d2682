"""What the store finds wrong with itself or its disk: alarms, and a full disk drains the node.

A node whose disk is full keeps relaying and takes deletes; its lease says `drain`, so that work goes
elsewhere, until there is room again.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.agent.liveness import Vitality
from mesh.core.lease import Status
from mesh.store.store import Damaged, Store

FULL = "disk_full"


class StoreCare:
    """Listens to one node's store.

    Args:
        alarm: called with (kind, aid, text). clear: called with (kind, aid) when it is over.
    """

    def __init__(
        self,
        store: Store,
        me: bytes,
        vitality: Vitality,
        alarm: Callable[[str, bytes, str], None],
        clear: Callable[[str, bytes], None],
    ) -> None:
        self._me = me
        self._vitality = vitality
        self._alarm = alarm
        self._clear = clear
        store.tender.me = me
        store.tender.on_damage = self._damaged
        store.on_full = self._full

    def tell_opened(self, store: Store) -> None:
        """Say what was found when the store was opened."""
        opened = store.opened
        if opened.damaged:
            text = f"the store was damaged ({opened.damaged}); it is kept at {opened.put_aside}"
            self._alarm("store_damaged", self._me, text + ", and the members fill a new one")
        if opened.restored:
            self._alarm("store_restored", self._me, "a backup was put in place of the store")

    def _damaged(self, error: Damaged) -> None:
        self._alarm(
            "row_damaged", self._me, f"a row of table {error.table} is damaged; it is mended from members"
        )

    def _full(self, full: bool) -> None:
        if full:
            self._alarm(FULL, self._me, "the disk is full: only deletes are taken; free some space")
            if self._vitality.status[0] == Status.UP:
                self._vitality.set_status(Status.DRAIN)
        else:
            self._clear(FULL, self._me)
            if self._vitality.status[0] == Status.DRAIN:
                self._vitality.set_status(Status.UP)

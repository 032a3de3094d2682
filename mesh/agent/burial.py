"""What a node does about a removed author's slots: says what must be said first, then drops them.

See `core/collect.py` for why: what the removed author had decided stays decided, and nothing that it had
replaced or deleted comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mesh.core.collect import Statement, drop_removed, voids_before_drop
from mesh.core.judgement import Verdict
from mesh.core.log import Log
from mesh.core.record import MESH, ZONE, Record, SlotKey
from mesh.core.removal import on_learning
from mesh.store.store import Txn

if TYPE_CHECKING:
    from mesh.agent.node import Node


async def bury(node: Node, gone: bytes) -> None:
    """Drop a removed author everywhere; an admin speaks for it first. May be called again."""
    admin = node.directory.limits(gone).admin

    def counts(rec: Record) -> bool:
        return node.view.counted(rec, gone)

    def speak(slots: Log) -> Sequence[Statement]:
        may_speak = node.is_admin and node.directory.verdict(gone) is Verdict.REMOVED
        return on_learning(slots, node.me, gone, node.now_ms(), counts, admin=may_speak)

    def take_back(slots: Log) -> Sequence[Statement]:
        return voids_before_drop(slots, node.me, gone, counts)

    def drop(txn: Txn, scope: str) -> list[SlotKey]:
        return drop_removed(txn.log(scope), gone, admin=admin)

    for scope in (MESH, ZONE):
        await node.author.say(scope, speak, raw=True)
        await node.author.say(scope, take_back, raw=True)
        await node.store.write(partial(drop, scope=scope), spare=True)
    node.store.live.drop_author(gone)
    node.spread.author_gone(gone)

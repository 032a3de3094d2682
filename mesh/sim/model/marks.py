"""What a head and a floor claim, held against the author's own log while the run goes on.

A head says: everything of this author up to here is held. A floor says: what the author had collected up to
here is gone. Comparing listings, and the author itself, mend what does not fit, so at the end of a run it is
no longer to be seen; until then a reader sees a value that its author replaced or deleted long ago.

Nothing is demanded where marks may be wrong without anybody's mistake: while a bad relay is about, and of
authors that were set back to a backup, had their clock set right, were removed, or go over their quota. But
also with a bad relay no replica drops in a reset what lies above the floor that its author said.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.core.floors import collected, is_gc
from mesh.core.log import Log
from mesh.core.record import Kind, Record
from mesh.sim.model.node import Node
from mesh.sim.model.replica import KEPT_SCOPES
from mesh.sim.model.world import World


def broken(world: World) -> str | None:
    """The first mark of a replica that claims too much; None when all are honest."""
    if world.lies or world.robbed:
        return world.robbed
    for node in world.nodes:
        for scope in KEPT_SCOPES if node.alive else ():
            for aid, _ in node.logs[scope].authors():
                author = world.nodes[world.index_of[aid]]
                if author is node or aid in node.removed or _excused(world, author):
                    continue
                for what, rec in _wrong(node.logs[scope], author.logs[scope], aid):
                    where = f"at {node.index} in {node.place(scope)}"
                    return f"{what} {where}: {rec.path} @{rec.hlc} of {author.index}"
    return None


def _excused(world: World, author: Node) -> bool:
    return author.index in world.rewritten or author.index in world.tainted or author.index == world.liar


def _wrong(log: Log, own: Log, aid: bytes) -> Iterator[tuple[str, Record]]:
    state = log.author(aid)
    level = own.author(aid).floor == state.floor
    for rec in own.since(aid, 0):
        if rec.hlc > state.head:
            break
        held = log.get(rec.slot)
        if rec.kind != Kind.LOG and not is_gc(rec) and (held is None or held.hlc < rec.hlc):
            yield f"a head claims what is not held ({state.head})", rec
    for rec in log.since(aid, 0) if level else ():
        if rec.hlc > state.floor:
            break
        if rec.kind != Kind.LOG and not collected(rec, state.floor) and own.get(rec.slot) is None:
            yield f"a floor claims to have collected what is held ({state.floor})", rec

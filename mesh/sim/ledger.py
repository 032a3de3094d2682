"""The account of what was acknowledged, and of what may be missing because nothing could have saved it.

The oracle is `sim/model/truth.py`: every acknowledged write with all that its writer had seen. A write is
acknowledged when its commit is done (a broken part may do it before). What only one store knew is forgiven
when that store is lost or set back; what a node itself forgot it may replace unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core.record import MESH, Kind, Op, Record, SlotKey
from mesh.sim.model.truth import Event, Place, Truth

if TYPE_CHECKING:
    from mesh.sim.disk import Disk
    from mesh.sim.node import Node

PREFIX = "kv/"


def place_of(node: Node, scope: str) -> str:
    """The scope with its zone."""
    return scope if scope == MESH else scope + node.place.zone


class Ledger:
    """What users were told is safe."""

    def __init__(self) -> None:
        self.truth = Truth()
        self.acknowledged = 0
        self._forgotten: dict[tuple[int, Place], int] = {}

    def number(self) -> int:
        """The value of the next write: its number."""
        return len(self.truth.events)

    def said(self, node: Node, scope: str, rec: Record, *, again: bool) -> None:
        """A node is about to store an own statement."""
        if not rec.path.startswith(PREFIX):
            return
        place = (place_of(node, scope), rec.path, rec.kind)
        log = node.disk.logs[scope]
        if rec.op == Op.VOID:
            mine = log.get(SlotKey(rec.path, rec.kind, node.aid))
            event = self.truth.of(place[0], mine) if mine is not None else None
            seen = 0 if mine is None or event is None else self.truth.closure(place[0], [mine], rec.kind)
            self.truth.new(place, rec, seen)
        elif again:
            event = self._again(node, scope, place, rec)
            if event is not None:
                self.truth.same(place, rec, event)
        else:
            self._new(node, scope, place, rec)

    def _new(self, node: Node, scope: str, place: Place, rec: Record) -> None:
        slots = list(node.disk.logs[scope].slots(rec.path)) if rec.kind != Kind.LOG else []
        seen = self.truth.closure(place[0], slots, rec.kind)
        self.truth.new(place, rec, seen)
        self.truth.forgive(place, self._forgotten.get((node.number, place), 0) & ~seen)
        self.acknowledged += 1

    def _again(self, node: Node, scope: str, place: Place, rec: Record) -> Event | None:
        if rec.op == Op.PUT and isinstance(rec.val, int):
            return self.truth.at(place, rec.stamp, rec.val)
        mine = node.disk.logs[scope].get(SlotKey(rec.path, rec.kind, node.aid))
        return self.truth.of(place[0], mine) if mine is not None else self.truth.at(place, rec.stamp, None)

    def losing(self, node: Node, left: Disk | None, others: list[Node]) -> None:
        """A store is about to be lost, or set back to `left`."""
        for scope, log in node.disk.logs.items():
            zone = place_of(node, scope)
            disks = [o.disk for o in others if o is not node and place_of(o, scope) == zone]
            for path in log.paths(PREFIX):
                for kind in sorted({rec.kind for rec in log.slots(path)}):
                    mine = self.truth.closure(zone, log.slots(path), kind)
                    kept = 0
                    for disk in (*disks, *([left] if left is not None else [])):
                        kept |= self.truth.closure(zone, disk.logs[scope].slots(path), kind)
                    place = (zone, path, kind)
                    self.truth.forgive(place, mine & ~kept)
                    own = sum(e.bit for e in self.truth.places.get(place, ()) if e.aid == node.aid)
                    back = self.truth.closure(zone, left.logs[scope].slots(path), kind) if left else 0
                    key = (node.number, place)
                    self._forgotten[key] = self._forgotten.get(key, 0) | (own & mine & ~back)

    def rewound(self, node: Node, scope: str, top: int) -> None:
        """A node takes back stamps above `top`: what its own later writes had replaced is not said again."""
        place = place_of(node, scope)
        for key, events in self.truth.places.items():
            if key[0] == place:
                for event in events:
                    seen = any(later.seen & event.bit for later in events)
                    if event.aid == node.aid and event.stamp > top and seen:
                        event.optional = event.exempt = True

    def problems(self, node: Node, scope: str) -> list[str]:
        """What is wrong with what a node shows."""
        log = node.disk.logs[scope]
        paths = {path: list(log.slots(path)) for path in log.paths(PREFIX)}
        return self.truth.problems(place_of(node, scope), paths, node.now_ms())

"""Between zones: the first gateway of a zone tells the whole mesh how its members are.

The same rule as in a real agent (`agent/summary.py`): one record per gateway at `zone/<zone>` in scope mesh,
at most every EVERY_S and only when something changed; readers take the newest word about a zone's members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mesh.core.collect import Statement
from mesh.core.log import Log
from mesh.core.record import MESH, Kind, Op, Record
from mesh.core.vitals import RemoteReported, State, StateChanged

if TYPE_CHECKING:
    from mesh.sim.node import Node

PREFIX = "zone/"
EVERY_S = 2.0
STATES = {str(state): state for state in State}


class Summary:
    """The organ that speaks for its zone, if its node is the first gateway, and hears the others."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._path = PREFIX + node.place.zone
        self._due = node.fleet.world.now + EVERY_S
        self._said_at = float("-inf")
        for path in list(node.disk.logs[MESH].paths(PREFIX)):
            node.later(0.0, lambda path=path: self._read(path))  # type: ignore[misc]

    def deadline(self) -> float:
        """When to look again whether the zone has changed."""
        return self._due

    def changed(self, change: StateChanged) -> None:
        """A member's state changed in our view."""
        self._stir()

    def _stir(self) -> None:
        if self._due == float("inf"):
            self._due = max(self._node.fleet.world.now, self._said_at + EVERY_S)

    def tick(self, now: float) -> None:
        """Say how the zone is, if it is ours to do."""
        self._due = float("inf")
        if self._ours() and self._node.replica is not None:
            self._said_at = now
            self._node.replica.say(MESH, self._statement)

    def _ours(self) -> bool:
        node, machine = self._node, self._node.machine
        if machine is None:
            return False
        ranked = machine.board.gateways(node.place.zone)
        alive = [aid for aid in ranked if aid == node.aid or machine.state(aid) == State.ALIVE]
        return bool(alive) and alive[0] == node.aid

    def _statement(self, log: Log) -> list[Statement]:
        machine, mine = self._node.machine, self._node.aid
        if machine is None:
            return []
        members = [member for member in machine.board if member.place.zone == self._node.place.zone]
        states = {m.aid: "alive" if m.aid == mine else str(m.state) for m in members}
        value = {"states": dict(sorted(states.items()))}
        newest = max(
            (r for r in log.slots(self._path) if r.op == Op.PUT), key=lambda r: r.order, default=None
        )
        known = self._node.fleet.words.get(self._node.place.zone) if newest is None else newest.val
        return [] if known == value else [Statement(self._path, Kind.ALL, value)]

    def stored(self, scope: str, records: list[Record]) -> None:
        """The word of another zone came."""
        if scope == MESH:
            if any(rec.path == self._path and rec.aid != self._node.aid for rec in records):
                self._stir()  # what another gateway said of our zone may have to be set right
            paths = {rec.path for rec in records if rec.path.startswith(PREFIX) and rec.path != self._path}
            for path in sorted(paths):
                self._read(path)

    def _read(self, path: str) -> None:
        words = [rec for rec in self._node.disk.logs[MESH].slots(path) if rec.op == Op.PUT]
        if words and path != self._path:
            self._node.fleet.remote(self._node, _states(self.choose(words).val))

    def choose(self, words: Sequence[Record]) -> Record:
        """Which of several gateways' words about their zone counts."""
        return max(words, key=lambda rec: rec.order)


def _states(value: Any) -> list[RemoteReported]:
    states = value.get("states", {}) if isinstance(value, dict) else {}
    return [RemoteReported(aid, STATES[state]) for aid, state in states.items() if state in STATES]

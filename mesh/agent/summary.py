"""Between zones: the gateways of a zone tell the whole mesh how its members are.

One record per gateway at `zone/<zone>` in scope mesh, {states: {aid: state}}. The gateway that ranks first
among those alive says it, at most every EVERY_S and only when something changed; the others hold theirs
back. Readers in other zones take the newest word of a member of that zone. So a member's lease and the
accusations against it stay inside its zone, and the mesh pays one small write per change.
"""

from __future__ import annotations

from typing import Any

import trio

from mesh.agent.author import Statement
from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.core import vitals
from mesh.core.log import Log
from mesh.core.record import AID_BYTES, MESH, Kind, Op, Record
from mesh.store.store import Change

PREFIX = "zone/"
EVERY_S = 2.0
MEMBERS_MAX = 2000
STATES = {str(state): state for state in vitals.State}


class Summary:
    """The word of our zone, if we are its first gateway, and the words of the others."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._path = PREFIX + node.zone
        self._moved = trio.Event()
        node.on_state.append(lambda _: self._moved.set())
        node.on_members.append(lambda joined, gone: self._moved.set())
        node.store.add_listener(self._changed, user_data=False)

    async def run(self) -> None:
        """Speak for the zone while it is ours to do, until cancelled."""
        self._read_all()
        while True:
            self._moved = trio.Event()
            if self.ours():
                await insist(self._say)
            await trio.sleep(EVERY_S)
            await self._moved.wait()
            self._read_all()

    def ours(self) -> bool:
        """Whether we are the first gateway of our zone, in a mesh of several zones."""
        node, machine = self._node, self._node.vitality.machine
        zones = {cert.zone for aid in node.directory.members() if (cert := node.directory.certificate(aid))}
        if len(zones) < 2:
            return False
        ranked = machine.board.gateways(node.zone)
        alive = [aid for aid in ranked if aid == node.me or machine.state(aid) == vitals.State.ALIVE]
        return bool(alive) and alive[0] == node.me

    async def _say(self) -> None:
        node = self._node
        states = {}
        for aid in node.directory.members()[:MEMBERS_MAX]:
            cert = node.directory.certificate(aid)
            if cert is not None and cert.zone == node.zone:
                state = "alive" if aid == node.me else str(node.vitality.machine.state(aid) or "registering")
                states[aid] = state
        value = {"states": states}

        def build(slots: Log) -> list[Statement]:
            newest = self._newest(slots, self._path, node.zone)
            if newest is not None and newest.val == value:
                return []
            return [Statement(self._path, Kind.ALL, value)]

        await node.author.say(MESH, build)

    # -- reading ----------------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        paths = {change.path for change in changes if change.scope == MESH and change.path.startswith(PREFIX)}
        if self._path in paths:
            self._moved.set()  # what another gateway said of our zone may have to be set right
        for path in sorted(paths):
            self._read(path)

    def _read_all(self) -> None:
        with self._node.store.read(MESH) as slots:
            paths = list(slots.paths(PREFIX))
        for path in paths:
            self._read(path)

    def _read(self, path: str) -> None:
        zone, node = path.removeprefix(PREFIX), self._node
        if zone == node.zone:  # another gateway spoke for us: ours may have to be said again
            self._moved.set()
            return
        with node.store.read(MESH) as slots:
            newest = self._newest(slots, path, zone)
        if newest is not None:
            for aid, state in _states(newest.val):
                if self._of(aid, zone) and node.vitality.machine.board.is_news(aid, state):
                    node.vitality.drive.handle(vitals.RemoteReported(aid, state))

    def _newest(self, slots: Log, path: str, zone: str) -> Record | None:
        """The word that counts: also that of a gateway that spoke before us, while we were away."""
        words = (rec for rec in slots.slots(path) if rec.op == Op.PUT and self._of(rec.aid, zone))
        return max(words, key=lambda rec: rec.order, default=None)

    def _of(self, aid: bytes, zone: str) -> bool:
        cert = self._node.directory.certificate(aid)
        return cert is not None and cert.zone == zone


def _states(value: Any) -> list[tuple[bytes, vitals.State]]:
    states = value.get("states") if isinstance(value, dict) else None
    if not isinstance(states, dict) or len(states) > MEMBERS_MAX:
        return []
    return [
        (aid, STATES[state])
        for aid, state in sorted(states.items())
        if isinstance(aid, bytes) and len(aid) == AID_BYTES and isinstance(state, str) and state in STATES
    ]

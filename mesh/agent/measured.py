"""What instances take and how they fare, asked of the nodes that run them: claims do not carry it.

Each node answers `sys/instances` for one workload, to members that may request `workload/<name>`. Who asks
waits a short while for all at once; a node that does not answer leaves its rows without figures.
"""

from __future__ import annotations

from typing import Any

import trio

from mesh.agent.calls import Calls
from mesh.agent.callstream import Call
from mesh.agent.instances import Status
from mesh.agent.peers import Peers
from mesh.agent.supervisor import Supervisor
from mesh.core.policy import REQUEST
from mesh.errors import Denied, MeshError, PeerError
from mesh.identity.keys import peer_id_of, public_of

Json = dict[str, Any]
METHOD = "sys/instances"
RIGHT = "workload/"
WAIT_S = 2.0
ROWS_MAX = 1000
AT_ONCE_MAX = 64
FIELDS = ("message", "starts", "ends", "cpu_cores", "memory_bytes", "processes", "storage_bytes", "notes")


class Measured:
    """Asks for and answers with the figures of instances."""

    def __init__(self, supervisor: Supervisor, calls: Calls, peers: Peers) -> None:
        self._supervisor = supervisor
        self._calls = calls
        self._peers = peers
        calls.handle(METHOD, self._serve)

    async def add(self, name: str, rows: list[Json]) -> list[Json]:
        """The rows of a workload's instances, each with `measured`: a dict of FIELDS, or None."""
        found: dict[tuple[str, str], Json] = {}
        nodes = sorted({str(row["node"]) for row in rows if row["node"]})
        slots = trio.CapacityLimiter(AT_ONCE_MAX)
        with trio.move_on_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(self._ask, node, name, found, slots)
        return [{**row, "measured": found.get((str(row["node"]), row["instance"]))} for row in rows]

    async def _ask(
        self, node: str, name: str, found: dict[tuple[str, str], Json], slots: trio.CapacityLimiter
    ) -> None:
        public = public_of(node)
        if public[:16] not in self._peers.present():
            return
        async with slots:
            try:
                answer = await self._calls.request(public, METHOD, {"name": name}, deadline_s=WAIT_S)
            except MeshError:
                return
        for row in answer if isinstance(answer, list) else ():
            if isinstance(row, dict) and isinstance(row.get("instance"), str):
                found[node, row["instance"]] = _read(row)

    async def _serve(self, call: Call) -> list[Json]:
        match call.body:
            case {"name": str(name)}:
                pass
            case _:
                raise PeerError("a request for instances that cannot be read")
        if not self._peers.may(call.public[:16], REQUEST, RIGHT + name):
            raise Denied(f"{peer_id_of(call.public)} may not request {RIGHT}{name[:80]}")
        states = [status for status in self._supervisor.states() if status.workload == name]
        return [_row(status) for status in states[:ROWS_MAX]]


def _row(status: Status) -> Json:
    usage = status.usage
    return {
        "instance": status.instance,
        "message": status.message,
        "starts": status.starts,
        "ends": status.ends,
        "cpu_cores": status.cpu_cores,
        "memory_bytes": usage.memory_bytes,
        "processes": usage.processes,
        "storage_bytes": usage.storage_bytes,
        "notes": list(status.notes),
    }


def _read(row: Json) -> Json:
    """A peer's figures; what is of another type is not known."""
    notes = row.get("notes")
    return {
        "message": str(row.get("message") or "")[:500],
        **{name: value if _number(value := row.get(name)) else None for name in FIELDS[1:-1]},
        "notes": [str(note)[:200] for note in notes[:8]] if isinstance(notes, list) else [],
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

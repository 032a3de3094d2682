"""The ports of the instances that run here: chosen once, and kept across restarts of the agent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.agent.launching import choose_ports, seat_named
from mesh.agent.node import Node
from mesh.core.claims import Seat
from mesh.core.workload import Workload
from mesh.errors import PeerError
from mesh.store.store import Txn
from mesh.wire import codec

META = "workload_ports"


class Ports:
    """See the module."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._held = self._load()

    def of(self, seat: Seat, workload: Workload) -> tuple[Mapping[str, int], bool]:
        """The number of each named port of an instance, and whether that is news to be kept."""
        held, names = self._held.get(seat, {}), {port.name for port in workload.ports}
        if held.keys() == names and all(port.port in (0, held[port.name]) for port in workload.ports):
            return held, False
        settings = self._node.config.workloads
        others = [found for other, found in self._held.items() if other != seat]
        taken = {number for found in others for number in found.values()}
        found = choose_ports(seat, workload, held, taken, settings.port_first, settings.port_last)
        self._held[seat] = found
        return found, True

    async def keep(self, seats: Iterable[Seat]) -> None:
        """Remember those of these instances, and forget the others."""
        chosen = set(seats)
        self._held = {seat: ports for seat, ports in self._held.items() if seat in chosen}
        packed = codec.encode({str(seat): ports for seat, ports in self._held.items()})

        def job(txn: Txn) -> None:
            txn.put_meta(META, packed)

        await self._node.store.write(job, spare=True)

    def _load(self) -> dict[Seat, dict[str, int]]:
        packed = self._node.store.meta(META)
        try:
            held = codec.decode(packed) if packed is not None else {}
            return {seat: dict(ports) for name, ports in held.items() if (seat := seat_named(name))}
        except (PeerError, TypeError, ValueError, AttributeError):
            return {}  # damaged: other ports are chosen

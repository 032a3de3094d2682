"""What a node runs, and of each instance whether a drain moves it, and what it waits for.

Everybody can tell this from claims. A node that is drained says so in its offer; before that it has not heard
the order yet, and may still take something. Then its claims become `drain`, each until the instance runs
elsewhere or for 30 s (`core/placing.py`), and go when the instance has stopped. What is pinned, or has one on
each node, stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.agent.table import Table
from mesh.agent.words import iso
from mesh.core.claims import Claim, Seat, Stage
from mesh.core.holding import stays
from mesh.core.seating import OCCUPYING, Seating

Json = dict[str, Any]


class Emptying:
    """See the module.

    Args:
        stage: the word for how far a node is with a claim.
        nobody: why no node at all can run a workload, or "".
        dyed: a seat as people see it.
    """

    def __init__(
        self,
        table: Table,
        seats: Callable[[], Seating],
        stage: Callable[[bytes, Claim], str],
        nobody: Callable[[str], str],
        dyed: Callable[[Seat], Seat],
    ) -> None:
        self._table = table
        self._seats = seats
        self._stage = stage
        self._nobody = nobody
        self._dyed = dyed

    def work(self, aid: bytes) -> Json:
        """`shapes.NodeWork`."""
        seats = self._seats()
        node, node_name = self._table.who(aid)
        held = [(seat, by[aid]) for seat, by in seats.claims.items() if aid in by]
        site = seats.sites.get(aid)
        return {
            "node": node,
            "node_name": node_name,
            "state": seats.standing(aid),
            "offer": site.offer.st if site is not None else "away",
            "instances": [
                self._row(seat, aid, claim) for seat, claim in sorted(held) if claim.st in OCCUPYING
            ],
        }

    def _row(self, seat: Seat, aid: bytes, claim: Claim) -> Json:
        spec = self._seats().specs.get(seat.name)
        kept = ""
        if spec is not None and stays(spec):
            kept = "one runs on each node" if spec.workload.each else "it is pinned to this node"
        return {
            "instance": str(self._dyed(seat)),
            "workload": seat.name,
            "state": self._stage(aid, claim),
            "since": iso(claim.since_ms),
            "stays": bool(kept),
            "why": kept or ("its workload is deleted" if spec is None else self._waits(seat, aid, claim)),
        }

    def _waits(self, seat: Seat, aid: bytes, claim: Claim) -> str:
        """What keeps it there."""
        seats = self._seats()
        if seats.standing(aid) != "alive":
            return f"its node is {seats.standing(aid)}: nobody can say whether it still runs there"
        if claim.st != Stage.DRAIN:
            return claim.why
        others = [(other, said) for other, said in seats.claims.get(seat, {}).items() if other != aid]
        for other, said in sorted(others):
            name = self._table.name_of(other)
            if said.st in OCCUPYING and seats.runs(other, said):
                return f"stops: {name} runs it now"
            if said.st in OCCUPYING:
                return f"waits for {name} to start it" + (f": {said.why}" if said.why else "")
        if nobody := self._nobody(seat.name):
            return f"stops in the end: {nobody}"
        return "waits for another node to take it"

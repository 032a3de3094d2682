"""What a simulated agent is made of, so that a broken part can be switched in by name.

Every field is a machine or a rule of the real code; `mutants.py` replaces one and demands to be caught.
`organs` are further machines (placement, rollouts, quorum ...) that stand on records and states: each gets a
new instance with every life of a node. An organ sees what is stored and whose state changed, is ticked at its
own deadline, and speaks through `node.replica.say`; the zone summary (`summary.py`) is the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from mesh.core import sync
from mesh.core.collect import Collector
from mesh.core.dissemination import Dissemination
from mesh.core.liveness import Liveness
from mesh.core.receive import Judge, Outcome
from mesh.core.record import Record
from mesh.core.vitals import StateChanged
from mesh.sim.reads import Reads

if TYPE_CHECKING:
    from mesh.sim.node import Node


class Organ(Protocol):
    """One further machine of a node, with its small shell."""

    def stored(self, scope: str, records: list[Record]) -> None:
        """Records were committed here, our own included."""

    def changed(self, change: StateChanged) -> None:
        """A member's state changed in our view."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def deadline(self) -> float:
        """When `tick` is next wanted."""


OrganBuilder: TypeAlias = Callable[["Node"], Organ]


class Parts(msgspec.Struct, frozen=True):
    """The rules a simulated mesh plays by; all true as they stand.

    Attributes:
        judge: how deltas are received; None for the real one of each scope.
        fenced: a store that was set back asks for its own log before it is trusted.
        answers_strays: an author voids what it had collected and a peer still offers.
        commits_first: a write is acknowledged after its commit.
        keeps_incarnation, keeps_ceiling: what a restart finds on its disk.
        takes_back: a clock found ahead takes its future back (`core/rewind.py`).
        verifies: signatures are looked at.
        patient: who was refused records waits before it asks for them again.
        heeds_streams: nothing is sent into a stream that takes no more.
        receive: `sync.receive`. reads: what users are answered.
    """

    liveness: type[Liveness] = Liveness
    dissemination: type[Dissemination] = Dissemination
    judge: Judge | None = None
    receive: Callable[..., Outcome] = sync.receive
    collector: type[Collector] = Collector
    reads: type[Reads] = Reads
    organs: tuple[OrganBuilder, ...] = ()
    fenced: bool = True
    answers_strays: bool = True
    commits_first: bool = True
    keeps_incarnation: bool = True
    keeps_ceiling: bool = True
    takes_back: bool = True
    verifies: bool = True
    heeds_streams: bool = True
    patient: bool = True

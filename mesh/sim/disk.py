"""What a simulated node remembers: logs in RAM that lose what was not committed, and break no rule unseen.

A commit is an event of its own: jobs wait in line, a local one for the time of an fsync, a remote one up to a
short linger, and all run at once when it comes. A process that dies loses what still waits, as a store does
whose transaction never ended; what was committed stays. A disk may be lost, or set back to an earlier image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from mesh.core.fence import Fence
from mesh.core.memory import MemoryLog
from mesh.core.record import LIVE, MESH, ZONE, Record, SlotKey
from mesh.sim import collection
from mesh.sim.checks import Checks

FSYNC_S = 0.0005
LINGER_S = 0.02
DURABLE = (MESH, ZONE)
Job: TypeAlias = Callable[[], Callable[[], None] | None]


class CheckedLog(MemoryLog):
    """A log in RAM that holds every change against what the authors have really said.

    Args:
        number: of the node, `owner` its id. tag: of the scope, as it is signed.

    Attributes:
        taking_back: the clock was wrong: what lies in the future is dropped, whoever said it.
    """

    def __init__(self, checks: Checks, number: int, scope: str, tag: bytes, owner: bytes) -> None:
        super().__init__(fingerprints=scope != LIVE)
        self._checks, self._number, self._tag = checks, number, tag
        self._live = scope == LIVE
        self.owner = owner
        self.taking_back = False

    def _replace(self, slot: SlotKey, old: Record | None, record: Record) -> None:
        self._checks.stored(self._number, old, record)
        super()._replace(slot, old, record)

    def drop(self, slot: SlotKey) -> None:
        held = self.get(slot)
        if held is not None and not (self.taking_back or self._live or self.owner == held.aid):
            collection.dropped(self._checks, self._number, self._tag, held)
        super().drop(slot)

    def set_marks(self, aid: bytes, *, head: int, floor: int) -> None:
        self._checks.marked(self._number, self._tag, aid, head, floor)
        super().set_marks(aid, head=head, floor=floor)

    def clone(self) -> CheckedLog:
        """An independent copy."""
        twin = copy.copy(self)
        MemoryLog.__init__(twin, fingerprints=self._fingerprints)
        for aid, state in self.authors():
            for rec in self.since(aid, 0):
                MemoryLog._replace(twin, rec.slot, None, rec)
            MemoryLog.set_marks(twin, aid, head=state.head, floor=state.floor)
        return twin


class Disk(msgspec.Struct):
    """What survives a process.

    Attributes:
        incarnation: persisted before it is used.
        ceiling: no stamp above it was ever issued.
    """

    logs: dict[str, CheckedLog]
    incarnation: int = 0
    ceiling: int = 0
    fences: dict[str, Fence] = {}

    def image(self) -> Disk:
        """A backup."""
        logs = {scope: log.clone() for scope, log in self.logs.items()}
        return Disk(logs, self.incarnation, self.ceiling, copy.deepcopy(self.fences))

    @staticmethod
    def empty(checks: Checks, number: int, owner: bytes, tags: dict[str, bytes]) -> Disk:
        """A new disk."""
        return Disk({scope: CheckedLog(checks, number, scope, tags[scope], owner) for scope in DURABLE})


class Writer:
    """The one writer of a process.

    Args:
        later: runs a call after so many seconds, if the process still lives.
    """

    def __init__(self, later: Callable[[float, Callable[[], None]], None]) -> None:
        self._later = later
        self._waiting: list[Job] = []
        self._lingering = False

    def submit(self, job: Job, *, linger: bool = False) -> None:
        """Put a job in line; what it returns is called after the commit."""
        self._waiting.append(job)
        if not linger:
            self._later(FSYNC_S, self._commit)
        elif not self._lingering:
            self._lingering = True
            self._later(LINGER_S, self._commit)

    def _commit(self) -> None:
        self._lingering = False
        jobs, self._waiting = self._waiting, []
        for after in [job() for job in jobs]:
            if after is not None:
                after()

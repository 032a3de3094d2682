"""Notices one key in two places, tells everyone what can be proved, and alarms about the rest.

A clash of two records under one stamp is proof (`core/forks.py`): it is published, and every node puts the
key in quarantine. Leases whose incarnation falls again and again, links that come from now one process, now
another, and records under our own key that we did not write, are signs of a clone that only we saw: an alarm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from mesh.agent.author import Author, Statement
from mesh.core import forks
from mesh.core.evidence import FORK, path_of
from mesh.core.log import Log
from mesh.core.record import MESH, Kind, Record, scope_tag

OWN_WINDOW_S = 30.0
OWN_TIMES = 4
CLONE = "clone"
TEXT = "its key is in use by two processes: stop one, or `meshctl cert revoke` it and join both anew"


class Forks:
    """Clone detection of one node.

    Args:
        alarm: called with (kind, aid, text).
        public_of: public key of an author.
    """

    def __init__(
        self,
        author: Author,
        zone: str,
        public_of: Callable[[bytes], bytes | None],
        alarm: Callable[[str, bytes, str], None],
    ) -> None:
        self._author = author
        self._zone = zone
        self._public_of = public_of
        self._alarm = alarm
        self._watch = forks.CloneWatch()
        self._told: set[bytes] = set()
        self._cloned_told: set[bytes] = set()
        self._own: deque[float] = deque(maxlen=OWN_TIMES)

    def lease(self, aid: bytes, hlc: int, incarnation: int) -> None:
        """A lease of another node arrived."""
        if self._watch.heard(aid, hlc, incarnation):
            self._cloned(aid)

    def link(self, aid: bytes, life: bytes) -> None:
        """A link with another node came up, and its hello named its process."""
        if self._watch.met(aid, life):
            self._cloned(aid)

    def own_lease(self) -> bool:
        """A live record under our own key that we did not write; returns whether to say ours again.

        Once is a restart of ours that a neighbour remembers. Again and again is somebody else.
        """
        now = trio.current_time()
        self._own.append(now)
        if len(self._own) == OWN_TIMES and now - self._own[0] < OWN_WINDOW_S:
            self._alarm(CLONE, self._author.aid, TEXT)
            return False
        return True

    def _cloned(self, aid: bytes) -> None:
        if aid not in self._cloned_told:
            self._cloned_told.add(aid)
            self._alarm(CLONE, aid, TEXT)

    async def clash(self, scope: str, one: Record, other: Record) -> None:
        """Two records of one author under one stamp: publish the proof, once per author."""
        aid, public = one.aid, self._public_of(one.aid)
        value = None if public is None else forks.proof(public, scope_tag(scope, self._zone), one, other)
        self._alarm("equivocation", aid, "two records under one stamp: " + TEXT)
        if value is None or aid in self._told:
            return
        path = path_of(FORK, aid)

        def build(slots: Log) -> list[Statement]:
            known = any(rec.aid == self._author.aid for rec in slots.slots(path))
            return [] if known else [Statement(path, Kind.ALL, value)]

        await self._author.say(MESH, build)
        self._told.add(aid)

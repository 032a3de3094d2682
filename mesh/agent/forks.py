"""Notices one key in two places, tells everyone what can be proved, and alarms about the rest.

A clash of two records under one stamp is proof (`core/forks.py`): it is published, and every node puts the
key in quarantine. Leases whose incarnation falls again and again, links that come from now one process, now
another, and records under our own key that we did not write, are signs of a clone that only we saw: an alarm,
which ends CLEAR_S after the last sign.
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

OWN_WINDOW_S = 120.0
OWN_TIMES = 4
CLEAR_S = 300.0
CLONE = "clone"
EQUIVOCATION = "equivocation"
TEXT = "its key is in use by two processes: stop one, or `meshctl cert revoke` it and join both anew"
ENDS = f"; this ends {CLEAR_S / 60:g} minutes after the second was last noticed"


class Forks:
    """Clone detection of one node.

    Args:
        alarm: called with (kind, aid, text).
        clear: called with (kind, aid) of an alarm that is over.
        public_of: public key of an author.
    """

    def __init__(
        self,
        author: Author,
        zone: str,
        public_of: Callable[[bytes], bytes | None],
        alarm: Callable[[str, bytes, str], None],
        clear: Callable[[str, bytes], None],
    ) -> None:
        self._author = author
        self._zone = zone
        self._public_of = public_of
        self._alarm = alarm
        self._clear = clear
        self._watch = forks.CloneWatch()
        self._told: set[bytes] = set()
        self._cloned_at: dict[bytes, float] = {}
        self._own: deque[float] = deque(maxlen=OWN_TIMES)
        self._own_newest = 0

    def lease(self, aid: bytes, hlc: int, incarnation: int) -> None:
        """A lease of another node arrived."""
        if self._watch.heard(aid, hlc, incarnation):
            self._cloned(aid)

    def link(self, aid: bytes, life: bytes) -> None:
        """A link with another node came up, and its hello named its process."""
        if self._watch.met(aid, life):
            self._cloned(aid)

    def own_lease(self, hlc: int) -> bool:
        """A live record under our own key that we did not write; returns whether to say ours again.

        Once is a restart of ours that neighbours remember. Newer and newer ones are somebody else's.

        Args:
            hlc: the record's stamp.
        """
        now, me = trio.current_time(), self._author.aid
        if hlc > self._own_newest:
            self._own_newest = hlc
            self._own.append(now)
        if len(self._own) == OWN_TIMES and now - self._own[0] < OWN_WINDOW_S:
            self._cloned(me)
        return now >= self._cloned_at.get(me, -OWN_WINDOW_S) + OWN_WINDOW_S

    def _cloned(self, aid: bytes) -> None:
        if aid not in self._cloned_at:
            self._alarm(CLONE, aid, TEXT + ENDS)
        self._cloned_at[aid] = trio.current_time()

    def tick(self, now: float) -> None:
        """Alarms end whose signs have."""
        over = [aid for aid, at in self._cloned_at.items() if now >= at + CLEAR_S]
        for aid in over:
            self._watch.forget(aid)
            del self._cloned_at[aid]
            self._clear(CLONE, aid)

    def forget(self, aid: bytes) -> None:
        """The key was removed."""
        self._watch.forget(aid)
        self._cloned_at.pop(aid, None)
        self._clear(CLONE, aid)
        self._clear(EQUIVOCATION, aid)

    async def clash(self, scope: str, one: Record, other: Record) -> None:
        """Two records of one author under one stamp: publish the proof, once per author."""
        aid, public = one.aid, self._public_of(one.aid)
        value = None if public is None else forks.proof(public, scope_tag(scope, self._zone), one, other)
        self._alarm(EQUIVOCATION, aid, "two records under one stamp: " + TEXT)
        if value is None or aid in self._told:
            return
        path = path_of(FORK, aid)

        def build(slots: Log) -> list[Statement]:
            known = any(rec.aid == self._author.aid for rec in slots.slots(path))
            return [] if known else [Statement(path, Kind.ALL, value)]

        await self._author.say(MESH, build)
        self._told.add(aid)

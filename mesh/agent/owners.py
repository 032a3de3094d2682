"""The nodes that offer services, as far as these depend on them: there or not, labels, word on health.

Everything is read when it is first asked for and kept until `forget`, or until the change that it hears of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from mesh.agent.node import Node
from mesh.core.health import HEALTH_PREFIX, Word, read_words
from mesh.core.lease import Status
from mesh.core.record import Kind, Op, Record
from mesh.core.vitals import State

PRESENT = (State.ALIVE, State.SUSPECT)
# (alive, draining)
Standing = tuple[bool, bool]


class Owners:
    """See the module.

    Args:
        labels_of: a member's labels, with name, zone and tier among them.

    Attributes:
        away: since when, by our own clock, the owners have been away that are.
        lost: of these, those that we saw alive before.
        left: set when another one went away.
    """

    def __init__(self, node: Node, labels_of: Callable[[bytes], Mapping[str, str]]) -> None:
        self._node = node
        self._labels_of = labels_of
        self._labels: dict[bytes, Mapping[str, str]] = {}
        self._standing: dict[bytes, Standing] = {}
        self._words: dict[bytes, dict[str, Word] | None] = {}
        self.away: dict[bytes, float] = {}
        self.lost: set[bytes] = set()
        self.left = trio.Event()

    def know(self, aid: bytes) -> None:
        """Read all there is of an owner, so that from here on we hear what changes."""
        self.stands(aid)
        self.words_of(aid)

    def forget(self, aid: bytes) -> None:
        """It offers nothing any more."""
        for held in (self._words, self._labels, self._standing, self.away):
            held.pop(aid, None)
        self.lost.discard(aid)

    # -- there or not -------------------------------------------------------------------------------------

    def stands(self, aid: bytes) -> Standing:
        """Whether it is alive, and draining, as we noted last."""
        found = self._standing.get(aid)
        if found is None:
            found = self._standing[aid] = self._look(aid)
            self._note(aid, found)
        return found

    def moved(self, aid: bytes) -> tuple[Standing, Standing] | None:
        """Look again: what was and what is, None if that is the same or was not known."""
        before, after = self._standing.get(aid), self._look(aid)
        if before is None or before == after:
            return None
        self._standing[aid] = after
        self._note(aid, after)
        if before[0] != after[0]:
            (self.lost.discard if after[0] else self.lost.add)(aid)
        return before, after

    def _note(self, aid: bytes, standing: Standing) -> None:
        if standing[0]:
            self.away.pop(aid, None)
        elif aid not in self.away:
            self.away[aid] = trio.current_time()
            self.left.set()

    def _look(self, aid: bytes) -> Standing:
        if aid == self._node.me:
            status = self._node.vitality.status[0]
        else:
            member = self._node.vitality.machine.board.members.get(aid)
            if member is None or member.state not in PRESENT or self._elsewhere(aid):
                return False, False
            status = member.lease.st if member.lease is not None else Status.UP
        return status not in (Status.LEFT, Status.SLEEP), status == Status.DRAIN

    def _elsewhere(self, aid: bytes) -> bool:
        """Whether it moved to another zone: what it said here it does not take back."""
        cert = self._node.directory.certificate(aid)
        return cert is not None and cert.zone != self._node.zone

    def away_s(self, aid: bytes) -> float:
        """For how long it has been away; 0 for one that is there."""
        return 0.0 if self.stands(aid)[0] else trio.current_time() - self.away[aid]

    # -- what it is and says ------------------------------------------------------------------------------

    def labels_of(self, aid: bytes) -> Mapping[str, str]:
        """Its labels."""
        found = self._labels.get(aid)
        if found is None:
            found = self._labels[aid] = self._labels_of(aid)
        return found

    def relabelled(self, aid: bytes) -> None:
        """Its labels may be others."""
        self._labels.pop(aid, None)

    def load_of(self, aid: bytes) -> float | None:
        """Its load as its newest lease has it; None when it is not told."""
        if aid == self._node.me:
            return self._node.capacity()[0]
        member = self._node.vitality.machine.board.members.get(aid)
        return member.lease.load if member is not None and member.lease is not None else None

    def words_of(self, aid: bytes) -> dict[str, Word] | None:
        """Its word on the health of its services; None when it says nothing."""
        if aid not in self._words:
            records = self._node.store.live.slots(HEALTH_PREFIX + aid.hex())
            self._words[aid] = self._read(next((rec for rec in records if rec.aid == aid), None))
        return self._words[aid]

    def take_words(self, aid: bytes, rec: Record | None) -> dict[str, Word] | None:
        """Its word came, changed or expired; returns what counts now."""
        self._words[aid] = self._read(rec)
        return self._words[aid]

    def reread(self, aid: bytes) -> bool:
        """Rights have changed: whether another word counts now."""
        before = self._words.pop(aid, None)
        return before != self.words_of(aid)

    def _read(self, rec: Record | None) -> dict[str, Word] | None:
        if rec is None or rec.op != Op.PUT or rec.kind != Kind.ALL or not self._node.view.counts(rec):
            return None
        return read_words(rec.val)

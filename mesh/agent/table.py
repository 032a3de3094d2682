"""The member table of a running node, as other features ask it (`mesh.agent.peers.Peers`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.core.lease import Status
from mesh.core.policy import WRITE
from mesh.core.record import Record
from mesh.core.vitals import State
from mesh.errors import Denied
from mesh.identity.certs import Certificate
from mesh.identity.keys import peer_id_of

PRESENT = (State.ALIVE, State.SUSPECT)


# What a node says of itself in fields of their own, and selectors take as labels.
CARD_WORDS = ("tier", "region", "site", "provider", "kind")


class Table:
    """Names, keys, labels and rights of members."""

    def __init__(self, node: Node, members: Members) -> None:
        self._node = node
        self._members = members

    def name_of(self, aid: bytes) -> str:
        cert = self._node.directory.standing(aid).cert
        return cert.name if cert is not None else ""

    def public_of(self, aid: bytes) -> bytes | None:
        cert = self._node.directory.certificate(aid)
        return cert.public if cert is not None else None

    def present(self) -> Sequence[bytes]:
        board = self._node.vitality.machine.board
        others = [
            aid
            for aid, member in board.members.items()
            if member.state in PRESENT and not (member.lease and member.lease.st == Status.SLEEP)
        ]
        return sorted({*others, self._node.me})

    def labels_of(self, aid: bytes) -> Mapping[str, str]:
        """What selectors choose by: its labels, words of its card, and what is certified."""
        cert = self._cert(aid)
        if cert is None:
            return {}
        card = self._members.card_of(aid)
        words = {word: card[word] for word in CARD_WORDS if isinstance(card.get(word), str) and card[word]}
        tier = cert.tier or words.pop("tier", "") or "device"
        known = {"name": cert.name, "zone": cert.zone, "tier": tier}
        return {**words, **self._members.labels_of(aid), **known}

    def may(self, aid: bytes, verb: str, name: str) -> bool:
        cert = self._cert(aid)
        return cert is not None and self._node.view.policy.may(cert, verb, name)

    def _cert(self, aid: bytes) -> Certificate | None:
        cert = self._node.directory.certificate(aid)
        return self._node.home.cert if cert is None and aid == self._node.me else cert

    # -- for users' keys --------------------------------------------------------------------------------

    def who(self, aid: bytes) -> tuple[str, str]:
        """(id, name) of an author, also of one that was removed."""
        public = self._node.directory.public_of(aid)
        return (peer_id_of(public) if public is not None else aid.hex()), self.name_of(aid)

    def may_write(self, aid: bytes, path: str) -> bool:
        """Whether an author's records at a path count."""
        cert = self._node.directory.author(aid) if aid != self._node.me else self._cert(aid)
        return cert is not None and self._node.view.policy.may(cert, WRITE, path)

    def permit(self, path: str) -> None:
        """Refuse what our own role may not write.

        Raises:
            Denied: naming the right that is missing.
        """
        cert = self._cert(self._node.me)
        if cert is None:
            raise Denied("this node is not a member")
        self._node.view.policy.require(cert, WRITE, path)

    def removals(self, scope: str) -> Iterable[Record]:
        """Removal records of admins, which carry the counters of those they removed in this scope."""
        with self._node.store.read(scope) as slots:
            for path in slots.paths("removed/"):
                for rec in slots.slots(path):
                    if self._node.directory.limits(rec.aid).admin:
                        yield rec

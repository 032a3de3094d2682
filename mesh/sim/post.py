"""Frames and records of one run: signed, verified and decoded once for all who get the same bytes.

What a thousand nodes forward unchanged is the same bytes, so it is decoded once and the result is shared:
messages and records are frozen.
"""

from __future__ import annotations

from mesh.core import record
from mesh.core.collect import Statement
from mesh.core.lease import Lease, decode_lease
from mesh.core.record import Record
from mesh.sim.model.wire import Notary
from mesh.wire import messages
from mesh.wire.messages import AnyMessage, Delta

KEPT_MAX = 50_000


class Post:
    """Knows every key of the run, and remembers what it has read.

    Attributes:
        messages: by frame body, as it was decoded.
    """

    def __init__(self) -> None:
        self._notary = Notary()
        self.messages: dict[bytes, AnyMessage | None] = {}
        self._records: dict[bytes, list[Record]] = {}
        self._leases: dict[bytes, Lease] = {}

    def sign(self, aid: bytes, tag: bytes, hlc: int, statement: Statement) -> Record:
        """The record of a statement."""
        return self._notary.sign(aid, tag, hlc, statement)

    def lease(self, rec: Record) -> Lease:
        """What a lease says."""
        found = self._leases.get(rec.sig)
        if found is None:
            if len(self._leases) >= KEPT_MAX:
                self._leases.clear()
            found = self._leases[rec.sig] = decode_lease(rec.val)
        return found

    def decode(self, body: bytes) -> AnyMessage | None:
        """The message in a frame."""
        known = self.messages.get(body)
        if known is not None:
            return known
        if len(self.messages) >= KEPT_MAX:
            self.messages.clear()
        message = self.messages[body] = messages.decode(body)
        return message

    def records(self, tag: bytes, delta: Delta, body: bytes, *, verify: bool = True) -> list[Record]:
        """The records of a delta, verified (a broken part may leave that out).

        Raises:
            PeerError: a signature is bad.
        """
        if not verify:
            return [record.parse(delta.aid, one, sig) for one, sig in delta.records]
        found = self._records.get(body)
        if found is None:
            if len(self._records) >= KEPT_MAX:
                self._records.clear()
            found = [self._notary.open(delta.aid, tag, one, sig) for one, sig in delta.records]
            self._records[body] = found
        return found

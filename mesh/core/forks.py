"""One key in two places: proof that an author said two things under one stamp, and signs of a clone.

An author's stamps grow strictly, so two different bodies under one (scope, stamp), both signed, cannot come
from one honest node: the key runs twice (a cloned disk), an old disk came back, or it lies. The two signed
bodies are the proof; published at `fork/<aid>` (kind ALL, by anyone), it convinces everyone alike, and the
author is quarantined: no links, shown, removed by an admin. What it had written stays as it is.

Two clones need not collide on a stamp, but they do not know of each other's incarnation: leases of one
key then show an incarnation that falls and rises again, and links of one key come from now one process, now
the other. That convinces only who saw it, so it is an alarm.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from mesh.core import record
from mesh.core.record import AID_BYTES, Record
from mesh.errors import PeerError
from mesh.wire.codec import RECORD_BYTES_MAX

_PROOF_BYTES_MAX = RECORD_BYTES_MAX - 1024
_FALLS = 2
_WATCHED_MAX = 16_384
_LIVES_MAX = 4


def proof(public: bytes, tag: bytes, one: Record, other: Record) -> dict[str, Any] | None:
    """The value to publish at `fork/<aid>`; None if the two prove nothing or do not fit a record.

    Args:
        tag: `scope_tag` of the scope both were written to.
    """
    pairs = sorted([[one.body, one.sig], [other.body, other.sig]])
    value = {"public": public, "tag": tag, "said": pairs}
    if one.size + other.size > _PROOF_BYTES_MAX or one.body == other.body or one.hlc != other.hlc:
        return None
    return value


def proven(value: Any, mesh_id: bytes) -> bytes | None:
    """The aid that a `fork/` record's value convicts, or None when it proves nothing."""
    try:
        public, tag, said = value["public"], value["tag"], value["said"]
        (body, sig), (body2, sig2) = said
        known = all(isinstance(part, bytes) for part in (public, tag, body, sig, body2, sig2))
        if not known or len(public) != 2 * AID_BYTES or body == body2:
            return None
        aid = public[:AID_BYTES]
        same_stamp = record.parse(aid, body, sig).hlc == record.parse(aid, body2, sig2).hlc
    except (KeyError, TypeError, ValueError, PeerError):
        return None
    signed = record.verify(public, mesh_id, tag, body, sig) and record.verify(
        public, mesh_id, tag, body2, sig2
    )
    return aid if same_stamp and signed else None


class CloneWatch:
    """Notices two processes under one key. Bounded: the key heard of longest ago is dropped."""

    def __init__(self) -> None:
        self._last: OrderedDict[bytes, tuple[int, int, int]] = OrderedDict()
        self._lives: OrderedDict[bytes, tuple[list[bytes], int]] = OrderedDict()

    def heard(self, aid: bytes, hlc: int, inc: int) -> bool:
        """Take note of a lease; returns whether it is, with those before, a sign that this key runs twice.

        A single fall is what a restored backup does once; the second one takes two processes.
        """
        last_hlc, last_inc, falls = self._last.get(aid, (0, 0, 0))
        if hlc <= last_hlc:
            return False
        falls += inc < last_inc
        self._last[aid] = (hlc, inc, falls)
        self._last.move_to_end(aid)
        if len(self._last) > _WATCHED_MAX:
            self._last.popitem(last=False)
        return inc < last_inc and falls >= _FALLS

    def met(self, aid: bytes, life: bytes) -> bool:
        """Take note of whose link came up; returns whether that is a sign that this key runs twice.

        A process that has ended does not come back. A link of it that was long on its way may be seen after
        one of its successor, so this too takes two times.

        Args:
            life: of the process at the other end; empty where its version does not say.
        """
        lives, returns = self._lives.pop(aid, ([], 0))
        returned = False
        if life and lives[-1:] != [life]:
            returned = life in lives
            returns += returned
            lives = [*(other for other in lives if other != life), life][-_LIVES_MAX:]
        self._lives[aid] = (lives, returns)
        if len(self._lives) > _WATCHED_MAX:
            self._lives.popitem(last=False)
        return returned and returns >= _FALLS

    def forget(self, aid: bytes) -> None:
        """The key was removed, or an operator has looked into it."""
        self._last.pop(aid, None)
        self._lives.pop(aid, None)

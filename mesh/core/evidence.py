"""What records say about who is a member: read once, kept by slot, judged by `mesh/core/admission.py`.

All in scope mesh. `<aid>` is a key's aid in hexadecimal; values are maps, unknown entries are ignored:

    member/<aid>    ALL  by <aid> itself   {cert: its chain, addr, card …}
    admit/<aid>     ALL  by a member       {cert: chain}: I let this key in by this invite, now
    cert/<aid>      REG  by an admin       {cert: a newer chain, authority?: its right to certify others}
    invite/<aid>    REG  by an admin       {cert: the invite's chain, revoked?: true, purge?: true}
    removed/<aid>   ALL  by an admin       {by: the remover's chain, keep: [link digests], name, why …}
    removed/<aid>/N ALL  by an admin       {keep: further digests, counters …}: what did not fit
    fork/<aid>      ALL  by anyone         a proof, see `mesh/core/forks.py`

Certificates prove themselves, whoever relays them. A removal counts whatever is later written over it.
Anything malformed says nothing; the reason is kept where a user may ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from mesh.core import forks
from mesh.core.clock import unix_ms_of
from mesh.core.record import AID_BYTES, Kind, Op, Record, SlotKey
from mesh.errors import PeerError
from mesh.identity.certs import SKEW_MS, Certificate, LinkKind, MeshIdentity, verify_chain

MEMBER, ADMIT, CERT, INVITE, REMOVED, FORK = "member", "admit", "cert", "invite", "removed", "fork"
ROOMS = {
    MEMBER: Kind.ALL,
    ADMIT: Kind.ALL,
    CERT: Kind.REG,
    INVITE: Kind.REG,
    REMOVED: Kind.ALL,
    FORK: Kind.ALL,
}
PREFIXES = tuple(f"{room}/" for room in ROOMS)
_PATH = re.compile(r"(member|admit|cert|invite|removed|fork)/([0-9a-f]{32})", re.ASCII)
_PIECE = re.compile(r"removed/([0-9a-f]{32})/(0|[1-9][0-9]{0,2})", re.ASCII)
KEEP_MAX = 2048
LEARNED_MAX = 4096
LEARNED = "learned"


def path_of(room: str, aid: bytes) -> str:
    """The record path of a key in a room."""
    return f"{room}/{aid.hex()}"


def subject_of(path: str) -> tuple[str, bytes] | None:
    """(room, aid) of a path in one of the rooms above, or None."""
    match = _PATH.fullmatch(path)
    return (match[1], bytes.fromhex(match[2])) if match else None


def piece_path(aid: bytes, number: int) -> str:
    """The record path of a further piece of a removal, numbered from 0 to 999."""
    return f"{path_of(REMOVED, aid)}/{number}"


class Admit(msgspec.Struct, frozen=True):
    """A member's countersignature. `stamp` is its hlc, or that of the one it re-signed."""

    stamp: int
    cert: Certificate


class Notice(msgspec.Struct, frozen=True):
    """An admin's word on an invite. `stamp` orders uses against the revocation."""

    stamp: int
    hlc: int
    cert: Certificate | None
    revoked: bool
    purge: bool


class Removal(msgspec.Struct, frozen=True):
    """An admin's removal of a key. `keep`: links signed by that key that stay valid."""

    hlc: int
    by: Certificate | None
    keep: frozenset[bytes]
    name: str
    why: str


Claims = dict[tuple[str, bytes], Certificate]


class Evidence:
    """Everything said, by room, subject and author.

    Attributes:
        claims: per key, certificates by (room, author) they were found at.
        admits: per author, the countersignatures it gave: subject to Admit.
        notices, removals: per invite or key, by author.
        pieces: per removed key, further digests to keep by (author, number).
        forked: per key, the authors of valid proofs.
        authorities: per key, an admin's right to certify as published for it.
        admins: per key, certificates that make it an admin confirmed by an authority or the root.
        faults: per key, why its own member record says nothing.
    """

    def __init__(self, mesh: MeshIdentity) -> None:
        self._mesh = mesh
        self.claims: dict[bytes, Claims] = {}
        self.admits: dict[bytes, dict[bytes, Admit]] = {}
        self.notices: dict[bytes, dict[bytes, Notice]] = {}
        self.removals: dict[bytes, dict[bytes, Removal]] = {}
        self.pieces: dict[bytes, dict[tuple[bytes, str], frozenset[bytes]]] = {}
        self.forked: dict[bytes, set[bytes]] = {}
        self.authorities: dict[bytes, dict[bytes, Certificate]] = {}
        self.admins: dict[bytes, Claims] = {}
        self.faults: dict[bytes, str] = {}
        self._learned: dict[bytes, None] = {}

    def take(self, record: Record) -> bool:
        """Note a record; returns whether anything that is judged changed."""
        value = record.val if record.op == Op.PUT and isinstance(record.val, dict) else {}
        found = subject_of(record.path)
        if found is None or record.kind != ROOMS[found[0]]:
            return self._take_piece(record.path, record.kind, record.aid, value)
        room, subject = found
        if room == MEMBER:
            return record.aid == subject and self._take_member(subject, value)
        if room == CERT:
            return self._take_cert(record, subject, value)
        if room == ADMIT:
            return self._take_admit(record, subject, value)
        if room == INVITE:
            return self._take_notice(record, subject, value)
        if room == REMOVED:
            return self._take_removal(record, subject, value)
        return self._take_fork(record, subject, value)

    def drop(self, slot: SlotKey) -> bool:
        """A slot is gone; returns whether anything that is judged changed."""
        found = subject_of(slot.path)
        if found is None or slot.kind != ROOMS[found[0]]:
            return self._take_piece(slot.path, slot.kind, slot.aid, {})
        room, subject = found
        if room == MEMBER:
            self.faults.pop(subject, None)
            return self._claim(subject, (room, slot.aid), None)
        if room == CERT:
            gone = self._put(self.authorities, subject, slot.aid, None)
            return self._claim(subject, (room, slot.aid), None) or gone
        if room == ADMIT:
            return self._drop_admit(slot.aid, subject)
        if room == INVITE:
            return self._put(self.notices, subject, slot.aid, None)
        if room == REMOVED:
            self._confirm(slot.aid, (REMOVED, subject), None)
            return self._put(self.removals, subject, slot.aid, None)
        return self._unfork(subject, slot.aid)

    def learn(self, cert: Certificate) -> bool:
        """Believe a settled certificate that is not in any record yet; bounded, the oldest is dropped.

        It stands only until the holder's own member record says the same or something newer.
        """
        aid = cert.aid
        if not cert.settled or (MEMBER, aid) in self.claims.get(aid, {}):
            return False
        if len(self._learned) >= LEARNED_MAX and aid not in self._learned:
            self._unlearn(next(iter(self._learned)))
        self._learned[aid] = None
        return self._claim(aid, (LEARNED, aid), cert)

    def is_admin(self, aid: bytes, hlc: int) -> bool:
        """Whether a key was, at this stamp, an admin confirmed by an authority or the root."""
        at_ms = unix_ms_of(hlc)
        certs = self.admins.get(aid)
        return certs is not None and any(
            cert.nbf_ms - SKEW_MS <= at_ms <= cert.exp_ms for cert in certs.values()
        )

    def kept(self, subject: bytes) -> frozenset[bytes]:
        """The links that a removed key had signed and its removers let stand. It cannot keep any itself."""
        authors = {author: removal.keep for author, removal in self.removers(subject) if author != subject}
        pieces = self.pieces.get(subject, {}).items()
        return frozenset[bytes]().union(
            *authors.values(), *(keep for (author, _), keep in pieces if author in authors)
        )

    def removers(self, subject: bytes) -> Iterator[tuple[bytes, Removal]]:
        """The removals of a key that count, by author."""
        for author, removal in sorted(self.removals.get(subject, {}).items()):
            if self.is_admin(author, removal.hlc):
                yield author, removal

    def revocations(self, invite: bytes) -> Iterator[tuple[bytes, Notice]]:
        """The revocations of an invite (by its aid) that count, by author."""
        for author, notice in sorted(self.notices.get(invite, {}).items()):
            if notice.revoked and self.is_admin(author, notice.hlc):
                yield author, notice

    # -- reading ----------------------------------------------------------------------------------------

    def _take_member(self, subject: bytes, value: dict[str, Any]) -> bool:
        cert = None
        self.faults.pop(subject, None)
        try:
            cert = self._read(value.get("cert"), subject)
        except PeerError as error:
            self.faults[subject] = f"cert: {error.message}"
        self._unlearn(subject)
        return self._claim(subject, (MEMBER, subject), cert)

    def _take_cert(self, record: Record, subject: bytes, value: dict[str, Any]) -> bool:
        cert = self._try(value.get("cert"), subject)
        if cert is not None and not cert.settled:
            cert = None
        authority = self._try(value.get("authority"), subject, LinkKind.AUTHORITY)
        changed = self._put(self.authorities, subject, record.aid, authority)
        return self._claim(subject, (CERT, record.aid), cert) or changed

    def _take_admit(self, record: Record, subject: bytes, value: dict[str, Any]) -> bool:
        cert = self._try(value.get("cert"), subject)
        if cert is None or cert.settled:
            return self._drop_admit(record.aid, subject)
        changed = self._put(self.admits, record.aid, subject, Admit(record.stamp, cert))
        return self._claim(subject, (ADMIT, record.aid), cert) or changed

    def _take_notice(self, record: Record, subject: bytes, value: dict[str, Any]) -> bool:
        cert = self._try(value.get("cert"), subject, LinkKind.INVITE)
        notice = None
        if value:
            purge = value.get("purge") is True
            revoked = purge or value.get("revoked") is True
            notice = Notice(record.stamp, record.hlc, cert, revoked, purge)
        return self._put(self.notices, subject, record.aid, notice)

    def _take_removal(self, record: Record, subject: bytes, value: dict[str, Any]) -> bool:
        by = self._try(value.get("by"), record.aid)
        name, why = (value.get(key) if isinstance(value.get(key), str) else "" for key in ("name", "why"))
        removal = Removal(
            record.hlc,
            by,
            _digests(value),
            str(name)[:64],
            str(why)[:256],
        )
        self._confirm(record.aid, (REMOVED, subject), by)
        return self._put(self.removals, subject, record.aid, removal)

    def _take_piece(self, path: str, kind: int, author: bytes, value: dict[str, Any]) -> bool:
        match = _PIECE.fullmatch(path) if kind == Kind.ALL else None
        if match is None:
            return False
        return self._put(self.pieces, bytes.fromhex(match[1]), (author, match[2]), _digests(value) or None)

    def _take_fork(self, record: Record, subject: bytes, value: dict[str, Any]) -> bool:
        if forks.proven(value, self._mesh.mesh_id) != subject:
            return self._unfork(subject, record.aid)
        authors = self.forked.setdefault(subject, set())
        changed = not authors
        authors.add(record.aid)
        return changed

    def _read(self, data: Any, holder: bytes, kind: LinkKind = LinkKind.NODE) -> Certificate:
        if not isinstance(data, bytes):
            raise PeerError("missing")
        cert = verify_chain(data, self._mesh, kind)
        if cert.public[:AID_BYTES] != holder:
            raise PeerError("it is that of another key")
        return cert

    def _try(self, data: Any, holder: bytes, kind: LinkKind = LinkKind.NODE) -> Certificate | None:
        try:
            return self._read(data, holder, kind)
        except PeerError:
            return None

    # -- tables -----------------------------------------------------------------------------------------

    def _claim(self, aid: bytes, source: tuple[str, bytes], cert: Certificate | None) -> bool:
        self._confirm(aid, source, cert)
        return self._put(self.claims, aid, source, cert)

    def _confirm(self, aid: bytes, source: tuple[str, bytes], cert: Certificate | None) -> None:
        confirmed = cert if cert is not None and cert.settled and cert.is_admin else None
        self._put(self.admins, aid, source, confirmed)

    def _unlearn(self, aid: bytes) -> None:
        if aid in self._learned:
            del self._learned[aid]
            self._claim(aid, (LEARNED, aid), None)

    def _drop_admit(self, author: bytes, subject: bytes) -> bool:
        changed = self._put(self.admits, author, subject, None)
        return self._claim(subject, (ADMIT, author), None) or changed

    def _unfork(self, subject: bytes, author: bytes) -> bool:
        authors = self.forked.get(subject, set())
        authors.discard(author)
        return not authors and self.forked.pop(subject, None) is not None

    def _put(self, table: dict[bytes, dict[Any, Any]], outer: bytes, inner: Any, value: Any) -> bool:
        """Set or (None) delete an entry; returns whether it is another than before."""
        row = table.get(outer)
        if value is None:
            if row is None or row.pop(inner, None) is None:
                return False
            if not row:
                del table[outer]
            return True
        if row is None:
            row = table[outer] = {}
        changed = bool(row.get(inner) != value)
        row[inner] = value
        return changed


def _digests(value: dict[str, Any]) -> frozenset[bytes]:
    keep = value.get("keep")
    if not isinstance(keep, list):
        return frozenset()
    return frozenset(digest for digest in keep[:KEEP_MAX] if isinstance(digest, bytes))

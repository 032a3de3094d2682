"""Removing a node: everything an admin writes, in its order, so that nothing else falls with it.

    1  what the node's records decide is said again (`core/collect.py`), and what its counters hold noted
    2  the keys it let in are countersigned again, as of the same stamp
    3  invites it made take no further use: their keys may be in wrong hands
    4  `removed/<aid>`, listing the links it signed that stay valid: members, admins and invites it certified

The record of 4 has the largest stamp and travels after the others, so a replica that has heard of the
removal knows what was saved before it drops the node's slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mesh.core.admission import Directory
from mesh.core.collect import May, Removal, Statement, plan_removal
from mesh.core.evidence import ADMIT, INVITE, KEEP_MAX, REMOVED, path_of, piece_path
from mesh.core.judgement import removed_keys, void_by
from mesh.core.log import Log
from mesh.core.record import AID_BYTES, Kind, SlotKey
from mesh.identity.certs import CHAIN_BYTES_MAX, Certificate, Terms
from mesh.wire import codec

PIECES_MAX = 1000


def statements(
    directory: Directory,
    gone: bytes,
    saved: Removal,
    *,
    by: Certificate,
    now_ms: int,
    why: str = "",
    own: Sequence[Certificate] = (),
) -> list[Statement]:
    """What to write in scope mesh, in this order and one transaction.

    Args:
        saved: `collect.plan_removal` of scope mesh.
        by: our own certificate, settled and with role admin: it proves that the removal counts.
        own: further certificates to keep valid: our authority, and one not published yet.
    """
    out = [*saved.statements, *_admits(directory, gone), *_revocations(directory, gone, now_ms)]
    keep = sorted(_links_signed_by(directory, gone, own))
    cert = directory.standing(gone).cert
    value: dict[str, Any] = {"by": by.data, "keep": keep[:KEEP_MAX], "why": why[:256]}
    value["name"] = cert.name if cert is not None else ""
    pieces: list[dict[str, Any]] = [{"counters": piece} for piece in saved.counters if piece]
    pieces += [{"keep": keep[at : at + KEEP_MAX]} for at in range(KEEP_MAX, len(keep), KEEP_MAX)]
    for number, piece in enumerate(pieces[:PIECES_MAX]):
        out.append(Statement(piece_path(gone, number), Kind.ALL, piece))
    out.append(Statement(path_of(REMOVED, gone), Kind.ALL, value))
    return out


def counters(gone: bytes, saved: Removal) -> list[Statement]:
    """What to write in a zone before the removal, and what every other admin writes in each scope when it
    learns of one: its values said again, its counters noted, and that this was all, see `heard`.
    """
    pieces = [piece for piece in saved.counters if piece]
    noted = [
        Statement(piece_path(gone, number), Kind.ALL, {"counters": piece})
        for number, piece in enumerate(pieces[:PIECES_MAX])
    ]
    return [*saved.statements, *noted, _told(gone)]


def on_learning(log: Log, me: bytes, gone: bytes, now_ms: int, may: May, *, admin: bool) -> list[Statement]:
    """What a node says when it learns of a removal, before it drops the author's slots; the values that it
    takes back (`collect.voids_before_drop`) come after.

    Args:
        admin: we are an admin that others believe: then we speak for the removed author too.
    """
    if not admin:
        return []
    saved = plan_removal(log, me, gone, now_ms, may)
    return saved.statements if heard(log, gone, me) else counters(gone, saved)


def heard(log: Log, gone: bytes, admin: bytes) -> bool:
    """Whether an admin has told in this scope that it dropped a removed author, and all that stands before
    that in its log is held: what it says in its stead. A word that came ahead of others tells nothing yet."""
    head = log.author(admin).head
    told = (log.get(SlotKey(path, Kind.ALL, admin)) for path in (path_of(REMOVED, gone), _told(gone).path))
    return any(rec is not None and rec.hlc <= head for rec in told)


def tell(log: Log, gone: bytes, me: bytes) -> list[Statement]:
    """As an admin that dropped a removed author: say so, if we have not, or no longer know that we had."""
    return [] if heard(log, gone, me) else [_told(gone)]


def _told(gone: bytes) -> Statement:
    return Statement(path_of(REMOVED, gone) + "/told", Kind.ALL, {})


def _admits(directory: Directory, gone: bytes) -> Iterator[Statement]:
    """Countersign again whom it let in."""
    for subject, admit in sorted(directory.evidence.admits.get(gone, {}).items()):
        standing = directory.standing(subject)
        if directory.is_member(subject) and standing.by == gone and not _settled(standing.cert):
            value = {"cert": admit.cert.data}
            yield Statement(path_of(ADMIT, subject), Kind.ALL, value, asof=standing.stamp)


def _settled(cert: Certificate | None) -> bool:
    return cert is not None and cert.settled


def _revocations(directory: Directory, gone: bytes, now_ms: int) -> Iterator[Statement]:
    for invite, (terms, chain) in sorted(_invites_of(directory, gone).items()):
        if terms.exp_ms >= now_ms and directory.revocation(invite) is None:
            yield Statement(path_of(INVITE, invite), Kind.REG, {"cert": chain, "revoked": True})


def _invites_of(directory: Directory, gone: bytes) -> dict[bytes, tuple[Terms, bytes]]:
    """Invites a key made: terms and chain by aid; those listed, and those by which somebody came."""
    evidence = directory.evidence
    listed = [notice.cert for row in evidence.notices.values() for notice in row.values() if notice.cert]
    came = [cert for claims in evidence.claims.values() for cert in claims.values()]
    found = {}
    for cert in [*listed, *came]:
        for at, link in enumerate(cert.links):
            if link.terms is not None and link.issuer[:AID_BYTES] == gone:
                chain = codec.encode(codec.decode(cert.data, CHAIN_BYTES_MAX)[: at + 1])
                found[link.public[:AID_BYTES]] = (link.terms, chain)
    return found


def _links_signed_by(directory: Directory, gone: bytes, own: Sequence[Certificate]) -> set[bytes]:
    """Digests of the links that members, admins and invites rest on and that this key signed."""
    removed = removed_keys(directory.evidence)
    evidence = directory.evidence
    found = list(own)
    for aid in directory.members():
        found += [*evidence.claims[aid].values(), *evidence.authorities.get(aid, {}).values()]
    found += [notice.cert for row in evidence.notices.values() for notice in row.values() if notice.cert]
    return {
        link.digest
        for cert in found
        if void_by(cert, removed) is None and cert.aid != gone
        for link in cert.links
        if link.issuer[:AID_BYTES] == gone
    }

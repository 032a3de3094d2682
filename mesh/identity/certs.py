"""Certificates: who is a member, verified offline by everyone who knows the root key.

A chain is a list of links, from the root's side to the holder:

    chain = CBOR [[body, sig], ...]           1 to 6 links, at most 4 KiB; a link is `mesh/identity/link.py`'s

Each is signed by the previous link's key, the first by the root key.

Three kinds of link, and what their keys may sign:

    root ──▶ AUTHORITY ──▶ AUTHORITY …   an admin's right to certify others; at most 3 below one another
         └─▶ INVITE ──▶ NODE             caps {"admit": terms}: signs members within its terms
         └─▶ NODE                        a member: roles, zone, tier; signs no certificates

So `root → A(authority) → invite → node` is what a joining device makes for itself, and
`root → A(authority) → node` what an admin renews it with. Validity nests: a link's [nbf, exp] lies within
its issuer's, so the holder's own dates are the dates of the chain. Authorities therefore live long and
are ended by removal, members' certificates live 90 days and are renewed.

An admin's renewal of a member that came by an invite says so in caps {"via": [invite's public key,
stamp of the admission, uses]}, so the use goes on counting. Zone, tier and roles are the issuer's word;
the name is only a label. The mesh id in the signed bytes and the root at the top keep a chain from being
used in another mesh, the domain prefix from being taken for another kind of signature.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import msgspec

from mesh.errors import Denied, PeerError, UsageError
from mesh.identity.keys import AID_BYTES, NodeKey, peer_id_of
from mesh.identity.link import (
    CHAIN_BYTES_MAX,
    DAY_MS,
    DEFAULT_ZONE,
    MEMBER,
    MEMBER_DAYS,
    Link,
    LinkKind,
    Terms,
    Via,
    check_word,
    read_link,
    sign_link,
    word_ok,
)
from mesh.wire import codec

__all__ = [
    "ADMIN",
    "AUTHORITY_DAYS",
    "CHAIN_BYTES_MAX",
    "DAY_MS",
    "DEFAULT_ZONE",
    "MEMBER",
    "MEMBER_DAYS",
    "SKEW_MS",
    "Certificate",
    "LinkKind",
    "MeshIdentity",
    "Terms",
    "Via",
    "check_time",
    "check_word",
    "issue",
    "spell_days",
    "verify_chain",
    "word_ok",
]

CHAIN_LINKS_MAX = 6
AUTHORITIES_MAX = 3
AUTHORITY_DAYS = 36_500
# Tolerated when dates meet a clock: as far ahead as records may be, see mesh/core/clock.py.
SKEW_MS = 60_000
ADMIN = "admin"


class MeshIdentity(msgspec.Struct, frozen=True):
    """Which mesh. `mesh_id` is the 16-byte BLAKE2b of the root's public key; the name is a label."""

    mesh_id: bytes
    root_public: bytes
    name: str

    @staticmethod
    def of(root_public: bytes, name: str) -> MeshIdentity:
        return MeshIdentity(hashlib.blake2b(root_public, digest_size=16).digest(), root_public, name)


class Certificate(msgspec.Struct, frozen=True):
    """A verified chain, seen from its holder. Dates are unix milliseconds.

    Attributes:
        public: the holder's 32-byte key.
        caps: what the last link carries beside the fixed fields.
        via_invite: public key of the invite it came by, also after an admin renewed it.
        settled: vouched for by an admin or the root, not by the holder of an invite's key.
        links: the chain, from the root's side to the holder.
        data: the chain's bytes.
    """

    public: bytes
    name: str
    roles: tuple[str, ...]
    zone: str
    tier: str
    nbf_ms: int
    exp_ms: int
    caps: dict[str, Any]
    via_invite: bytes | None
    settled: bool
    renew: bool
    links: tuple[Link, ...]
    data: bytes

    @property
    def aid(self) -> bytes:
        return self.public[:AID_BYTES]

    @property
    def peer_id(self) -> str:
        return peer_id_of(self.public)

    @property
    def kind(self) -> LinkKind:
        return self.links[-1].kind

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.roles

    @property
    def terms(self) -> Terms | None:
        """Terms of the invite: the holder's own, or those under which it signed itself."""
        return next((link.terms for link in reversed(self.links) if link.terms), None)


def issue(
    signer: NodeKey,
    parent: bytes | None,
    mesh: MeshIdentity,
    *,
    public: bytes,
    name: str,
    nbf_ms: int,
    exp_ms: int,
    roles: tuple[str, ...] = (MEMBER,),
    zone: str = DEFAULT_ZONE,
    tier: str = "",
    kind: LinkKind = LinkKind.NODE,
    terms: Terms | None = None,
    via: Via | None = None,
    renew: bool = True,
) -> bytes:
    """Sign a certificate; returns the encoded chain.

    Args:
        parent: the signer's own chain (an authority's or an invite's), None when the root key signs.

    Raises:
        UsageError: nobody would accept it; the message says why.
    """
    caps: dict[str, Any] = {}
    if terms is not None:
        caps["admit"] = msgspec.to_builtins(terms)
    if via is not None:
        caps["via"] = [via.invite, via.stamp, via.uses]
    if not renew:
        caps["renew"] = False
    fields = [int(kind), public, name, list(roles), zone, tier, nbf_ms, exp_ms, caps]
    links = codec.decode(parent, CHAIN_BYTES_MAX) if parent else []
    chain = codec.encode([*links, sign_link(signer, mesh.mesh_id, fields)])
    try:
        verify_chain(chain, mesh, kind)
    except PeerError as error:
        raise UsageError(f"this certificate would not be valid: {error.message}") from None
    return chain


@lru_cache(maxsize=2048)
def verify_chain(data: bytes, mesh: MeshIdentity, kind: LinkKind = LinkKind.NODE) -> Certificate:
    """Verify a chain from the root to a holder of the given kind.

    Dates are checked against each other, not against a clock (`check_time`), and removals and counts of
    uses not at all: that is the fold of `mesh/core/admission.py`.

    Raises:
        PeerError: malformed, or not signed as the module docstring says.
    """
    raw = codec.decode(data, CHAIN_BYTES_MAX)
    if not isinstance(raw, list) or not 1 <= len(raw) <= CHAIN_LINKS_MAX:
        raise PeerError(f"a certificate chain has 1 to {CHAIN_LINKS_MAX} links")
    links: list[Link] = []
    issuer = mesh.root_public
    for item in raw:
        if not (isinstance(item, list) and len(item) == 2 and all(isinstance(part, bytes) for part in item)):
            raise PeerError("a link of a certificate chain is not [body, signature]")
        link = read_link(mesh.mesh_id, issuer, item[0], item[1])
        if links:
            _check_step(links[-1], link)
        links.append(link)
        issuer = link.public
    if sum(link.kind == LinkKind.AUTHORITY for link in links) > AUTHORITIES_MAX:
        raise PeerError(f"more than {AUTHORITIES_MAX} authorities certify one another")
    if links[-1].kind != kind:
        raise PeerError(f"the chain ends in a certificate of kind {links[-1].kind.name}, not {kind.name}")
    return _certificate(tuple(links), data)


def spell_days(ms: int) -> str:
    """A duration in words: hours, or days from two on."""
    return f"{ms / DAY_MS:.0f} days" if ms >= 2 * DAY_MS else f"{ms / 3_600_000:.1f} hours"


class OutOfDate(Denied):
    """Refused by the dates of a certificate: a clock may be wrong."""


def check_time(cert: Certificate, now_ms: int, *, begun: bool = True) -> None:
    """Whether the certificate is valid at this mesh time.

    Args:
        begun: whether one that begins later is refused.

    Raises:
        OutOfDate: not yet valid, or expired.
    """
    if begun and now_ms + SKEW_MS < cert.nbf_ms:
        raise OutOfDate(
            f"the certificate of {cert.name} ({cert.peer_id}) begins in {spell_days(cert.nbf_ms - now_ms)}",
            "check the clocks of both nodes",
        )
    if now_ms > cert.exp_ms:
        raise OutOfDate(
            f"the certificate of {cert.name} ({cert.peer_id}) expired {spell_days(now_ms - cert.exp_ms)} ago",
            "an admin node that is up renews it by itself; otherwise check the clocks, or join again",
        )


def _certificate(links: tuple[Link, ...], data: bytes) -> Certificate:
    last = links[-1]
    inviter = links[-2] if len(links) > 1 and links[-2].kind == LinkKind.INVITE else None
    via = inviter.public if inviter else last.via.invite if last.via else None
    renew = last.renew if inviter is None else inviter.terms is not None and inviter.terms.renew
    return Certificate(
        last.public,
        last.name,
        last.roles,
        last.zone,
        last.tier,
        last.nbf_ms,
        last.exp_ms,
        last.caps,
        via,
        inviter is None,
        renew,
        links,
        data,
    )


def _check_step(parent: Link, child: Link) -> None:
    """Whether a link's key may sign the next one."""
    if parent.kind == LinkKind.NODE:
        raise PeerError(f"{parent.name} is a plain node and certifies nobody")
    if not (parent.nbf_ms <= child.nbf_ms and child.exp_ms <= parent.exp_ms):
        raise PeerError(f"the dates of {child.name} reach beyond those of its issuer {parent.name}")
    if parent.kind == LinkKind.INVITE:
        _check_admission(parent, child)


def _check_admission(invite: Link, child: Link) -> None:
    terms = invite.terms
    assert terms is not None
    if child.kind != LinkKind.NODE or child.caps:
        raise PeerError("an invite certifies plain nodes only")
    if not child.roles or not set(child.roles) <= set(terms.roles):
        raise PeerError(
            f"the invite admits {', '.join(terms.roles)}, not {', '.join(child.roles) or 'nobody'}"
        )
    if terms.zone is not None and child.zone != terms.zone:
        raise PeerError(f"the invite admits to zone {terms.zone}, not {child.zone}")
    if terms.tier is not None and child.tier != terms.tier:
        raise PeerError(f"the invite admits tier {terms.tier}, not {child.tier or 'none'}")
    if child.nbf_ms > terms.exp_ms or child.exp_ms - child.nbf_ms > terms.life_ms:
        raise PeerError("the certificate was made after the invite expired, or lives longer than it allows")

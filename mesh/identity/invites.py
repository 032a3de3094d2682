"""Invites: one line that lets a device into the mesh, made by an admin, used without asking anyone.

The token carries the invite's own key, so the device signs its certificate itself; members verify the
chain, count the uses and see whether it was revoked when the device first reaches one of them.

    token = "mesh1-" base64url( CBOR [mesh name, root key, seed, chain, addresses] || check )
    check = first 4 bytes of BLAKE2b over what precedes it: a typing mistake is told from a forgery
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence

import msgspec

from mesh.errors import Denied, PeerError, UsageError
from mesh.identity import certs
from mesh.identity.certs import Certificate, LinkKind, MeshIdentity, Terms
from mesh.identity.keys import PUBLIC_BYTES, SEED_BYTES, NodeKey
from mesh.wire import codec

PREFIX = "mesh1-"
TOKEN_CHARS_MAX = 16_384
ADDRESSES_MAX = 8
ADDRESS_CHARS_MAX = 256
_CHECK_BYTES = 4
# A certificate a device makes for itself begins this much before its own clock's time, because the clocks
# of devices fresh out of their box run fast; never before the invite's.
_BACKDATE_MS = 3_600_000
_TOKEN_HINT = "copy the whole line that `meshctl invite create` printed"


class Invite(msgspec.Struct, frozen=True):
    """An invite with its key: whoever holds this can join. `addresses` are multiaddrs of members."""

    mesh: MeshIdentity
    key: NodeKey
    cert: Certificate
    addresses: tuple[str, ...] = ()

    @property
    def terms(self) -> Terms:
        assert self.cert.terms is not None
        return self.cert.terms


def create(
    issuer: NodeKey,
    authority: bytes,
    mesh: MeshIdentity,
    terms: Terms,
    *,
    nbf_ms: int,
    name: str = "invite",
    addresses: Sequence[str] = (),
) -> Invite:
    """Make an invite under an admin's authority (the chain that ends in it).

    Raises:
        UsageError: the terms are not allowed, or reach beyond the authority.
    """
    certs.check_word("the invite's name", name)
    if not nbf_ms < terms.exp_ms:
        raise UsageError("the invite would expire before it begins", "give it a longer life")
    key = NodeKey.generate()
    chain = certs.issue(
        issuer,
        authority,
        mesh,
        public=key.public,
        name=name,
        roles=(),
        nbf_ms=nbf_ms,
        exp_ms=terms.exp_ms + terms.life_ms,
        kind=LinkKind.INVITE,
        terms=terms,
    )
    cert = certs.verify_chain(chain, mesh, LinkKind.INVITE)
    return Invite(mesh, key, cert, tuple(addresses)[:ADDRESSES_MAX])


def token_of(invite: Invite) -> str:
    """The line a person copies."""
    data = codec.encode(
        [
            invite.mesh.name,
            invite.mesh.root_public,
            invite.key.seed,
            invite.cert.data,
            list(invite.addresses),
        ]
    )
    return PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")


def parse(token: str) -> Invite:
    """Read a token; white space that copying brought in is ignored.

    Raises:
        UsageError: not a token, damaged, or not a valid invite of the mesh that it names.
    """
    text = "".join(token.split())
    if not text.startswith(PREFIX):
        newer = re.match(r"mesh\d+-", text)
        what = "was made by another version of mesh" if newer else f"does not begin with {PREFIX!r}"
        raise UsageError(f"this token {what}", _TOKEN_HINT)
    data = _unpack(text)
    try:
        name, root_public, seed, chain, addresses = codec.decode(data)[:5]
        if not (len(root_public) == PUBLIC_BYTES and len(seed) == SEED_BYTES and certs.word_ok(name)):
            raise ValueError
        if len(addresses) > ADDRESSES_MAX or any(len(address) > ADDRESS_CHARS_MAX for address in addresses):
            raise ValueError
        mesh = MeshIdentity.of(root_public, name)
        key = NodeKey.from_seed(seed)
        addresses = tuple(address for address in addresses if address.isprintable())
    except (PeerError, ValueError, TypeError, AttributeError):
        raise UsageError("this token holds something that is not an invite", _TOKEN_HINT) from None
    try:
        cert = certs.verify_chain(chain, mesh, LinkKind.INVITE)
    except PeerError as error:
        raise UsageError(f"this token's invite is not valid: {error.message}", "ask for a new one") from None
    if cert.public != key.public:
        raise UsageError("this token's key is not the one that its invite names", "ask for a new one")
    return Invite(mesh, key, cert, addresses)


def use(
    invite: Invite,
    key: NodeKey,
    *,
    name: str,
    now_ms: int,
    zone: str | None = None,
    tier: str | None = None,
) -> bytes:
    """Sign the certificate of a device that joins; needs no network. Returns its chain.

    Args:
        now_ms: the device's own clock; one that is behind the invite's beginning is taken as not set.
        zone, tier: the device's wish where the invite leaves it open.

    Raises:
        Denied: expired, or the invite does not admit that zone or tier.
        UsageError: the name is not allowed.
    """
    terms, cert = invite.terms, invite.cert
    certs.check_word("the node's name", name)
    if now_ms > terms.exp_ms:
        raise Denied(
            f"this invite expired {certs.spell_days(now_ms - terms.exp_ms)} ago",
            "ask an admin for a new one (or set this device's clock, if it is wrong)",
        )
    for what, wished, fixed in (("zone", zone, terms.zone), ("tier", tier, terms.tier)):
        if wished and fixed and wished != fixed:
            raise Denied(f"this invite admits to {what} {fixed}, not {wished}", f"leave the {what} out")
    nbf_ms = max(cert.nbf_ms, now_ms - _BACKDATE_MS)
    return certs.issue(
        invite.key,
        cert.data,
        invite.mesh,
        public=key.public,
        name=name,
        roles=terms.roles,
        zone=terms.zone or zone or certs.DEFAULT_ZONE,
        tier=terms.tier or tier or "",
        nbf_ms=nbf_ms,
        exp_ms=min(nbf_ms + terms.life_ms, cert.exp_ms),
    )


def _check(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECK_BYTES, person=b"mesh-token").digest()


def _unpack(text: str) -> bytes:
    body = text[len(PREFIX) :]
    try:
        if len(text) > TOKEN_CHARS_MAX or not re.fullmatch(r"[A-Za-z0-9_-]+", body):
            raise ValueError
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (ValueError, binascii.Error):
        raise UsageError("this token holds characters that no token has", _TOKEN_HINT) from None
    data, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    # The unused low bits of the last character are not data: compare the text itself as well.
    whole = base64.urlsafe_b64encode(raw).decode().rstrip("=") == body
    if not whole or _check(data) != check:
        raise UsageError("this token is damaged: a character is missing or mistyped", _TOKEN_HINT)
    return data

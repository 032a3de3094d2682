"""One link of a certificate chain: what one key says of another, signed, read strictly.

    body  = CBOR [kind, public, name, roles, zone, tier, nbf_ms, exp_ms, caps]
    sig   = Ed25519 by the issuer's key over b"mesh-cert-1\\0" || mesh id || issuer's public key || body

Further fields may follow and further caps may be there: a later version's, ignored here. What a link may
sign and how chains hang together is `mesh/identity/certs.py`'s.
"""

from __future__ import annotations

import hashlib
import re
from enum import IntEnum
from functools import lru_cache
from typing import Any

import msgspec
from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from mesh.errors import PeerError, UsageError
from mesh.identity.keys import PUBLIC_BYTES, NodeKey
from mesh.wire import codec

CHAIN_BYTES_MAX = 4096
DAY_MS = 86_400_000
MEMBER_DAYS = 90
MEMBER = "member"
DEFAULT_ZONE = "default"
_DOMAIN = b"mesh-cert-1\0"
_SIGNATURE_BYTES = 64
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_ROLES_MAX = 16
_LABELS_MAX = 32
_MS_MAX = 1 << 47  # what fits a stamp beside its counter bits


class LinkKind(IntEnum):
    NODE = 0
    AUTHORITY = 1
    INVITE = 2


class Terms(msgspec.Struct, frozen=True):
    """What an invite may admit.

    Attributes:
        roles: a member it admits has some of these.
        zone, tier: the member has exactly this one; None leaves it to the device.
        labels: written into the device's own settings when it joins.
        uses: how many keys it admits.
        exp_ms: unix ms after which no member lets a device in with it.
        life_ms: longest life of the certificates it signs.
        renew: whether admins renew these by themselves.
    """

    roles: tuple[str, ...] = (MEMBER,)
    zone: str | None = DEFAULT_ZONE
    tier: str | None = None
    labels: dict[str, str] = {}
    uses: int = 1
    exp_ms: int = 0
    life_ms: int = MEMBER_DAYS * DAY_MS
    renew: bool = True


class Via(msgspec.Struct, frozen=True, array_like=True):
    """The use of an invite that an admin's renewal carries on: its key, the admission's stamp (hlc)."""

    invite: bytes
    stamp: int
    uses: int


class Link(msgspec.Struct, frozen=True):
    """One signed statement of a chain. `digest` is the 16-byte BLAKE2b of body and signature."""

    kind: LinkKind
    public: bytes
    name: str
    roles: tuple[str, ...]
    zone: str
    tier: str
    nbf_ms: int
    exp_ms: int
    caps: dict[str, Any]
    issuer: bytes
    digest: bytes
    terms: Terms | None = None
    via: Via | None = None
    renew: bool = True


def word_ok(text: str) -> bool:
    """Whether text can be a name, zone, tier or role: 1 to 63 of A-Z a-z 0-9 . _ -, ends alphanumeric."""
    return bool(_WORD.fullmatch(text))


def check_word(what: str, text: str) -> str:
    """Return `text`, or raise UsageError naming `what` it should have been."""
    if not word_ok(text):
        raise UsageError(
            f"{what} {text[:80]!r} is not allowed",
            "1 to 63 letters, digits, '.', '_' or '-', starting and ending with a letter or digit",
        )
    return text


def sign_link(signer: NodeKey, mesh_id: bytes, fields: list[Any]) -> list[bytes]:
    """[body, signature] of a link."""
    body = codec.encode(fields)
    return [body, crypto_sign(_signed_bytes(mesh_id, signer.public, body), signer.secret)[:_SIGNATURE_BYTES]]


def _signed_bytes(mesh_id: bytes, issuer: bytes, body: bytes) -> bytes:
    return _DOMAIN + mesh_id + issuer + body


@lru_cache(maxsize=1024)
def read_link(mesh_id: bytes, issuer: bytes, body: bytes, sig: bytes) -> Link:
    """Verify and decode one link. Cached: the links near the root are those of everyone."""
    if len(sig) != _SIGNATURE_BYTES:
        raise PeerError(f"a certificate's signature has {len(sig)} bytes")
    try:
        crypto_sign_open(sig + _signed_bytes(mesh_id, issuer, body), issuer)
    except (BadSignatureError, ValueError):
        raise PeerError(
            "a certificate is not signed by the key above it, or belongs to another mesh"
        ) from None
    raw = codec.decode(body, CHAIN_BYTES_MAX)
    if not isinstance(raw, list) or not 9 <= len(raw) <= 32:
        raise PeerError("a certificate is not an array of 9 or more fields")
    kind, public, name, roles, zone, tier, nbf_ms, exp_ms, caps = raw[:9]
    if isinstance(kind, bool) or kind not in (LinkKind.NODE, LinkKind.AUTHORITY, LinkKind.INVITE):
        raise PeerError(f"unknown kind of certificate {kind!r:.20}")
    if not isinstance(public, bytes) or len(public) != PUBLIC_BYTES:
        raise PeerError("a certificate holds no 32-byte key")
    if not _is_word(name) or not _is_word(zone) or not (tier == "" or _is_word(tier)):
        raise PeerError("a certificate's name, zone or tier is malformed")
    if not isinstance(roles, list) or len(roles) > _ROLES_MAX or not all(map(_is_word, roles)):
        raise PeerError("a certificate's roles are malformed")
    if not (_is_ms(nbf_ms) and _is_ms(exp_ms) and nbf_ms < exp_ms):
        raise PeerError("a certificate's dates are malformed")
    if not isinstance(caps, dict) or not all(isinstance(cap, str) for cap in caps):
        raise PeerError("a certificate's caps are malformed")
    digest = hashlib.blake2b(body + sig, digest_size=16).digest()
    kind = LinkKind(kind)
    return Link(
        kind,
        public,
        name,
        tuple(sorted(set(roles))),
        zone,
        tier,
        nbf_ms,
        exp_ms,
        caps,
        issuer,
        digest,
        _terms(caps) if kind == LinkKind.INVITE else None,
        _via(caps) if kind == LinkKind.NODE else None,
        caps.get("renew") is not False,
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and word_ok(value)


def _is_ms(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MS_MAX


def _terms(caps: dict[str, Any]) -> Terms:
    try:
        terms = msgspec.convert(caps.get("admit"), Terms)
    except msgspec.ValidationError as error:
        raise PeerError(f"an invite's terms are malformed: {str(error)[:120]}") from None
    words = [*terms.roles, *(word for word in (terms.zone, terms.tier) if word)]
    if not all(map(word_ok, words)) or len(terms.roles) > _ROLES_MAX or not terms.roles:
        raise PeerError("an invite's roles, zone or tier are malformed")
    if len(terms.labels) > _LABELS_MAX or terms.uses < 1 or not _is_ms(terms.exp_ms) or terms.life_ms < 1:
        raise PeerError("an invite's labels, uses or dates are malformed")
    return terms


def _via(caps: dict[str, Any]) -> Via | None:
    raw = caps.get("via")
    if raw is None:
        return None
    try:
        via = msgspec.convert(raw, Via)
    except msgspec.ValidationError as error:
        raise PeerError(f"a certificate's via is malformed: {str(error)[:120]}") from None
    if len(via.invite) != PUBLIC_BYTES or not 0 <= via.stamp < 1 << 64 or via.uses < 1:
        raise PeerError("a certificate's via is malformed")
    return via

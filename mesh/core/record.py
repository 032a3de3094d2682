"""The only replicated thing: one author's newest signed statement in one slot.

    body = CBOR [path, kind, hlc, op, ttl, val, asof?, sees?]
    sig  = Ed25519 over b"mesh-rec-1\\0" || mesh id || scope || author id || body

A slot is (scope, path, kind, author), for kind LOG also the hlc. It has one writer, so replicas never
conflict: they keep max by (hlc, H(sig)). Receivers verify the bytes they got and store them unchanged.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from enum import IntEnum
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgspec
from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from mesh.core.clock import HLC_MAX, unix_ms_of
from mesh.errors import PeerError, UsageError
from mesh.wire import codec

AID_BYTES = 16
SIGNATURE_BYTES = 64
PATH_BYTES_MAX = 255
_DOMAIN = b"mesh-rec-1\0"
GC_PATH = "~gc"
_SEGMENT_SAFE = "._~@:+-"
# Regular expressions, because every record that is parsed or signed passes here (0.5 µs against 5 µs).
_PATH = re.compile(r"[A-Za-z0-9._~@:+%-]+(?:/[A-Za-z0-9._~@:+%-]+)*")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9._~@:+-]+(?:/[A-Za-z0-9._~@:+-]+)*")

MESH, ZONE, LIVE = "m", "z", "l"
SCOPES = (MESH, ZONE, LIVE)


class Kind(IntEnum):
    """How the slots of one path are folded."""

    REG = 0
    MV = 1
    CTR = 2
    LOG = 3
    ALL = 4


class Op(IntEnum):
    """What a statement says. VOID is "I no longer say anything here"; folds ignore it."""

    PUT = 0
    DEL = 1
    VOID = 2


# What every record passes on its way is asked for without the detours of enums and named tuples.
_LOG = int(Kind.LOG)
_new_key = tuple.__new__


class SlotKey(NamedTuple):
    """Where a record lives inside its scope. `hlc` is 0 for every kind but LOG."""

    path: str
    kind: int
    aid: bytes
    hlc: int = 0


class Record(msgspec.Struct, frozen=True, gc=False):
    """One signed statement, decoded. `body` and `sig` are the author's bytes, unchanged."""

    aid: bytes
    path: str
    kind: int
    hlc: int
    op: int
    ttl: int | None
    val: Any
    asof: int | None
    sees: dict[bytes, int] | None
    sig: bytes
    body: bytes

    @property
    def slot(self) -> SlotKey:
        kind = self.kind
        return _new_key(SlotKey, (self.path, kind, self.aid, self.hlc if kind == _LOG else 0))

    @property
    def stamp(self) -> int:
        """The stamp under which folds compare it (`asof` of a re-issued record)."""
        return self.hlc if self.asof is None else self.asof

    @property
    def expiry_ms(self) -> int | None:
        """Mesh time at which it reads as deleted, or None."""
        return None if self.ttl is None else unix_ms_of(self.hlc) + self.ttl

    def expired(self, now_ms: int) -> bool:
        return self.ttl is not None and unix_ms_of(self.hlc) + self.ttl <= now_ms

    @property
    def order(self) -> tuple[int, bytes]:
        """Merge order inside a slot: the larger wins on every replica."""
        return (self.hlc, signature_hash(self.sig))

    @property
    def size(self) -> int:
        return len(self.body) + SIGNATURE_BYTES


def signature_hash(sig: bytes) -> bytes:
    """16-byte BLAKE2b of a signature: the unit of fingerprints."""
    return hashlib.blake2b(sig, digest_size=16).digest()


def fingerprint(sig: bytes) -> int:
    """What one record adds to its author's fingerprint, which is a sum modulo 2**128."""
    return int.from_bytes(signature_hash(sig), "big")


def scope_tag(scope: str, zone: str) -> bytes:
    """The scope as it is signed: a zone's records cannot be replayed in another zone."""
    if scope == MESH:
        return b"m"
    name = zone.encode()
    return scope.encode() + bytes([len(name)]) + name


def signed_bytes(mesh_id: bytes, tag: bytes, aid: bytes, body: bytes) -> bytes:
    """What the author's signature covers."""
    return _DOMAIN + mesh_id + tag + aid + body


def sign(
    secret: bytes,
    mesh_id: bytes,
    tag: bytes,
    *,
    path: str,
    kind: int,
    hlc: int,
    op: int = Op.PUT,
    ttl: int | None = None,
    val: Any = None,
    asof: int | None = None,
    sees: dict[bytes, int] | None = None,
) -> Record:
    """Make a record.

    Args:
        secret: 64-byte Ed25519 secret key (seed and public key), as libsodium has it.
        tag: `scope_tag` of the scope it is written to.
        ttl: milliseconds from the hlc's time, or None.

    Raises:
        UsageError: the body would exceed RECORD_BYTES_MAX, or the path or value is not allowed.
    """
    check_path(path)
    aid = secret[32:48]
    fields: list[Any] = [path, int(kind), hlc, int(op), ttl, val]
    if asof is not None or sees is not None:
        fields.append(asof)
    if sees is not None:
        fields.append(sees)
    body = codec.encode(fields)
    _check_readable(path, val, body)
    if len(body) > codec.RECORD_BYTES_MAX:
        raise UsageError(
            f"the record at {path!r} would be {len(body)} bytes, at most {codec.RECORD_BYTES_MAX} are allowed"
        )
    sig = crypto_sign(signed_bytes(mesh_id, tag, aid, body), secret)[:SIGNATURE_BYTES]
    return Record(aid, path, int(kind), hlc, int(op), ttl, val, asof, sees, sig, body)


def _check_readable(path: str, val: Any, body: bytes) -> None:
    """Refuse to sign what nobody could read: a number beyond 64 bits, say, is written as a tag and refused.

    Such a record would count as damage on our own disk, and close the link to everybody who is sent it.
    """
    if val is None or isinstance(val, str | bytes):
        return
    try:
        codec.decode(body, codec.RECORD_BYTES_MAX * 2)
    except PeerError as error:
        raise UsageError(
            f"the value at {path!r} cannot be read again: {error.message}",
            f"whole numbers below 2^64, and at most {codec.DEPTH_MAX} levels",
        ) from None


def verify(public: bytes, mesh_id: bytes, tag: bytes, body: bytes, sig: bytes) -> bool:
    """Whether `sig` is the author's over this body in this mesh and scope. `public` is 32 bytes."""
    if len(sig) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(sig + signed_bytes(mesh_id, tag, public[:AID_BYTES], body), public)
    except (BadSignatureError, ValueError):
        return False
    return True


def parse(aid: bytes, body: bytes, sig: bytes) -> Record:
    """Decode a body without verifying it.

    Unknown kinds and ops are kept: they are stored and forwarded, folds ignore them.

    Raises:
        PeerError: the body is malformed; under a valid signature that freezes the author.
    """
    if len(sig) != SIGNATURE_BYTES:
        raise PeerError(f"signature of {len(sig)} bytes")
    raw = codec.decode(body, codec.RECORD_BYTES_MAX)
    if not isinstance(raw, list) or not 6 <= len(raw) <= 32:
        raise PeerError("a record's body is not an array of 6 or more fields")
    path, kind, hlc, op, ttl, val = raw[:6]
    asof = raw[6] if len(raw) > 6 else None
    sees = raw[7] if len(raw) > 7 else None
    if not isinstance(path, str) or not path_ok(path):
        raise PeerError(f"record path {path!r:.80} is malformed")
    if not (_is_uint(kind, 255) and _is_uint(hlc, HLC_MAX) and hlc > 0 and _is_uint(op, 255)):
        raise PeerError(f"record at {path!r} has a malformed kind, hlc or op")
    if ttl is not None and not _is_uint(ttl, 1 << 48):
        raise PeerError(f"record at {path!r} has a malformed ttl")
    if kind == Kind.LOG and ttl is None:
        raise PeerError(f"log record at {path!r} has no ttl")
    if asof is not None and not (_is_uint(asof, hlc) and asof > 0):
        raise PeerError(f"record at {path!r} has a malformed asof")
    if sees is not None and not _sees_ok(sees):
        raise PeerError(f"record at {path!r} has malformed sees")
    return Record(aid, path, kind, hlc, op, ttl, val, asof, sees, sig, body)


def _is_uint(value: Any, top: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= top


def _sees_ok(sees: Any) -> bool:
    return isinstance(sees, dict) and all(
        isinstance(aid, bytes) and len(aid) == AID_BYTES and _is_uint(hlc, HLC_MAX)
        for aid, hlc in sees.items()
    )


def path_ok(path: str) -> bool:
    """Whether a path is well formed: NFC, at most 255 bytes, non-empty segments of safe characters."""
    return len(path) <= PATH_BYTES_MAX and _PATH.fullmatch(path) is not None


def check_path(path: str) -> None:
    """Raise UsageError unless `path_ok`."""
    if not path_ok(path):
        shown = path if len(path) < 80 else path[:77] + "..."
        raise UsageError(
            f"path {shown!r} is not allowed",
            f"at most {PATH_BYTES_MAX} bytes once encoded, in non-empty segments separated by '/'",
        )


def user_path(key: str, room: str = "kv") -> str:
    """The record path of a user's key: any UTF-8, percent-encoded where needed, under `room`.

    Empty segments (`a//b`, a leading or trailing slash) are kept, so that distinct keys never share a path.

    Raises:
        UsageError: empty, not encodable, or longer than 255 bytes once encoded.
    """
    if not key:
        raise UsageError("the key is empty")
    if _PLAIN_KEY.fullmatch(key):
        path = f"{room}/{key}"
        check_path(path)
        return path
    try:
        normal = unicodedata.normalize("NFC", key)
        encoded = "/".join(quote(segment, safe=_SEGMENT_SAFE) or "%" for segment in normal.split("/"))
    except UnicodeEncodeError:
        raise UsageError(f"key {key!r} is not valid Unicode") from None
    path = f"{room}/{encoded}"
    check_path(path)
    return path


def user_key(path: str) -> str:
    """The user's key of a record path, the inverse of `user_path`."""
    _, _, encoded = path.partition("/")
    if "%" not in encoded:
        return encoded
    return "/".join("" if segment == "%" else unquote(segment) for segment in encoded.split("/"))

"""How slots lie in LMDB: keys, values, checksums.

    db      key                                           value
    rec     scope(1) path 00 kind(1) aid(16) [hlc(8)]     crc(4) expiry_ms(8) hlc(8) sig(64) body
    log     scope(1) aid(16) hlc(8)                       key in rec
    heads   scope(1) aid(16)                              crc(4) head(8) floor(8) count(8) size(8) fp(16)
    exp     scope(1) expiry_ms(8) aid(16) hlc(8)          key in rec
    hist    scope(1) path 00 stored(8)                    as in rec, kind(1) and aid(16) before the body
    ring    stored(8)                                     key in hist
    addr    aid(16)                                       crc(4) CBOR
    meta    name                                          crc(4) bytes

`rec` carries the hlc in its key for kind LOG only, where every record is its own slot. Slots of one path lie
next to each other, so a fold is one short scan; `log` orders an author's records by hlc, which is what
replication reads; both are one seek. LMDB does not notice a flipped byte inside a value, so each value
carries a CRC-32 of key and content: a damaged one is found when it is read, or by the scrub, and never
believed. Integers are big-endian, so keys sort as numbers do. The longest key has 282 bytes (LMDB: 511).
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

import msgspec

from mesh.core import record
from mesh.core.log import AuthorState
from mesh.core.record import AID_BYTES, SIGNATURE_BYTES, Kind, Record, SlotKey
from mesh.errors import PeerError, StoreError

NAMES = (b"rec", b"log", b"heads", b"exp", b"hist", b"ring", b"addr", b"meta")

_CRC = Struct(">I")
_U64 = Struct(">Q")
_VALUE = Struct(">QQ64s")
_STATE = Struct(">QQQQ16s")
_LOG_SUFFIX = Struct(">16sQ")
_EXP_SUFFIX = Struct(">Q16sQ")
_HEAD_BYTES = 1 + AID_BYTES  # kind and aid after the path's zero byte
U64_MAX = (1 << 64) - 1


class Damaged(StoreError):
    """A stored row does not match its checksum or cannot be decoded. `key` is its key in `table`."""

    def __init__(self, table: str, key: bytes) -> None:
        super().__init__(
            f"row {key[:60]!r} of the store's table {table} is damaged on disk",
            "it is dropped, and fetched again from other members, by itself",
        )
        self.table = table
        self.key = key


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A row of `rec`, body not decoded."""

    expiry_ms: int | None
    hlc: int
    sig: bytes
    body: bytes

    @property
    def size(self) -> int:
        """As `Record.size`."""
        return len(self.body) + SIGNATURE_BYTES


# -- keys ---------------------------------------------------------------------------------------------------


def path_prefix(scope: bytes, path: str) -> bytes:
    """All slots of one path begin with this."""
    return scope + path.encode() + b"\0"


def slot_key(scope: bytes, slot: SlotKey) -> bytes:
    """The key in `rec`."""
    path, kind, aid, hlc = slot
    key = scope + path.encode() + b"\0" + kind.to_bytes(1, "big") + aid
    return key + _U64.pack(hlc) if kind == Kind.LOG else key


def parse_slot_key(key: bytes) -> SlotKey:
    """The slot of a key in `rec`.

    Raises:
        Damaged: it is not one.
    """
    end = key.find(b"\0", 1)
    rest = key[end + 1 :]
    if end < 2 or len(rest) < _HEAD_BYTES:
        raise Damaged("rec", key)
    kind, aid, hlc = rest[0], rest[1:_HEAD_BYTES], rest[_HEAD_BYTES:]
    if len(hlc) != (8 if kind == Kind.LOG else 0):
        raise Damaged("rec", key)
    try:
        return SlotKey(key[1:end].decode(), kind, aid, int.from_bytes(hlc, "big"))
    except UnicodeDecodeError:
        raise Damaged("rec", key) from None


def hlc_bytes(hlc: int) -> bytes:
    """A stamp as it stands at the end of keys."""
    return _U64.pack(hlc)


def log_key(scope: bytes, aid: bytes, hlc: int) -> bytes:
    return scope + _LOG_SUFFIX.pack(aid, hlc)


def exp_key(scope: bytes, expiry_ms: int, aid: bytes, hlc: int) -> bytes:
    return scope + _EXP_SUFFIX.pack(min(expiry_ms, U64_MAX), aid, hlc)


def exp_time_ms(key: bytes) -> int:
    """When the record of a key in `exp` expires."""
    return int.from_bytes(key[1:9], "big")


# -- values -------------------------------------------------------------------------------------------------


def seal(key: bytes, content: bytes) -> bytes:
    """Content behind its checksum."""
    return _CRC.pack(crc32(content, crc32(key))) + content


def unseal(table: str, key: bytes, value: bytes) -> bytes:
    """Content of a sealed value.

    Raises:
        Damaged: the checksum does not match.
    """
    content = value[4:]
    if len(value) < 4 or _CRC.unpack_from(value)[0] != crc32(content, crc32(key)):
        raise Damaged(table, key)
    return content


def pack_record(key: bytes, rec: Record) -> bytes:
    """The value in `rec`. Expiry 0 stands for none."""
    return seal(key, _VALUE.pack(rec.expiry_ms or 0, rec.hlc, rec.sig) + rec.body)


def unpack_stored(key: bytes, value: bytes) -> Stored:
    """A value of `rec` without decoding its body.

    Raises:
        Damaged: the checksum does not match.
    """
    content = unseal("rec", key, value)
    if len(content) < _VALUE.size:
        raise Damaged("rec", key)
    expiry_ms, hlc, sig = _VALUE.unpack_from(content)
    return Stored(expiry_ms or None, hlc, sig, content[_VALUE.size :])


def unpack_record(key: bytes, value: bytes) -> Record:
    """The record of a row of `rec`.

    Raises:
        Damaged: the checksum does not match, or the body does not belong to the key.
    """
    stored = unpack_stored(key, value)
    end = key.index(b"\0", 1)
    try:
        rec = record.parse(key[end + 2 : end + 2 + AID_BYTES], stored.body, stored.sig)
    except PeerError:
        raise Damaged("rec", key) from None
    return rec


def pack_state(key: bytes, state: AuthorState) -> bytes:
    """The value in `heads`."""
    fp = state.fp.to_bytes(16, "big")
    return seal(key, _STATE.pack(state.head, state.floor, state.count, state.size, fp))


def unpack_state(key: bytes, value: bytes) -> AuthorState:
    """A value of `heads`.

    Raises:
        Damaged: the checksum does not match.
    """
    content = unseal("heads", key, value)
    if len(content) != _STATE.size:
        raise Damaged("heads", key)
    head, floor, count, size, fp = _STATE.unpack(content)
    return AuthorState(head, floor, count, int.from_bytes(fp, "big"), size)


def pack_replaced(key: bytes, slot: SlotKey, old: Stored) -> bytes:
    """The value in `hist` of a record that was replaced."""
    content = _VALUE.pack(old.expiry_ms or 0, old.hlc, old.sig) + bytes([slot.kind]) + slot.aid + old.body
    return seal(key, content)


def unpack_replaced(key: bytes, value: bytes) -> Record:
    """A record of `hist`.

    Raises:
        Damaged: the checksum does not match.
    """
    content = unseal("hist", key, value)
    _, _, sig = _VALUE.unpack_from(content)
    rest = content[_VALUE.size :]
    try:
        return record.parse(rest[1:_HEAD_BYTES], rest[_HEAD_BYTES:], sig)
    except PeerError:
        raise Damaged("hist", key) from None

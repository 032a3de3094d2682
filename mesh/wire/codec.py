"""CBOR (RFC 8949), strict on the way in and canonical on the way out.

Stock cbor2 accepts duplicate keys, indefinite lengths, cyclic references, deep nesting and tags that
build regexes and decimals of a billion digits. Bytes from a peer or a disk are decoded here only: no
tags, no indefinite lengths, no duplicate keys, text or byte keys only, no "undefined" or other simple
values than true, false and null, at most 16 levels, no bytes left over, and a size cap before anything is
looked at. Canonical encoding makes equal content hash equal.
"""

from __future__ import annotations

import os
from typing import Any, Generic, NoReturn, TypeVar, get_args

import cbor2
import msgspec

from mesh.errors import PeerError, UsageError

DEPTH_MAX = 16
FRAME_BYTES_MAX = 1 << 20
VALUE_BYTES_MAX = 64 << 10
RECORD_BYTES_MAX = VALUE_BYTES_MAX + 1024  # the value, and what a record says around it
CALL_BYTES_MAX = 256 << 10
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
# cbor2.loads ignores trailing bytes. Decoding [item, nonce] with a nonce no peer knows shows them,
# at a third of what a seekable stream would cost.
_NONCE = os.urandom(8)
_TAIL = b"\x48" + _NONCE
# cbor2 also knows "undefined" and the simple values that nobody has given a meaning to, as objects that
# nothing here can write. Writing what was read as something else, a tenth of the reading's work, finds them.
_PLAIN = msgspec.msgpack.Encoder()

T = TypeVar("T")


def _refuse_tag(*_: Any) -> NoReturn:
    raise ValueError("CBOR tags are not allowed")


# Every tag for which cbor2 has a built-in decoder; others reach tag_hook.
_NO_TAGS = dict.fromkeys(
    [0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 52, 54, 55799],
    _refuse_tag,
)


def encode(value: Any) -> bytes:
    """Encode to canonical CBOR.

    Raises:
        UsageError: the value holds something that peers would refuse to decode.
    """
    try:
        return cbor2.dumps(value, canonical=True)
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UsageError(f"value cannot be encoded: {error}") from None


def decode(data: bytes, size_max: int = FRAME_BYTES_MAX) -> Any:
    """Decode exactly one strict CBOR item.

    Raises:
        PeerError: too large, malformed, or holding anything the module docstring excludes.
    """
    if len(data) > size_max:
        raise PeerError(f"message of {len(data)} bytes is larger than {size_max}")
    try:
        pair = cbor2.loads(
            b"\x82" + data + _TAIL,
            tag_hook=_refuse_tag,
            semantic_decoders=_NO_TAGS,
            max_depth=DEPTH_MAX + 1,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        _PLAIN.encode(pair)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise PeerError(f"malformed CBOR: {str(error)[:200]}") from None
    if pair[1] != _NONCE:
        raise PeerError("malformed CBOR: bytes left over")
    return pair[0]


class Kinds(Generic[T]):
    """Which of several Structs an array stands for: the one whose tag it begins with.

    `msgspec.convert` with the union of them finds the same, but builds the union's tables anew at each call:
    40 us for fifteen Structs, where one takes 0.2.
    """

    def __init__(self, union: Any) -> None:
        self._of = {kind.__struct_config__.tag: kind for kind in get_args(union)}

    def __contains__(self, number: object) -> bool:
        return number in self._of

    def convert(self, raw: Any) -> T:
        """The Struct in a decoded array.

        Raises:
            msgspec.ValidationError: no such array, no such tag, or fields of a wrong type.
        """
        number = raw[0] if isinstance(raw, list) and raw else None
        kind = self._of.get(number) if isinstance(number, int) else None
        if kind is None:
            raise msgspec.ValidationError("not an array that begins with a known number")
        return msgspec.convert(raw, kind)  # type: ignore[no-any-return]


def check_user_value(value: Any, depth: int = 1) -> None:
    """Refuse a user's value that a strict decoder elsewhere would refuse.

    Raises:
        UsageError: naming what is wrong (depth, key type, integer range, type).
    """
    if depth > DEPTH_MAX - 4:
        raise UsageError(f"value is nested deeper than {DEPTH_MAX - 4} levels")
    if value is None or isinstance(value, (bool, str, bytes, float)):
        return
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise UsageError(f"integer {value} does not fit 64 bits", "store it as text")
        return
    if isinstance(value, (list, tuple)):
        for item in value:
            check_user_value(item, depth + 1)
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UsageError(f"map key {key!r} is not text")
            check_user_value(item, depth + 1)
        return
    raise UsageError(f"a value of type {type(value).__name__} cannot be stored")

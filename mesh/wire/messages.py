"""The messages of `/mesh/link/1`, each one CBOR array `[number, fields...]`.

New fields are appended (trailing elements are optional), unknown numbers are ignored, so that versions
N and N-1 talk. `aid` is 16 bytes, `scope` one of "m", "z", "l", `hlc` an unsigned 64-bit integer.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, TypeAlias

import msgspec

from mesh.errors import PeerError
from mesh.wire import codec

# A peer's ids and stamps become keys of the store, which have room for these sizes and no others.
Aid: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Stamp: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]  # the codec has none above 64 bits


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base: decoded with every field's type checked."""


class Hello(Message, frozen=True, tag=0):
    """First frame on a link, both ways. `cert` is the encoded certificate chain of the sender, `life` drawn
    anew by each process.
    """

    version: int
    mesh_id: bytes
    cert: bytes
    scopes: list[str]
    features: list[str]
    clock_ms: int
    incarnation: int
    roots: dict[str, bytes]
    zone: str
    addresses: list[str] = []
    software: str = ""
    life: bytes = b""


class Root(Message, frozen=True, tag=1):
    """Digest of one scope; `buckets` (`core/heads.py`) comes when the sender believes that they differ.

    `tells`: whoever answers these buckets will be told what the answer shows it to lack.
    """

    scope: str
    root: bytes
    buckets: bytes | None = None
    tells: bool = False


class Heads(Message, frozen=True, tag=2):
    """[aid, head, fp] per author.

    An announcement of what is held on disk, the reply to a Root that differs, or (`ask`) the request to
    announce these authors as soon as they are held up to these heads.

    `buckets`, in a reply: those, a byte each, of which all authors are named that the sender holds.
    """

    scope: str
    heads: list[tuple[Aid, Stamp, bytes]]
    reply: bool = False
    ask: bool = False
    buckets: bytes = b""


class Want(Message, frozen=True, tag=3):
    scope: str
    aid: Aid
    since: Stamp


class Delta(Message, frozen=True, tag=4):
    """Records of one author, ascending by hlc: push, forward, pull reply and bootstrap alike."""

    scope: str
    aid: Aid
    since: Stamp
    upto: Stamp
    reset: bool
    records: list[tuple[bytes, bytes]]
    more: bool = False
    pull: bool = False


class Listing(Message, frozen=True, tag=5):
    """Fallback when heads are equal and fingerprints are not.

    `entries` holds (hlc, first 8 bytes of H(sig)) of every slot in (low, high].
    """

    scope: str
    aid: Aid
    head: Stamp
    entries: list[tuple[Stamp, bytes]]
    low: Stamp = 0
    high: Stamp = (1 << 64) - 1


class Pull(Message, frozen=True, tag=6):
    scope: str
    aid: Aid
    hlcs: list[Stamp]
    head: Stamp


class Quiet(Message, frozen=True, tag=7):
    scope: str
    aids: list[Aid]


class Wake(Message, frozen=True, tag=8):
    scope: str
    aids: list[Aid]


class Ping(Message, frozen=True, tag=9):
    nonce: int
    sent_ms: int


class Pong(Message, frozen=True, tag=10):
    nonce: int
    sent_ms: int
    clock_ms: int


class Bye(Message, frozen=True, tag=11):
    """`proof`: (author, body, signature) of records that say so, for one who was removed. `passing`: refused
    for dates, so that one of the two clocks may be wrong.
    """

    reason: str
    proof: list[tuple[Aid, bytes, bytes]] = []
    passing: bool = False


class Ask(Message, frozen=True, tag=12):
    """A query on its way from link to link. `body` and `sig` are the asker's, see `mesh/core/query.py`."""

    aid: Aid
    body: bytes
    sig: bytes
    remaining_ms: int
    depth: int


class Reply(Message, frozen=True, tag=13):
    """What the part of the tree below the sender answered to an Ask, or that it was asked already.

    `nodes` are the ids of those who answered, one after the other; `failed` are [aid, code, message] of those
    who could not; `state` is of the query's combine, None when nobody answered.
    """

    qid: bytes
    already: bool = False
    count: int = 0
    nodes: bytes = b""
    failed: list[tuple[bytes, str, str]] = []
    state: Any = None


class Probe(Message, frozen=True, tag=14):
    """A liveness probe on the held stream; the payload is that of a sealed datagram."""

    payload: bytes


AnyMessage: TypeAlias = (
    Hello
    | Root
    | Heads
    | Want
    | Delta
    | Listing
    | Pull
    | Quiet
    | Wake
    | Ping
    | Pong
    | Bye
    | Ask
    | Reply
    | Probe
)
_KINDS: codec.Kinds[AnyMessage] = codec.Kinds(AnyMessage)


# One entry of Heads as canonical CBOR has it: an array of three, 16 bytes, a number of 64 bits, 16 bytes.
_ENTRY = struct.Struct(">2s16sBQB16s")
_ENTRY_HEAD, _WIDE, _BYTES_16 = b"\x83\x50", 0x1B, 0x50
_HEADS = b"\x86" + bytes([2])
_WIDE_MIN = 1 << 32  # smaller numbers take fewer bytes
_TRUTH = (b"\xf4", b"\xf5")


def encode(message: Message) -> bytes:
    """The frame body of a message."""
    if type(message) is Heads:
        body = _heads(message)
        if body is not None:
            return body
    return codec.encode(msgspec.to_builtins(message, builtin_types=(bytes,)))


def _heads(message: Heads) -> bytes | None:
    """What `codec.encode` makes of Heads, at a quarter of the cost; None for what is not as usual.

    Every quiet link hears of every change by these, so nothing else is encoded as often.
    """
    count, entries = len(message.heads), []
    if count >= 1 << 16 or len(message.scope) != 1 or not message.scope.isascii():
        return None
    for aid, head, fp in message.heads:
        if len(aid) != 16 or len(fp) != 16 or head < _WIDE_MIN:
            return None
        entries.append(_ENTRY.pack(_ENTRY_HEAD, aid, _WIDE, head, _BYTES_16, fp))
    if count < 24:
        size = bytes([0x80 + count])
    else:
        size = bytes([0x98, count]) if count < 256 else b"\x99" + count.to_bytes(2, "big")
    scope = b"\x61" + message.scope.encode()
    buckets = codec.encode(message.buckets) if message.buckets else b"\x40"
    return b"".join([_HEADS, scope, size, *entries, _TRUTH[message.reply], _TRUTH[message.ask], buckets])


def decode(body: bytes) -> AnyMessage | None:
    """The message in a frame body, or None for a number this version does not know.

    Raises:
        PeerError: malformed CBOR, or fields of a wrong type or size.
    """
    raw: Any = codec.decode(body)
    if not isinstance(raw, list) or not raw or not isinstance(raw[0], int):
        raise PeerError("a message is not an array that starts with its number")
    if raw[0] not in _KINDS:
        return None
    try:
        return _KINDS.convert(raw)
    except msgspec.ValidationError as error:
        raise PeerError(f"malformed message {raw[0]}: {str(error)[:200]}") from None

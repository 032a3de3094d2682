"""The messages of `/mesh/call/1`: one call at a time on a stream, which is then used for the next.

    caller                          node
      Request ------------------------>
      <------------------------- Answer(more=True) ...   streaming calls only
      <------------------------- Answer | Failure

A call whose caller speaks too (`agent/talk.py`):

      Request(parts=True) ------------>
      <------------------------- Ready | Failure
      Part(more=True) ... Part -------->
      <------------------------- Answer(more=True) ... Answer | Failure

A caller that loses interest resets the stream. Backpressure is the stream's own, both ways.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from mesh.errors import PeerError, UsageError
from mesh.wire import codec
from mesh.wire.messages import Message

METHOD_CHARS_MAX = 255
# A body at its cap, and the fields around it.
FRAME_BYTES_MAX = codec.CALL_BYTES_MAX + 4096


class Request(Message, frozen=True, tag=0):
    """`deadline_ms` is what remains of the caller's patience; with `stream` several answers may follow.

    With `parts` the caller sends more than this, once it is told that somebody takes it.
    """

    method: str
    deadline_ms: int
    body: Any = None
    stream: bool = False
    parts: bool = False


class Answer(Message, frozen=True, tag=1):
    """The answer. In a streaming call an item has `more`; the answer without it is the end, not an item."""

    body: Any = None
    more: bool = False


class Failure(Message, frozen=True, tag=2):
    """The call failed; `code` is that of one of our errors."""

    code: str
    message: str
    hint: str = ""


class Part(Message, frozen=True, tag=3):
    """What the caller sends besides; the part without `more` is the end, not an item."""

    body: Any = None
    more: bool = True


class Ready(Message, frozen=True, tag=4):
    """The call is taken, its parts may come. `by` is the node that takes it, where a gateway says it."""

    by: bytes = b""


CallMessage: TypeAlias = Request | Answer | Failure | Part | Ready
_KINDS: codec.Kinds[CallMessage] = codec.Kinds(CallMessage)


def encode(message: CallMessage) -> bytes:
    """The frame body of a message.

    Raises:
        UsageError: the body is larger than 256 KiB or holds what peers would refuse.
    """
    data = codec.encode(msgspec.to_builtins(message, builtin_types=(bytes,)))
    if len(data) > FRAME_BYTES_MAX:
        raise UsageError(f"a call body of {len(data)} bytes, at most {codec.CALL_BYTES_MAX} are allowed")
    return data


def decode(data: bytes) -> CallMessage:
    """The message in a frame body.

    Raises:
        PeerError: malformed, oversized or of an unknown number.
    """
    raw = codec.decode(data, FRAME_BYTES_MAX)
    try:
        return _KINDS.convert(raw)
    except msgspec.ValidationError as error:
        raise PeerError(f"malformed call message: {str(error)[:200]}") from None

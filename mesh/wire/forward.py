"""The head of `/mesh/svc/1`: one stream is one connection to a service, carried between two agents.

    caller's agent                  owner's agent
      Open -------------------------->  may it? is the service mine? connect to it
      <----------------- Opened | Failure
      <=============== bytes, both ways, each direction closed by itself ===============>

The stream's own windows are the backpressure of the connection that it carries; a reset is a reset.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from mesh.errors import PeerError
from mesh.wire import codec, frames
from mesh.wire.calls import Failure
from mesh.wire.messages import Message

HEAD_BYTES_MAX = 4096
HOPS_MAX = 1


class Open(Message, frozen=True, tag=0):
    """Connect me to a service.

    Attributes:
        name: of the service.
        id: of the instance; empty: any one of your zone, which is asked of its gateways only.
        deadline_ms: what is left of the caller's patience for the connection to stand.
        host, port: of the program that calls, as its agent sees it; empty when it has no address.
        caller: the agent that the call began at, where a gateway passes it on; else empty.
        hops: how many gateways it may still pass.
    """

    name: str
    id: str
    deadline_ms: int
    host: str = ""
    port: int = 0
    caller: bytes = b""
    hops: int = 0


class Opened(Message, frozen=True, tag=1):
    """It stands; `id` is the instance. What follows are its bytes."""

    id: str


class Refused(Failure, frozen=True, tag=2):
    """It does not; see `Failure`."""


HeadMessage: TypeAlias = Open | Opened | Refused
_KINDS: codec.Kinds[HeadMessage] = codec.Kinds(HeadMessage)


def pack(message: HeadMessage) -> bytes:
    """One frame."""
    return frames.pack(codec.encode(msgspec.to_builtins(message, builtin_types=(bytes,))))


def decode(data: bytes) -> HeadMessage:
    """The message in a frame body.

    Raises:
        PeerError: malformed, or of an unknown number.
    """
    raw: Any = codec.decode(data, HEAD_BYTES_MAX)
    try:
        return _KINDS.convert(raw)
    except msgspec.ValidationError as error:
        raise PeerError(f"malformed head of a connection: {str(error)[:200]}") from None


class HeadReader:
    """Takes the one frame off the front of a stream; what follows it is the connection's."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[HeadMessage, bytes] | None:
        """The message and the bytes behind it, once it is whole.

        Raises:
            PeerError: it announces more than HEAD_BYTES_MAX, or is malformed.
        """
        self._buffer += data
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > HEAD_BYTES_MAX:
            raise PeerError(f"a head of {length} bytes announced, at most {HEAD_BYTES_MAX} are allowed")
        if len(self._buffer) < 4 + length:
            return None
        return decode(self._buffer[4 : 4 + length]), self._buffer[4 + length :]

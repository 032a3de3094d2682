"""Length-prefixed frames on a byte stream: u32 big-endian length, then one CBOR array.

`FrameReader` is sans-IO: feed it bytes as they come, take whole frames out. A length above the cap is
refused before a byte of the body is buffered, so a peer cannot make us allocate by announcing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mesh.errors import PeerError
from mesh.wire.codec import FRAME_BYTES_MAX

_LENGTH = struct.Struct(">I")


def pack(body: bytes) -> bytes:
    """One frame around an encoded message; at most FRAME_BYTES_MAX bytes of body."""
    assert len(body) <= FRAME_BYTES_MAX, len(body)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Splits a byte stream into frame bodies.

    Args:
        size_max: largest body accepted, bytes; may be raised once the peer is known.
    """

    def __init__(self, size_max: int = FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self.size_max = size_max

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add received bytes; yield every frame body that is now whole.

        Raises:
            PeerError: the peer announced a frame above the cap.
        """
        self._buffer += data
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self.size_max:
                raise PeerError(f"frame of {length} bytes announced, at most {self.size_max} allowed")
            if len(self._buffer) < 4 + length:
                return
            body = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            yield body

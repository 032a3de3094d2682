"""The two protocols that any libp2p peer may ask of any other: ping and identify.

Members do not need them, foreign libp2p tools do (specs: ping, identify).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from mesh.errors import PeerError
from mesh.net import address
from mesh.net.base import Handler, Stream

PING = "/ipfs/ping/1.0.0"
IDENTIFY = "/ipfs/id/1.0.0"
_PING_BYTES = 32
_KEY_PREFIX = bytes.fromhex("08011220")  # protobuf: type Ed25519, 32 bytes of data
_IP4, _TCP, _IP6 = b"\x04", b"\x06", b"\x29"


async def answer_ping(stream: Stream) -> None:
    """Send back every 32 bytes until the peer closes."""
    buffered = b""
    while data := await stream.receive(_PING_BYTES):
        buffered += data
        if len(buffered) >= _PING_BYTES:
            await stream.send(buffered[:_PING_BYTES])
            buffered = buffered[_PING_BYTES:]


def answer_identify(
    public: bytes, agent: str, addresses: Callable[[], Iterable[str]], protocols: Callable[[], Iterable[str]]
) -> Handler:
    """A handler that says who we are, once, and closes."""

    async def handler(stream: Stream) -> None:
        message = _field(1, _KEY_PREFIX + public)
        message += b"".join(_field(2, _binary(text)) for text in addresses())
        message += b"".join(_field(3, name.encode()) for name in protocols())
        message += _field(5, b"mesh/1") + _field(6, agent.encode())
        await stream.send(_varint(len(message)) + message, last=True)

    return handler


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _binary(text: str) -> bytes:
    where = address.parse(text)
    if where.kind not in ("ip4", "ip6"):
        raise PeerError(f"{text} is not the address of a socket")
    code = _IP4 if where.kind == "ip4" else _IP6
    return code + ipaddress.ip_address(where.host).packed + _TCP + where.port.to_bytes(2, "big")

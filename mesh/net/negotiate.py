"""Agreeing on a protocol by name: multistream-select 1.0.0, as every libp2p speaks it.

    dialler   "/multistream/1.0.0\\n"  "/noise\\n"
    listener  "/multistream/1.0.0\\n"  "/noise\\n"     or  "na\\n" to a name it does not know

Each line is preceded by its length as a varint. The dialler sends both lines at once, together with
what follows, and reads the answers when it first reads (go-libp2p calls this lazy): agreeing costs no
round trip. py-libp2p's own reads lines of any announced length before the peer is known, one byte per
call; here a line is at most LINE_BYTES_MAX and a listener hears at most TRIES_MAX names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container

from mesh.errors import NotFound, PeerError

LINE_BYTES_MAX = 256
TRIES_MAX = 8
_HEADER = "/multistream/1.0.0"
_NOT_KNOWN = "na"
Read = Callable[[int], Awaitable[bytes]]  # up to n bytes, b"" at the end


def _line(text: str) -> bytes:
    raw = text.encode() + b"\n"
    assert len(raw) <= LINE_BYTES_MAX
    size = len(raw)
    return (bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])) + raw


HEADER = _line(_HEADER)
NOT_KNOWN = _line(_NOT_KNOWN)


def proposal(protocol: str) -> bytes:
    """What a dialler sends."""
    return HEADER + _line(protocol)


async def exactly(read: Read, size: int) -> bytes:
    """Read `size` bytes.

    Raises:
        PeerError: the peer closed before.
    """
    data = b""
    while len(data) < size:
        more = await read(size - len(data))
        if not more:
            raise PeerError("closed while a protocol was agreed upon")
        data += more
    return data


async def _read_line(read: Read) -> str:
    size = (await exactly(read, 1))[0]
    if size >= 128:
        size = (size & 0x7F) | (await exactly(read, 1))[0] << 7
    if not 0 < size <= LINE_BYTES_MAX:
        raise PeerError(f"a line of {size} bytes where a protocol's name was due")
    raw = await exactly(read, size)
    if not raw.endswith(b"\n"):
        raise PeerError("a protocol's name does not end in a newline")
    return raw[:-1].decode("utf-8", "replace")


async def confirm(read: Read, protocol: str) -> None:
    """The dialler's second half: read the answers to `proposal`.

    Raises:
        NotFound: the peer does not speak the protocol.
        PeerError: what it said is not multistream-select.
    """
    if await _read_line(read) != _HEADER:
        raise PeerError("the peer does not speak multistream-select")
    answer = await _read_line(read)
    if answer == _NOT_KNOWN:
        raise NotFound(f"the peer does not speak {protocol}")
    if answer != protocol:
        raise PeerError(f"the peer answered {answer[:80]!r} to {protocol}")


async def choose(read: Read, write: Callable[[bytes], None], known: Container[str]) -> str:
    """The listener's part: hear names until one is known, and confirm it.

    Args:
        write: queues bytes; flushed before `read` waits.

    Raises:
        PeerError: not multistream-select, or too many unknown names.
    """
    write(HEADER)
    if await _read_line(read) != _HEADER:
        raise PeerError("the peer does not speak multistream-select")
    for _ in range(TRIES_MAX):
        name = await _read_line(read)
        if name in known:
            write(_line(name))
            return name
        write(NOT_KNOWN)
    raise PeerError("the peer asked for protocols we do not speak")

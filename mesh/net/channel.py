"""A wire under a Noise cipher: packets of plain bytes in, packets of plain bytes out.

Writes are tried at once, without a task switch; what the wire does not take waits in a buffer that a
task of its own empties. So a writer that is cancelled has either handed over a whole packet or none:
py-libp2p's, cancelled in mid-write, leaves half a packet on the wire and both ends with ciphers out of
step, the connection lost or, worse, looking alive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import trio
from trio.lowlevel import checkpoint

from mesh.errors import PeerError, Unreachable
from mesh.net.wire import Wire

PACKET_BYTES_MAX = 65535  # a Noise message, its 16-byte tag included
PLAIN_BYTES_MAX = PACKET_BYTES_MAX - 16
PACKETS_PER_TURN = 32  # a tiny one may cost 100 us: a flooding peer holds the loop for 3 ms at most


class Cipher(Protocol):
    """The two directions of a finished Noise handshake; each call uses the next nonce."""

    def encrypt(self, data: bytes) -> bytes: ...

    def decrypt(self, data: bytes) -> bytes: ...


class Sealed(NamedTuple):
    """What a handshake leaves: `early` is what the peer has sent since, opened."""

    cipher: Cipher
    public: bytes
    early: bytes = b""


class Channel:
    """See the module.

    Args:
        early: plain bytes that came along with the handshake.
        spawn: starts the task that empties the buffer.
        fail: told once why no more can be written.
    """

    def __init__(
        self,
        wire: Wire,
        cipher: Cipher,
        *,
        early: bytes = b"",
        stall_s: float,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        fail: Callable[[str], None],
    ) -> None:
        self._wire = wire
        self._cipher = cipher
        self._early = early
        self._stall_s = stall_s
        self._spawn = spawn
        self._fail = fail
        self._rest = b""
        self._out = bytearray()
        self._emptied = trio.Event()

    @property
    def relayed(self) -> bool:
        """Whether a third node carries it."""
        return self._wire.relayed

    @property
    def backlog_bytes(self) -> int:
        """Sealed bytes that the kernel has not taken yet."""
        return len(self._out)

    async def receive(self) -> list[bytes]:
        """The packets that have arrived whole, at least one; [] at the end.

        Raises:
            PeerError: a packet that the peer's key did not seal, or an end in mid-packet.
            Unreachable: the connection is gone.
        """
        if self._early:
            early, self._early = self._early, b""
            return [early]
        packets = self._whole_packets()
        if packets:
            await checkpoint()
        while not packets:
            data = await self._wire.receive()
            if not data:
                if self._rest:
                    raise PeerError("closed in the middle of a packet")
                return []
            self._rest = self._rest + data if self._rest else data
            packets = self._whole_packets()
        return packets

    def _whole_packets(self) -> list[bytes]:
        """Take packets from what has arrived, few enough that others get their turn soon."""
        data, start, have = self._rest, 0, len(self._rest)
        packets: list[bytes] = []
        while have - start >= 2 and len(packets) < PACKETS_PER_TURN:
            end = start + 2 + (data[start] << 8 | data[start + 1])
            if end > have:
                break
            packets.append(self._open(data[start + 2 : end]))
            start = end
        if start:
            self._rest = data[start:]
        return packets

    def _open(self, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed)
        except Exception:  # the library has several, all of them saying this
            raise PeerError("a packet was not sealed by the peer's key") from None

    def send_nowait(self, plain: bytes) -> None:
        """Seal and send, or queue behind what is queued; never waits. Bytes leave in the order of calls."""
        if self._wire.closed:
            return
        seal = self._cipher.encrypt
        if len(plain) <= PLAIN_BYTES_MAX:
            sealed = seal(plain)
            data = len(sealed).to_bytes(2, "big") + sealed
        else:
            parts: list[bytes] = []
            for start in range(0, len(plain), PLAIN_BYTES_MAX):
                sealed = seal(plain[start : start + PLAIN_BYTES_MAX])
                parts += (len(sealed).to_bytes(2, "big"), sealed)
            data = b"".join(parts)
        if self._out:
            self._out += data
            return
        try:
            sent = self._wire.try_send(data)
        except Unreachable as error:
            self._fail(error.message)
            return
        if sent < len(data):
            self._out += data[sent:]
            self._emptied = trio.Event()
            self._spawn(self._empty)

    async def wait_emptied(self) -> None:
        """Wait until the kernel has taken everything, or the connection has ended."""
        while self._out and not self._wire.closed:
            await self._emptied.wait()

    async def _empty(self) -> None:
        try:
            while self._out:
                with trio.move_on_after(self._stall_s) as patience:
                    await self._wire.wait_writable()
                if patience.cancelled_caught:
                    self._fail(f"the peer took nothing for {self._stall_s:g} s")
                    return
                with memoryview(self._out) as view:
                    sent = self._wire.try_send(view)
                del self._out[:sent]
                await checkpoint()
        except Unreachable as error:
            self._fail(error.message)
        finally:
            if self._out:
                self._fail("stopped")
            self._emptied.set()

    def close_now(self) -> None:
        self._wire.close_now()
        self._emptied.set()

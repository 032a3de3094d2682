"""What carries the bytes of a connection: a TCP socket, or what stands for one.

Reads take everything that is there; writes take what the kernel takes and never wait.
"""

from __future__ import annotations

import errno
import socket
from abc import ABC, abstractmethod

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable, wait_writable

from mesh.errors import Unreachable
from mesh.net.address import text_of
from mesh.net.base import Refused

READ_BYTES = 64 << 10
# The kernel gives a connection up whose other end acknowledges nothing for so long; else it tries for 15
# minutes. A process that stands still does not count as that: its kernel goes on acknowledging.
UNACKNOWLEDGED_S = 25
# While reads come back full: several packets at once, of which few lie across two reads.
READ_BYTES_BULK = 256 << 10
_GONE = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF})


class Wire(ABC):
    """A duplex byte carrier, with what libp2p's handshake asks of a raw connection.

    During the handshake `write` only collects; `read` sends what was collected before it waits.

    Attributes:
        remote: IP address and port of the other end.
        address: its multiaddr.
        relayed: whether another node carries it.
        heard_at: monotonic time at which the last bytes arrived.
    """

    relayed = False

    def __init__(self, remote: tuple[str, int], address: str, *, initiator: bool) -> None:
        self.remote = remote
        self.address = address
        self.is_initiator = initiator
        self.heard_at = trio.current_time()
        self.bytes_in = self.bytes_out = 0
        self.closed = False
        self._early = b""
        self._collected = bytearray()

    @abstractmethod
    def close_now(self) -> None:
        """Close; whoever waits is woken with an error."""

    @abstractmethod
    def try_send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken, without waiting.

        Raises:
            Unreachable: the connection is gone.
        """

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until something may be taken again. Raises Unreachable when the connection is gone."""

    @abstractmethod
    async def _receive(self) -> bytes: ...

    async def receive(self) -> bytes:
        """What is there; b"" at the end.

        Raises:
            Unreachable: the connection was reset or closed here.
        """
        if self._early:
            data, self._early = self._early, b""
            return data
        data = await self._receive()
        self.heard_at = trio.current_time()
        self.bytes_in += len(data)
        return data

    # -- for the handshake, whose few hundred bytes always fit --------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        if not self._early:
            await self.flush()
            self._early = await self.receive()
        size = len(self._early) if n is None else n
        data, self._early = self._early[:size], self._early[size:]
        return data

    def collect(self, data: bytes) -> None:
        self._collected += data

    async def write(self, data: bytes) -> None:
        self._collected += data

    async def flush(self) -> None:
        """Send what was collected."""
        data, self._collected = bytes(self._collected), bytearray()
        while data:
            data = data[self.try_send(data) :]
            if data:
                await self.wait_writable()

    async def close(self) -> None:
        self.close_now()

    def get_remote_address(self) -> tuple[str, int]:
        return self.remote


class TcpWire(Wire):
    """A connected TCP socket."""

    def __init__(self, sock: socket.socket, *, initiator: bool) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1000)
        name = sock.getpeername()
        remote = str(name[0]), int(name[1])
        super().__init__(remote, text_of(*remote), initiator=initiator)
        self._sock = sock
        self._fd = sock.fileno()
        self._read_bytes = READ_BYTES

    def close_now(self) -> None:
        if not self.closed:
            self.closed = True
            notify_closing(self._fd)
            self._sock.close()

    def try_send(self, data: bytes | memoryview) -> int:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _gone(error) from None
        self.bytes_out += sent
        return sent

    async def wait_writable(self) -> None:
        if self.closed:  # its number may be another socket's by now
            raise Unreachable("the connection is gone")
        try:
            await wait_writable(self._fd)
        except (OSError, trio.ClosedResourceError) as error:
            raise _gone(error) from None

    async def _receive(self) -> bytes:
        try:
            try:
                data = self._read()
            except BlockingIOError:
                await wait_readable(self._fd)
                return self._read()
            await checkpoint()  # a peer that always has more must not keep the loop from others
            return data
        except (OSError, trio.ClosedResourceError) as error:
            raise _gone(error) from None

    def _read(self) -> bytes:
        data = self._sock.recv(self._read_bytes)
        self._read_bytes = READ_BYTES_BULK if len(data) >= READ_BYTES else READ_BYTES
        return data


def _gone(error: Exception) -> Unreachable:
    number = getattr(error, "errno", None)
    if number == errno.ECONNREFUSED:
        return Refused("connection refused: nobody listens there")
    if number in _GONE or isinstance(error, trio.ClosedResourceError):
        return Unreachable("the connection is gone")
    return Unreachable(f"the connection failed: {getattr(error, 'strerror', None) or error}")

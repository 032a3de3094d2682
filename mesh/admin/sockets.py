"""A connected socket on trio, with as few turns of the loop as possible.

trio's own stream yields on every send, which for small answers costs more than the send itself. Here a send
that the kernel takes at once does not yield; waiting for the next request does.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import trio


class Socket:
    """A non-blocking stream socket, used by one task at a time for each direction."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    async def receive(self, bytes_max: int) -> bytes:
        """Wait for bytes; b"" at the end, also when the connection broke."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(bytes_max)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def send(self, data: bytes, stalled: Callable[[], None] = lambda: None) -> None:
        """Send all; waits while the other end does not read.

        Args:
            stalled: called when it has to wait.

        Raises:
            trio.BrokenResourceError: the other end is gone.
        """
        try:
            sent = self._try(data)
            if sent < len(data):
                stalled()
            while sent < len(data):
                await trio.lowlevel.wait_writable(self._sock)
                sent += self._try(data[sent:])
        except OSError as error:
            raise trio.BrokenResourceError from error

    def _try(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    @property
    def gone(self) -> bool:
        """Whether the other end has closed, whatever it left to be read."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def duplicate(self) -> socket.socket:
        """Another handle on the same connection, which outlives this one."""
        return self._sock.dup()

    def close(self) -> None:
        """Close; a task that waits in `receive` or `send` is woken with an error."""
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

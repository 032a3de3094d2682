"""Two connections tied together: what comes out of one goes into the other, both ways, until both are done.

Each direction ends by itself: an end of file on one side closes the other side's sending half, so protocols
that close one way and go on reading (HTTP/1.0, `nc -N`, rsync) work. Nothing is read that cannot be sent on,
so a slow reader slows the sender, through the mesh as on one wire. A pair on which nothing moves either way
for `idle_s` is let go, and one of which an end breaks is reset as a whole.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable, wait_writable

from mesh.errors import Failed, MeshError, Unreachable
from mesh.net.stream import PAYLOAD_MAX

log = logging.getLogger(__name__)

# What goes as one frame in one packet of a stream: with 64 KiB each piece would leave a second, tiny one.
READ_BYTES = PAYLOAD_MAX
_PASSING_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED, errno.EPROTO)
IDLE_S = 3600.0
_WATCH_S = 5.0


class Pipe(Protocol):
    """The part of a stream of `mesh/net` that carrying bytes needs; `TcpPipe` has it for a socket."""

    async def send(self, data: bytes, *, last: bool = False) -> None: ...

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class TcpPipe:
    """A connected stream socket. Sends that the kernel takes at once do not yield."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock = sock
        self._closed = False

    @property
    def remote(self) -> tuple[str, int]:
        """Address and port of the other end; ("", 0) where it has none."""
        try:
            name = self._sock.getpeername()
        except OSError:
            return "", 0
        return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("", 0)

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Send all of `data`; waits while the other end does not read. Raises Unreachable."""
        try:
            sent = self._try(data)
            while sent < len(data):
                await wait_writable(self._sock)
                with memoryview(data) as view:
                    sent += self._try(view[sent:])
        except (OSError, trio.ClosedResourceError) as error:
            raise Unreachable(f"the connection broke: {_reason(error)}") from None
        if last:
            await self.close()

    def _try(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """What is there; b"" at the end. Raises Unreachable."""
        try:
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                await wait_readable(self._sock)
                return self._sock.recv(max_bytes)
            await checkpoint()  # one that always has more must not keep the loop from others
            return data
        except (OSError, trio.ClosedResourceError) as error:
            raise Unreachable(f"the connection broke: {_reason(error)}") from None

    def is_stale(self) -> bool:
        """Whether anything, the end included, is there to be read."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def close(self) -> None:
        """Close our direction."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone already

    async def reset(self) -> None:
        """End both directions; whoever waits is woken."""
        if not self._closed:
            self._closed = True
            notify_closing(self._sock)
            self._sock.close()


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, str(error)) if number is not None else "it was closed"


class Early:
    """A pipe of which the first bytes were read already."""

    def __init__(self, pipe: Pipe, early: bytes) -> None:
        self.inner = pipe
        self._early = early

    @property
    def has_early(self) -> bool:
        return bool(self._early)

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        if not self._early:
            return await self.inner.receive(max_bytes)
        data, self._early = self._early[:max_bytes], self._early[max_bytes:]
        return data

    async def send(self, data: bytes, *, last: bool = False) -> None:
        await self.inner.send(data, last=last)

    async def close(self) -> None:
        await self.inner.close()

    async def reset(self) -> None:
        await self.inner.reset()


def with_early(pipe: Pipe, early: bytes) -> Pipe:
    """The pipe, with bytes put back in front of what it will give."""
    return Early(pipe, early) if early else pipe


def is_stale(pipe: Pipe) -> bool:
    """Whether a pipe that idles was ended by the other side, or has something unasked for on it."""
    if isinstance(pipe, Early):
        return pipe.has_early or is_stale(pipe.inner)
    if isinstance(pipe, TcpPipe):
        return pipe.is_stale()
    return bool(getattr(pipe, "fin_received", False)) or getattr(pipe, "error", None) is not None


async def connect(host: str, port: int, deadline_s: float) -> TcpPipe:
    """A TCP connection to a host by address or name.

    Raises:
        Unreachable: nobody there, or not in time.
    """
    with trio.move_on_after(max(0.0, deadline_s)):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return await _connect_by_name(host, port)
        return await _connect_to(host, port)
    raise Unreachable(f"{host}:{port} did not answer within {deadline_s:.1f} s")


async def _connect_to(host: str, port: int) -> TcpPipe:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setblocking(False)
        number = sock.connect_ex((host, port))
        if number == errno.EINPROGRESS:
            await wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise Unreachable(f"{host}:{port}: {errno.errorcode.get(number, str(number))}")
        return TcpPipe(sock)
    except OSError as error:
        sock.close()
        raise Unreachable(f"{host}:{port}: {_reason(error)}") from None
    except BaseException:
        sock.close()
        raise


async def _connect_by_name(host: str, port: int) -> TcpPipe:
    try:
        stream = await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise Unreachable(f"{host}:{port}: {error.strerror or error}") from None
    fd = stream.socket.detach()
    return TcpPipe(socket.socket(fileno=fd))


class Carried:
    """How much went through a pair, and when something last did."""

    def __init__(self) -> None:
        self.up = self.down = 0
        self.moved_at = trio.current_time()


async def relay(near: Pipe, far: Pipe, *, idle_s: float = IDLE_S, carried: Carried | None = None) -> Carried:
    """Tie two pipes together until both directions are done.

    Raises:
        Unreachable: one of them broke; both are reset then.
    """
    carried = carried or Carried()
    broken: list[Unreachable] = []
    left = 2

    async def carry(source: Pipe, sink: Pipe, *, up: bool) -> None:
        nonlocal left
        try:
            while data := await source.receive(READ_BYTES):
                carried.moved_at = trio.current_time()
                if up:
                    carried.up += len(data)
                else:
                    carried.down += len(data)
                await sink.send(data)
            await sink.close()
            left -= 1
        except Unreachable as error:
            broken.append(error)
        if broken or not left:
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, carried, idle_s, nursery.cancel_scope)
            nursery.start_soon(partial(carry, near, far, up=True))
            await carry(far, near, up=False)
    finally:
        await near.reset()
        await far.reset()
    if broken:
        raise broken[0]
    return carried


async def _watch(carried: Carried, idle_s: float, scope: trio.CancelScope) -> None:
    """End a pair on which nothing moves."""
    while (rest_s := carried.moved_at + idle_s - trio.current_time()) > 0:
        await trio.sleep(max(rest_s, min(_WATCH_S, idle_s)))
    scope.cancel()


async def serve(
    listener: socket.socket, handle: Callable[[TcpPipe], Awaitable[None]], connections_max: int
) -> None:
    """Accept until cancelled; more than `connections_max` wait in the backlog. Closes the listener."""
    slots = trio.Semaphore(connections_max)

    async def one(pipe: TcpPipe) -> None:
        try:
            await handle(pipe)
        except MeshError as error:
            log.debug("connection ended: %s", error.message)
        except Exception:
            log.exception("connection at %s", listener.getsockname())
        finally:
            slots.release()
            await pipe.reset()

    with listener:
        async with trio.open_nursery() as nursery:
            while True:
                await slots.acquire()
                try:
                    nursery.start_soon(one, TcpPipe(await _accepted(listener)))
                except BaseException:
                    slots.release()
                    raise


async def _accepted(listener: socket.socket) -> socket.socket:
    while True:
        try:
            await wait_readable(listener)
            return listener.accept()[0]
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno not in _PASSING_ERRORS:
                raise
            log.warning("accepting on %s: %s", listener.getsockname(), error.strerror)
            await trio.sleep(0.1)


def listen(host: str, port: int, backlog: int = 512) -> socket.socket:
    """A listening TCP socket.

    Raises:
        Failed: the address cannot be had; says which and why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(backlog)
        sock.setblocking(False)
    except (OSError, OverflowError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or error
        raise Failed(f"cannot listen on {host}:{port}: {why}", "choose another port, or 0 for any") from None
    return sock

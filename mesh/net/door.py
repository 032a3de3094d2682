"""The listening sockets, and who may stand in the doorway.

**The port is ours alone.** py-libp2p listens with SO_REUSEPORT: a second agent on the same port starts
without a word and takes half of the connections. Here the port is bound without it, so the bind is the
lock, and the second agent fails at once with the port's number.

**Nobody holds the door.** py-libp2p gives 250 slots for 10 s each, so 250 silent sockets keep everybody
out. Here a socket has handshake_s from accept to a finished handshake, the places are few, each source
(one IPv4 address, one IPv6 /64) has a share of them, and a newcomer is never turned away: the pending
connection that has said nothing at all, or else nothing for longest, gives way: one of the same source
when that has its share, else one of the source that has most. A handshake in progress speaks every few
milliseconds and survives; silence goes.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable

from mesh.errors import Denied, Failed, MeshError
from mesh.net import address
from mesh.net.base import HostLimits
from mesh.net.wire import TcpWire, Wire

_logger = logging.getLogger("mesh.net")
_BACKLOG = 1024
_ACCEPTS_PER_TURN = 32
_PORT_TRIES = 32
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OUT_OF_FILES_PAUSE_S = 0.1


def bind(listen: Sequence[str]) -> list[socket.socket]:
    """Bind and listen on multiaddrs. Port 0 takes a free number, the same for all such addresses, whose
    UDP port is free too.

    Raises:
        UsageError: not an address.
        Denied: a port below 1024 without the right to it.
        Failed: an address or port cannot be had; names it and says why.
    """
    wanted = [address.parse(text) for text in listen]
    for tries in range(_PORT_TRIES):
        free_port = 0
        sockets: list[socket.socket] = []
        try:
            for each in wanted:
                sock = _bind_one(each, each.port or free_port)
                if sock is None:
                    continue
                sockets.append(sock)
                if not each.port:
                    free_port = sock.getsockname()[1]
                    _probe_udp(sock)
        except BaseException as error:
            for sock in sockets:
                sock.close()
            if isinstance(error, OSError) and free_port and tries + 1 < _PORT_TRIES:
                continue
            if isinstance(error, OSError):
                raise Failed(f"no free port for {', '.join(listen)}: {error.strerror}") from None
            raise
        if wanted and not sockets:
            raise Failed(f"nothing to listen on: none of {', '.join(listen)} can be had here")
        return sockets
    raise AssertionError("unreachable")


def _bind_one(where: address.Address, port: int) -> socket.socket | None:
    """None for IPv6's "any" on a machine without IPv6. OSError only when `port` was our own choice."""
    if where.kind not in ("ip4", "ip6"):
        raise Failed(f"cannot listen on the name {where.host}", "listen on an IP address, or /ip4/0.0.0.0/…")
    family = socket.AF_INET if where.kind == "ip4" else socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        _forgive_no_ipv6(where, error)
        return None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((where.host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE and where.port:
            raise Failed(
                f"port {port} on {where.host} is in use by another program",
                "stop it (a second agent on this machine?), or listen on another port",
            ) from None
        if error.errno == errno.EACCES:
            raise Denied(
                f"port {port} on {where.host} may not be used", "ports below 1024 are root's"
            ) from None
        if error.errno == errno.EADDRINUSE:
            raise
        _forgive_no_ipv6(where, error)
        return None
    return sock


def _forgive_no_ipv6(where: address.Address, error: OSError) -> None:
    if where.host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
        _logger.info("this machine has no IPv6: not listening on %s", where.host)
        return
    raise Failed(
        f"cannot listen on {where.host}: {error.strerror}", "is it an address of this machine?"
    ) from None


def _probe_udp(tcp: socket.socket) -> None:
    """Raise OSError when the UDP port of the same number is taken."""
    with socket.socket(tcp.family, socket.SOCK_DGRAM) as probe:
        if tcp.family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(tcp.getsockname()[:2])


class _Pending:
    """A connection in the doorway."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.scope = trio.CancelScope()


class Door:
    """Accepts connections and has each one's handshake done.

    Args:
        enter: does the handshake and takes the connection in; raises MeshError when it does not.
        counts: how often what happened; names under which the host shows it.
    """

    def __init__(
        self, limits: HostLimits, enter: Callable[[Wire], Awaitable[object]], counts: Counter[str]
    ) -> None:
        self._limits = limits
        self._enter = enter
        self._counts = counts
        self._pending: dict[str, list[_Pending]] = {}

    @property
    def pending(self) -> int:
        """Connections whose handshake is not done."""
        return sum(map(len, self._pending.values()))

    async def serve(self, listener: socket.socket) -> None:
        """Accept until cancelled; closes the socket."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await wait_readable(listener.fileno())
                    if not self._accept_some(listener, nursery):
                        await trio.sleep(_OUT_OF_FILES_PAUSE_S)
                    await checkpoint()
        finally:
            notify_closing(listener.fileno())
            listener.close()

    def _accept_some(self, listener: socket.socket, nursery: trio.Nursery) -> bool:
        """Whether the process still had files for new sockets."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _peer = listener.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    continue  # that one went away before we took it
                self._counts["out_of_files"] += 1
                if self._pending:
                    self._make_room(self._largest_group())
                    continue
                return False
            try:
                wire = TcpWire(sock, initiator=False)
            except OSError:
                sock.close()
                continue
            nursery.start_soon(self._attend, self._let_wait(wire))
        return True

    def _let_wait(self, wire: Wire) -> _Pending:
        self._counts["accepted"] += 1
        group = address.group_of(wire.remote[0])
        if len(self._pending.get(group, ())) >= self._limits.pending_per_address_max:
            self._make_room(group)
        elif self.pending >= self._limits.pending_max:
            self._make_room(self._largest_group())
        pending = _Pending(wire)
        self._pending.setdefault(group, []).append(pending)
        return pending

    def _largest_group(self) -> str:
        return max(self._pending, key=lambda group: len(self._pending[group]))

    def _make_room(self, group: str) -> None:
        waiting = self._pending[group]
        victim = min(waiting, key=lambda each: (each.wire.bytes_in > 0, each.wire.heard_at))
        self._counts["gave_way"] += 1
        self._leave(victim)
        victim.scope.cancel()
        victim.wire.close_now()

    def _leave(self, pending: _Pending) -> None:
        group = address.group_of(pending.wire.remote[0])
        waiting = self._pending.get(group, [])
        if pending in waiting:
            waiting.remove(pending)
            if not waiting:
                del self._pending[group]

    async def _attend(self, pending: _Pending) -> None:
        entered = False
        try:
            with pending.scope, trio.move_on_after(self._limits.handshake_s) as deadline:
                await self._enter(pending.wire)
                entered = True
            if deadline.cancelled_caught:
                self._counts["handshake_timed_out"] += 1
        except MeshError as error:
            self._counts["handshake_failed"] += 1
            _logger.debug("%s:%d was not let in: %s", *pending.wire.remote, error.message)
        except Exception:
            _logger.exception("handshake with %s:%d", *pending.wire.remote)
        finally:
            self._leave(pending)
            if not entered:
                pending.wire.close_now()

"""Small sealed datagrams between members, on the UDP port whose number is that of the TCP port.

A held stream stalls for seconds when packets are lost; a datagram does not, and costs a fifth of the
work. They carry what may be lost: the pings of the failure detector.

    datagram = sender's aid (16) | nonce (12, random) | ChaCha20-Poly1305 of the payload (RFC 8439, + 16)
    key      = BLAKE2b(key = X25519(ours, theirs), "mesh-udp-2" | context | sender's key | receiver's key)

The X25519 keys are the node keys, converted (libsodium's ed25519_to_curve25519), so nothing is agreed
beforehand. There is a key for each direction: with one for both, a datagram could be sent back to its
sender as if from the other. `context` (the mesh id) keeps meshes apart. A pair sends about one datagram a
second, so 96 random bits of nonce outlast every device; 12 bytes more were a seventh of a ping.

What to know when building on it:
- a recorded datagram can be played again, so only the answer to a fresh nonce proves that a peer lives;
- addresses are not proved: never answer with more bytes than the question had, or we serve to flood
  third parties;
- a flood costs bounded work: unknown senders are dropped before any cryptography, keys are agreed once
  per member and kept, and beyond RECEIVED_PER_S_MAX the kernel drops the rest for us.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import trio
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_box_beforenm,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
)
from nacl.exceptions import CryptoError
from trio.lowlevel import checkpoint, notify_closing, wait_readable

from mesh.errors import Failed
from mesh.net.base import DATAGRAM_BYTES_MAX, DatagramHandler, Key

_logger = logging.getLogger("mesh.net")
_AID_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16
OVERHEAD_BYTES = _AID_BYTES + _NONCE_BYTES + _TAG_BYTES
RECEIVED_PER_S_MAX = 5_000
_PER_TURN = 64
_KEYS_MAX = 4096
_LABEL = b"mesh-udp-2"


class Datagrams:
    """See `mesh.net.base.Datagrams`.

    Args:
        key: a node's key.
        public_of: the public key of a member's aid, or None.
        hosts: IP addresses to bind to; those of a family this machine lacks are left out.
        context: bytes that every member has in common, such as the mesh id.

    Attributes:
        counts: how often what happened, by name.
    """

    def __init__(
        self,
        key: Key,
        public_of: Callable[[bytes], bytes | None],
        *,
        hosts: Sequence[str] = ("0.0.0.0", "::"),
        context: bytes = b"",
    ) -> None:
        self._public = key.public
        self._aid = key.public[:_AID_BYTES]
        self._secret = crypto_sign_ed25519_sk_to_curve25519(key.seed + key.public)
        self._public_of = public_of
        self._hosts = list(hosts)
        self._context = context
        self._keys: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()
        self._sockets: dict[int, socket.socket] = {}
        self._on_datagram: DatagramHandler | None = None
        self._second, self._received_this_second = 0.0, 0
        self.counts: Counter[str] = Counter()

    async def run(
        self,
        port: int,
        on_datagram: DatagramHandler,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Receive until cancelled.

        Args:
            on_datagram: called with (aid, address, payload); must not wait.

        Raises:
            Failed: the port cannot be had.
        """
        self._on_datagram = on_datagram
        bound = [sock for host in self._hosts if (sock := _bind(host, port)) is not None]
        if not bound:
            raise Failed(f"no UDP socket on port {port}: none of {', '.join(self._hosts)} can be had here")
        for sock in bound:
            self._sockets.setdefault(sock.family, sock)
        try:
            async with trio.open_nursery() as nursery:
                for sock in bound:
                    nursery.start_soon(self._receive, sock)
                task_status.started()
        finally:
            self._sockets.clear()
            for sock in bound:
                notify_closing(sock.fileno())
                sock.close()

    # -- sending ----------------------------------------------------------------------------------------

    def send_nowait(self, public: bytes, to: tuple[str, int], payload: bytes) -> None:
        """Send, or lose, one datagram: that may happen to any on its way, so nobody is told.

        Args:
            to: (IP address, UDP port).
            payload: at most DATAGRAM_BYTES_MAX bytes.
        """
        assert len(payload) <= DATAGRAM_BYTES_MAX, len(payload)
        sock = self._sockets.get(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        keys = self._keys_with(public)
        if sock is None or keys is None:
            self.counts["unsendable"] += 1
            return
        nonce = os.urandom(_NONCE_BYTES)
        try:
            sealed = crypto_aead_chacha20poly1305_ietf_encrypt(payload, None, nonce, keys[0])
            sock.sendto(self._aid + nonce + sealed, to)
        except OSError:
            self.counts["unsendable"] += 1
        else:
            self.counts["sent"] += 1

    # -- receiving --------------------------------------------------------------------------------------

    async def _receive(self, sock: socket.socket) -> None:
        while True:
            await wait_readable(sock.fileno())
            for _ in range(_PER_TURN):
                try:
                    data, source = sock.recvfrom(OVERHEAD_BYTES + DATAGRAM_BYTES_MAX + 1)
                except BlockingIOError:
                    break
                except OSError as error:
                    self.counts["socket_errors"] += 1
                    _logger.debug("receiving a datagram: %s", error)
                    break
                self._received_this_second += 1
                self._arrived(data, (source[0], source[1]))
            await self._keep_within_budget()

    async def _keep_within_budget(self) -> None:
        now = trio.current_time()
        if now - self._second >= 1.0:
            self._second, self._received_this_second = now, 0
        if self._received_this_second >= RECEIVED_PER_S_MAX:
            self.counts["paused"] += 1
            await trio.sleep_until(self._second + 1.0)
        else:
            await checkpoint()

    def _arrived(self, data: bytes, source: tuple[str, int]) -> None:
        if not OVERHEAD_BYTES <= len(data) <= OVERHEAD_BYTES + DATAGRAM_BYTES_MAX:
            self.counts["malformed"] += 1
            return
        aid, nonce = data[:_AID_BYTES], data[_AID_BYTES : _AID_BYTES + _NONCE_BYTES]
        public = self._public_of(aid)
        keys = self._keys_with(public) if public is not None and aid != self._aid else None
        if keys is None:
            self.counts["unknown"] += 1
            return
        try:
            payload = crypto_aead_chacha20poly1305_ietf_decrypt(
                data[_AID_BYTES + _NONCE_BYTES :], None, nonce, keys[1]
            )
        except CryptoError:
            self.counts["forged"] += 1
            return
        self.counts["received"] += 1
        assert self._on_datagram is not None
        try:
            self._on_datagram(aid, source, payload)
        except Exception:
            _logger.exception("a datagram from %s", aid.hex())

    # -- keys -------------------------------------------------------------------------------------------

    def _keys_with(self, public: bytes) -> tuple[bytes, bytes] | None:
        """The keys to and from a peer; None for bytes that are no key."""
        keys = self._keys.get(public)
        if keys is not None:
            self._keys.move_to_end(public)
            return keys
        try:
            shared = crypto_box_beforenm(crypto_sign_ed25519_pk_to_curve25519(public), self._secret)
        except (CryptoError, TypeError, ValueError):
            return None
        keys = self._derive(shared, self._public, public), self._derive(shared, public, self._public)
        self._keys[public] = keys
        if len(self._keys) > _KEYS_MAX:
            self._keys.popitem(last=False)
        return keys

    def _derive(self, shared: bytes, sender: bytes, receiver: bytes) -> bytes:
        label = _LABEL + len(self._context).to_bytes(2, "big") + self._context
        return hashlib.blake2b(label + sender + receiver, key=shared, digest_size=32).digest()


def _bind(host: str, port: int) -> socket.socket | None:
    """None when this machine lacks the address family."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError as error:
        if sock is not None:
            sock.close()
        if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return None
        raise Failed(
            f"UDP port {port} on {host} cannot be had: {error.strerror}",
            "the datagrams use the number of the TCP port: stop what uses it, or listen on another port",
        ) from None
    return sock

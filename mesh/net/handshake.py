"""From a TCP connection to a sealed one whose other end has proved its key: Noise XX, then Yamux.

Noise is the only security offered. (py-libp2p's own host also offers plaintext and SecIO; whoever asks
for these becomes any peer id it likes, without the key.) The handshake itself is py-libp2p's. The gate
is asked right after it, before the peer gets anything that costs memory. Only Ed25519 identities pass.

A prologue, when given, goes into the handshake's hash: two ends with different prologues cannot finish
it. With an empty one the handshake is the one that every libp2p speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag

from mesh.errors import Denied, MeshError, PeerError
from mesh.identity.keys import peer_id_of
from mesh.net import negotiate, parts, yamux
from mesh.net.base import Key
from mesh.net.channel import Cipher, Sealed
from mesh.net.wire import Wire

SECURITY = "/noise"
_ED25519_ID = bytes.fromhex("002408011220")
_PUBLIC_BYTES = 32


class Handshaker:
    """Does the handshakes of one node.

    Args:
        prologue: bytes that both ends must have in common; b"" for plain libp2p.
    """

    def __init__(self, key: Key, prologue: bytes = b"") -> None:
        pair = parts.new_identity(key.seed)
        self._private = pair.private_key
        self._peer_id = parts.PeerId.from_pubkey(pair.public_key)
        self._noise_key = parts.new_noise_key().private_key
        self._prologue = prologue

    def _pattern(self) -> Any:
        return parts.Pattern(self._peer_id, self._private, self._noise_key, prologue=self._prologue)

    async def outbound(self, wire: Wire, expected: bytes | None) -> Sealed:
        """Secure a connection that we dialled.

        Args:
            expected: the key that must answer, or None for whoever does.

        Raises:
            Denied: another key answered.
            PeerError: what answered does not speak our protocols.
            Unreachable: the connection ended.
        """
        wire.collect(negotiate.proposal(SECURITY))
        remote = parts.PeerId(_ED25519_ID + expected) if expected is not None else None
        try:
            session = await self._pattern().handshake_outbound(_Confirming(wire), remote)
        except parts.WrongPeer:
            assert expected is not None
            raise Denied(
                f"another node than {peer_id_of(expected)} answered",
                "its address belongs to somebody else now",
            ) from None
        except MeshError:
            raise
        except Exception as error:  # the library raises a dozen kinds on nonsense
            raise _nonsense(error) from None
        sealed = _Sealed(wire, session.conn.noise_state)
        sealed.write(negotiate.proposal(yamux.PROTOCOL))
        await negotiate.confirm(sealed.read, yamux.PROTOCOL)
        return Sealed(sealed.cipher, _public_of(session), sealed.early)

    async def inbound(self, wire: Wire, gate: Callable[[bytes], None]) -> Sealed:
        """Secure a connection that was accepted.

        Args:
            gate: raises Denied for a key that may not come in.

        Raises:
            Denied: the gate said so.
            PeerError: the peer does not speak our protocols, or has proved no key.
            Unreachable: the connection ended.
        """
        await negotiate.choose(wire.read, wire.collect, (SECURITY,))
        try:
            session = await self._pattern().handshake_inbound(wire)
            public = _public_of(session)
        except MeshError:
            raise
        except Exception as error:
            raise _nonsense(error) from None
        gate(public)
        sealed = _Sealed(wire, session.conn.noise_state)
        await negotiate.choose(sealed.read, sealed.write, (yamux.PROTOCOL,))
        await wire.flush()
        return Sealed(sealed.cipher, public, sealed.early)


def _nonsense(error: Exception) -> PeerError:
    if isinstance(error, InvalidTag):  # the prologue, which names the mesh, is under the first tag
        return PeerError("it is of another mesh, or no agent")
    return PeerError(f"no handshake: {type(error).__name__}")


def _public_of(session: Any) -> bytes:
    raw: bytes = session.remote_peer.to_bytes()
    if not raw.startswith(_ED25519_ID) or len(raw) != len(_ED25519_ID) + _PUBLIC_BYTES:
        raise PeerError("its identity is not an Ed25519 key")
    return raw[len(_ED25519_ID) :]


class _Confirming:
    """A wire whose first read settles the proposal that went out with the first write."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._confirmed = False

    async def read(self, n: int | None = None) -> bytes:
        if not self._confirmed:
            self._confirmed = True
            await negotiate.confirm(self._wire.read, SECURITY)
        return await self._wire.read(n)

    async def write(self, data: bytes) -> None:
        await self._wire.write(data)


class _Sealed:
    """Reads and writes packets one at a time, for the few bytes before the multiplexer takes over."""

    def __init__(self, wire: Wire, cipher: Cipher) -> None:
        self._wire = wire
        self.cipher = cipher
        self.early = b""

    def write(self, data: bytes) -> None:
        sealed = self.cipher.encrypt(data)
        self._wire.collect(len(sealed).to_bytes(2, "big") + sealed)

    async def read(self, n: int) -> bytes:
        while not self.early:
            size = int.from_bytes(await negotiate.exactly(self._wire.read, 2), "big")
            packet = await negotiate.exactly(self._wire.read, size) if size else b""
            try:
                self.early = self.cipher.decrypt(packet)
            except Exception as error:
                raise _nonsense(error) from None
        data, self.early = self.early[:n], self.early[n:]
        return data

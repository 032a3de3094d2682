"""A node's key: one Ed25519 key is the libp2p identity, the author of records and the name of the node.

    public   32 bytes, the raw verify key
    aid      its first 16 bytes: how records name their author
    peer id  base58btc(00 24 08 01 12 20 || public): the libp2p id, an identity multihash of the key,
             so key and id convert into each other without a lookup (libp2p specs, peer-ids)

A key file holds one line, `mesh-key-1 <seed, 64 hex digits>`, mode 0600.
"""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from pathlib import Path

import msgspec
from nacl.bindings import crypto_sign_seed_keypair

from mesh.errors import Denied, StoreError, UsageError

SEED_BYTES = 32
PUBLIC_BYTES = 32
AID_BYTES = 16
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_PEER_ID_CHARS_MAX = 64
_KEY_FILE_MAGIC = "mesh-key-1"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUE = {char: value for value, char in enumerate(_BASE58)}


class NodeKey(msgspec.Struct, frozen=True):
    """An Ed25519 key pair. Its text form never shows the secret.

    Attributes:
        seed: 32 bytes, the secret to keep.
        public: 32 bytes.
        secret: 64 bytes, seed and public as libsodium has them.
        aid: 16 bytes.
        peer_id: base58 text, "12D3KooW…".
    """

    seed: bytes
    public: bytes
    secret: bytes
    aid: bytes
    peer_id: str

    @staticmethod
    def generate() -> NodeKey:
        return NodeKey.from_seed(secrets.token_bytes(SEED_BYTES))

    @staticmethod
    def from_seed(seed: bytes) -> NodeKey:
        """Raises ValueError unless the seed has 32 bytes."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        public, secret = crypto_sign_seed_keypair(seed)
        return NodeKey(seed, public, secret, public[:AID_BYTES], peer_id_of(public))

    def __repr__(self) -> str:
        return f"NodeKey({self.peer_id})"

    __str__ = __repr__


@lru_cache(maxsize=4096)
def peer_id_of(public: bytes) -> str:
    """The libp2p peer id of a 32-byte public key."""
    number = int.from_bytes(_PEER_ID_PREFIX + public, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return "1" + "".join(reversed(digits))  # one leading zero byte


def public_of(peer_id: str) -> bytes:
    """The public key inside a peer id.

    Raises:
        UsageError: not the id of an Ed25519 key.
    """
    number = 0
    try:
        if len(peer_id) > _PEER_ID_CHARS_MAX:
            raise ValueError
        for char in peer_id:
            number = number * 58 + _BASE58_VALUE[char]
        raw = number.to_bytes(len(_PEER_ID_PREFIX) + PUBLIC_BYTES, "big")
    except (KeyError, ValueError, OverflowError):
        raw = b""
    public = raw[len(_PEER_ID_PREFIX) :]
    if not raw.startswith(_PEER_ID_PREFIX) or peer_id_of(public) != peer_id:
        raise UsageError(f"{peer_id[:80]!r} is not a node id", "an id looks like 12D3KooW…, 52 characters")
    return public


def load_key(path: str | os.PathLike[str]) -> NodeKey:
    """Read a key file.

    Raises:
        StoreError: missing, unreadable or not a key.
        Denied: others than the owner may read or write it.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise Denied(
                    f"the key {path} is open to others (mode {mode:04o})",
                    f"chmod 600 {path}; if others could have read it, replace the key",
                )
            data = file.read(4096)
    except FileNotFoundError:
        raise StoreError(
            f"there is no key at {path}", "make a mesh with `meshd init` or join one with `meshd join`"
        ) from None
    except OSError as error:
        raise StoreError(f"the key {path} cannot be read: {error.strerror}") from None
    try:
        magic, seed = data.decode("ascii").split()
        if magic != _KEY_FILE_MAGIC:
            raise ValueError
        return NodeKey.from_seed(bytes.fromhex(seed))
    except ValueError:
        raise StoreError(f"{path} is not a key file", "restore it from a backup, or join again") from None


def encode_key(key: NodeKey) -> bytes:
    """The content of a key file."""
    return f"{_KEY_FILE_MAGIC} {key.seed.hex()}\n".encode()

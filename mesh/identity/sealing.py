"""Values that only some nodes can read, in state that all of them hold.

    box     XChaCha20-Poly1305 of the padded value under a random key that is used once; what the value
            belongs to is its associated data, so a box is good in its own place only
    wrap    that key in a libsodium sealed box (crypto_box_seal: X25519 with a throw-away key,
            XSalsa20-Poly1305) to the X25519 form of a node's Ed25519 key

A sealed box says nothing of who sealed it: that is the signature's business, of the record it lies in.
Padding to 64 bytes hides most of the value's length.
"""

from __future__ import annotations

import secrets

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_box_seal,
    crypto_box_seal_open,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
)
from nacl.exceptions import CryptoError

from mesh.errors import Denied, PeerError
from mesh.identity.keys import NodeKey

KEY_BYTES, NONCE_BYTES, WRAP_BYTES = 32, 24, 80
BLOCK_BYTES = 64
_PAD = b"\x80"


def seal(value: bytes, bound: bytes) -> tuple[bytes, bytes]:
    """A box with a value in it, and the key to it. `bound`: what the value belongs to."""
    key, nonce = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(NONCE_BYTES)
    padded = value + _PAD + bytes(-(len(value) + 1) % BLOCK_BYTES)
    return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(padded, bound, nonce, key), key


def unseal(box: bytes, key: bytes, bound: bytes) -> bytes:
    """The value in a box.

    Raises:
        PeerError: it was changed, is of another place, or the key is another's.
    """
    try:
        padded = crypto_aead_xchacha20poly1305_ietf_decrypt(box[NONCE_BYTES:], bound, box[:NONCE_BYTES], key)
    except (CryptoError, TypeError, ValueError):
        raise PeerError("the box does not open with its key") from None
    value, pad, rest = padded.rpartition(_PAD)
    if not pad or any(rest):
        raise PeerError("the box holds something malformed")
    return value


def wrap(key: bytes, public: bytes) -> bytes:
    """A key that the node with this Ed25519 key can read, and nobody else.

    Raises:
        PeerError: that is no usable key.
    """
    try:
        return crypto_box_seal(key, crypto_sign_ed25519_pk_to_curve25519(public))
    except (CryptoError, TypeError, ValueError, RuntimeError):
        raise PeerError("a node's key cannot be sealed to") from None


def unwrap(wrapped: bytes, node: NodeKey) -> bytes:
    """The key in a wrap.

    Raises:
        Denied: it is not for this node, or damaged.
    """
    secret = crypto_sign_ed25519_sk_to_curve25519(node.secret)
    try:
        return crypto_box_seal_open(wrapped, crypto_sign_ed25519_pk_to_curve25519(node.public), secret)
    except (CryptoError, TypeError, ValueError, RuntimeError):
        raise Denied("it is not sealed to this node's key, or damaged") from None

"""Tokens of the HTTP gateway: who outside the mesh may call which services, and until when.

    record at `token/<id>` (scope mesh, kind reg, by an admin):
    {hash, services, paths, expires_ms, made_ms, note}        token = mesht_<id>_<secret>

The record holds BLAKE2b of the secret only, so reading the replicated state makes nobody a caller; 32 random
bytes need no slow hash. A token is good where a pattern takes the service's name and a prefix takes the path,
before its expiry by the mesh clock. Revoking is deleting the record: every gateway that hears of it refuses.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any

import msgspec

from mesh.errors import UsageError

PREFIX = "token/"
ID_HEX, SECRET_HEX = 12, 64
TTL_S_MAX = 10 * 366 * 86_400.0
WORDS_MAX, CHARS_MAX = 64, 255
_TEXT = re.compile(rf"mesht_([0-9a-f]{{{ID_HEX}}})_([0-9a-f]{{{SECRET_HEX}}})")
_SERVICE = re.compile(r"[a-z0-9*?-]{1,63}")


class Token(msgspec.Struct, frozen=True):
    """What a record says.

    Attributes:
        hash: of the secret.
        services: patterns of names, `*` for any run of characters.
        paths: prefixes of the path that the caller asks for, by whole segments.
        expires_ms: mesh time.
    """

    hash: bytes
    services: tuple[str, ...]
    paths: tuple[str, ...]
    expires_ms: int
    made_ms: int = 0
    note: str = ""

    def allows(self, service: str, path: str) -> bool:
        """Whether it is good for this service and path."""
        return any(fnmatchcase(service, pattern) for pattern in self.services) and any(
            under(path, prefix) for prefix in self.paths
        )


def under(path: str, prefix: str) -> bool:
    """Whether a path is a prefix or below it, segment by segment."""
    bare = prefix.rstrip("/")
    return not bare or path == bare or path.startswith(bare + "/")


def hash_of(secret: str) -> bytes:
    return blake2b(secret.encode(), digest_size=32, person=b"mesh-token-1").digest()


def text_of(id_: str, secret: str) -> str:
    """What the caller shows."""
    return f"mesht_{id_}_{secret}"


def split(text: str) -> tuple[str, str] | None:
    """Id and secret of what a caller shows; None if it is no token."""
    match = _TEXT.fullmatch(text)
    return (match[1], match[2]) if match else None


def matches(token: Token, secret: str) -> bool:
    """Whether the secret is its own, in a time that does not depend on where they differ."""
    return hmac.compare_digest(token.hash, hash_of(secret))


def make(
    secret: str, services: Sequence[str], paths: Sequence[str], ttl_s: float, note: str, now_ms: int
) -> dict[str, Any]:
    """The value of a new record.

    Raises:
        UsageError: naming what is not allowed.
    """
    if not services or len(services) > WORDS_MAX or len(paths) > WORDS_MAX:
        raise UsageError(f"a token names 1 to {WORDS_MAX} services and at most {WORDS_MAX} paths")
    for service in services:
        if not _SERVICE.fullmatch(service):
            raise UsageError(f"{service!r:.80} is not a service", "a name, or a pattern such as shop-*")
    for path in paths:
        if not path.startswith("/") or len(path) > CHARS_MAX or not path.isprintable():
            raise UsageError(f"{path!r:.80} is not a path", "it begins with /")
    if not 1 <= ttl_s <= TTL_S_MAX:
        raise UsageError(f"a token of {ttl_s:g} s", f"1 s to {TTL_S_MAX / 86_400:.0f} days")
    if len(note) > CHARS_MAX or not note.isprintable():
        raise UsageError(f"the note is longer than {CHARS_MAX} characters, or not printable")
    return {
        "hash": hash_of(secret),
        "services": list(services),
        "paths": list(paths) or ["/"],
        "expires_ms": now_ms + int(ttl_s * 1000),
        "made_ms": now_ms,
        "note": note,
    }


def read(value: Any) -> Token | None:
    """A record's value; None for what is no token."""
    try:
        token = msgspec.convert(value, Token)
    except msgspec.ValidationError:
        return None
    return token if len(token.hash) == 32 and len(token.services) <= WORDS_MAX else None

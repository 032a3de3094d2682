"""Signatures and messages of the model.

A cheap keyed hash stands in for Ed25519: same length, same property that only the author's key makes it,
verified on every record a node takes (the result is remembered, so each record is parsed once a run).
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from mesh.core import record
from mesh.core.collect import Statement
from mesh.core.record import Record
from mesh.errors import PeerError
from mesh.wire import codec
from mesh.wire.messages import Delta, Listing

_MESH = b"model-mesh-id-16"


class Want(msgspec.Struct, frozen=True):
    scope: str
    aid: bytes
    since: int


class Pull(msgspec.Struct, frozen=True):
    scope: str
    aid: bytes
    hlcs: list[int]
    head: int


class Answering(msgspec.Struct, frozen=True):
    """A listing that is itself the answer to one: no third is sent."""

    listing: Listing


Message = Want | Pull | Delta | Listing | Answering


def aid_of(index: int) -> bytes:
    """A node's id, spread like a public key."""
    return hashlib.blake2b(b"node %d" % index, digest_size=16).digest()


class Notary:
    """Signs for everybody and verifies: knows all keys of one run."""

    def __init__(self) -> None:
        self._opened: dict[tuple[bytes, bytes], tuple[bytes, Record]] = {}

    def sign(self, aid: bytes, tag: bytes, hlc: int, say: Statement) -> Record:
        """The record of a statement."""
        fields: list[Any] = [say.path, int(say.kind), hlc, int(say.op), say.ttl, say.val]
        if say.asof is not None or say.sees is not None:
            fields.append(say.asof)
        if say.sees is not None:
            fields.append(say.sees)
        body = codec.encode(fields)
        sig = _mac(aid, tag, body)
        rec = record.parse(aid, body, sig)
        self._opened[tag, sig] = (body, rec)
        return rec

    def open(self, aid: bytes, tag: bytes, body: bytes, sig: bytes) -> Record:
        """Verify and parse.

        Raises:
            PeerError: not the author's signature over this body in this scope.
        """
        known = self._opened.get((tag, sig))
        if known is not None and known[0] == body and known[1].aid == aid:
            return known[1]
        if sig != _mac(aid, tag, body):
            raise PeerError("bad signature")
        rec = record.parse(aid, body, sig)
        self._opened[tag, sig] = (body, rec)
        return rec


def _mac(aid: bytes, tag: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(record.signed_bytes(_MESH, tag, aid, body), key=b"secret of " + aid).digest()

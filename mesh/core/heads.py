"""Digest of a replica's heads: what two neighbours compare to find the authors in which they differ.

256 sums modulo 2**64, one per first byte of the author's id; an author adds the first 8 bytes of
BLAKE2b(aid, head, fp) to its bucket. The root is BLAKE2b-16 of all buckets. A change of one author is one
subtraction and one addition; the root is hashed again only when somebody asks. What travels of the sums is a
bitmap of the buckets in use and their sums: a small mesh sends a small digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

BUCKETS = 256
_SUM = struct.Struct(">Q")
_AUTHOR = struct.Struct(">16sQ16s")
_MASK = (1 << 64) - 1


def _share(aid: bytes, head: int, fp: int) -> int:
    packed = _AUTHOR.pack(aid, head, fp.to_bytes(16, "big"))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big")


class Digest:
    """The digest of one scope.

    Args:
        with_fp: whether fingerprints count; the live scope compares heads only.
    """

    def __init__(self, *, with_fp: bool = True) -> None:
        self._with_fp = with_fp
        self._sums = [0] * BUCKETS
        self._packed = bytearray(8 * BUCKETS)  # the sums as the root hashes them
        self._shares: dict[int, dict[bytes, int]] = {}
        self._moved: dict[bytes, tuple[int, int]] = {}
        self._root: bytes | None = None

    def update(self, aid: bytes, head: int, fp: int) -> None:
        """Take an author's new head and fingerprint; with nothing held it leaves the digest.

        Records beyond a hole count though the head is still 0: their author may have nobody else to tell.
        """
        self._moved[aid] = (head, fp)

    def _settle(self) -> None:
        """Count in what has moved since somebody last asked: an author may have moved many times."""
        moved, self._moved = self._moved, {}
        for aid, (head, fp) in moved.items():
            if head == 0 and (fp == 0 or not self._with_fp):
                self._leave_out(aid)
                continue
            share = _share(aid, head, fp if self._with_fp else 0)
            bucket = aid[0]
            shares = self._shares.setdefault(bucket, {})
            old = shares.get(aid, 0)
            if share != old:
                shares[aid] = share
                self._move(bucket, share - old)

    def remove(self, aid: bytes) -> None:
        """Leave an author out."""
        self._moved.pop(aid, None)
        self._leave_out(aid)

    def _leave_out(self, aid: bytes) -> None:
        old = self._shares.get(aid[0], {}).pop(aid, None)
        if old is not None:
            self._move(aid[0], -old)

    def _move(self, bucket: int, by: int) -> None:
        self._sums[bucket] = moved = (self._sums[bucket] + by) & _MASK
        _SUM.pack_into(self._packed, 8 * bucket, moved)
        self._root = None

    def buckets(self) -> bytes:
        """A bitmap of 256 bits, bucket 0 the highest, then each sum that is not 0 in 8 bytes, big-endian."""
        self._settle()
        bits = sum(1 << (BUCKETS - 1 - index) for index, value in enumerate(self._sums) if value)
        used = [value for value in self._sums if value]
        return bits.to_bytes(BUCKETS // 8, "big") + struct.pack(f">{len(used)}Q", *used)

    def root(self) -> bytes:
        """16 bytes: equal roots mean equal heads (and fingerprints) of all authors."""
        self._settle()
        if self._root is None:
            self._root = hashlib.blake2b(self._packed, digest_size=16).digest()
        return self._root

    def differing(self, buckets: bytes) -> list[int]:
        """Indexes of the buckets in which a peer's sums differ; all of them when its word is malformed."""
        self._settle()
        theirs = _sums_in(buckets)
        if theirs is None:
            return list(range(BUCKETS))
        return [index for index in range(BUCKETS) if theirs[index] != self._sums[index]]

    def authors_in(self, buckets: Iterable[int]) -> list[bytes]:
        """Authors in these buckets, ascending."""
        self._settle()
        return sorted(aid for bucket in buckets for aid in self._shares.get(bucket, ()))


def _sums_in(buckets: bytes) -> list[int] | None:
    """The 256 sums of a peer's `buckets`, None when they are malformed."""
    bitmap, packed = buckets[: BUCKETS // 8], buckets[BUCKETS // 8 :]
    bits = int.from_bytes(bitmap, "big")
    if len(bitmap) != BUCKETS // 8 or len(packed) != 8 * bits.bit_count():
        return None
    values = iter(struct.unpack(f">{len(packed) // 8}Q", packed))
    return [next(values) if bits >> (BUCKETS - 1 - index) & 1 else 0 for index in range(BUCKETS)]

"""Which nodes a key belongs to: weighted rendezvous hashing over the members that are there.

Every candidate has the score -w / ln(u), u in (0, 1) from BLAKE2b(shard, candidate) and w its weight; the
highest are the owners (rendezvous hashing: Thaler and Ravishankar 1998; this form of weights: Resch, "New
Hashing Algorithms for Data Storage", 2015). No table, no ring, nothing negotiated: each node reaches the same
answer from the same member table, and

    a member that goes   moves only the keys that it had, to whoever was next for each of them
    a member that comes  takes only what is to be its own: a share w / (sum of w) of all keys
    a weight that grows  only pulls keys to that member; one that shrinks only gives keys away

Programs ask for keys, of which there are endlessly many; who wants to be told when something moves is told
by shard: a key is in shard BLAKE2b(key) mod SHARDS, and all keys of a shard live on the same nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from heapq import nlargest
from math import log

import msgspec

SHARDS = 256
WEIGHT_MAX = 10.0
KEY_BYTES_MAX = 4096
_BITS = 1 << 64


class Owner(msgspec.Struct, frozen=True):
    """A candidate with its weight; weight 0 owns nothing."""

    aid: bytes
    weight: float = 1.0


class Moved(msgspec.Struct, frozen=True):
    """A shard whose owners are others now."""

    shard: int
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]


def shard_of(key: bytes) -> int:
    """The shard that a key is in."""
    digest = hashlib.blake2b(key, digest_size=8, person=b"mesh-shard-key").digest()
    return int.from_bytes(digest, "big") % SHARDS


def score(shard: int, owner: Owner) -> float:
    """How much a candidate is the shard's; the highest score owns it."""
    digest = hashlib.blake2b(
        shard.to_bytes(4, "big") + owner.aid, digest_size=8, person=b"mesh-shard"
    ).digest()
    u = (int.from_bytes(digest, "big") + 0.5) / _BITS
    return -owner.weight / log(u)


def owners(shard: int, candidates: Iterable[Owner], replicas: int = 1) -> tuple[bytes, ...]:
    """The nodes that have a shard, first the first; fewer than `replicas` when there are not so many."""
    ranked = sorted(
        (each for each in candidates if each.weight > 0), key=lambda each: (-score(shard, each), each.aid)
    )
    return tuple(each.aid for each in ranked[:replicas])


class Table:
    """The owners of all shards, kept up as candidates come and go.

    A candidate's scores are computed once, when it comes (0.6 ms); a change then is a comparison per shard.
    """

    def __init__(self, replicas: int = 1) -> None:
        self._replicas = replicas
        self._scores: dict[Owner, list[float]] = {}
        self._owners: list[tuple[bytes, ...]] = [() for _ in range(SHARDS)]

    def update(self, candidates: Iterable[Owner]) -> list[Moved]:
        """Take the present candidates; returns the shards whose owners changed."""
        present = {each for each in candidates if each.weight > 0}
        if present == self._scores.keys():
            return []
        kept = {each: held for each, held in self._scores.items() if each in present}
        for each in present - kept.keys():
            kept[each] = [score(shard, each) for shard in range(SHARDS)]
        self._scores = kept
        moved = []
        for shard, before in enumerate(self._owners):
            after = self._best(shard)
            if after != before:
                self._owners[shard] = after
                moved.append(Moved(shard, before, after))
        return moved

    def _best(self, shard: int) -> tuple[bytes, ...]:
        ranked = nlargest(
            self._replicas, ((held[shard], each.aid) for each, held in self._scores.items()), key=_rank
        )
        return tuple(aid for _, aid in ranked)

    def owners(self, shard: int) -> tuple[bytes, ...]:
        """Who has a shard now."""
        return self._owners[shard]


def _rank(scored: tuple[float, bytes]) -> tuple[float, int]:
    return scored[0], -int.from_bytes(scored[1], "big")


def weight_of(labels: Mapping[str, str]) -> float:
    """A member's weight: its label `shard-weight`, 1 where it is missing or no number from 0 to WEIGHT_MAX.

    The label is the member's own word, so the bound is small: nobody takes more than so many shares.
    """
    try:
        weight = float(labels.get("shard-weight", "1"))
    except ValueError:
        return 1.0
    return weight if 0 <= weight <= WEIGHT_MAX else 1.0

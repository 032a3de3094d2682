"""Shards: only what must move moves, and shares follow the weights."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mesh.core.shards import SHARDS, Owner, Table, owners, shard_of, weight_of

KEYS = [f"customer/{number}".encode() for number in range(4000)]


def crowd(count: int, seed: int = 1) -> list[Owner]:
    rng = random.Random(seed)
    return [Owner(rng.randbytes(16)) for _ in range(count)]


def placed(candidates: list[Owner], replicas: int = 1) -> list[tuple[bytes, ...]]:
    return [owners(shard, candidates, replicas) for shard in range(SHARDS)]


@pytest.mark.parametrize("replicas", [1, 3])
def test_only_the_shards_of_a_node_that_goes_move(replicas: int) -> None:
    nodes = crowd(12)
    before, after = placed(nodes, replicas), placed(nodes[1:], replicas)
    gone = nodes[0].aid
    for old, new in zip(before, after, strict=True):
        kept = [aid for aid in old if aid != gone]
        assert list(new[: len(kept)]) == kept
        assert (old == new) == (gone not in old)


def test_a_node_that_comes_takes_its_share_and_nothing_else_moves() -> None:
    nodes = crowd(9)
    before, after = placed(nodes[1:]), placed(nodes)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert all(new == (nodes[0].aid,) for new in moved)
    assert 10 <= len(moved) <= 55  # a ninth of 256 is 28


def test_a_weight_that_grows_only_pulls() -> None:
    nodes = crowd(8)
    heavy = [Owner(nodes[0].aid, 3.0), *nodes[1:]]
    for old, new in zip(placed(nodes), placed(heavy), strict=True):
        assert old == new or new == (nodes[0].aid,)


def test_shares_follow_the_weights() -> None:
    nodes = [Owner(bytes([number]) * 16, weight) for number, weight in enumerate((1.0, 2.0, 5.0))]
    held = Counter(owners(number, nodes)[0] for number in range(8000))
    shares = [held[node.aid] / 8000 for node in nodes]
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.02)


def test_keys_spread_over_all_shards() -> None:
    held = Counter(shard_of(key) for key in KEYS)
    assert len(held) == SHARDS
    assert max(held.values()) < 4 * len(KEYS) / SHARDS


def test_a_node_without_weight_owns_nothing_and_too_few_nodes_are_all() -> None:
    nodes = crowd(3)
    assert owners(7, [Owner(nodes[0].aid, 0.0)]) == ()
    assert sorted(owners(7, nodes, 9)) == sorted(node.aid for node in nodes)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_table_says_the_same_as_a_lookup_and_tells_what_moved(replicas: int) -> None:
    table, rng = Table(replicas), random.Random(3)
    everyone = crowd(15, seed=4)
    for _ in range(20):
        present = rng.sample(everyone, rng.randrange(len(everyone)))
        before = [table.owners(shard) for shard in range(SHARDS)]
        moved = {each.shard: each for each in table.update(present)}
        after = placed(present, replicas)
        for shard in range(SHARDS):
            assert table.owners(shard) == after[shard]
            assert (shard in moved) == (before[shard] != after[shard])
        assert table.update(present) == []


def test_a_weight_is_a_label() -> None:
    cases = {"2.5": 2.5, "0": 0.0, "-1": 1.0, "much": 1.0, "nan": 1.0, "11": 1.0}
    assert {text: weight_of({"shard-weight": text}) for text in cases} == cases
    assert weight_of({}) == 1.0

"""Bringing the answers of many nodes together on the way, so that a query costs one small message per link.

Every combine is associative and commutative: the tree's shape does not change the result (but for the
last bits of a float). What a node says is lifted to a state, states are merged, the asker finishes.

    count        nodes that answered         sum  mean            of numbers
    min  max     with the node it is from    top:K                K largest numbers, or [number, item] pairs
    collect      each node's own answer, up to COLLECT_BYTES_MAX together, the rest counted
    histogram    quantiles of numbers within 1 %: logarithmic buckets (DDSketch; Masson, Rim, Lee 2019)
    distinct     different values, +-1.6 %: HyperLogLog with 2**12 registers (Flajolet et al. 2007)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from mesh.errors import PeerError, UsageError
from mesh.wire import codec

TOP_MAX = 1000
COLLECT_BYTES_MAX = 192 << 10
BUCKETS_MAX = 2048
ANSWER_BYTES_MAX = 64 << 10
ITEM_BYTES_MAX = 512
VALUES_MAX = 65_536
BUCKET_INDEX_MAX = 50_000
GAMMA = 1.02
REGISTER_BITS = 12
REGISTERS = 1 << REGISTER_BITS

Number: TypeAlias = int | float
Namer: TypeAlias = Callable[[bytes], str]


class Combine:
    """One way to bring answers together. States are plain values that can travel.

    `lift` raises UsageError for an answer it cannot take; `fits` says whether a state from a peer is sound.
    """

    word: ClassVar[str] = ""

    def lift(self, aid: bytes, value: Any) -> Any:
        """The state of one node's answer."""
        raise NotImplementedError

    def fits(self, state: Any) -> bool:
        """Whether a state is well formed."""
        raise NotImplementedError

    def merge(self, mine: Any, theirs: Any) -> Any:
        """Two well-formed states as one."""
        raise NotImplementedError

    def finish(self, state: Any, name_of: Namer) -> Any:
        """The result as JSON-able value; `name_of` shows a node's id."""
        raise NotImplementedError


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any, size: int) -> bool:
    return isinstance(value, list) and len(value) == size


def _number(value: Any) -> Number:
    if not _is_number(value):
        raise UsageError(f"the answer {str(value)[:40]!r} is not a number")
    return value  # type: ignore[no-any-return]


def _numbers(value: Any) -> list[Number]:
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > VALUES_MAX:
        raise UsageError(f"an answer of {len(values)} values, at most {VALUES_MAX}")
    return [_number(item) for item in values]


def _add(a: Number, b: Number) -> Number:
    total = a + b
    # Beyond 64 bits an integer could not travel.
    return total if isinstance(total, float) or -(1 << 63) <= total < 1 << 63 else float(total)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class Count(Combine):
    """State: how many nodes answered."""

    word = "count"

    def lift(self, aid: bytes, value: Any) -> Any:
        return 1

    def fits(self, state: Any) -> bool:
        return _is_count(state)

    def merge(self, mine: Any, theirs: Any) -> Any:
        return mine + theirs

    def finish(self, state: Any, name_of: Namer) -> Any:
        return state


class Sum(Combine):
    """State: [sum, answers]."""

    word = "sum"

    def lift(self, aid: bytes, value: Any) -> Any:
        return [_number(value), 1]

    def fits(self, state: Any) -> bool:
        return _is_list(state, 2) and _is_number(state[0]) and _is_count(state[1]) and state[1] > 0

    def merge(self, mine: Any, theirs: Any) -> Any:
        return [_add(mine[0], theirs[0]), mine[1] + theirs[1]]

    def finish(self, state: Any, name_of: Namer) -> Any:
        return state[0]


class Mean(Sum):
    """State: [sum, answers]."""

    word = "mean"

    def finish(self, state: Any, name_of: Namer) -> Any:
        return state[0] / state[1]


class Min(Combine):
    """State: [value, aid]; of equal values the lower aid stands."""

    word = "min"

    def lift(self, aid: bytes, value: Any) -> Any:
        return [_number(value), aid]

    def fits(self, state: Any) -> bool:
        return _is_list(state, 2) and _is_number(state[0]) and isinstance(state[1], bytes)

    def merge(self, mine: Any, theirs: Any) -> Any:
        return min(mine, theirs, key=self._rank)

    def _rank(self, state: Any) -> Any:
        return state[0], state[1]

    def finish(self, state: Any, name_of: Namer) -> Any:
        return {"value": state[0], "node": name_of(state[1])}


class Max(Min):
    """State: [value, aid]; of equal values the lower aid stands."""

    word = "max"

    def _rank(self, state: Any) -> Any:
        return -state[0], state[1]


class Top(Combine):
    """State: [[number, aid, item], ...], largest first, at most `size`."""

    word = "top"

    def __init__(self, size: int) -> None:
        self.size = size

    def lift(self, aid: bytes, value: Any) -> Any:
        entries = []
        for entry in (value if isinstance(value, list | tuple) else [value])[:VALUES_MAX]:
            number, item = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (entry, None)
            if len(codec.encode(item)) > ITEM_BYTES_MAX:
                raise UsageError(f"an item of the answer exceeds {ITEM_BYTES_MAX} bytes")
            entries.append([_number(number), aid, item])
        return self._cut(entries)

    def fits(self, state: Any) -> bool:
        return isinstance(state, list) and len(state) <= self.size and all(map(_is_entry, state))

    def merge(self, mine: Any, theirs: Any) -> Any:
        return self._cut(mine + theirs)

    def _cut(self, entries: list[Any]) -> list[Any]:
        return sorted(entries, key=lambda e: (-e[0], e[1], codec.encode(e[2])))[: self.size]

    def finish(self, state: Any, name_of: Namer) -> Any:
        return [{"value": value, "node": name_of(aid), "item": item} for value, aid, item in state]


def _is_entry(entry: Any) -> bool:
    return _is_list(entry, 3) and _is_number(entry[0]) and isinstance(entry[1], bytes)


class Collect(Combine):
    """State: [[[aid, value], ...], answers left out for their size]."""

    word = "collect"

    def lift(self, aid: bytes, value: Any) -> Any:
        size = len(codec.encode(value))
        if size > ANSWER_BYTES_MAX:
            raise UsageError(f"an answer of {size} bytes, at most {ANSWER_BYTES_MAX}")
        return [[[aid, value]], 0]

    def fits(self, state: Any) -> bool:
        if not (_is_list(state, 2) and isinstance(state[0], list) and _is_count(state[1])):
            return False
        return all(_is_list(entry, 2) and isinstance(entry[0], bytes) for entry in state[0])

    def merge(self, mine: Any, theirs: Any) -> Any:
        kept, left_out = list(mine[0]), mine[1] + theirs[1]
        room = COLLECT_BYTES_MAX - len(codec.encode(kept))
        for entry in theirs[0]:
            room -= len(codec.encode(entry))
            if room < 0:
                left_out += 1
            else:
                kept.append(entry)
        return [kept, left_out]

    def finish(self, state: Any, name_of: Namer) -> Any:
        answers = {name_of(aid): value for aid, value in sorted(state[0], key=lambda entry: entry[0])}
        return {"answers": answers, "left_out": state[1]}


class Histogram(Combine):
    """State: [zeros, [[i, n], ...] above 0, the same below 0, sum, min, max]; bucket i ends at GAMMA**i."""

    word = "histogram"

    def lift(self, aid: bytes, value: Any) -> Any:
        numbers = _numbers(value)
        if not numbers:
            return [0, [], [], 0, None, None]
        sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for number in numbers:
            if number:
                bucket = math.ceil(math.log(abs(number), GAMMA))
                side = sides[number < 0]
                side[bucket] = side.get(bucket, 0) + 1
        zeros = sum(not number for number in numbers)
        above, below = map(_buckets, sides)
        return [zeros, above, below, math.fsum(numbers), min(numbers), max(numbers)]

    def fits(self, state: Any) -> bool:
        if not (_is_list(state, 6) and _is_count(state[0]) and _is_number(state[3])):
            return False
        if not all(value is None or _is_number(value) for value in state[4:]):
            return False
        return _are_buckets(state[1]) and _are_buckets(state[2])

    def merge(self, mine: Any, theirs: Any) -> Any:
        merged = [mine[0] + theirs[0]]
        for index in (1, 2):
            counts = dict(mine[index])
            for bucket, count in theirs[index]:
                counts[bucket] = counts.get(bucket, 0) + count
            merged.append(_buckets(counts))
        lows = [state[4] for state in (mine, theirs) if state[4] is not None]
        highs = [state[5] for state in (mine, theirs) if state[5] is not None]
        return [*merged, mine[3] + theirs[3], min(lows, default=None), max(highs, default=None)]

    def finish(self, state: Any, name_of: Namer) -> Any:
        zeros, above, below, total, low, high = state
        steps = [(-_middle(bucket), count) for bucket, count in reversed(below)]
        steps += [(0.0, zeros)] + [(_middle(bucket), count) for bucket, count in above]
        count = sum(step[1] for step in steps)
        if not count or low is None or high is None:
            return {"count": 0}
        result = {"count": count, "sum": total, "mean": total / count, "min": low, "max": high}
        for word, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
            result[word] = min(max(_quantile(steps, share * (count - 1)), low), high)
        return result


def _middle(bucket: int) -> float:
    """The value nearest, in relative terms, to everything in a bucket."""
    return float(min(2.0 * math.exp(bucket * math.log(GAMMA)) / (1.0 + GAMMA), 1.7e308))


def _buckets(counts: dict[int, int]) -> list[list[int]]:
    """As sorted pairs; beyond the bound the smallest magnitudes share one bucket."""
    pairs = [[bucket, counts[bucket]] for bucket in sorted(counts)]
    if len(pairs) > BUCKETS_MAX:
        low, pairs = pairs[: 1 - BUCKETS_MAX], pairs[1 - BUCKETS_MAX :]
        pairs.insert(0, [low[-1][0], sum(count for _, count in low)])
    return pairs


def _are_buckets(pairs: Any) -> bool:
    if not (isinstance(pairs, list) and len(pairs) <= BUCKETS_MAX):
        return False
    return all(
        _is_list(pair, 2)
        and isinstance(pair[0], int)
        and -BUCKET_INDEX_MAX < pair[0] < BUCKET_INDEX_MAX
        and _is_count(pair[1])
        for pair in pairs
    )


def _quantile(steps: list[tuple[float, int]], rank: float) -> float:
    seen = 0
    for value, count in steps:
        seen += count
        if seen > rank:
            return value
    return steps[-1][0]


class Distinct(Combine):
    """State: 2**12 registers of one byte, each the longest run of zero bits seen, plus one."""

    word = "distinct"

    def lift(self, aid: bytes, value: Any) -> Any:
        registers = bytearray(REGISTERS)
        for item in (value if isinstance(value, list | tuple) else [value])[:VALUES_MAX]:
            digest = hashlib.blake2b(codec.encode(item), digest_size=8).digest()
            word = int.from_bytes(digest, "big")
            index, rest = word >> (64 - REGISTER_BITS), word & ((1 << (64 - REGISTER_BITS)) - 1)
            rank = 64 - REGISTER_BITS - rest.bit_length() + 1
            registers[index] = max(registers[index], rank)
        return bytes(registers)

    def fits(self, state: Any) -> bool:
        longest = 64 - REGISTER_BITS + 1
        return isinstance(state, bytes) and len(state) == REGISTERS and max(state) <= longest

    def merge(self, mine: Any, theirs: Any) -> Any:
        return bytes(map(max, mine, theirs))

    def finish(self, state: Any, name_of: Namer) -> Any:
        raw = 0.7213 / (1 + 1.079 / REGISTERS) * REGISTERS**2 / sum(2.0**-rank for rank in state)
        empty = state.count(0)
        if raw <= 2.5 * REGISTERS and empty:
            raw = REGISTERS * math.log(REGISTERS / empty)
        return round(raw)


_BY_WORD: dict[str, type[Combine]] = {
    kind.word: kind for kind in (Count, Sum, Mean, Min, Max, Collect, Histogram, Distinct)
}
WORDS = (*sorted(_BY_WORD), "top:K")


def parse_combine(text: str) -> Combine:
    """The combine a user named.

    Raises:
        UsageError: unknown word, or a K outside 1..1000.
    """
    word, _, size = text.partition(":")
    if word == Top.word:
        if not (size.isascii() and size.isdigit() and 1 <= int(size[:9]) <= TOP_MAX):
            raise UsageError(f"{text[:40]!r} needs a number from 1 to {TOP_MAX}", "e.g. top:10")
        return Top(int(size))
    if size or word not in _BY_WORD:
        raise UsageError(f"unknown combine {text[:40]!r}", f"one of {', '.join(WORDS)}")
    return _BY_WORD[word]()


def absorb(combine: Combine, mine: Any, theirs: Any) -> Any:
    """Merge a state from a peer into ours, either of which may be None: nobody answered yet.

    Raises:
        PeerError: a malformed state.
    """
    if theirs is None:
        return mine
    if not combine.fits(theirs):
        raise PeerError(f"malformed state of a {combine.word} query")
    return theirs if mine is None else combine.merge(mine, theirs)

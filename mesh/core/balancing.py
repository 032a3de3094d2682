"""Which of several equally good instances takes the next request.

    round-robin         one after the other, in the order of their keys
    smooth              smooth weighted round robin (nginx, 2012): each gains its weight, the largest is
                        taken and pays the sum; weights 5, 1, 1 give a a b a c a a and never a burst. Default
    least-connections   the fewest requests in flight for its weight
    least-time          the least smoothed response time, times those in flight and this one
    two-choices         the less busy of two drawn at random (Mitzenmacher 2001): nearly as good as the
                        least of all, and many callers with the same old view do not all take the same one
    hash                rendezvous hashing of the caller's address (Thaler and Ravishankar 1998), weighted by
                        -w / ln(u): when an instance comes or goes only its own callers move

A balancer is asked with the choices of the moment, which may differ at each call; ties go to the one used
longest ago. What is in flight and how long answers take is kept in `Usage`, by whoever makes the calls.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol, get_args

import msgspec

Algorithm = Literal["smooth", "round-robin", "least-connections", "least-time", "two-choices", "hash"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
_GAIN = 0.25  # of a new response time in the smoothed one: four answers outweigh the past
_KEYS_MAX = 4096


class Choice(NamedTuple):
    """One instance that may be taken. `weight` is above 0."""

    key: str
    weight: float


class Usage(msgspec.Struct):
    """What we know of an instance from our own calls.

    Attributes:
        in_flight: calls that have begun and not ended.
        time_s: smoothed time to the answer; 0 while there was none.
        last: number of the call that took it last.
    """

    in_flight: int = 0
    time_s: float = 0.0
    last: int = 0

    def answered(self, after_s: float) -> None:
        """Take one response time in."""
        self.time_s = after_s if not self.time_s else self.time_s + (after_s - self.time_s) * _GAIN


_UNUSED = Usage()
Usages = Mapping[str, Usage]


class Balancer(Protocol):
    """Picks one of at least one choice; `source` is the caller's address, for `hash`."""

    def pick(self, choices: Sequence[Choice], usages: Usages, source: bytes) -> Choice: ...


def balancer(algorithm: str, rng: random.Random) -> Balancer:
    """A balancer without a past. `algorithm` is one of ALGORITHMS."""
    if algorithm == "two-choices":
        return TwoChoices(rng)
    made: dict[str, Callable[[], Balancer]] = {
        "smooth": Smooth,
        "round-robin": RoundRobin,
        "least-connections": LeastConnections,
        "least-time": LeastTime,
        "hash": Hash,
    }
    return made[algorithm]()


class RoundRobin:
    """The next key after the last one, whatever came and went between."""

    def __init__(self) -> None:
        self._last = ""

    def pick(self, choices: Sequence[Choice], usages: Usages, source: bytes) -> Choice:
        later = [choice for choice in choices if choice.key > self._last]
        chosen = min(later or choices)
        self._last = chosen.key
        return chosen


class Smooth:
    """Smooth weighted round robin."""

    def __init__(self) -> None:
        self._gained: dict[str, float] = {}

    def pick(self, choices: Sequence[Choice], usages: Usages, source: bytes) -> Choice:
        gained = self._gained
        if len(gained) > len(choices) + 16:
            here = {choice.key for choice in choices}
            self._gained = gained = {key: sum_ for key, sum_ in gained.items() if key in here}
        best, most, total = choices[0], -math.inf, 0.0
        for choice in choices:
            key, weight = choice
            have = gained[key] = gained.get(key, 0.0) + weight
            total += weight
            if have > most or (have == most and key < best.key):
                best, most = choice, have
        gained[best.key] -= total
        return best


class LeastConnections:
    """The fewest in flight for its weight."""

    def pick(self, choices: Sequence[Choice], usages: Usages, source: bytes) -> Choice:
        return min(choices, key=lambda choice: _busy(choice, usages))


def _busy(choice: Choice, usages: Usages) -> tuple[float, int, str]:
    usage = usages.get(choice.key, _UNUSED)
    return (usage.in_flight + 1) / choice.weight, usage.last, choice.key


class LeastTime:
    """The soonest answer to be expected. Who was never tried is tried first."""

    def pick(self, choices: Sequence[Choice], usages: Usages, source: bytes) -> Choice:
        def expected(choice: Choice) -> tuple[float, int, str]:
            usage = usages.get(choice.key, _UNUSED)
            return usage.time_s * (usage.in_flight + 1) / choice.weight, usage.last, choice.key

        return min(choices, key=expected)


class TwoChoices:
    """The less busy of two."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, choices: Sequence[Choice], usages: Usages, source: bytes) -> Choice:
        if len(choices) == 1:
            return choices[0]
        pair = self._rng.sample(range(len(choices)), 2)
        return min((choices[at] for at in pair), key=lambda choice: _busy(choice, usages))


class Hash:
    """The same instance for the same source."""

    def pick(self, choices: Sequence[Choice], usages: Usages, source: bytes) -> Choice:
        return max(choices, key=lambda choice: (attraction(source, choice.key, choice.weight), choice.key))


def attraction(source: bytes, key: str, weight: float) -> float:
    """Weighted rendezvous: the largest wins, with a probability in proportion to its weight."""
    digest = blake2b(key.encode(), key=source[:64], digest_size=8).digest()
    u = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -weight / math.log(u) if u < 1.0 else math.inf


class Meter:
    """Usages of instances, by key; of more than `_KEYS_MAX` those that wait for nothing are forgotten."""

    def __init__(self) -> None:
        self.usages: dict[str, Usage] = {}
        self._calls = 0

    def begin(self, key: str) -> Usage:
        """A call to this instance begins; `end` it."""
        usage = self.usages.get(key)
        if usage is None:
            if len(self.usages) >= _KEYS_MAX:
                self.usages = {each: held for each, held in self.usages.items() if held.in_flight}
            usage = self.usages[key] = Usage()
        self._calls += 1
        usage.in_flight += 1
        usage.last = self._calls
        return usage

    def end(self, usage: Usage) -> None:
        usage.in_flight -= 1

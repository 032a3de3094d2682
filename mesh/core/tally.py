"""An author's own counter slot: totals that survive a store set back to a backup.

    value = [plus, minus, settled, {epoch: [plus, minus]}]

The first two are what readers add up. Each life of a store counts into an epoch of its own; `settled` says
that everything up to that epoch is folded into the totals. Where a lost record of ours comes back, the two
are joined epoch by epoch, taking the larger (the grow-only counter of Shapiro et al. 2011, with lives in the
place of replicas): what both lives counted is kept, and nothing is counted twice, whichever record is newer.
Epochs are folded once their fence has passed (`core/fence.py`), so there are seldom more than two.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from mesh.core.folds import totals_of

Pair: TypeAlias = tuple[int, int]


class Tally(msgspec.Struct, frozen=True):
    """A counter slot's value, decoded. `folded` is what the epochs up to `settled` came to."""

    folded: Pair = (0, 0)
    settled: int = 0
    epochs: dict[int, Pair] = msgspec.field(default_factory=dict)

    def value(self) -> list[object]:
        """As it is written: epochs as 8-byte keys, ascending."""
        plus, minus = self.folded
        for pair in self.epochs.values():
            plus, minus = plus + pair[0], minus + pair[1]
        epochs = {epoch.to_bytes(8, "big"): list(pair) for epoch, pair in sorted(self.epochs.items())}
        return [plus, minus, self.settled, epochs]


def parse(value: object) -> Tally:
    """The tally in a value; one without epochs is all folded."""
    plus, minus = totals_of(value)
    if not isinstance(value, list) or len(value) < 4:
        return Tally((plus, minus))
    settled, raw = value[2:4]
    epochs: dict[int, Pair] = {}
    if isinstance(settled, int) and isinstance(raw, dict):
        for key, pair in raw.items():
            if isinstance(key, bytes) and len(key) == 8:
                epochs[int.from_bytes(key, "big")] = totals_of(pair)
        plus -= sum(pair[0] for pair in epochs.values())
        minus -= sum(pair[1] for pair in epochs.values())
        if plus >= 0 and minus >= 0:
            return Tally((plus, minus), settled, epochs)
    return Tally(totals_of(value))


def counted(held: object, plus: int, minus: int, *, epoch: int, settled: int) -> list[object]:
    """The value for new totals: what they add to the held value goes to this life's epoch.

    Args:
        held: the value in our slot, or None.
        plus: new total of increments; so `minus` of decrements. Neither may fall.
        settled: epochs up to here are folded.
    """
    old = parse(held)
    was_plus, was_minus = totals_of(held)
    epochs = dict(old.epochs)
    mine = epochs.get(epoch, (0, 0))
    epochs[epoch] = (mine[0] + max(plus - was_plus, 0), mine[1] + max(minus - was_minus, 0))
    folded = old.folded
    for done in [key for key in epochs if key <= settled and key != epoch]:
        pair = epochs.pop(done)
        folded = (folded[0] + pair[0], folded[1] + pair[1])
    return Tally(folded, max(old.settled, min(settled, epoch - 1)), epochs).value()


def joined(left: object, right: object) -> list[object]:
    """The join of two values of one slot: per epoch the larger; folded ones as the more settled side says."""
    one, two = parse(left), parse(right)
    high = max(one, two, key=lambda tally: tally.settled)
    folded = high.folded
    if one.settled == two.settled:
        folded = (max(one.folded[0], two.folded[0]), max(one.folded[1], two.folded[1]))
    epochs: dict[int, Pair] = {}
    for epoch in sorted({*one.epochs, *two.epochs}):
        if epoch > high.settled:
            a, b = one.epochs.get(epoch, (0, 0)), two.epochs.get(epoch, (0, 0))
            epochs[epoch] = (max(a[0], b[0]), max(a[1], b[1]))
    return Tally(folded, high.settled, epochs).value()


def notes(value: object) -> dict[str, Pair]:
    """The totals of a removed author that a record under `removed/` holds, by path."""
    counters = value.get("counters") if isinstance(value, dict) else None
    if not isinstance(counters, dict):
        return {}
    return {path: totals_of(pair) for path, pair in counters.items() if isinstance(path, str)}


def larger(one: Pair | None, two: Pair) -> Pair:
    """The join of totals that only grow."""
    return two if one is None else (max(one[0], two[0]), max(one[1], two[1]))


def notes_joined(held: object, other: object) -> dict[str, object]:
    """A value under `removed/` with what another value of the slot noted."""
    found = notes(held)
    for path, pair in notes(other).items():
        found[path] = larger(found.get(path), pair)
    rest = held if isinstance(held, dict) else {}
    return {**rest, "counters": {path: list(pair) for path, pair in sorted(found.items())}}


def notes_grow(held: object, other: object) -> bool:
    """Whether another value of a slot under `removed/` noted something that the held one did not."""
    found = notes(held)
    return any(larger(found.get(path), pair) != found.get(path) for path, pair in notes(other).items())


def totals_grow(held: object, other: object) -> bool:
    """Whether another value of the slot counted something that the held one did not."""
    plus, minus = totals_of(held)
    more_plus, more_minus = totals_of(joined(held, other))
    return more_plus > plus or more_minus > minus

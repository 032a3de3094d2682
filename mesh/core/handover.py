"""The change of voters, step by step; `mesh/core/voters.py` says why each.

A plain generator: it yields what is to be done and is sent what came of it. Any admin may run it, at the same
time as another, and again from the start after whatever went wrong.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from mesh.core.quorum import Cell, Change
from mesh.core.voters import DECISION, Voters, handed_over, parse, to_value


class Run(msgspec.Struct, frozen=True):
    """Run rounds on a register of a set until one is chosen; the answer is the value."""

    voters: Voters
    register: str
    change: Change


class Copy(msgspec.Struct, frozen=True):
    """Put each value into its register of a set, where that is empty, by a round for each."""

    voters: Voters
    values: dict[str, Any]


class Announce(msgspec.Struct, frozen=True):
    """Write the record, unless a later one counts."""

    voters: Voters


class Freeze(msgspec.Struct, frozen=True):
    """End the votes of a majority at least; the answer is the cells of each voter that froze."""

    voters: Voters


Step: TypeAlias = Run | Announce | Freeze | Copy
Procedure: TypeAlias = Generator[Step, Any, Voters]


def hand_over(present: Voters, wanted: Voters | None) -> Procedure:
    """From the set in force to the next one; returns the set that took over.

    Args:
        wanted: the next set, where none is decided on yet.
    """
    following = yield from decide(present, wanted)
    yield Announce(msgspec.structs.replace(present, next=following))
    cells: Sequence[Mapping[str, Cell]] = yield Freeze(present)
    yield Copy(following, handed_over(cells))
    yield Announce(following)
    return following


def decide(present: Voters, wanted: Voters | None) -> Generator[Step, Any, Voters]:
    """Which set is next: that which was chosen first."""
    proposed = present.next or wanted
    assert proposed is not None
    value = yield Run(present, DECISION, unless_there(to_value(proposed)))
    return parse(value)


def unless_there(value: Any) -> Change:
    """A change of an empty register only."""
    return lambda held: value if held is None else held

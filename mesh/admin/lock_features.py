"""What the admin routes ask of the agent about locks; see `mesh/admin/features.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

Json = dict[str, Any]
Rows = list[Json]


class Quorums(Protocol):
    """Declared voters, which locks stand on."""

    async def list(self) -> Rows:
        """`shapes.Quorum` of each, by name; the voters' `state` is None."""

    async def show(self, name: str) -> Json:
        """`shapes.Quorum`, every voter asked now. NotFound."""

    async def create(self, name: str, nodes: Sequence[str]) -> Json:
        """`shapes.Quorum`. Denied, UsageError (not 3 or 5), Conflict, Unreachable: a voter must answer."""

    async def replace(self, name: str, changes: Mapping[str, str]) -> Json:
        """`shapes.Quorum`. Voters, old to new; none: go on with a change that was begun.
        Denied, NotFound, UsageError, TimedOut: no majority.
        """


class Leases(Protocol):
    """Locks with fencing tokens. `quorum` "": the only one there is.

    Raise UsageError, NotFound (no such quorum or session), Conflict (held by another), Denied, TimedOut
    (no majority of the voters answers).
    """

    async def acquire(
        self, name: str, *, quorum: str, ttl_s: float, wait_s: float, session: str | None
    ) -> Json:
        """`shapes.Lease`, which the program renews itself. `session`: go on with one of an earlier life."""

    async def renew(self, session: str) -> Json:
        """`shapes.Lease`."""

    async def release(self, session: str) -> Json:
        """`shapes.Lease`."""

    def hold_lines(
        self, name: str, *, quorum: str, ttl_s: float, wait_s: float | None
    ) -> AsyncIterator[Json]:
        """`shapes.LeaseLine`: held and renewed while it is read, released when it is closed."""

    async def show(self, name: str, *, quorum: str) -> Json:
        """`shapes.Lock`."""

    def watch(self, name: str, *, quorum: str) -> AsyncIterator[Json]:
        """`shapes.Lock`, now and after each change."""

    async def list(self) -> Rows:
        """`shapes.Lease` of each that is held through this node."""

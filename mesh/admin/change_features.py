"""What the admin routes ask of the agent about rollouts and documents; see `mesh/admin/features.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

Json = dict[str, Any]
Rows = list[Json]


class Rollouts(Protocol):
    """Changes on their way over the nodes. A subject is `workload/web` or `config/zone=north`."""

    async def list(self) -> Rows:
        """`shapes.Rollout`: the newest of each subject."""

    async def show(self, subject: str) -> Json:
        """`shapes.RolloutDetail`. NotFound."""

    def watch(self, subject: str) -> AsyncIterator[Json]:
        """`shapes.RolloutDetail` after each change, until it is over."""

    async def steer(self, subject: str, word: str) -> Json:
        """`shapes.RolloutDetail`. pause, resume, abort or promote. Denied, NotFound, Conflict."""

    async def start(self, subject: str, changes: Json) -> Json:
        """`shapes.RolloutDetail`. The present generation anew, by a changed plan. Denied, Conflict."""

    async def history(self, subject: str) -> Rows:
        """`shapes.Generation`, the newest first. NotFound."""

    async def undo(self, subject: str, generation: int | None) -> Json:
        """`shapes.RolloutDetail`. An earlier generation, as a new one. Denied, NotFound."""


class Shadows(Protocol):
    """Configuration documents: desired by admins, reported by nodes."""

    async def list(self) -> Rows:
        """`shapes.Document`, the more general first."""

    async def show(self, scope: str) -> Json:
        """`shapes.DocumentDetail`. NotFound."""

    async def set(
        self,
        scope: str,
        *,
        values: Mapping[str, Any],
        app: str,
        unset: Sequence[str],
        plan: Json | None,
    ) -> Json:
        """`shapes.DocumentDetail`. `app` "": the agent's own settings. Denied, UsageError."""

    async def delete(self, scope: str) -> Json:
        """`shapes.DocumentDetail` as it was. Denied, NotFound."""

    def variables(self, app: str) -> dict[str, str]:
        """What documents say to an application on this node."""

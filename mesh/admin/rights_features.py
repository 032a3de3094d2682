"""What the admin routes ask about who may be here and do what; see `mesh/admin/features.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Json = dict[str, Any]
Rows = list[Json]


class Invites(Protocol):
    """Tokens that let devices in. Denied unless this node may admit."""

    async def create(
        self,
        *,
        roles: Sequence[str],
        zone: str | None,
        tier: str | None,
        labels: Mapping[str, str],
        uses: int,
        ttl_s: float | None,
    ) -> Json:
        """`shapes.Invite` with `token`, the only time that it is shown.
        Empty roles: member; None: defaults.
        """

    async def list(self) -> Rows:
        """`shapes.Invite`, newest first, without tokens."""

    async def revoke(self, invite: str, *, remove_admitted: bool) -> Json:
        """`shapes.Invite`. An invite's id or a unique end of it; may also remove those it let in."""


class Certs(Protocol):
    """Membership certificates."""

    async def show(self, node: str) -> Json:
        """`shapes.Certificate`. NotFound."""

    async def revoke(self, node: str, *, reason: str) -> Json:
        """`shapes.Forgotten`. Remove the node for ever, at once; its links close. Denied."""


class Policy(Protocol):
    """Who may do what: role, or node, to verb, to patterns."""

    async def show(self) -> Json:
        """`shapes.Policy`: what is set, and the defaults of roles that it does not name."""

    async def set(self, roles: Json, nodes: Json, *, dry_run: bool = False) -> Json:
        """`shapes.Policy`. Replace it, or say what it would be. Denied; UsageError: what is not allowed."""

    async def reset(self) -> Json:
        """`shapes.Policy`. Go back to the defaults. Denied."""

    async def check(self, node: str, verb: str, name: str) -> Json:
        """`shapes.Right`: whether a node may. UsageError: no such verb; NotFound: not a member."""

"""What the admin routes ask of routing and tokens. `mesh/admin/features.py` has the conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mesh.admin.features import Json, Rows
from mesh.admin.talk import Talk


class Routing(Protocol):
    """To which instance calls go, what admins wrote about it, and calls. `wants`: latency_ms, size_bytes,
    capabilities and data (names joined by commas), need (NAME=AMOUNT joined by commas), each if given.
    """

    async def resolve(self, name: str, *, source: str, wants: Mapping[str, Any]) -> Json:
        """`shapes.Resolved`: the instance whose turn it is. NoInstances."""

    async def explain(self, name: str, *, wants: Mapping[str, Any]) -> Json:
        """`shapes.Explained`: every candidate, its costs, and why it is taken or refused. NoInstances."""

    async def listeners(self) -> Rows:
        """`shapes.Listener`: where proxy, imports, names and gateway are reached on this device."""

    async def list(self) -> Rows:
        """`shapes.TrafficRoute` of each document."""

    async def show(self, name: str) -> Json:
        """`shapes.TrafficRoute`. NotFound."""

    async def set(self, name: str, route: Json) -> Json:
        """`shapes.TrafficRoute`. UsageError naming the field, or the circle; Denied."""

    async def delete(self, name: str) -> Json:
        """`shapes.TrafficRoute` as it was. NotFound, Denied."""

    async def call(
        self, name: str, payload: Any, *, timeout_s: float | None, repeat: bool, wants: Mapping[str, Any]
    ) -> Json:
        """`shapes.Answer` of the program that serves `name` on the node of an instance. `repeat`: it may be
        asked again elsewhere when it cannot be known whether it was done.
        """

    async def talk(
        self, name: str, payload: Any, *, timeout_s: float | None, wants: Mapping[str, Any]
    ) -> Talk:
        """A call with parts both ways of the program that serves `name` on the node of an instance, once it
        took the call.
        """

    async def connect(self, name: str, *, wants: Mapping[str, Any]) -> Any:
        """What carries a program's connection to an instance: an async function of its socket and of what
        was read from it already.
        """


class Tokens(Protocol):
    """Who outside the mesh may call through gateways."""

    async def create(
        self, *, services: Sequence[str], paths: Sequence[str], ttl_s: float | None, note: str
    ) -> Json:
        """`shapes.Token` with its text, this once. UsageError, Denied."""

    async def list(self) -> Rows:
        """`shapes.Token` of each, without its text."""

    async def revoke(self, token: str) -> Json:
        """`shapes.Token` as it was. NotFound, Denied."""

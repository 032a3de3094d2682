"""Routes of the logs of workloads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Logs
from mesh.admin.router import Call, Route


class LogsQuery(Struct, forbid_unknown_fields=True):
    """`node`: only what runs there. `tail`: the newest lines of each instance. `follow`: and what comes."""

    node: str | None = None
    tail: Annotated[int, Meta(ge=0, le=10_000)] = 100
    follow: bool = False


def _read(logs: Logs, call: Call) -> AsyncIterator[Json]:
    query: LogsQuery = call.query
    node = call.resolve(query.node) if query.node else None
    return logs.read(call.args["name"], node=node, tail=query.tail, follow=query.follow)


ROUTES = (
    Route(
        method="GET",
        pattern="/v1/logs/{name...}",
        feature="logs",
        handler=_read,
        result=shapes.LogLine,
        summary="What a workload's instances, or one like web/2, have written.",
        kind="lines",
        query=LogsQuery,
    ),
)

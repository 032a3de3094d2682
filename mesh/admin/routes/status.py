"""Routes of the node itself: status, settings, metrics, events, backup, and the API's own description."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mesh.admin import features, shapes
from mesh.admin.router import Call, Route

Json = dict[str, Any]
EVENTS_MAX = 10_000


class LevelBody(Struct, forbid_unknown_fields=True):
    """`level`: what is written to the log from now on, until the next start."""

    level: Literal["debug", "info", "warning", "error"]


class RestoreQuery(Struct, forbid_unknown_fields=True):
    """`force`: also over a store that is not empty."""

    force: bool = False


class EventsQuery(Struct, forbid_unknown_fields=True):
    """`type` may end in `*`; `last_s`: not older than this."""

    type: str | None = None
    node: str | None = None
    last_s: Annotated[float, Meta(gt=0)] | None = None
    limit: Annotated[int, Meta(ge=1, le=EVENTS_MAX)] = 1000


class EventStreamQuery(Struct, forbid_unknown_fields=True):
    """`cursor`: the id of the last event handled."""

    type: str | None = None
    node: str | None = None
    cursor: str | None = None


class HistoryQuery(Struct, forbid_unknown_fields=True):
    """`last_s`: how far back."""

    last_s: Annotated[float, Meta(gt=0)] = 600.0


async def _openapi(routes: Sequence[Route], call: Call) -> Json:
    from mesh.admin.openapi import document

    described: Json = document(routes)
    return described


async def _status(feature: features.Status, call: Call) -> Json:
    return await feature.status()


async def _doctor(feature: features.Status, call: Call) -> list[Json]:
    return await feature.doctor()


async def _version(feature: features.Status, call: Call) -> Json:
    return await feature.version()


async def _config(feature: features.Status, call: Call) -> list[Json]:
    return await feature.config_show()


async def _level(feature: features.Status, call: Call) -> Json:
    return await feature.log_level(None)


async def _set_level(feature: features.Status, call: Call) -> Json:
    return await feature.log_level(call.body.level)


def _bundle(feature: features.Status, call: Call) -> AsyncIterator[bytes]:
    return feature.debug_bundle()


def _backup(feature: features.Status, call: Call) -> AsyncIterator[bytes]:
    return feature.backup()


async def _restore(feature: features.Status, call: Call) -> Json:
    return await feature.restore(call.upload(), force=call.query.force)


async def _metrics(feature: features.Metrics, call: Call) -> Json:
    return await feature.now()


async def _history(feature: features.Metrics, call: Call) -> list[Json]:
    return await feature.history(call.args["metric"], last_s=call.query.last_s)


async def _events(feature: features.Events, call: Call) -> list[Json]:
    node = call.query.node and call.resolve(call.query.node)
    query = call.query
    return await feature.list(last_s=query.last_s, type=query.type, node=node, limit=query.limit)


def _event_stream(feature: features.Events, call: Call) -> AsyncIterator[Json]:
    node = call.query.node and call.resolve(call.query.node)
    return feature.watch(type=call.query.type, node=node, cursor=call.query.cursor)


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    more = {"feature": "status", **more}
    return Route(method=method, pattern=pattern, handler=handler, result=result, summary=summary, **more)


ROUTES = (
    _route("GET", "/v1/openapi.json", _openapi, Json, "This document.", feature=""),
    _route("GET", "/v1/status", _status, shapes.Status, "The node itself."),
    _route("GET", "/v1/doctor", _doctor, shapes.Check, "Findings, worst first.", many=True),
    _route("GET", "/v1/version", _version, shapes.Version, "Software of the agent."),
    _route("GET", "/v1/config", _config, shapes.Setting, "Settings and their sources.", many=True),
    _route("GET", "/v1/log-level", _level, shapes.LogLevel, "The level of the log."),
    _route("PUT", "/v1/log-level", _set_level, shapes.LogLevel, "Set the level of the log.", body=LevelBody),
    _route("GET", "/v1/debug-bundle", _bundle, bytes, "A .tar.gz for a bug report.", kind="bytes"),
    _route("GET", "/v1/backup", _backup, bytes, "A consistent copy of the store.", kind="bytes"),
    _route(
        "PUT",
        "/v1/restore",
        _restore,
        shapes.Restored,
        "Take a backup; the body is the copy.",
        query=RestoreQuery,
        takes="upload",
    ),
    _route("GET", "/v1/metrics", _metrics, shapes.Sample, "The newest sample.", feature="metrics"),
    _route(
        "GET",
        "/v1/metrics/{metric}",
        _history,
        shapes.Point,
        "One metric over time.",
        feature="metrics",
        many=True,
        query=HistoryQuery,
    ),
    _route(
        "GET",
        "/v1/events",
        _events,
        shapes.Event,
        "What happened, oldest first.",
        feature="events",
        many=True,
        query=EventsQuery,
    ),
    _route(
        "GET",
        "/v1/stream/events",
        _event_stream,
        shapes.Event,
        "What happens, as it does.",
        feature="events",
        kind="lines",
        query=EventStreamQuery,
    ),
)

"""Routes of services and shards. `{service}` is an id, or a name that only one service has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Services, Shards
from mesh.admin.router import Call, Route


class ServicesQuery(Struct, forbid_unknown_fields=True):
    """`tag`: several joined by commas, all must be there. `label`: a selector on the owner's labels.
    `version`: a range. `all`: also those that are not live and healthy. `near`: the nearest first.
    """

    name: str = ""
    owner: str | None = None
    tag: str = ""
    label: str = ""
    tier: str = ""
    version: str = ""
    all: bool = False
    near: bool = False


class ServiceStreamQuery(Struct, forbid_unknown_fields=True):
    """`cursor`: of the last change handled. `heartbeats`: tell those too."""

    name: str = ""
    owner: str | None = None
    tag: str = ""
    label: str = ""
    tier: str = ""
    version: str = ""
    cursor: str | None = None
    heartbeats: bool = False


class ServiceBody(Struct, forbid_unknown_fields=True):
    """`service`: the spec, as a file of services.d has it. `replace`: change what is registered already."""

    service: dict[str, Any]
    replace: bool = False


class ReportBody(Struct, forbid_unknown_fields=True):
    """How a program is, in its own word."""

    status: Literal["pass", "warn", "fail"]
    output: Annotated[str, Meta(max_length=4096)] = ""


class ShardQuery(Struct, forbid_unknown_fields=True):
    """`selector` chooses members by label; `replicas`: how many different ones."""

    key: str
    replicas: Annotated[int, Meta(ge=1, le=64)] = 1
    selector: str = ""


class ShardStreamQuery(Struct, forbid_unknown_fields=True):
    """As for a lookup."""

    replicas: Annotated[int, Meta(ge=1, le=64)] = 1
    selector: str = ""


def _asked(call: Call) -> dict[str, Any]:
    query = call.query
    return {
        "name": query.name,
        "owner": call.resolve(query.owner) if query.owner is not None else "",
        "tags": query.tag,
        "labels": query.label,
        "tier": query.tier,
        "version": query.version,
    }


async def _list(services: Services, call: Call) -> list[Json]:
    return await services.list(**_asked(call), everything=call.query.all, near=call.query.near)


def _watch(services: Services, call: Call) -> AsyncIterator[Json]:
    return services.watch(**_asked(call), cursor=call.query.cursor, heartbeats=call.query.heartbeats)


async def _show(services: Services, call: Call) -> Json:
    return await services.show(call.args["service"])


async def _register(services: Services, call: Call) -> Json:
    return await services.register(call.body.service, replace=call.body.replace)


async def _deregister(services: Services, call: Call) -> Json:
    return await services.deregister(call.args["service"])


async def _report(services: Services, call: Call) -> Json:
    return await services.report(call.args["service"], call.body.status, call.body.output)


async def _lookup(shards: Shards, call: Call) -> Json:
    query = call.query
    return await shards.lookup(query.key, replicas=query.replicas, selector=query.selector)


def _shard_stream(shards: Shards, call: Call) -> AsyncIterator[Json]:
    return shards.watch(replicas=call.query.replicas, selector=call.query.selector)


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    more = {"feature": "services", **more}
    return Route(method=method, pattern=pattern, handler=handler, result=result, summary=summary, **more)


ROUTES = (
    _route("GET", "/v1/services", _list, shapes.Service, "Services.", many=True, query=ServicesQuery),
    _route("PUT", "/v1/services", _register, shapes.Service, "Register a service.", body=ServiceBody),
    _route("GET", "/v1/services/{service}", _show, shapes.ServiceDetail, "One service, and its checks."),
    _route("DELETE", "/v1/services/{service}", _deregister, shapes.Service, "Deregister a service."),
    _route(
        "POST",
        "/v1/services/{service}/report",
        _report,
        shapes.Service,
        "A program reports its health.",
        body=ReportBody,
    ),
    _route(
        "GET",
        "/v1/stream/services",
        _watch,
        shapes.ServiceChange,
        "Services, and what happens to them.",
        kind="lines",
        query=ServiceStreamQuery,
    ),
    _route(
        "GET",
        "/v1/shards",
        _lookup,
        shapes.Shard,
        "The members that a key belongs to.",
        feature="shards",
        query=ShardQuery,
    ),
    _route(
        "GET",
        "/v1/stream/shards",
        _shard_stream,
        shapes.ShardChange,
        "Owners of shards, and what moves.",
        feature="shards",
        kind="lines",
        query=ShardStreamQuery,
    ),
)

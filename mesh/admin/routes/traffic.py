"""Routes of routing: who takes a call and why, the documents about it, calls, and tokens of the gateway."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Rows
from mesh.admin.features_traffic import Routing, Tokens
from mesh.admin.router import Call, Route
from mesh.admin.talk import carrying
from mesh.admin.values import with_bytes

Amount = Annotated[float, Meta(ge=0, le=1e18)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]


class WantsQuery(Struct, forbid_unknown_fields=True):
    """What the call needs. `capabilities` and `data` are names, `need` is NAME=AMOUNT, joined by commas."""

    latency_ms: Amount | None = None
    size_bytes: Amount | None = None
    capabilities: str = ""
    data: str = ""
    need: str = ""


class ResolveQuery(Struct, forbid_unknown_fields=True):
    """As for an explanation; `source` is the caller's address, for balancing by hash."""

    latency_ms: Amount | None = None
    size_bytes: Amount | None = None
    capabilities: str = ""
    data: str = ""
    need: str = ""
    source: str = ""


class RouteBody(Struct, forbid_unknown_fields=True):
    """The whole document; what it does not name has its default."""

    route: dict[str, Any]


class ServiceCallBody(Struct, forbid_unknown_fields=True):
    """`repeat`: it may be asked again elsewhere when it cannot be known whether it was done."""

    payload: Any = None
    timeout_s: Seconds | None = None
    repeat: bool = False
    latency_ms: Amount | None = None
    size_bytes: Amount | None = None
    capabilities: str = ""
    data: str = ""
    need: str = ""


class TalkBody(Struct, forbid_unknown_fields=True):
    """`timeout_s`: until somebody takes the call."""

    payload: Any = None
    timeout_s: Seconds | None = None
    latency_ms: Amount | None = None
    size_bytes: Amount | None = None
    capabilities: str = ""
    data: str = ""
    need: str = ""


class TokenBody(Struct, forbid_unknown_fields=True):
    """`services`: names, or patterns with `*`. `paths`: prefixes. `ttl_s`: 90 days where it is not given."""

    services: list[str]
    paths: list[str] = []
    ttl_s: float | None = None
    note: str = ""


def _wants(asked: Any) -> Json:
    return {name: getattr(asked, name) for name in WantsQuery.__struct_fields__}


async def _resolve(routing: Routing, call: Call) -> Json:
    return await routing.resolve(call.args["name"], source=call.query.source, wants=_wants(call.query))


async def _explain(routing: Routing, call: Call) -> Json:
    return await routing.explain(call.args["name"], wants=_wants(call.query))


async def _listeners(routing: Routing, call: Call) -> Rows:
    return await routing.listeners()


async def _list(routing: Routing, call: Call) -> Rows:
    return await routing.list()


async def _show(routing: Routing, call: Call) -> Json:
    return await routing.show(call.args["name"])


async def _set(routing: Routing, call: Call) -> Json:
    return await routing.set(call.args["name"], call.body.route)


async def _delete(routing: Routing, call: Call) -> Json:
    return await routing.delete(call.args["name"])


async def _call(routing: Routing, call: Call) -> Json:
    body, payload = call.body, with_bytes(call.body.payload)
    return await routing.call(
        call.args["name"], payload, timeout_s=body.timeout_s, repeat=body.repeat, wants=_wants(body)
    )


async def _talk(routing: Routing, call: Call) -> Any:
    body, payload = call.body, with_bytes(call.body.payload)
    return carrying(
        await routing.talk(call.args["name"], payload, timeout_s=body.timeout_s, wants=_wants(body))
    )


async def _connect(routing: Routing, call: Call) -> Any:
    return await routing.connect(call.args["name"], wants=_wants(call.query))


async def _create(tokens: Tokens, call: Call) -> Json:
    body = call.body
    return await tokens.create(services=body.services, paths=body.paths, ttl_s=body.ttl_s, note=body.note)


async def _tokens(tokens: Tokens, call: Call) -> Rows:
    return await tokens.list()


async def _revoke(tokens: Tokens, call: Call) -> Json:
    return await tokens.revoke(call.args["token"])


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    more = {"feature": "routing", **more}
    return Route(method=method, pattern=pattern, handler=handler, result=result, summary=summary, **more)


ROUTES = (
    _route(
        "GET",
        "/v1/resolve/{name}",
        _resolve,
        shapes.Resolved,
        "The instance of a service whose turn it is.",
        query=ResolveQuery,
    ),
    _route(
        "GET",
        "/v1/explain/{name}",
        _explain,
        shapes.Explained,
        "Every instance, and why it is taken or refused.",
        query=WantsQuery,
    ),
    _route("GET", "/v1/listeners", _listeners, shapes.Listener, "Where services are reached.", many=True),
    _route("GET", "/v1/routes", _list, shapes.TrafficRoute, "Documents about routing.", many=True),
    _route("GET", "/v1/routes/{name}", _show, shapes.TrafficRoute, "One document."),
    _route("PUT", "/v1/routes/{name}", _set, shapes.TrafficRoute, "Replace a document.", body=RouteBody),
    _route("DELETE", "/v1/routes/{name}", _delete, shapes.TrafficRoute, "Delete a document."),
    _route(
        "POST",
        "/v1/call/{name}",
        _call,
        shapes.Answer,
        "Ask the program behind a service.",
        body=ServiceCallBody,
    ),
    _route(
        "POST",
        "/v1/call/{name}/stream",
        _talk,
        bytes,
        "Ask the program behind a service in parts both ways: JSON lines of {payload}, {end} and {error}.",
        kind="switch",
        body=TalkBody,
    ),
    _route(
        "GET",
        "/v1/connect/{name}",
        _connect,
        bytes,
        "A connection with a service.",
        kind="switch",
        query=WantsQuery,
    ),
    _route(
        "POST",
        "/v1/tokens",
        _create,
        shapes.Token,
        "Make a token for the gateway.",
        feature="tokens",
        body=TokenBody,
    ),
    _route("GET", "/v1/tokens", _tokens, shapes.Token, "Tokens.", feature="tokens", many=True),
    _route("DELETE", "/v1/tokens/{token}", _revoke, shapes.Token, "Revoke a token.", feature="tokens"),
)

"""Routes of membership and links. `{node}` is an id, a unique end of one, or a name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Members
from mesh.admin.router import Call, Route


class LabelsBody(Struct, forbid_unknown_fields=True):
    """Labels to set; null removes one."""

    labels: dict[str, str | None]


class ZoneBody(Struct, forbid_unknown_fields=True):
    """The zone to move to."""

    zone: Annotated[str, Meta(min_length=1, max_length=64)]


class PingBody(Struct, forbid_unknown_fields=True):
    """How long to wait."""

    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0


class PruneBody(Struct, forbid_unknown_fields=True):
    """Nodes dead or left for longer are removed; `dry_run` only lists them."""

    older_than_s: Annotated[float, Meta(ge=0)]
    dry_run: bool = False


class PairQuery(Struct, forbid_unknown_fields=True):
    """Two nodes; an empty word is this one."""

    b: str
    a: str = ""


async def _list(members: Members, call: Call) -> list[Json]:
    return await members.list()


def _watch(members: Members, call: Call) -> AsyncIterator[Json]:
    return members.watch()


async def _label(members: Members, call: Call) -> Json:
    return await members.label(call.node, call.body.labels)


async def _move_zone(members: Members, call: Call) -> Json:
    return await members.move_zone(call.node, call.body.zone)


async def _ping(members: Members, call: Call) -> Json:
    return await members.ping(call.node, timeout_s=call.body.timeout_s)


async def _prune(members: Members, call: Call) -> list[Json]:
    return await members.prune(older_than_s=call.body.older_than_s, dry_run=call.body.dry_run)


async def _leave(members: Members, call: Call) -> Json:
    return await members.leave()


async def _rtt(members: Members, call: Call) -> Json:
    return await members.rtt(call.resolve(call.query.a), call.resolve(call.query.b))


async def _reachability(members: Members, call: Call) -> list[Json]:
    return await members.reachability()


async def _links(members: Members, call: Call) -> list[Json]:
    return await members.links()


def _on_node(method: str) -> Callable[[Members, Call], Awaitable[Json]]:
    """A handler that calls a method which takes only the node."""

    async def handler(members: Members, call: Call) -> Json:
        answer: Json = await getattr(members, method)(call.node)
        return answer

    return handler


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        feature="members",
        handler=handler,
        result=result,
        summary=summary,
        **more,
    )


def _post(word: str, summary: str, *, result: Any = shapes.Member) -> Route:
    handler = _on_node(word.replace("-", "_"))
    return _route("POST", f"/v1/members/{{node}}/{word}", handler, result, summary)


ROUTES = (
    _route("GET", "/v1/members", _list, shapes.Member, "Everyone known.", many=True),
    _route(
        "GET",
        "/v1/stream/members",
        _watch,
        shapes.MemberChange,
        "Everyone known, then what changes.",
        kind="lines",
    ),
    _route("GET", "/v1/members/{node}", _on_node("show"), shapes.MemberDetail, "All that is known of one."),
    _post("drain", "Ask work to leave a node."),
    _post("undrain", "Let work return to a node."),
    _post("cordon", "Give a node no new work."),
    _post("uncordon", "Give a node work again."),
    _post("force-leave", "Declare a dead node left."),
    _post("forget", "Remove a node for ever, keeping what it wrote.", result=shapes.Forgotten),
    _route(
        "PUT", "/v1/members/{node}/labels", _label, shapes.Member, "Set and remove labels.", body=LabelsBody
    ),
    _route("POST", "/v1/members/{node}/zone", _move_zone, shapes.Member, "Move a node.", body=ZoneBody),
    _route("POST", "/v1/members/{node}/ping", _ping, shapes.Pong, "One round trip.", body=PingBody),
    _route(
        "POST",
        "/v1/prune",
        _prune,
        shapes.Forgotten,
        "Remove nodes that are long gone.",
        many=True,
        body=PruneBody,
    ),
    _route("POST", "/v1/leave", _leave, shapes.Left, "Leave the mesh for good, then stop."),
    _route("GET", "/v1/rtt", _rtt, shapes.RoundTrip, "Round trip between two members.", query=PairQuery),
    _route("GET", "/v1/reachability", _reachability, shapes.Reach, "Who sees whom.", many=True),
    _route("GET", "/v1/links", _links, shapes.Link, "Links of this node.", many=True),
)

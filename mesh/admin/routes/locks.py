"""Routes of quorums, locks and leases.

`GET /v1/hold/{lock}` holds while it is read; `POST /v1/leases` gives a lease that its program renews itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Leases, Quorums, Rows
from mesh.admin.router import Call, Route

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Word = Annotated[str, Meta(max_length=64)]
Ttl = Annotated[float, Meta(gt=0, le=86_400)]
Wait = Annotated[float, Meta(ge=0, le=86_400 * 366)]


class QuorumBody(Struct, forbid_unknown_fields=True):
    """`voters`: 3 or 5 nodes, by id, unique end of one, or name."""

    name: Name
    voters: list[str]


class ReplaceBody(Struct, forbid_unknown_fields=True):
    """`changes`: old voter to new; the same node twice where its votes are lost. Empty: go on."""

    changes: dict[str, str] = {}


class LockQuery(Struct, forbid_unknown_fields=True):
    """`quorum`: empty for the only one there is."""

    quorum: Word = ""


class HoldQuery(Struct, forbid_unknown_fields=True):
    """`wait_s`: how long to wait for it; for ever when absent."""

    quorum: Word = ""
    ttl_s: Ttl = 30.0
    wait_s: Wait | None = None


class AcquireBody(Struct, forbid_unknown_fields=True):
    """`wait_s`: how long to wait while another holds it. `session`: of an earlier life, to go on with."""

    name: Name
    quorum: Word = ""
    ttl_s: Ttl = 30.0
    wait_s: Wait = 0.0
    session: str | None = None


class SessionBody(Struct, forbid_unknown_fields=True):
    """`session` as acquire answered it."""

    session: str


async def _quorums(quorums: Quorums, call: Call) -> Rows:
    return await quorums.list()


async def _quorum(quorums: Quorums, call: Call) -> Json:
    return await quorums.show(call.args["name"])


async def _create(quorums: Quorums, call: Call) -> Json:
    return await quorums.create(call.body.name, [call.resolve(node) for node in call.body.voters])


async def _replace(quorums: Quorums, call: Call) -> Json:
    changes = {call.resolve(old): call.resolve(new) for old, new in call.body.changes.items()}
    return await quorums.replace(call.args["name"], changes)


async def _list(leases: Leases, call: Call) -> Rows:
    return await leases.list()


async def _acquire(leases: Leases, call: Call) -> Json:
    body: AcquireBody = call.body
    return await leases.acquire(
        body.name, quorum=body.quorum, ttl_s=body.ttl_s, wait_s=body.wait_s, session=body.session
    )


async def _renew(leases: Leases, call: Call) -> Json:
    return await leases.renew(call.body.session)


async def _release(leases: Leases, call: Call) -> Json:
    return await leases.release(call.body.session)


async def _show(leases: Leases, call: Call) -> Json:
    return await leases.show(call.args["name"], quorum=call.query.quorum)


def _watch(leases: Leases, call: Call) -> AsyncIterator[Json]:
    return leases.watch(call.args["name"], quorum=call.query.quorum)


def _hold(leases: Leases, call: Call) -> AsyncIterator[Json]:
    query: HoldQuery = call.query
    return leases.hold_lines(call.args["name"], quorum=query.quorum, ttl_s=query.ttl_s, wait_s=query.wait_s)


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    feature = "quorums" if pattern.startswith("/v1/quorums") else "leases"
    return Route(
        method=method,
        pattern=pattern,
        feature=feature,
        handler=handler,
        result=result,
        summary=summary,
        **more,
    )


ROUTES = (
    _route("GET", "/v1/quorums", _quorums, shapes.Quorum, "All quorums.", many=True),
    _route("POST", "/v1/quorums", _create, shapes.Quorum, "Declare voters.", body=QuorumBody),
    _route("GET", "/v1/quorums/{name}", _quorum, shapes.Quorum, "One quorum, its voters asked."),
    _route(
        "POST", "/v1/quorums/{name}/replace", _replace, shapes.Quorum, "Replace voters.", body=ReplaceBody
    ),
    _route("GET", "/v1/leases", _list, shapes.Lease, "Leases held through this node.", many=True),
    _route("POST", "/v1/leases", _acquire, shapes.Lease, "Take a lock.", body=AcquireBody),
    _route("POST", "/v1/leases/renew", _renew, shapes.Lease, "Hold it longer.", body=SessionBody),
    _route("POST", "/v1/leases/release", _release, shapes.Lease, "Give it back.", body=SessionBody),
    _route("GET", "/v1/locks/{name...}", _show, shapes.Lock, "Who holds a lock.", query=LockQuery),
    _route(
        "GET",
        "/v1/stream/locks/{name...}",
        _watch,
        shapes.Lock,
        "Who holds a lock, and each change.",
        kind="lines",
        query=LockQuery,
    ),
    _route(
        "GET",
        "/v1/hold/{name...}",
        _hold,
        shapes.LeaseLine,
        "Hold a lock while this is read.",
        kind="lines",
        query=HoldQuery,
    ),
)

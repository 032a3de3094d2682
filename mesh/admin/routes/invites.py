"""Routes of invites and certificates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Certs, Invites, Json
from mesh.admin.router import Call, Route


class InviteBody(Struct, forbid_unknown_fields=True):
    """What the invite grants. No roles: member; no zone or tier: the default; no time: as configured."""

    roles: list[str] = []
    zone: str | None = None
    tier: Literal["device", "edge", "region", "cloud"] | None = None
    labels: dict[str, str] = {}
    uses: Annotated[int, Meta(ge=1, le=100_000)] = 1
    ttl_s: Annotated[float, Meta(gt=0)] | None = None


class RevokeInviteBody(Struct, forbid_unknown_fields=True):
    """`remove_admitted`: also remove the nodes that it let in."""

    remove_admitted: bool = False


class RevokeBody(Struct, forbid_unknown_fields=True):
    """Why; kept in the removal for everyone to see."""

    reason: Annotated[str, Meta(max_length=200)] = ""


async def _create(invites: Invites, call: Call) -> Json:
    body: InviteBody = call.body
    return await invites.create(
        roles=body.roles,
        zone=body.zone,
        tier=body.tier,
        labels=body.labels,
        uses=body.uses,
        ttl_s=body.ttl_s,
    )


async def _list(invites: Invites, call: Call) -> list[Json]:
    return await invites.list()


async def _revoke_invite(invites: Invites, call: Call) -> Json:
    return await invites.revoke(call.args["invite"], remove_admitted=call.body.remove_admitted)


async def _show(certs: Certs, call: Call) -> Json:
    return await certs.show(call.node)


async def _show_own(certs: Certs, call: Call) -> Json:
    return await certs.show(call.resolve(""))


async def _revoke(certs: Certs, call: Call) -> Json:
    return await certs.revoke(call.node, reason=call.body.reason)


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    feature = "certs" if pattern.startswith("/v1/certs") else "invites"
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
    _route("GET", "/v1/invites", _list, shapes.Invite, "Invites, newest first.", many=True),
    _route("POST", "/v1/invites", _create, shapes.Invite, "Make an invite.", body=InviteBody),
    _route(
        "POST",
        "/v1/invites/{invite}/revoke",
        _revoke_invite,
        shapes.Invite,
        "Stop an invite.",
        body=RevokeInviteBody,
    ),
    _route("GET", "/v1/certs", _show_own, shapes.Certificate, "This node's certificate."),
    _route("GET", "/v1/certs/{node}", _show, shapes.Certificate, "A node's certificate."),
    _route(
        "POST",
        "/v1/certs/{node}/revoke",
        _revoke,
        shapes.Forgotten,
        "Remove a node for ever, at once.",
        body=RevokeBody,
    ),
)

"""Routes of the policy: who may do what."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Policy
from mesh.admin.router import Call, Route


class PolicyBody(Struct, forbid_unknown_fields=True):
    """role (or node id) -> verb -> patterns. A role that is not named keeps its default. `dry_run`: only say
    what it would be.
    """

    roles: dict[str, dict[str, list[str]]] = {}
    nodes: dict[str, dict[str, list[str]]] = {}
    dry_run: bool = False


async def _show(policy: Policy, call: Call) -> Json:
    return await policy.show()


async def _set(policy: Policy, call: Call) -> Json:
    nodes = {call.resolve(node): it for node, it in call.body.nodes.items()}
    return await policy.set(call.body.roles, nodes, dry_run=call.body.dry_run)


async def _reset(policy: Policy, call: Call) -> Json:
    return await policy.reset()


async def _check(policy: Policy, call: Call) -> Json:
    return await policy.check(call.node, call.args["verb"], call.args["name"])


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        feature="policy",
        handler=handler,
        result=result,
        summary=summary,
        **more,
    )


ROUTES = (
    _route("GET", "/v1/policy", _show, shapes.Policy, "The policy in force."),
    _route("PUT", "/v1/policy", _set, shapes.Policy, "Replace the policy.", body=PolicyBody),
    _route("DELETE", "/v1/policy", _reset, shapes.Policy, "Go back to the defaults."),
    _route(
        "GET",
        "/v1/rights/{node}/{verb}/{name...}",
        _check,
        shapes.Right,
        "Whether a node may do something.",
    ),
)

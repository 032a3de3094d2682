"""Routes of secrets. The value goes in and never comes out; what is wrong with it is said without it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Rows, Secrets
from mesh.admin.router import Call, Route
from mesh.admin.values import with_bytes
from mesh.errors import UsageError


class SecretBody(Struct, forbid_unknown_fields=True):
    """`value`: text, or {"base64": "..."}. `selector` over zone and tier, `nodes`: ids or names, for whom it
    is; without both it stays for whom it was.
    """

    value: Any
    selector: str | None = None
    nodes: list[str] | None = None


async def _set(secrets: Secrets, call: Call) -> Json:
    body = call.body
    nodes = None if body.nodes is None else [call.resolve(node) for node in body.nodes]
    value = _bytes_of(body.value)
    return await secrets.set(call.args["secret"], value, selector=body.selector, nodes=nodes)


def _bytes_of(value: Any) -> bytes:
    try:
        value = with_bytes(value)
    except UsageError:
        value = None
    if isinstance(value, str):
        value = value.encode(errors="surrogatepass")
    if not isinstance(value, bytes):
        raise UsageError("value: that is neither text nor base64", 'text, or {"base64": "..."}')
    return value


async def _list(secrets: Secrets, call: Call) -> Rows:
    return await secrets.list()


async def _show(secrets: Secrets, call: Call) -> Json:
    return await secrets.show(call.args["secret"])


async def _remove(secrets: Secrets, call: Call) -> Json:
    return await secrets.remove(call.args["secret"])


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        feature="secrets",
        handler=handler,
        result=result,
        summary=summary,
        **more,
    )


ROUTES = (
    _route("GET", "/v1/secrets", _list, shapes.Secret, "Secrets, without their values.", many=True),
    _route("GET", "/v1/secrets/{secret}", _show, shapes.Secret, "One, without its value."),
    _route(
        "PUT",
        "/v1/secrets/{secret}",
        _set,
        shapes.SecretSet,
        "Set a secret, sealed to the nodes that may run what names it.",
        body=SecretBody,
    ),
    _route("DELETE", "/v1/secrets/{secret}", _remove, shapes.Secret, "Remove one that nothing names."),
)

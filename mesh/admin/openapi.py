"""The OpenAPI 3.1 document, made from the table of routes and the Structs and TypedDicts it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mesh import __version__
from mesh.admin import shapes
from mesh.admin.http import JSON_TYPE, LINES_TYPE
from mesh.admin.router import Empty, Route

Json = dict[str, Any]
_REF = "#/components/schemas/{name}"
_DESCRIPTION = (
    "HTTP/1.1 with JSON on the agent's unix socket, for this machine only. Streams are JSON lines; one that "
    'fails ends with a line {"error": …}. Bytes travel as {"base64": "…"}. Stamps (hlc) are decimal strings.'
)


def document(routes: Sequence[Route]) -> Json:
    """Describe the routes."""
    types: set[Any] = {route.body for route in routes} | {route.query for route in routes}
    types |= {route.result for route in routes} | {shapes.ErrorBody}
    named = [kind for kind in types if kind not in (None, Empty, bytes, Json)]
    named.sort(key=lambda kind: str(kind.__name__))
    _, components = msgspec.json.schema_components(named, ref_template=_REF)
    paths: dict[str, Json] = {}
    for route in routes:
        path = route.pattern.replace("...}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mesh admin API", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "http://mesh/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, components: Json) -> Json:
    operation: Json = {
        "summary": route.summary,
        "operationId": _operation_id(route),
        "tags": [route.feature or "api"],
        "parameters": [*map(_path_parameter, route.words), *_query_parameters(route, components)],
        "responses": {
            "200": {"description": _answer_words(route), "content": _answer(route)},
            "default": {
                "description": "It failed.",
                "content": {JSON_TYPE: {"schema": _schema(shapes.ErrorBody)}},
            },
        },
    }
    if body := _body(route):
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _operation_id(route: Route) -> str:
    parts = [part.strip("{}.") for part in route.pattern.split("/")[2:]]
    return "-".join([route.method.lower(), *parts]).replace(".", "-")


def _path_parameter(word: str) -> Json:
    return {"name": word, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(route: Route, components: Json) -> list[Json]:
    if route.query is Empty:
        return []
    form = components[route.query.__name__]
    return [
        {"name": name, "in": "query", "required": name in form.get("required", ()), "schema": schema}
        for name, schema in form["properties"].items()
    ]


def _answer_words(route: Route) -> str:
    if route.kind == "lines":
        return "One object a line, until either side ends it."
    if route.kind == "switch":
        return "101: with `Upgrade: mesh-stream`, the connection carries the service's bytes from here on."
    return "A list." if route.many else "The answer."


def _answer(route: Route) -> Json:
    if route.kind in ("bytes", "switch"):
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    schema = _schema(route.result)
    if route.kind == "lines":
        return {LINES_TYPE: {"schema": schema}}
    return {JSON_TYPE: {"schema": {"type": "array", "items": schema} if route.many else schema}}


def _body(route: Route) -> Json:
    content: Json = {}
    if route.body is not None:
        content[JSON_TYPE] = {"schema": _schema(route.body)}
    if route.takes in ("raw", "upload"):
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _schema(kind: Any) -> Json:
    if kind == Json:
        return {"type": "object"}
    return {"$ref": _REF.format(name=kind.__name__)}

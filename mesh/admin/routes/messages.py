"""Routes of topics, requests and queries.

A local program serves a name by reading `GET /v1/serve` and answering each line with
`POST /v1/answers/{call}` on another connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Messages
from mesh.admin.router import Call, Route
from mesh.admin.values import with_bytes
from mesh.errors import UsageError

PUBLISH_MAX = 1000
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]


class PublishBody(Struct, forbid_unknown_fields=True):
    """`id`: for qos 2, the same id is delivered once however often it is sent; made up when absent."""

    topic: Name
    payload: Any
    qos: Literal[0, 1, 2] = 0
    id: Name | None = None
    timeout_s: Seconds | None = None


class PublishManyBody(Struct, forbid_unknown_fields=True):
    """Messages of one topic and of qos 0, in their order."""

    topic: Name
    payloads: Annotated[list[Any], Meta(max_length=PUBLISH_MAX)]
    timeout_s: Seconds | None = None


class SubscribeQuery(Struct, forbid_unknown_fields=True):
    """`pattern`: + is any one segment, # at the end the rest. `replay`: kept messages wanted first."""

    pattern: Name
    replay: Annotated[int, Meta(ge=0, le=10_000)] = 0


class RequestBody(Struct, forbid_unknown_fields=True):
    """`node` by id, unique end of one, or name; `name` of the handler there."""

    node: Name
    name: Name
    payload: Any = None
    timeout_s: Seconds | None = None


class ServeQuery(Struct, forbid_unknown_fields=True):
    """The name under which requests and queries arrive."""

    name: Name


class AnswerBody(Struct, forbid_unknown_fields=True):
    """`more`: further parts follow. `error`: it failed, instead of a payload."""

    payload: Any = None
    more: bool = False
    error: dict[str, str] | None = None


class QueryBody(Struct, forbid_unknown_fields=True):
    """Nodes whose labels (also zone, tier and name) are these, and that `selector` takes, are asked.

    `combine`: collect, count, sum, mean, min, max, top:K, histogram or distinct.
    """

    name: Name
    payload: Any = None
    labels: dict[str, str] = {}
    timeout_s: Seconds | None = None
    combine: Annotated[str, Meta(max_length=32)] = "collect"
    selector: Annotated[str, Meta(max_length=1024)] = ""


async def _publish(messages: Messages, call: Call) -> Json:
    body: PublishBody = call.body
    payload = with_bytes(body.payload)
    return await messages.publish(body.topic, payload, qos=body.qos, id=body.id, timeout_s=body.timeout_s)


async def _publish_many(messages: Messages, call: Call) -> Json:
    body: PublishManyBody = call.body
    payloads = [with_bytes(payload) for payload in body.payloads]
    return await messages.publish_many(body.topic, payloads, timeout_s=body.timeout_s)


def _subscribe(messages: Messages, call: Call) -> AsyncIterator[Json]:
    return messages.subscribe(call.query.pattern, replay=call.query.replay)


async def _request(messages: Messages, call: Call) -> Json:
    body: RequestBody = call.body
    payload = with_bytes(body.payload)
    return await messages.request(call.resolve(body.node), body.name, payload, timeout_s=body.timeout_s)


def _request_stream(messages: Messages, call: Call) -> AsyncIterator[Json]:
    body: RequestBody = call.body
    payload = with_bytes(body.payload)
    return messages.request_stream(call.resolve(body.node), body.name, payload, timeout_s=body.timeout_s)


def _serve(messages: Messages, call: Call) -> AsyncIterator[Json]:
    return messages.serve(call.query.name)


def _parts(messages: Messages, call: Call) -> AsyncIterator[Json]:
    return messages.parts(call.args["call"])


async def _answer(messages: Messages, call: Call) -> Json:
    body: AnswerBody = call.body
    error = body.error
    if error is not None and not (error.get("code") and error.get("message")):
        raise UsageError("body: `error` needs a code and a message")
    payload = with_bytes(body.payload)
    return await messages.answer(call.args["call"], payload, more=body.more, error=error)


def _query_stream(messages: Messages, call: Call) -> AsyncIterator[Json]:
    body: QueryBody = call.body
    payload = with_bytes(body.payload)
    return messages.query(
        body.name,
        payload,
        labels=body.labels,
        timeout_s=body.timeout_s,
        combine=body.combine,
        selector=body.selector,
    )


async def _query(messages: Messages, call: Call) -> Json:
    answers: list[Json] = []
    result: Json = {}
    async with aclosing(_query_stream(messages, call)) as lines:  # type: ignore[type-var]
        async for line in lines:
            if "node" in line:
                answers.append(line)
            else:
                result |= line
    return {"answers": answers, **result}


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        feature="messages",
        handler=handler,
        result=result,
        summary=summary,
        **more,
    )


ROUTES = (
    _route("POST", "/v1/publish", _publish, shapes.Published, "Send to a topic.", body=PublishBody),
    _route(
        "POST",
        "/v1/publish/many",
        _publish_many,
        shapes.PublishedMany,
        "Send many messages to a topic.",
        body=PublishManyBody,
    ),
    _route(
        "GET",
        "/v1/subscribe",
        _subscribe,
        shapes.Message,
        "Messages of topics, as they come.",
        kind="lines",
        query=SubscribeQuery,
    ),
    _route("POST", "/v1/request", _request, shapes.Answer, "Ask one node.", body=RequestBody),
    _route(
        "POST",
        "/v1/request/stream",
        _request_stream,
        shapes.Answer,
        "Ask one node for an answer in parts.",
        kind="lines",
        body=RequestBody,
    ),
    _route(
        "GET",
        "/v1/serve",
        _serve,
        shapes.Call,
        "Requests for a name, while this is read.",
        kind="lines",
        query=ServeQuery,
    ),
    _route(
        "GET",
        "/v1/parts/{call}",
        _parts,
        shapes.Part,
        "What the caller of a request sends besides.",
        kind="lines",
    ),
    _route("POST", "/v1/answers/{call}", _answer, shapes.CallName, "Answer a request.", body=AnswerBody),
    _route("POST", "/v1/query", _query, shapes.QueryResult, "Ask many nodes.", body=QueryBody),
    _route(
        "POST",
        "/v1/query/stream",
        _query_stream,
        shapes.Answer,
        "Ask many nodes; answers as they come, then the coverage.",
        kind="lines",
        body=QueryBody,
    ),
)

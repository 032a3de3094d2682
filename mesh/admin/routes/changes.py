"""Routes of rollouts and of configuration documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Rollouts, Rows, Shadows
from mesh.admin.router import Call, Route

Scope = Annotated[str, Meta(min_length=1, max_length=200)]
Name = Annotated[str, Meta(max_length=64)]


class SteerBody(Struct, forbid_unknown_fields=True):
    """`word`: pause, resume, abort or promote (the canary is good)."""

    subject: Scope
    word: Literal["pause", "resume", "abort", "promote"]


class StartBody(Struct, forbid_unknown_fields=True):
    """`plan`: fields of the rollout to be other than in the spec."""

    subject: Scope
    plan: dict[str, Any] = {}


class UndoBody(Struct, forbid_unknown_fields=True):
    """`generation`: absent for the one before the present."""

    subject: Scope
    generation: int | None = None


class DocumentBody(Struct, forbid_unknown_fields=True):
    """`values` are settings of the agent, or with `app` texts for that application."""

    scope: Scope
    values: dict[str, Any] = {}
    app: Name = ""
    unset: list[str] = []
    plan: dict[str, Any] | None = None


async def _list(rollouts: Rollouts, call: Call) -> Rows:
    return await rollouts.list()


async def _show(rollouts: Rollouts, call: Call) -> Json:
    return await rollouts.show(call.args["subject"])


def _watch(rollouts: Rollouts, call: Call) -> AsyncIterator[Json]:
    return rollouts.watch(call.args["subject"])


async def _history(rollouts: Rollouts, call: Call) -> Rows:
    return await rollouts.history(call.args["subject"])


async def _steer(rollouts: Rollouts, call: Call) -> Json:
    return await rollouts.steer(call.body.subject, call.body.word)


async def _start(rollouts: Rollouts, call: Call) -> Json:
    return await rollouts.start(call.body.subject, call.body.plan)


async def _undo(rollouts: Rollouts, call: Call) -> Json:
    return await rollouts.undo(call.body.subject, call.body.generation)


async def _documents(shadows: Shadows, call: Call) -> Rows:
    return await shadows.list()


async def _document(shadows: Shadows, call: Call) -> Json:
    return await shadows.show(call.args["scope"])


async def _set(shadows: Shadows, call: Call) -> Json:
    body: DocumentBody = call.body
    return await shadows.set(body.scope, values=body.values, app=body.app, unset=body.unset, plan=body.plan)


async def _delete(shadows: Shadows, call: Call) -> Json:
    return await shadows.delete(call.args["scope"])


async def _app(shadows: Shadows, call: Call) -> Json:
    app = call.args["app"]
    return {"app": app, "variables": shadows.variables(app)}


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    feature = "rollouts" if "rollout" in pattern or "generations" in pattern else "shadows"
    return Route(
        method=method,
        pattern=pattern,
        feature=feature,
        handler=handler,
        result=result,
        summary=summary,
        **more,
    )


_DETAIL = shapes.RolloutDetail
ROUTES = (
    _route("GET", "/v1/rollouts", _list, shapes.Rollout, "The newest rollout of each subject.", many=True),
    _route("GET", "/v1/rollouts/{subject...}", _show, _DETAIL, "One rollout, node by node."),
    _route(
        "GET",
        "/v1/stream/rollouts/{subject...}",
        _watch,
        _DETAIL,
        "A rollout after each change, until it is over.",
        kind="lines",
    ),
    _route(
        "GET",
        "/v1/generations/{subject...}",
        _history,
        shapes.Generation,
        "What can be undone to.",
        many=True,
    ),
    _route("POST", "/v1/rollout/steer", _steer, _DETAIL, "Pause, resume, abort, promote.", body=SteerBody),
    _route("POST", "/v1/rollout/start", _start, _DETAIL, "Roll the present one out anew.", body=StartBody),
    _route("POST", "/v1/rollout/undo", _undo, _DETAIL, "Roll an earlier one out again.", body=UndoBody),
    _route("GET", "/v1/documents", _documents, shapes.Document, "Configuration documents.", many=True),
    _route("GET", "/v1/documents/{scope...}", _document, shapes.DocumentDetail, "One document."),
    _route("POST", "/v1/documents", _set, shapes.DocumentDetail, "Change a document.", body=DocumentBody),
    _route("DELETE", "/v1/documents/{scope...}", _delete, shapes.DocumentDetail, "Take a document away."),
    _route("GET", "/v1/apps/{app}", _app, shapes.AppConfig, "An application's variables on this node."),
)

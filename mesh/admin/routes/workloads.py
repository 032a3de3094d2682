"""Routes of workloads and of the rules of admission."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from mesh.admin import shapes
from mesh.admin.features import Json, Workloads
from mesh.admin.router import Call, Route

Documents = Annotated[list[dict[str, Any]], Meta(max_length=1000)]


class ApplyBody(Struct, forbid_unknown_fields=True):
    """`specs`: as `GET /v1/schemas/workload` describes them. `dry_run`: only say what would change. `force`:
    also what the rules of admission let run nowhere.
    """

    specs: Documents
    dry_run: bool = False
    force: bool = False


class ScaleBody(Struct, forbid_unknown_fields=True):
    """A number, or "each". `force`: also what the rules of admission let run nowhere."""

    replicas: int | str
    force: bool = False


class RemoveBody(Struct, forbid_unknown_fields=True):
    """Names of nodes. `back`: they may run it again."""

    nodes: Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(min_length=1, max_length=64)]
    back: bool = False


class RulesBody(Struct, forbid_unknown_fields=True):
    """Rules to set, each in the place of the one of its name. `dry_run`: only say what they would stop."""

    rules: Documents
    dry_run: bool = False


class AdmissionBody(Struct, forbid_unknown_fields=True):
    """`specs` to ask about; `rules`: these and not those in force."""

    specs: Documents
    rules: Documents = []


async def _apply(workloads: Workloads, call: Call) -> list[Json]:
    return await workloads.apply(call.body.specs, dry_run=call.body.dry_run, force=call.body.force)


async def _list(workloads: Workloads, call: Call) -> list[Json]:
    return await workloads.list()


async def _show(workloads: Workloads, call: Call) -> Json:
    return await workloads.show(call.args["workload"])


async def _explain(workloads: Workloads, call: Call) -> list[Json]:
    return await workloads.explain(call.args["workload"])


async def _on_node(workloads: Workloads, call: Call) -> Json:
    return await workloads.on_node(call.node)


async def _scale(workloads: Workloads, call: Call) -> Json:
    return await workloads.scale(call.args["workload"], call.body.replicas, force=call.body.force)


async def _remove(workloads: Workloads, call: Call) -> Json:
    return await workloads.remove(call.args["workload"], call.body.nodes, back=call.body.back)


async def _restart(workloads: Workloads, call: Call) -> Json:
    return await workloads.restart(call.args["workload"])


async def _delete(workloads: Workloads, call: Call) -> Json:
    return await workloads.delete(call.args["workload"])


async def _schema(workloads: Workloads, call: Call) -> Json:
    return await workloads.schema()


async def _rules(workloads: Workloads, call: Call) -> list[Json]:
    return await workloads.rules()


async def _set_rules(workloads: Workloads, call: Call) -> list[Json]:
    return await workloads.set_rules(call.body.rules, dry_run=call.body.dry_run)


async def _delete_rule(workloads: Workloads, call: Call) -> Json:
    return await workloads.delete_rule(call.args["rule"])


async def _test(workloads: Workloads, call: Call) -> list[Json]:
    return await workloads.test(call.body.specs, call.body.rules)


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        feature="workloads",
        handler=handler,
        result=result,
        summary=summary,
        **more,
    )


ROUTES = (
    _route(
        "POST",
        "/v1/workloads",
        _apply,
        shapes.Applied,
        "Apply workloads: all of them, or none.",
        many=True,
        body=ApplyBody,
    ),
    _route("GET", "/v1/workloads", _list, shapes.Workload, "Workloads.", many=True),
    _route("GET", "/v1/workloads/{workload}", _show, shapes.WorkloadDetail, "One, and its instances."),
    _route("DELETE", "/v1/workloads/{workload}", _delete, shapes.Workload, "End a workload everywhere."),
    _route(
        "GET",
        "/v1/workloads/{workload}/explain",
        _explain,
        shapes.PlacementVerdict,
        "Every node as a place for it.",
        many=True,
    ),
    _route("GET", "/v1/members/{node}/work", _on_node, shapes.NodeWork, "What a node runs."),
    _route(
        "POST",
        "/v1/workloads/{workload}/scale",
        _scale,
        shapes.Workload,
        "Change its number of instances.",
        body=ScaleBody,
    ),
    _route(
        "POST",
        "/v1/workloads/{workload}/remove",
        _remove,
        shapes.WorkloadDetail,
        "Take it off some nodes; elsewhere it goes on.",
        body=RemoveBody,
    ),
    _route("POST", "/v1/workloads/{workload}/restart", _restart, shapes.Workload, "Start it anew."),
    _route("GET", "/v1/schemas/workload", _schema, shapes.WorkloadSchema, "The JSON schema of a spec."),
    _route("GET", "/v1/admission", _rules, shapes.AdmissionRule, "Rules of admission.", many=True),
    _route(
        "PUT",
        "/v1/admission",
        _set_rules,
        shapes.AdmissionSet,
        "Set rules of admission.",
        many=True,
        body=RulesBody,
    ),
    _route("DELETE", "/v1/admission/{rule}", _delete_rule, shapes.AdmissionRule, "Delete a rule."),
    _route(
        "POST",
        "/v1/admission/test",
        _test,
        shapes.Admitted,
        "Where workloads would be admitted.",
        many=True,
        body=AdmissionBody,
    ),
)

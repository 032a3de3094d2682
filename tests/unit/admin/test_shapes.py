"""The features in memory answer in the shapes that the schema promises."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mesh.admin.memory import ID, Features
from mesh.admin.router import Call, Route
from mesh.admin.routes import ROUTES
from mesh.admin.values import dumps

BODIES: dict[str, dict[str, Any]] = {
    "/v1/members/{node}/labels": {"labels": {"a": "b"}},
    "/v1/members/{node}/zone": {"zone": "berlin"},
    "/v1/prune": {"older_than_s": 1.0},
    "/v1/log-level": {"level": "debug"},
    "/v1/kv": {"entries": [{"key": "a", "value": 1}]},
    "/v1/kv/{key...}": {"value": 1},
    "/v1/log/{key...}": {"value": 1},
    "/v1/publish": {"topic": "a/b", "payload": 1},
    "/v1/publish/many": {"topic": "a/b", "payloads": [1, 2]},
    "/v1/routes/{name}": {"route": {"margin": 0.2}},
    "/v1/tokens": {"services": ["orders"]},
    "/v1/services": {"service": {"name": "made", "port": 80}},
    "/v1/services/{service}/report": {"status": "pass"},
    "/v1/quorums": {"voters": [ID]},
    "/v1/workloads": {"specs": [{"name": "made", "command": ["/bin/true"]}]},
    "/v1/workloads/{workload}/scale": {"replicas": 2},
    "/v1/workloads/{workload}/remove": {"nodes": ["alpha"]},
    "/v1/admission": {"rules": [{"name": "made", "root": False}]},
    "/v1/admission/test": {"specs": [{"name": "made", "command": ["/bin/true"]}]},
    "/v1/secrets/{secret}": {"value": "x"},
    "/v1/rollout/steer": {"subject": "workload/web", "word": "pause"},
    "/v1/rollout/start": {"subject": "workload/web"},
    "/v1/rollout/undo": {"subject": "workload/web"},
    "/v1/documents": {"scope": "all", "values": {"log.level": "debug"}},
    "/v1/leases/renew": {"session": "s"},
    "/v1/leases/release": {"session": "s"},
}
QUERIES: dict[str, dict[str, Any]] = {"/v1/shards": {"key": "k"}}
SKIPPED = {"/v1/openapi.json", "/v1/request", "/v1/answers/{call}", "/v1/call/{name}"}


async def call_of(route: Route, features: Features) -> Call:
    args = dict.fromkeys(route.words, "seen")
    if "node" in args:
        args["node"] = features.members.names()[2 if "force" in route.pattern else 1][0]
    if "verb" in args:
        args["verb"] = "write"
    if "metric" in args:
        args["metric"] = "cpu.usage_percent"
    if "invite" in args:
        args["invite"] = (await features.invites.list())[0]["id"]
    query = {"b": args.get("node", ID), "a": ID} if route.pattern == "/v1/rtt" else {}
    query |= QUERIES.get(route.pattern, {})
    body = None
    if route.body is not None:
        raw = {"name": "echo", "node": ID, "payload": 1, **BODIES.get(route.pattern, {})}
        raw = {name: value for name, value in raw.items() if name in route.body.__struct_fields__}
        body = msgspec.convert(raw, route.body)

    async def upload() -> Any:
        yield b"backup"

    def resolve(word: str) -> str:
        return word or ID

    return Call(args, msgspec.convert(query, route.query), body, None, "", upload, resolve)


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if route.kind == "object" and route.pattern not in SKIPPED],
    ids=lambda route: f"{route.method} {route.pattern}",
)
async def test_answers_have_the_shape_they_promise(route: Route) -> None:
    features = Features()
    await features.invites.create(roles=[], zone=None, tier=None, labels={}, uses=1, ttl_s=None)
    how: dict[str, Any] = {"scope": "mesh", "durable": "local"}
    await features.kv.put("seen", "x", type=None, ttl_ms=None, **how)
    await features.kv.log_append("seen", "x", ttl_ms=None, **how)
    await features.leases.acquire("seen", quorum="", ttl_s=9, wait_s=0, session="s")
    answer = await route.handler(getattr(features, route.feature), await call_of(route, features))
    wanted = list[route.result] if route.many else route.result  # type: ignore[name-defined]
    plain = json.loads(dumps(answer))
    assert plain or not route.many
    msgspec.convert(plain, wanted)
    rows = plain if route.many else [plain]
    documented = msgspec.json.schema(route.result)["$defs"][route.result.__name__]["properties"].keys()
    assert all(row.keys() <= documented for row in rows)

"""Services, their checks, and shards."""

from __future__ import annotations

from typing import TypedDict


class Service(TypedDict):
    """One service on one node.

    `state`: live, lost (its node is away), expired (for longer than `ttl_s`). `health`: unknown, healthy,
    degraded, unhealthy, error; `why` is what the check that decided said, `changed` since when. `checks`:
    their kinds. `labels` are the node's, with name, zone and tier. `load`: of its node, 0 to 1. `rtt_ms`:
    round trip to its node, where one is known. `summary`: it is in another zone and known from its summary.
    `source`: api, file PATH or workload NAME for this node's own, else None.
    """

    id: str
    name: str
    version: str
    state: str
    health: str
    why: str
    changed: str | None
    owner: str
    owner_name: str
    zone: str
    protocol: str
    endpoints: list[str]
    type: str
    tags: list[str]
    meta: dict[str, str]
    ttl_s: float
    weight: int
    checks: list[str]
    capabilities: list[str]
    tier: str
    labels: dict[str, str]
    load: float | None
    rtt_ms: float | None
    draining: bool
    summary: bool
    source: str | None


class CheckResult(TypedDict):
    """One check of this node's own service, and its last run. `passes`, `failures`: in a row."""

    kind: str
    target: str
    health: str
    output: str
    took_ms: float | None
    age_s: float | None
    interval_s: float
    passes: int
    failures: int


class ServiceDetail(Service):
    """A service, and what its checks found last; `results` is empty on other nodes than its owner."""

    results: list[CheckResult]


class ServiceChange(TypedDict):
    """`change`: present, ready, rescan, registered, updated, deregistered, health, lost, alive, expired, or
    heartbeat if asked for. `cursor`: go on from here. `service` is None for ready and rescan.
    """

    change: str
    time: str
    cursor: str
    service: Service | None


class ShardNode(TypedDict):
    """A member that has a shard."""

    id: str
    name: str
    zone: str


class Shard(TypedDict):
    """Where a key belongs, first the first."""

    key: str
    shard: int
    nodes: list[ShardNode]


class ShardChange(TypedDict):
    """`change`: present, ready, moved. `shard` is None for ready."""

    change: str
    time: str
    shard: int | None
    before: list[ShardNode]
    after: list[ShardNode]

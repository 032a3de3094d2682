"""Routing, its documents, and tokens of the gateway."""

from __future__ import annotations

from typing import Any, TypedDict


class RouteCandidate(TypedDict):
    """One instance as routing sees it. `verdict`: taken (gets calls), standby (when those fail), refused.

    Costs are 0..1, `score` their weighted mean. `circuit`: closed, open (left alone) or half-open.
    `time_ms`: smoothed time to an answer.
    """

    id: str
    node: str
    zone: str
    region: str
    tier: str
    group: str
    verdict: str
    why: str
    score: float
    distance: float
    network: float
    load: float
    cost: float
    rtt_ms: float | None
    weight: float
    health: str
    circuit: str
    in_flight: int
    time_ms: float | None


class Explained(TypedDict):
    """`service` stands for `name` where a document says so. `target`: edge, cloud or optimal, `because` of
    which rule. `group`: the one in use. `document`: whether an admin wrote one for it.
    """

    name: str
    service: str
    algorithm: str
    target: str
    because: str
    group: str
    document: bool
    candidates: list[RouteCandidate]


class Resolved(Explained):
    """The instance whose turn it is: its `id`, and where its owner reaches it."""

    id: str
    version: str
    owner: str
    owner_name: str
    endpoints: list[str]


class TrafficRoute(TypedDict):
    """A document about the way to a service; `*` is for all without one. `fault`: why it does not count."""

    name: str
    route: dict[str, Any]
    fault: str
    author: str
    author_name: str
    time: str


class Listener(TypedDict):
    """Where this device's programs reach services."""

    what: str
    host: str
    port: int


class Token(TypedDict):
    """`token` is its text when it was made, and None ever after."""

    id: str
    services: list[str]
    paths: list[str]
    expires: str
    expired: bool
    made: str
    note: str
    token: str | None

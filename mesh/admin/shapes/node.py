"""Shapes of the node itself: status, findings, settings, events, metrics."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Json = dict[str, Any]


class MeshName(TypedDict):
    """Which mesh. `id` is hexadecimal."""

    id: str
    name: str


class Clock(TypedDict):
    """Mesh time. `state`: ok, unset (the wall clock is not believable), alone, or off (corrected)."""

    state: str
    offset_ms: float | None


class MemberCounts(TypedDict):
    """How many members are in which state."""

    alive: int
    suspect: int
    dead: int
    left: int


class Scope(TypedDict):
    """Replication of one scope. `root` (hex) is equal on all replicas that hold the same.

    `behind`: authors of whom a neighbour has announced more than is held here.
    """

    scope: str
    root: str
    authors: int
    records: int
    behind: int


class Status(TypedDict):
    """The node itself. `state`: registering, alive, draining, refused (see `problems`) or leaving."""

    id: str
    name: str
    mesh: MeshName
    zone: str
    tier: str
    roles: list[str]
    labels: dict[str, str]
    state: str
    incarnation: int
    version: str
    pid: int
    started: str
    uptime_s: float
    data_dir: str
    addresses: list[str]
    members: MemberCounts
    links: int
    scopes: list[Scope]
    clock: Clock
    store: Json
    certificate_expires: str | None
    problems: list[str]


class Check(TypedDict):
    """One finding of `doctor`."""

    check: str
    result: Literal["ok", "warning", "failed"]
    message: str
    hint: str


class Version(TypedDict):
    """Software of the agent. `protocols`: what it speaks with peers."""

    version: str
    python: str
    libp2p: str
    protocols: list[str]


class Setting(TypedDict):
    """One configuration value and where it came from. `pending`: a list of the one a restart would bring."""

    key: str
    value: Any
    origin: str
    default: Any
    reloadable: bool
    pending: list[Any]


class LogLevel(TypedDict):
    """The level that counts now, and the one before this call."""

    level: str
    previous: str


class Restored(TypedDict):
    """A backup was accepted, and the agent starts anew with it. It is back when the `started` of its status
    is another than this one.
    """

    bytes: int
    started: str


class Event(TypedDict):
    """Something that happened, e.g. type node_registered. `id` serves as the cursor of a watch."""

    id: str
    time: str
    type: str
    node: str | None
    name: str | None
    message: str
    data: Json


class Sample(TypedDict):
    """One sample: `groups` maps cpu, memory, network, storage, agent, … to their numbers."""

    time: str
    groups: dict[str, Json]


class Point(TypedDict):
    """One value of one metric."""

    time: str
    value: float | None

"""Shapes of workloads, where they are placed, and what is admitted."""

from __future__ import annotations

from typing import Any, TypedDict


class Applied(TypedDict):
    """`change`: created, changed or unchanged. `gen` grows with every change. `warnings`: what the rules of
    admission have against it on some nodes, or on all.
    """

    name: str
    change: str
    gen: int
    warnings: list[str]


class Workload(TypedDict):
    """`replicas`: a number, or "each". `wanted`: instances that there should be now. `state`: running, idle,
    done, or the worst that one of its instances is in. `why`: what is the matter with it.
    """

    name: str
    version: str
    mode: str
    runtime: str
    gen: int
    replicas: int | str
    wanted: int
    running: int
    state: str
    nodes: list[str]
    why: str


class Measured(TypedDict):
    """What the node that runs an instance says of it. `starts`: by its present agent; `ends`: that nobody
    asked for; `cpu_cores`: used lately; `notes`: limits that are not enforced there. None: not known.
    """

    message: str
    starts: int
    ends: int
    cpu_cores: float | None
    memory_bytes: int | None
    processes: int | None
    storage_bytes: int | None
    notes: list[str]


class WorkloadInstance(TypedDict):
    """`state`: unplaced, starting, running, failing, draining, done, barred (given up on this node for a
    while), lost (its node is dead) or unknown (its node was not heard yet). `epoch`: its fencing token.
    `measured`: None when its node does not answer at once, or does not run it.
    """

    instance: str
    state: str
    node: str | None
    node_name: str | None
    gen: int | None
    epoch: int | None
    since: str | None
    why: str
    measured: Measured | None


class Duplicate(TypedDict):
    """An instance ran on two nodes at once, for so long, as they say themselves for a week."""

    time: str
    instance: str
    nodes: list[str]
    seconds: float


class WorkloadDetail(Workload):
    """With its spec as it is stored, defaults left out, and who ordered it when."""

    spec: dict[str, Any]
    author: str
    author_name: str
    time: str
    instances: list[WorkloadInstance]
    duplicates: list[Duplicate]


class Room(TypedDict):
    """What a node has left for workloads, and how many instances it has. None: not known."""

    cpu: float | None
    memory: int | None
    instances: int


class PlacementVerdict(TypedDict):
    """A node as a place for `instance`. `place`: in the order in which nodes are asked, None: it is not
    asked, for the reason `why`. `runs`: instances that it has already.
    """

    node: str
    node_name: str
    instance: str
    runs: list[str]
    place: int | None
    why: str
    weight: float
    score: float
    free: Room


class Held(TypedDict):
    """An instance that a node has. `state` as in `WorkloadInstance`; `stays`: a drain does not move it;
    `why`: what keeps it there.
    """

    instance: str
    workload: str
    state: str
    since: str | None
    stays: bool
    why: str


class NodeWork(TypedDict):
    """What a node has. `state`: alive, dead, gone or unknown; `offer`: up, cordon, drain or away, as the node
    itself said last: only with one of the latter two it takes nothing and lets go of what can move.
    """

    node: str
    node_name: str
    state: str
    offer: str
    instances: list[Held]


class WorkloadSchema(TypedDict):
    """The JSON schema of a spec."""

    schema: dict[str, Any]


class AdmissionRule(TypedDict):
    """One rule of admission, defaults left out."""

    name: str
    rule: dict[str, Any]
    author_name: str


class Stops(TypedDict):
    """Instances of a workload that are where a rule allows none; pinned ones go on and are not among them."""

    workload: str
    instances: int
    nodes: list[str]
    why: str


class AdmissionSet(AdmissionRule):
    """A rule that was set, and what stops for it."""

    stops: list[Stops]


class Admitted(TypedDict):
    """Whether a workload may run on a node; no node: its spec cannot be read. `why` not."""

    workload: str
    node: str | None
    node_name: str | None
    allowed: bool
    why: str


class Secret(TypedDict):
    """A secret without its value. `readers`: members that can open this generation; `waiting`: those it is
    for that cannot yet, until an admin node is up; `exposed`: nodes that could, and are members no more.
    """

    name: str
    gen: int
    selector: str
    nodes: list[str]
    readers: list[str]
    waiting: list[str]
    exposed: list[str]
    used_by: list[str]
    author: str
    author_name: str
    time: str


class SecretSet(Secret):
    """`change`: created, changed or unchanged; `restarted`: workloads that start anew for it."""

    change: str
    restarted: list[str]

"""Shapes of rollouts and of configuration documents."""

from __future__ import annotations

from typing import Any, TypedDict


class Rollout(TypedDict):
    """A change on its way. `state`: running, switched, paused, halted, rolling back, rolled back, aborting,
    aborted, done. `counts`: targets by how far they are: wait, turn, move, trial, ok, fail, back.
    """

    id: str
    subject: str
    strategy: str
    before: int
    after: int
    gen: int
    state: str
    halt: str
    started: str
    targets: int
    counts: dict[str, int]


class RolloutNode(TypedDict):
    """One target. `why`: what it waits for, or what went wrong."""

    node: str
    node_name: str
    state: str
    alive: bool
    since: str | None
    why: str


class RolloutDetail(Rollout):
    """A rollout, node by node."""

    nodes: list[RolloutNode]


class Generation(TypedDict):
    """A version of something that is rolled out."""

    generation: int
    time: str
    present: bool
    spec: dict[str, Any]


class Document(TypedDict):
    """A configuration document. `applied`: nodes that have its newest generation in force."""

    scope: str
    generation: int
    time: str
    spec: dict[str, Any]
    nodes: int
    applied: int


class Reported(TypedDict):
    """What a node says of a document: applied, waits, refused or failed (`why`), or unknown."""

    node: str
    node_name: str
    generation: int
    state: str
    why: str


class DocumentDetail(TypedDict):
    """A configuration document, node by node."""

    scope: str
    generation: int
    time: str
    spec: dict[str, Any]
    nodes: list[Reported]
    applied: int


class AppConfig(TypedDict):
    """What documents of the mesh say to an application on this node."""

    app: str
    variables: dict[str, str]

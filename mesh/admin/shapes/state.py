"""Shapes of replicated state and of messages."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from mesh.admin.shapes.errors import Error


class Sibling(TypedDict):
    """Another value that no write has replaced. `deleted`: the other author deleted the key."""

    value: Any
    author: str
    author_name: str
    hlc: str
    time: str
    deleted: bool


class Entry(TypedDict):
    """A key. author, hlc and time are those of the value shown (for collections of the newest change).

    `types`: every type present at this key. `acknowledged`: linked neighbours known to have it on disk: its
    author, who has said so, and whose digest was seen to be ours since (within 30 s where little is written).
    """

    key: str
    type: str
    value: Any
    author: str
    author_name: str
    hlc: str
    time: str
    expires: str | None
    scope: str
    conflicts: list[Sibling]
    types: list[str]
    acknowledged: int


class Written(TypedDict):
    """A write that is done. `value` only where the write computes it (counter).
    `acknowledged`: neighbours that said so in time, where the write asked for it.
    """

    key: str
    type: str
    scope: str
    author: str
    hlc: str
    time: str
    acknowledged: int
    value: NotRequired[Any]


class Refusal(TypedDict):
    """An entry of a batch that was not written; `index` counts from 0."""

    index: int
    key: str
    error: Error


class Batch(TypedDict):
    """`hlcs` is parallel to the entries, None where refused (or in a dry run)."""

    written: int
    hlcs: list[str | None]
    refused: list[Refusal]


class Change(TypedDict):
    """A line of a watch. `entry` only for put; `key` is empty for ready and rescan.

    Keep `cursor` of the last line handled, and give it to go on from there.
    """

    change: Literal["put", "delete", "ready", "rescan"]
    cursor: str
    key: str
    scope: str
    type: str | None
    entry: Entry | None


class Revision(TypedDict):
    """What one author said of a key at one time. `current`: it takes part in what is read now."""

    author: str
    author_name: str
    hlc: str
    time: str
    type: str
    op: Literal["put", "delete", "void"]
    value: Any
    current: bool


class LogEntry(TypedDict):
    """One line of a log."""

    value: Any
    author: str
    author_name: str
    hlc: str
    time: str


class Published(TypedDict):
    """`subscribers`: agents known to have one; `acknowledged` and `missing` (ids) for qos 1 and 2."""

    id: str
    topic: str
    qos: int
    subscribers: int
    acknowledged: int
    missing: list[str]


class PublishedMany(TypedDict):
    """How many messages were taken, all of them; `subscribers`: agents known to have one."""

    topic: str
    published: int
    subscribers: int


class Message(TypedDict):
    """A message of a topic, or {"dropped": n} alone in the place of lost ones. `author`: the sending node."""

    topic: NotRequired[str]
    id: NotRequired[str]
    payload: NotRequired[Any]
    author: NotRequired[str]
    author_name: NotRequired[str]
    time: NotRequired[str]
    qos: NotRequired[int]
    replayed: NotRequired[bool]
    dropped: NotRequired[int]


class Answer(TypedDict):
    """An answer, or a part of one. `error` instead of a payload only in queries."""

    node: str
    node_name: str
    payload: Any
    rtt_ms: float
    error: NotRequired[Error]


class Combined(TypedDict):
    """The answers of all nodes as one value, e.g. combine sum."""

    combine: str
    value: Any


class Coverage(TypedDict):
    """Who was asked by a query, and who answered in time: ids. `left_out`: answers that did not fit."""

    asked: int
    answered: list[str]
    missing: list[str]
    left_out: int


class QueryResult(Coverage):
    """All of a query's answers, or with another combine than collect their value; and the coverage."""

    answers: list[Answer]
    combine: NotRequired[str]
    value: NotRequired[Any]


class Call(TypedDict):
    """A request that a local program is to answer. `stream`: parts are welcome. `query`: asked of many.
    `parts`: its caller sends more (`GET /v1/parts/{call}`).
    """

    call: str
    name: str
    payload: Any
    node: str
    node_name: str
    deadline_s: float
    stream: bool
    query: bool
    parts: bool


class Part(TypedDict):
    """One of the things that a caller sends after its request."""

    payload: Any


class CallName(TypedDict):
    """The call that was answered."""

    call: str

"""The JSON that the admin socket and `meshctl -o json` answer with: one TypedDict per result.

This is a stable schema: keys may be added, none removed or given another meaning. The OpenAPI document is
made from these types. Conventions (times, hlc, bytes) are in `mesh/admin/features.py`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Json = dict[str, Any]


class Error(TypedDict):
    """What went wrong. `code` is stable; `hint` may be empty."""

    code: str
    message: str
    hint: str


class ErrorBody(TypedDict):
    """The body of every answer that is not 2xx, and the last line of a stream that fails."""

    error: Error


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
    """One configuration value and where it came from."""

    key: str
    value: Any
    origin: str
    default: Any
    reloadable: bool


class LogLevel(TypedDict):
    """The level that counts now, and the one before this call."""

    level: str
    previous: str


class Restored(TypedDict):
    """A backup was accepted. `restart`: whether the agent must be started again by hand for it to count."""

    records: int
    bytes: int
    restart: bool


class Member(TypedDict):
    """One node of the mesh as this node sees it.

    `state`: registering, alive, suspect, dead, left, removed. `rtt_ms`: smoothed round trip if there is a
    link. `last_seen_s`: seconds since anything new of it arrived. `state_s`: seconds in this state.
    `flags`: any of self, drain, cordon, sleep, flapping, one-witness, duplicate-name, clone, clock,
    frozen, expiring, expired.
    """

    id: str
    name: str
    state: str
    incarnation: int
    addresses: list[str]
    labels: dict[str, str]
    zone: str
    tier: str
    roles: list[str]
    rtt_ms: float | None
    last_seen_s: float | None
    state_s: float | None
    software: str
    flags: list[str]
    certificate_expires: str | None


class MemberChange(TypedDict):
    """A line of a watch: `member` is None for "ready"."""

    change: Literal["present", "ready", "added", "changed", "removed"]
    time: str
    member: Member | None


class Certificate(TypedDict):
    """What admits a node. `admitted_by`: id of the invite or of the admin that signed it."""

    id: str
    name: str
    roles: list[str]
    zone: str
    tier: str
    labels: dict[str, str]
    not_before: str
    expires: str
    admitted_by: str | None
    countersigned_by: str | None
    valid: bool
    reason: str


class Link(TypedDict):
    """A held stream to a neighbour, or one that is wanted. `state`: connected, connecting, error,
    disconnected.
    """

    id: str
    name: str
    state: str
    address: str | None
    dialled: bool | None
    since_s: float | None
    rtt_ms: float | None
    jitter_ms: float | None
    loss_percent: float | None
    bytes_in: int
    bytes_out: int
    datagrams: bool | None
    error: str


class MemberDetail(Member):
    """A member and all that is known of it. `card`: its own word on hardware and place."""

    card: Json
    certificate: Certificate | None
    links: list[Link]
    monitors: list[str]
    accused_by: list[str]


class Forgotten(TypedDict):
    """A node that was removed, or in a dry run would be."""

    id: str
    name: str
    state: str
    state_s: float | None


class Left(TypedDict):
    """This node has left; the agent stops after this answer."""

    id: str
    name: str


class Pong(TypedDict):
    """One round trip. `via`: datagram, link, call or self."""

    id: str
    name: str
    rtt_ms: float
    via: str


class RoundTrip(TypedDict):
    """Round trip between two members. `method`: measured here, reported by one of them, or estimated."""

    a: str
    b: str
    a_name: str
    b_name: str
    rtt_ms: float
    error_ms: float | None
    method: Literal["self", "measured", "reported", "estimated"]
    age_s: float | None


class Reach(TypedDict):
    """One observer's word on one subject. `via`: link, datagram or lease."""

    observer: str
    observer_name: str
    subject: str
    subject_name: str
    reachable: bool
    rtt_ms: float | None
    via: str
    age_s: float | None


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


class Invite(TypedDict):
    """What lets devices in. `state`: open, used, expired, revoked.
    `token` only in the answer that creates it.
    """

    id: str
    state: str
    roles: list[str]
    zone: str
    tier: str
    labels: dict[str, str]
    uses: int
    used: int
    created: str
    created_by: str
    expires: str
    admitted: list[str]
    token: NotRequired[str]


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

    `types`: every type present at this key. `acknowledged`: neighbours known to have it on disk.
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
    `acknowledged` as in Entry.
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


class Coverage(TypedDict):
    """Who was asked by a query, and who answered in time: ids."""

    asked: int
    answered: list[str]
    missing: list[str]


class QueryResult(TypedDict):
    """All of a query's answers and its coverage."""

    answers: list[Answer]
    asked: int
    answered: list[str]
    missing: list[str]


class Call(TypedDict):
    """A request that a local program is to answer. `stream`: parts are welcome. `query`: asked of many."""

    call: str
    name: str
    payload: Any
    node: str
    node_name: str
    deadline_s: float
    stream: bool
    query: bool


class CallName(TypedDict):
    """The call that was answered."""

    call: str

"""Shapes of members, links, certificates and invites."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Json = dict[str, Any]


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
    disconnected. `relay`: the node that carries it, null for a direct link. `last_check_s`: since it last
    answered a probe or said anything; None if it never has.
    """

    id: str
    name: str
    state: str
    relay: str | None
    address: str | None
    dialled: bool | None
    since_s: float | None
    rtt_ms: float | None
    jitter_ms: float | None
    loss_percent: float | None
    last_check_s: float | None
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


class Policy(TypedDict):
    """Who may do what: role, or node id, to verb, to patterns.

    `defaults`: of roles that `roles` does not name. author, author_name and time: who set it when; None
    while nobody has. `fault`: why what is stored does not count, or "". `warnings`: what roles lose by it.
    """

    roles: dict[str, dict[str, list[str]]]
    nodes: dict[str, dict[str, list[str]]]
    defaults: dict[str, dict[str, list[str]]]
    fault: str
    warnings: list[str]
    author: str | None
    author_name: str | None
    time: str | None


class Right(TypedDict):
    """Whether a member may do one thing."""

    id: str
    name: str
    roles: list[str]
    verb: str
    path: str
    allowed: bool


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

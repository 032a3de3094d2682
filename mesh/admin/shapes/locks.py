"""Shapes of quorums, locks and leases."""

from __future__ import annotations

from typing import Literal, TypedDict


class Voter(TypedDict):
    """`state`: voting, frozen (the set hands over), lost (its votes are gone: replace it), silent, failed;
    None where it was not asked.
    """

    node: str
    node_name: str
    state: str | None


class Quorum(TypedDict):
    """A set of voters. `next`: who takes over, while that is under way. `majority`: enough of them vote."""

    name: str
    generation: int
    voters: list[Voter]
    next: list[Voter] | None
    majority: bool | None


class Lease(TypedDict):
    """A lock that is held. `token`: give it with every write to what the lock guards, which must refuse
    smaller ones than it has seen. `until_boot_s`: of CLOCK_BOOTTIME on this machine.
    """

    name: str
    quorum: str
    session: str
    token: int
    until_boot_s: float
    expires_in_s: float


class LeaseLine(Lease):
    """A line of a stream that holds a lock."""

    state: Literal["held", "renewed", "lost"]
    why: str


class Lock(TypedDict):
    """A lock as its voters see it; one that is held may have run out of time since. `token`: the newest."""

    name: str
    quorum: str
    held: bool
    node: str | None
    node_name: str | None
    token: int | None
    ttl_s: float | None

"""What people see of membership: one member, one link, as this node sees them, with ages instead of times."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mesh.core.lease import Lease
from mesh.core.link import Link
from mesh.core.member import NEVER
from mesh.core.verdict import Board
from mesh.core.vitals import State


class MemberView(msgspec.Struct, frozen=True):
    """One member. Ages in seconds, None if never.

    Attributes:
        since_s: how long it has been in this state.
        why: what made the state. seen_by: the accusers that a verdict counted.
        flapping: it died so often lately that no work should be given to it yet.
        accusers: who accuses it now, counted or not.
    """

    aid: bytes
    state: State
    incarnation: int
    since_s: float
    why: str
    seen_by: tuple[bytes, ...]
    lease: Lease | None
    lease_age_s: float | None
    heard_age_s: float | None
    flapping: bool
    accusers: tuple[bytes, ...]


class LinkView(msgspec.Struct, frozen=True):
    """One link.

    Attributes:
        status: unknown (never up), connected, error (pings are missed) or disconnected.
        loss: smoothed share of pings unanswered in time, 0 to 1.
        datagrams: whether sealed datagrams pass.
    """

    aid: bytes
    status: str
    wanted: bool
    rtt_ms: float | None
    jitter_ms: float | None
    loss: float
    misses: int
    datagrams: bool
    heard_age_s: float | None


def _age(t: float, at: float) -> float | None:
    return None if at == NEVER else max(0.0, t - at)


def member_views(board: Board, own: Lease, t: float) -> list[MemberView]:
    """Every member, ascending by aid; ourselves with our own lease."""
    views = []
    for aid in sorted(board.members):
        member = board.members[aid]
        me = aid == board.me
        lease = own if me else member.lease
        views.append(
            MemberView(
                aid,
                member.state,
                own.inc if me else member.inc,
                max(0.0, t - member.since),
                member.why,
                member.seen_by,
                lease,
                0.0 if me else _age(t, member.fresh if member.hlc else NEVER),
                0.0 if me else _age(t, member.heard),
                member.flapping(board.config, t),
                tuple(sorted(member.charges)),
            )
        )
    return views


def link_views(links: Mapping[bytes, Link], t: float) -> list[LinkView]:
    """Every link held, wanted or looked for, ascending by aid."""
    views = []
    for aid, link in sorted(links.items()):
        if link.up:
            status = "error" if link.misses else "connected"
        else:
            status = "disconnected" if link.ever_up else "unknown"
        known = link.rtt.samples > 0
        views.append(
            LinkView(
                aid,
                status,
                link.wanted,
                link.rtt.mean_s * 1000 if known else None,
                link.rtt.error_s * 1000 if known else None,
                round(link.loss, 4),
                link.misses,
                link.datagram_heard > NEVER and link.datagrams_pass(),
                _age(t, link.heard),
            )
        )
    return views

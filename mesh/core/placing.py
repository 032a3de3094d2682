"""The words of placement: its numbers, what happens to it and what it wants done. See `placement.py`."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from mesh.core.candidates import Site
from mesh.core.claims import Claim, Seat
from mesh.core.guard import Rule
from mesh.core.seating import Spec, Standing
from mesh.core.secret import Readers


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of placement, the same for all nodes.

    Attributes:
        stagger_s: each further node in the order for an empty seat waits this much longer. Of 100 nodes and
            500 workloads with 10 nodes lost, all at once double 100 %, 1 s 15 %, 2 s 2.7 %, 5 s none.
        rebalance_s: every seat is looked at once in this time for a better node.
        better, better_for_s: so much better, for so long, before an instance moves.
        fails, fail_window_s, bar_s: so many failures in the window bar the node from the seat for so long.
        drain_s: an instance that is to leave waits this long for another one to run.
        takeover_s: a node that takes a running instance over withdraws if its own does not run by then.
    """

    stagger_s: float = 2.0
    rebalance_s: float = 60.0
    better: float = 1.25
    better_for_s: float = 600.0
    fails: int = 3
    fail_window_s: float = 900.0
    bar_s: float = 1800.0
    drain_s: float = 30.0
    takeover_s: float = 120.0


# --- events ------------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True):
    """Base of what happened."""


class SpecsSaid(Event, frozen=True):
    """Workloads as they are stored now; None: deleted."""

    specs: dict[str, Spec | None]


class ClaimsSaid(Event, frozen=True):
    """Other nodes' claims, and our own as the store holds them at the start; None: taken back."""

    claims: tuple[tuple[bytes, Seat, Claim | None], ...]


class SitesSaid(Event, frozen=True):
    """Nodes as places for workloads; None: it offers nothing."""

    sites: dict[bytes, Site | None]


class StandingSaid(Event, frozen=True):
    """What liveness says of a node."""

    aid: bytes
    standing: Standing


class RulesSaid(Event, frozen=True):
    """All rules of admission."""

    rules: tuple[Rule, ...]


class SecretsSaid(Event, frozen=True):
    """Who can open each secret."""

    secrets: dict[str, Readers]


class Settled(Event, frozen=True):
    """What the others know has come in, or nobody was in reach: from now on empty seats may be claimed."""


class Found(Event, frozen=True):
    """At the start: these instances still run here."""

    seats: frozenset[Seat]


class Doubted(Event, frozen=True):
    """Others may have thought that we were dead: somebody accused us."""


class Ran(Event, frozen=True):
    """An instance of ours runs, and has passed its checks."""

    seat: Seat


class Failed(Event, frozen=True):
    """An instance of ours ended, or cannot be started. It is being tried again, unless `fatal`."""

    seat: Seat
    why: str
    fatal: bool = False


class Ended(Event, frozen=True):
    """An instance of ours ended, and is by its spec not to be started again."""

    seat: Seat
    why: str = ""


class Stopped(Event, frozen=True):
    """An instance that we wanted stopped is."""

    seat: Seat


class Leased(Event, frozen=True):
    """The voters gave us the lease of an exclusive instance, with this token."""

    seat: Seat
    token: int


class Unleased(Event, frozen=True):
    """They did not, or it is lost; to be asked again after `again_s`."""

    seat: Seat
    why: str
    again_s: float


AnyEvent: TypeAlias = (
    SpecsSaid
    | ClaimsSaid
    | SitesSaid
    | StandingSaid
    | RulesSaid
    | SecretsSaid
    | Settled
    | Found
    | Doubted
    | Ran
    | Failed
    | Ended
    | Stopped
    | Leased
    | Unleased
)


# --- actions -----------------------------------------------------------------------------------------


class Action(msgspec.Struct, frozen=True):
    """Base of what is to be done, in the order given."""


class Say(Action, frozen=True):
    """Our own claim for a seat, on disk before what follows; None: take it back."""

    seat: Seat
    claim: Claim | None


class Run(Action, frozen=True):
    """Keep this instance running, by the present spec. Said again when the spec or the epoch changed."""

    seat: Seat
    gen: int
    epoch: int


class Stop(Action, frozen=True):
    """Deregister and stop this instance; answer with `Stopped`, also when there is nothing to stop."""

    seat: Seat
    why: str


class Acquire(Action, frozen=True):
    """Ask the voters for the lease of an exclusive instance; answer with `Leased` or `Unleased`."""

    seat: Seat
    voters: str


class Release(Action, frozen=True):
    """Give a lease back."""

    seat: Seat


class Tell(Action, frozen=True):
    """For the event log: `kind` is placed, failover, unplaced, barred, duplicate or suspicious."""

    kind: str
    seat: Seat
    text: str
    nodes: tuple[bytes, ...] = ()
    seconds: float = 0.0

"""What nodes say about workloads: their offer, and a claim for each instance that they have taken.

    offer/<aid>                    (scope mesh, kind all) what a node lets run on it, said at every start
    claim/<aid>/<workload>/<no.>   (scope mesh, kind all) that it has taken this instance

Claims are durable and mesh-wide, so that every zone counts the same instances, and so that a node finds what
it last owned in its own store after a power cut. They are not renewed: a claim counts while its owner is
alive by the verdict of liveness, for as long after its death as its workload is patient.

A claim names the `life` of the agent that made it, the `life` of its owner's newest offer is the present one.
A claim of an earlier life holds the instance's place, but does not say that it runs.

    claim   taken, being started        run     it runs, and its checks (if any) have passed once
    drain   about to leave: it counts no more, and stops when another one runs
    done    it ended as it should and is not to be started again
    bar     given up here: it failed too often; counts as no claim, and ranks this node last until `until_ms`

The epoch of an instance grows with each change of owner. The program gets it as MESH_EPOCH.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import msgspec

from mesh.core.registry import name_ok
from mesh.core.workload import CLAIM_PREFIX
from mesh.core.workload_parts import REPLICAS_MAX
from mesh.errors import PeerError

OFFER_PREFIX = "offer/"
WHY_CHARS_MAX = 300
EPOCH_MAX = 1 << 60
EPOCH_AHEAD_S = 366 * 86_400
_AID_HEX = 32
Whole = Annotated[int, msgspec.Meta(ge=0, le=EPOCH_MAX)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Texts = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=256)], ...], msgspec.Meta(max_length=64)]


class Seat(NamedTuple):
    """One numbered instance of a workload: a place to be taken by one node.

    `colour` tells apart what runs in it while there are two generations; claims have none.
    """

    name: str
    number: int
    colour: str = ""

    def __str__(self) -> str:
        return f"{self.name}/{self.number}" + (f"-{self.colour}" if self.colour else "")

    def dyed(self, colour: str) -> Seat:
        """The same seat in a colour."""
        return self._replace(colour=colour)


class Stage(StrEnum):
    """How far a claim is."""

    CLAIM = "claim"
    RUN = "run"
    DRAIN = "drain"
    DONE = "done"
    BAR = "bar"


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node's word on one seat.

    Attributes:
        gen: of the spec that it runs.
        since_ms: mesh time at which it reached this stage.
        origin: the node that had the seat first, for those who want to go back there.
        over: the node it takes over from, which still runs it, or nothing.
        why: what is the matter, for people.
    """

    gen: Whole
    epoch: Whole
    st: Stage
    since_ms: Whole
    life: Whole
    origin: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    over: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    why: Annotated[str, msgspec.Meta(max_length=WHY_CHARS_MAX)] = ""
    until_ms: Whole = 0


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node lets run on it.

    Attributes:
        life: mesh time in ms at which its agent started.
        st: up, cordon (nothing new), drain (work leaves), away (no workloads at all); clone and namesake are
            as cordon: its key runs twice, or an older node has its name.
        users, dirs: what workloads may ask for; `*` is anything.
        max_instances: at once.
        cpu, memory, storage: set aside for workloads; 0: what the card says.
    """

    life: Whole
    st: str = "up"
    runtimes: Texts = ()
    users: Texts = ()
    dirs: Texts = ()
    max_instances: Whole = 0
    cpu: Amount = 0.0
    memory: Amount = 0.0
    storage: Amount = 0.0


def claim_path(aid: bytes, seat: Seat) -> str:
    """Where a node's claim for a seat lives."""
    return f"{CLAIM_PREFIX}{aid.hex()}/{seat.name}/{seat.number}"


def offer_path(aid: bytes) -> str:
    """Where a node's offer lives."""
    return OFFER_PREFIX + aid.hex()


def seat_of(path: str) -> tuple[bytes, Seat]:
    """The node and the seat that a claim's path speaks of.

    Raises:
        PeerError: it is none that `claim_path` makes.
    """
    parts = path.split("/")
    try:
        aid, name, index = bytes.fromhex(parts[1]), parts[2], int(parts[3])
    except (ValueError, IndexError):
        raise PeerError(f"path {path!r:.80} names no instance") from None
    seat = Seat(name, index)
    if len(aid) * 2 != _AID_HEX or not 0 <= index < REPLICAS_MAX or not name_ok(name):
        raise PeerError(f"path {path!r:.80} names no instance")
    if path != claim_path(aid, seat):
        raise PeerError(f"path {path!r:.80} names no instance")
    return aid, seat


def owner_of_offer(path: str) -> bytes:
    """The node whose offer a path is.

    Raises:
        PeerError: it is none.
    """
    try:
        aid = bytes.fromhex(path.removeprefix(OFFER_PREFIX))
    except ValueError:
        aid = b""
    if path != offer_path(aid) or len(aid) * 2 != _AID_HEX:
        raise PeerError(f"path {path!r:.80} names no node")
    return aid


def encode(value: Claim | Offer) -> dict[str, Any]:
    """As a record's value."""
    found: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return found


def decode_claim(value: Any, said_ms: int) -> Claim:
    """Check a node's claim.

    Args:
        said_ms: mesh time of its record. An epoch far beyond it would leave no room for the next owner's.

    Raises:
        PeerError: malformed.
    """
    try:
        claim = msgspec.convert(value, Claim)
    except msgspec.ValidationError as error:
        raise PeerError(f"a malformed claim: {str(error)[:120]}") from None
    if claim.epoch > said_ms // 1000 + EPOCH_AHEAD_S:
        raise PeerError(f"a claim with epoch {claim.epoch}, far ahead of its time")
    return claim


def decode_offer(value: Any) -> Offer:
    """Check a node's offer.

    Raises:
        PeerError: malformed.
    """
    try:
        return msgspec.convert(value, Offer)
    except msgspec.ValidationError as error:
        raise PeerError(f"a malformed offer: {str(error)[:120]}") from None

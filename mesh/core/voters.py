"""Who votes: 3 or 5 declared nodes, and how one set of voters hands over to the next.

    record at `quorum/<name>` (scope mesh, kind reg, by an admin):
    {"gen": 1, "voters": [[aid, seat], ...], "next": {"gen": 2, "voters": [...]}}      `next` while it changes

Voters are declared, never derived from who is alive: in a split each side would derive its own. Of several
records the one of the highest generation counts, then the newest.

**Seats.** A voter that lost what it promised must not vote under its old name. So the set names, beside each
node, its seat: random bytes that the node draws with its first vote and keeps with its votes. A store that is
new, restored, damaged among its votes, or older than what other members remember of it, has another seat; the
node then refuses to vote until an operator names the new seat.

**Change of voters.** (1) The present set decides, in a register of its own, which set is next: of two admins
who try at once one wins, and both go on with the winner. (2) The record says `next`. (3) Voters of the old
set freeze: they vote no more, and tell all their cells. (4) With a majority of them frozen, the newest
accepted value of each register is put into the next set's register if that is empty: through a round, so
whoever does it again changes nothing. (5) The record names the next set alone, and the old votes may go.
Every step may be repeated by any admin. While it lasts nobody gets a majority: leases end, no two hold.

A voter tells sets apart by an id made of all that is in them, so two sets of one name and generation,
declared by two admins in a split, never mix their votes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from mesh.core.admission import Directory
from mesh.core.folds import rank
from mesh.core.quorum import Cell, Promise, latest
from mesh.core.record import AID_BYTES, Kind, Op, Record, user_path
from mesh.errors import PeerError, UsageError
from mesh.wire import codec

PREFIX = "quorum/"
SIZES = (3, 5)
SEAT_BYTES = 16
GENERATION_MAX = 1 << 32
REGISTERS_MAX = 4096  # of one quorum: a register that was used once is kept for ever, or its tokens fell
LOCK_BYTES_MAX = 160
DECISION = ""  # the register in which a set decides on the next one
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")

# Why a voter does not vote.
LOST = "lost"  # it has another seat now: it lost its votes
FROZEN = "frozen"  # the set hands over, or has handed over
UNKNOWN = "unknown"  # the record that names this set has not come to it yet, or another one counts
DENIED = "denied"  # the proposer may not
FULL = "full"  # too many registers
WHY = {
    LOST: "a voter lost its votes (a new or restored store): `meshctl quorum replace` names it anew",
    FROZEN: "the voters are being replaced: `meshctl quorum replace` without voters goes on with it",
    UNKNOWN: "voters have not heard of this set yet",
    DENIED: "this node may not use that lock",
    FULL: f"a quorum has at most {REGISTERS_MAX} locks",
}


class Seat(msgspec.Struct, frozen=True, array_like=True):
    """A voter, and the life of its votes."""

    aid: bytes
    seat: bytes


class Voters(msgspec.Struct, frozen=True):
    """One set of voters."""

    gen: int
    seats: tuple[Seat, ...]
    next: Voters | None = None

    @property
    def id(self) -> bytes:
        """Differs between any two sets."""
        packed = codec.encode([self.gen, [[seat.aid, seat.seat] for seat in self.seats]])
        return blake2b(packed, digest_size=8).digest()

    @property
    def aids(self) -> list[bytes]:
        return [seat.aid for seat in self.seats]

    def seat_of(self, aid: bytes) -> bytes | None:
        """A voter's seat; None: it does not vote here."""
        return next((seat.seat for seat in self.seats if seat.aid == aid), None)


class Term(msgspec.Struct, frozen=True, array_like=True):
    """What a voter remembers of a quorum: the set it votes in, and whether that is over."""

    gen: int
    set_id: bytes
    frozen: bool = False


def check_name(name: str, what: str = "quorum") -> None:
    """Refuse what is no name. UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} {name[:80]!r} is not a name", "small letters, digits, - and . (up to 64)")


def lock_path(quorum: str, name: str) -> str:
    """The path that the right to use a lock is about.

    Raises:
        UsageError: the name is none.
    """
    if not name.strip("/") or not name.isprintable() or len(name.encode("utf-8", "replace")) > LOCK_BYTES_MAX:
        raise UsageError(
            f"lock {name[:80]!r} is not a name", f"1 to {LOCK_BYTES_MAX} bytes of printable text"
        )
    return user_path(f"{quorum}/{name}", "lock")


def check_size(nodes: Sequence[bytes]) -> None:
    """Refuse a number of voters that makes no sense. UsageError."""
    if len(set(nodes)) != len(nodes):
        raise UsageError("a voter is named twice", "name 3 or 5 different nodes")
    if len(nodes) not in SIZES:
        raise UsageError(
            f"{len(nodes)} voters: a quorum has 3 or 5",
            "an even number bears no more failures than one less, and splits in halves",
        )


def to_value(voters: Voters) -> dict[str, Any]:
    """The record's value."""
    value = {"gen": voters.gen, "voters": [[seat.aid, seat.seat] for seat in voters.seats]}
    return value if voters.next is None else {**value, "next": to_value(voters.next)}


def parse(value: Any, *, depth: int = 2) -> Voters:
    """A set from a record or a register.

    Raises:
        PeerError: it is not one.
    """
    if not isinstance(value, Mapping) or depth < 1:
        raise PeerError("a set of voters is an object")
    gen, seats, following = value.get("gen"), value.get("voters"), value.get("next")
    if not isinstance(gen, int) or isinstance(gen, bool) or not 0 < gen < GENERATION_MAX:
        raise PeerError("a set of voters has a generation")
    if not isinstance(seats, list) or not all(_is_seat(seat) for seat in seats):
        raise PeerError("voters are pairs of a node and its seat")
    found = Voters(gen, tuple(Seat(*seat) for seat in seats))
    if len(seats) not in SIZES or len(set(found.aids)) != len(seats):
        raise PeerError("a set of voters has 3 or 5 different ones")
    if following is None:
        return found
    after = parse(following, depth=depth - 1)
    if after.gen != gen + 1:
        raise PeerError("the next set of voters has the next generation")
    return msgspec.structs.replace(found, next=after)


def _is_seat(seat: Any) -> bool:
    sizes = (AID_BYTES, SEAT_BYTES)
    return isinstance(seat, list) and [len(x) if isinstance(x, bytes) else -1 for x in seat] == list(sizes)


def in_force(records: Iterable[Record], directory: Directory) -> Voters | None:
    """The set that counts, of the slots of one path: by an admin, of the highest generation, the newest."""
    found: list[tuple[int, tuple[int, bytes], Voters]] = []
    for rec in records:
        cert = directory.certificate(rec.aid)
        if rec.kind != Kind.REG or rec.op != Op.PUT or cert is None or not cert.is_admin:
            continue
        try:
            voters = parse(rec.val)
        except PeerError:
            continue
        found.append((voters.gen, rank(rec), voters))
    return max(found, key=lambda each: each[:2], default=(0, (0, b""), None))[2]


def lacking(found: Voters, away: Callable[[bytes], bool]) -> list[bytes]:
    """The voters that are away, if the others are no majority; else none."""
    missing = [aid for aid in found.aids if away(aid)]
    return missing if len(missing) * 2 > len(found.aids) else []


def judge(
    term: Term | None, known: Voters | None, me: bytes, seat: bytes, set_id: bytes, asked_seat: bytes
) -> Term | str:
    """Whether this voter votes in the set that a proposer named: the term to vote in, or why not.

    Args:
        term: what it remembers of the quorum.
        known: the set in force, as it knows it.
        seat: its own seat.
        set_id, asked_seat: the proposer's words.
    """
    if asked_seat != seat:
        return LOST
    if term is not None and term.set_id == set_id:
        return FROZEN if term.frozen else term
    for candidate in (known, known.next if known is not None else None):
        if candidate is not None and candidate.id == set_id and candidate.seat_of(me) == seat:
            if term is not None and candidate.gen <= term.gen:
                return FROZEN if candidate.gen < term.gen else UNKNOWN
            return Term(candidate.gen, set_id)
    return FROZEN if known is not None and term is not None and known.gen > term.gen else UNKNOWN


def freeze(term: Term | None, gen: int, set_id: bytes) -> Term | None:
    """The term of a voter that is told to end its votes in a set; None: it has gone further already."""
    if term is None or term.gen < gen or term.set_id == set_id:
        return Term(gen, set_id, True)
    return None


def handed_over(majority: Sequence[Mapping[str, Cell]]) -> dict[str, Any]:
    """The value of each register, from the cells of a majority of frozen voters."""
    names = sorted({name for cells in majority for name in cells if name != DECISION})
    values: dict[str, Any] = {}
    for name in names:
        told = [Promise(cells[name].accepted, cells[name].value) for cells in majority if name in cells]
        newest = latest(told)
        if newest.accepted.number:
            values[name] = newest.value
    return values

"""The rules of replication: taking deltas, answering wants, comparing replicas.

Each author's slots, ordered by hlc, are a self-compacting log, so a replica is described by one number per
author (`head`: everything up to here is held) and one fingerprint. Push, forward, answer and bootstrap are
one message, `delta(author, since, upto, records)`. The ideas are those of scuttlebutt reconciliation (van
Renesse et al. 2008) and of delta-state CRDTs (Almeida, Shoker, Baquero 2016), with the difference that a
state has one author and keeps its signature on the way.

    plain    since <= head: head := min(upto, newest verified hlc). Else there is a hole: the records stay,
             they are valid, but the head does not move, and what is missing is wanted from the head on.
    floor    see `core/floors.py`
    reset    who asks from below the floor gets all slots; what it holds up to the floor and is not named in
             the answer is gone there
    listing  heads equal, fingerprints not (a relay left something out): exchange listings, pull what is
             missing, both ways; that makes no claim to be complete, so the head stays

`since`, `upto` and `reset` are a relay's word: no number from the wire moves a head or a floor beyond what
verified records show. The functions are pure: they read and change one `Log` inside one transaction, and
records arrive verified and parsed.

Every part begins with the author's `~gc` and member record where they are newer than `since`: so the room
that a floor is about to free can be counted before new slots are judged by the quota, each part of a reset
proves its floor, and a renewed certificate is known before the records that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from mesh.core.clock import HLC_MAX
from mesh.core.floors import (
    GRACE_MS,
    apply_floor,
    collected,
    gc_floor,
    gc_slot,
    is_gc,
    member_path,
    outlived,
)
from mesh.core.log import Log
from mesh.core.own import Own, own_live_offered, own_offered
from mesh.core.quota import UNLIMITED, Limits
from mesh.core.receive import Judge, LiveJudge, Outcome, Receiver, ResetParts, renewed
from mesh.core.record import LIVE, Kind, Op, Record, SlotKey, signature_hash
from mesh.wire.messages import Delta, Listing

__all__ = [
    "UNLIMITED",
    "Limits",
    "Log",
    "Outcome",
    "Own",
    "Part",
    "ResetParts",
    "delta_of",
    "listings",
    "missing",
    "receive",
    "serve",
    "serve_pull",
    "sweep",
    "write",
]

PART_BYTES = 256 << 10
LIST_ENTRIES_MAX = 4096
_OVERHEAD = 8
_H8 = 8
_DURABLE = Judge()
_LIVE = LiveJudge()


class Part(msgspec.Struct, frozen=True):
    """One part of an answer; while it says `more`, call `serve` again with it as `after`.

    Attributes:
        upto: how far it claims to be complete: never beyond our own head.
        at: hlc of the last record it holds, from where the next part goes on.
    """

    since: int
    upto: int
    reset: bool
    records: list[Record]
    more: bool
    at: int = 0


def receive(
    log: Log,
    delta: Delta,
    records: Sequence[Record],
    *,
    now_ms: int,
    limits: Limits = UNLIMITED,
    reset_part: ResetParts | None = None,
    me: bytes | None = None,
    judge: Judge | None = None,
) -> Outcome:
    """Judge and store a delta.

    Args:
        records: those of `delta`, verified and parsed.
        now_ms: mesh time, unix milliseconds.
        reset_part: kept by the caller per link and author while the parts of a reset arrive.
        me: our own aid: our own records are only looked at (`Outcome.own`).
        judge: other rules than those of the delta's scope.
    """
    if delta.aid == me:
        offered = own_live_offered if delta.scope == LIVE else own_offered
        own = offered(log, delta.aid, records, now_ms)
        return Outcome(log.author(delta.aid), [], [], own=own)
    if judge is None:
        if delta.scope == LIVE and len(records) == 1:
            outcome = renewed(log, delta, records[0], now_ms, limits)
            if outcome is not None:
                return outcome
        judge = _LIVE if delta.scope == LIVE else _DURABLE
    return Receiver(judge, log, delta, records, now_ms, limits, reset_part).run()


def write(log: Log, record: Record, *, limits: Limits | None = None) -> Outcome:
    """Store an own, freshly signed record; `Outcome.refused` says why if the own quota forbids it.

    Args:
        limits: our own quota; None lets it pass. Deletes, voids and overwrites that do not grow always do.
    """
    aid = record.aid
    state = log.author(aid)
    assert record.hlc > max(state.head, state.floor), "own stamps grow"
    if limits is not None and record.op == Op.PUT:
        held = log.get(record.slot)
        grows = record.size - (0 if held is None else held.size)
        if held is None and limits.slots_max is not None and state.count >= limits.slots_max:
            return Outcome(state, [], [], refused=f"quota of {limits.slots_max} keys is used up")
        if grows > 0 and limits.bytes_max is not None and state.size + grows > limits.bytes_max:
            return Outcome(state, [], [], refused=f"quota of {limits.bytes_max} bytes is used up")
    log.put(record)
    floor = max(state.floor, gc_floor(record)) if is_gc(record) else state.floor
    dropped = apply_floor(log, aid, floor) if floor > state.floor else []
    log.set_marks(aid, head=record.hlc, floor=floor)
    return Outcome(log.author(aid), [record], dropped, forward=True)


# -- answering ------------------------------------------------------------------------------------------


def serve(
    log: Log,
    aid: bytes,
    since: int,
    *,
    bytes_max: int = PART_BYTES,
    after: Part | None = None,
    now_ms: int = 0,
    live: bool = False,
) -> Part:
    """One part of the answer to a want.

    Args:
        since: what the asker holds; below our floor the answer is a reset.
        bytes_max: about how much to send; at least one record goes.
        after: the part before this one, if that said `more`.
        now_ms: mesh time, if known: then what is past its ttl for good is left out.
        live: by the rules of the live scope.
    """
    state = log.author(aid)
    if after is not None and not after.reset and after.upto < state.floor:
        after, since = None, 0  # the floor rose between two parts: deletes that were due are gone
    reset = after.reset if after is not None else since < state.floor
    since = after.upto if after is not None else 0 if reset else since
    head = max(state.head, since)
    start = since
    if after is not None and head == since:
        start = max(after.at, since)  # beyond the head, over holes; had they been filled, they would be owed
    records = [rec for rec in _lead(log, aid) if rec.hlc > start or (reset and is_gc(rec))]
    leading = {rec.hlc for rec in records}
    size = sum(rec.size + _OVERHEAD for rec in records)
    at, sent = start, 0
    for rec in log.since(aid, start):
        dead = outlived(rec, now_ms) and (live or (rec.kind == Kind.LOG and rec.hlc < head))
        if rec.hlc not in leading and not dead:
            size += rec.size + _OVERHEAD
            if sent and size > bytes_max:
                return Part(since, min(at, head), reset, records, True, at)
            records.append(rec)
            sent += 1
        at = rec.hlc
    return Part(since, head, reset, records, False, at)


def _lead(log: Log, aid: bytes) -> Iterator[Record]:
    for slot in (gc_slot(aid), SlotKey(member_path(aid), Kind.ALL, aid)):
        rec = log.get(slot)
        if rec is not None:
            yield rec


def delta_of(scope: str, aid: bytes, part: Part) -> Delta:
    """A part as the message that carries it."""
    wires = [(rec.body, rec.sig) for rec in part.records]
    return Delta(scope, aid, part.since, part.upto, part.reset, wires, part.more)


# -- comparing ------------------------------------------------------------------------------------------


def listings(log: Log, scope: str, aid: bytes) -> list[Listing]:
    """What is held of an author as (hlc, first 8 bytes of H(sig)), in ranges of at most 4096 entries.

    What the floor takes away is neither listed nor pulled. Each begins with the `~gc`, if there is one.
    """
    state = log.author(aid)
    gc = log.get(gc_slot(aid))
    lead = [(gc.hlc, signature_hash(gc.sig)[:_H8])] if gc is not None else []
    entries = [
        (rec.hlc, signature_hash(rec.sig)[:_H8])
        for rec in log.since(aid, 0)
        if not collected(rec, state.floor) and not is_gc(rec)
    ]
    out = []
    low = 0
    for start in range(0, max(len(entries), 1), LIST_ENTRIES_MAX):
        chunk = entries[start : start + LIST_ENTRIES_MAX]
        last = start + LIST_ENTRIES_MAX >= len(entries)
        high = HLC_MAX if last else chunk[-1][0]
        out.append(Listing(scope, aid, state.head, lead + chunk, low, high))
        low = high
    return out


def correction(scope: str, outcome: Outcome) -> Delta | None:
    """What to tell a sender whose `~gc` has a smaller floor than ours: the author, set back to a backup, may
    have said it without knowing. None in the usual case."""
    gc = outcome.outdone
    return None if gc is None else Delta(scope, gc.aid, gc.hlc, gc.hlc, False, [(gc.body, gc.sig)])


def missing(log: Log, listing: Listing) -> list[int]:
    """The hlcs of a peer's listing whose records we do not hold, ascending.

    Up to our floor only from a peer that has the same: another may hold what we saw deleted and collected, be
    it the author itself, set back to a backup.
    """
    floor = log.author(listing.aid).floor
    gc = log.get(gc_slot(listing.aid))
    level = gc is None or any(hlc == gc.hlc for hlc, _ in listing.entries)
    wanted = set()
    for hlc, h8 in listing.entries:
        if hlc <= floor and not level:
            continue
        held = log.at(listing.aid, hlc)
        if held is None or signature_hash(held.sig)[:_H8] != h8:
            wanted.add(hlc)
    return sorted(wanted)


def serve_pull(
    log: Log, scope: str, aid: bytes, hlcs: Sequence[int], head: int, *, bytes_max: int = PART_BYTES
) -> Delta:
    """The records asked for after a listing, as far as they fit; the next comparison brings the rest."""
    floor = log.author(aid).floor
    wires: list[tuple[bytes, bytes]] = []
    size = 0
    for hlc in sorted(set(hlcs)):
        rec = log.at(aid, hlc)
        if rec is None or collected(rec, floor):
            continue
        size += rec.size + _OVERHEAD
        if wires and size > bytes_max:
            break
        wires.append((rec.body, rec.sig))
    return Delta(scope, aid, head, head, False, wires, pull=True)


# -- time -----------------------------------------------------------------------------------------------


def sweep(log: Log, now_ms: int, *, live: bool = False, most: int = 10_000) -> list[Record]:
    """Drop what is past its ttl for good, at most `most` records; returns them.

    In the live scope that is everything, elsewhere kind LOG only, and never an author's newest record:
    it is what proves the head to others.
    """
    gone = swept(log, now_ms, live=live, most=most)
    for rec in gone:
        log.drop(rec.slot)
    return gone


def swept(log: Log, now_ms: int, *, live: bool = False, most: int = 10_000) -> list[Record]:
    """What `sweep` would drop."""
    gone: list[Record] = []
    for rec in log.expiring(now_ms - GRACE_MS):
        if live or (rec.kind == Kind.LOG and rec.hlc < log.newest(rec.aid)):
            gone.append(rec)
            if len(gone) >= most:
                break
    return gone

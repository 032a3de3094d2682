"""Authors of records for tests of replication: each signs with a cheap stand-in, and keeps its own log."""

from __future__ import annotations

import hashlib

from mesh.core import sync
from mesh.core.collect import Statement
from mesh.core.memory import MemoryLog
from mesh.core.record import MESH, Kind, Op, Record, SlotKey, scope_tag
from mesh.sim.model.wire import Notary, aid_of
from mesh.wire.messages import Delta

TAG = scope_tag(MESH, "")
DAY_MS = 24 * 3600 * 1000
NOW_MS = 1_700_000_000_000
NOTARY = Notary()


def stamp(ms: int, count: int = 0) -> int:
    """The hlc at so many milliseconds after NOW_MS."""
    return (NOW_MS + ms) << 16 | count


def rec(author: int, path: str, ms: int, **what: object) -> Record:
    """A record of an author; `what` are fields of a `Statement`, kind REG unless given."""
    hlc = what.pop("hlc", stamp(ms))
    say = Statement(path, what.pop("kind", Kind.REG), **what)  # type: ignore[arg-type]
    return NOTARY.sign(aid_of(author), TAG, hlc, say)  # type: ignore[arg-type]


def gone(author: int, path: str, ms: int, **what: object) -> Record:
    """A delete."""
    return rec(author, path, ms, op=Op.DEL, **what)


def gc(author: int, floor_ms: int, ms: int) -> Record:
    """The author's word that its deletes up to a stamp are collected."""
    return rec(author, "~gc", ms, val=stamp(floor_ms))


def log_of(*records: Record) -> MemoryLog:
    """The log of the only author of these records, as it wrote them."""
    log = MemoryLog()
    for record in sorted(records, key=lambda record: record.hlc):
        assert sync.write(log, record).refused is None
    return log


def delta(records: list[Record], *, since: int = 0, upto: int | None = None, **flags: bool) -> Delta:
    """Records of one author on their way."""
    wires = [(record.body, record.sig) for record in records]
    top = max((record.hlc for record in records), default=0) if upto is None else upto
    return Delta(
        MESH, records[0].aid, since, top, flags.get("reset", False), wires, pull=flags.get("pull", False)
    )


def take(log: MemoryLog, message: Delta, records: list[Record], **options: object) -> sync.Outcome:
    """A replica takes a delta, a year after everything was written."""
    options.setdefault("now_ms", NOW_MS + 365 * DAY_MS)
    return sync.receive(log, message, records, **options)  # type: ignore[arg-type]


def give(log: MemoryLog, other: MemoryLog, author: int, **options: object) -> sync.Outcome:
    """All that one replica answers another's want for an author, in parts."""
    aid = aid_of(author)
    after, parts = None, sync.ResetParts()
    while after is None or after.more:
        after = sync.serve(log, aid, other.author(aid).head, bytes_max=300, after=after)
        message = sync.delta_of(MESH, aid, after)
        outcome = take(other, message, after.records, reset_part=parts if after.reset else None, **options)
    return outcome


def compare(log: MemoryLog, other: MemoryLog, author: int) -> None:
    """Two replicas with equal heads list and pull, both ways."""
    aid = aid_of(author)
    for mine, theirs in ((log, other), (other, log)):
        for listing in sync.listings(theirs, MESH, aid):
            hlcs = sync.missing(mine, listing)
            if hlcs:
                answer = sync.serve_pull(theirs, MESH, aid, hlcs, theirs.author(aid).head)
                records = [NOTARY.open(aid, TAG, body, sig) for body, sig in answer.records]
                outcome = take(mine, answer, records)
                if outcome.want is not None:
                    give_all(theirs, mine, author, outcome.want)


def give_all(log: MemoryLog, other: MemoryLog, author: int, since: int) -> None:
    """Answer a want from a stamp on in one part."""
    part = sync.serve(log, aid_of(author), since)
    take(other, sync.delta_of(MESH, aid_of(author), part), part.records, reset_part=sync.ResetParts())


def dump(log: MemoryLog) -> bytes:
    """Everything a replica holds, as bytes: equal replicas are byte-identical."""
    parts = []
    for aid, state in log.authors():
        rows = b"".join(record.body + record.sig for record in log.since(aid, 0))
        parts.append(b"%b %d %d %d " % (aid, state.head, state.floor, state.count) + rows)
    return hashlib.blake2b(b"|".join(parts)).digest()


def slot(author: int, path: str, kind: int = Kind.REG) -> SlotKey:
    return SlotKey(path, kind, aid_of(author))

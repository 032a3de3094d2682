"""Replication of one author: whatever the way of the deltas, replicas end byte-identical; a store set back to
any earlier state keeps what was written later; and nobody's clock follows a claim from the future."""

from __future__ import annotations

import random

from authors import DAY_MS, MESH, NOTARY, NOW_MS, TAG, compare, delta, dump, give, log_of, rec, stamp, take
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import folds, sync
from mesh.core.clock import FUTURE_MS_MAX, HybridClock
from mesh.core.collect import Statement
from mesh.core.fence import Fence
from mesh.core.memory import MemoryLog
from mesh.core.record import GC_PATH, Kind, Op, Record, SlotKey
from mesh.sim.model.replica import clone
from mesh.sim.model.wire import aid_of
from mesh.wire.messages import Delta

ME = aid_of(0)
# What an author does, one after another: writes to one of a few keys, deletes one, or collects.
LIVES = st.lists(st.tuples(st.sampled_from(["put", "put", "del", "gc"]), st.integers(0, 4)), max_size=24)


def live(steps: list[tuple[str, int]], log: MemoryLog, start: int = 1) -> None:
    """Play an author's life on its own log."""
    for ms, (what, key) in enumerate(steps, start):
        floor = log.author(ME).floor
        if what == "gc":
            ended = [record.hlc for record in log.since(ME, floor) if record.op == Op.DEL]
            if ended:
                sync.write(log, rec(0, GC_PATH, ms, val=max(ended)))
        elif what == "del":
            sync.write(log, rec(0, f"kv/{key}", ms, op=Op.DEL))
        else:
            sync.write(log, rec(0, f"kv/{key}", ms, val=ms))


def parts(log: MemoryLog, since: int, size: int) -> list[tuple[Delta, list[Record]]]:
    """An answer in parts."""
    out, after = [], None
    while after is None or after.more:
        after = sync.serve(log, ME, since, bytes_max=size, after=after)
        out.append((sync.delta_of(MESH, ME, after), after.records))
    return out


@settings(deadline=None)
@given(LIVES, st.randoms(use_true_random=False))
def test_any_way_of_the_deltas_ends_byte_identical(steps: list[tuple[str, int]], rng: random.Random) -> None:
    """Split, repeated, late, in any order and over another replica; then one comparison."""
    author, flying = MemoryLog(), []
    for at, step in enumerate(steps, 1):
        live([step], author, at)
        if rng.random() < 0.4:
            since = rng.choice([0, *[record.hlc for record in author.since(ME, 0)]])
            flying += parts(author, since, rng.choice([1, 300, 5000]))
    flying += rng.sample(flying, len(flying) // 2)
    rng.shuffle(flying)
    replicas = [MemoryLog(), MemoryLog()]
    waiting = [sync.ResetParts(), sync.ResetParts()]
    for message, records in flying:
        at = rng.randrange(2)
        take(replicas[at], message, records, reset_part=waiting[at] if message.reset else None)
    for replica in replicas:
        give(author, replica, 0)
        compare(replica, author, 0)
        assert dump(replica) == dump(author)


@settings(deadline=None)
@given(LIVES, st.integers(0, 24), st.integers(0, 24))
def test_relays_of_any_age_bring_nothing_back(steps: list[tuple[str, int]], one: int, two: int) -> None:
    """Two replicas that heard from the author long ago exchange what they know, then hear from it again."""
    author = MemoryLog()
    old = [MemoryLog(), MemoryLog()]
    for at, step in enumerate(steps):
        live([step], author, at + 1)
        for replica, stop in zip(old, (one, two), strict=True):
            if at == stop:
                give(author, replica, 0)
    give(old[0], old[1], 0)
    give(old[1], old[0], 0)
    for replica in old:
        give(author, replica, 0)
        assert dump(replica) == dump(author)


WRITES = st.lists(st.tuples(st.sampled_from([Kind.REG, Kind.CTR]), st.integers(0, 3)), max_size=10)


def count(log: MemoryLog, fence: Fence, kind: Kind, key: int, ms: int) -> None:
    """A register is set to the time, a counter raised by one."""
    path = f"kv/{kind.name}{key}"
    held = log.get(SlotKey(path, kind, ME))
    plus, minus = folds.totals(held) if kind == Kind.CTR else (0, 0)
    say = Statement(path, kind, [plus + 1, minus] if kind == Kind.CTR else ms)
    sync.write(log, NOTARY.sign(ME, TAG, stamp(ms), fence.counted(log, ME, say)))


@settings(deadline=None)
@given(WRITES, WRITES, WRITES, st.integers(0, 1))
def test_a_store_set_back_to_any_state_keeps_all_later_writes(
    before: list[tuple[Kind, int]],
    lost: list[tuple[Kind, int]],
    after: list[tuple[Kind, int]],
    known: int,
) -> None:
    """Writes before the backup, writes that the store forgot, writes before it met anyone who knew."""
    log, fence, peer = MemoryLog(), Fence.opened(MemoryLog(), ME, None, NOW_MS, 1), MemoryLog()
    for ms, (kind, key) in enumerate(before, 1):
        count(log, fence, kind, key, ms)
    if known:
        give(log, peer, 0)
    backup, stored = clone(log), fence
    for ms, (kind, key) in enumerate(lost, 101):
        count(log, fence, kind, key, ms)
    give(log, peer, 0)
    log = backup
    fence = Fence.opened(log, ME, stored, NOW_MS + 200, 2)
    for ms, (kind, key) in enumerate(after, 201):
        count(log, fence, kind, key, ms)
    part = sync.serve(peer, ME, fence.hlc)
    said = fence.recover(log, ME, part.records, reset=part.reset, now_ms=NOW_MS + 300)
    for ms, say in enumerate(said, 301):
        sync.write(log, NOTARY.sign(ME, TAG, stamp(ms), say))
    give(log, peer, 0)
    assert dump(peer) == dump(log)
    done = [*before, *lost, *after]
    for key in range(4):
        times = done.count((Kind.CTR, key))
        assert folds.counter(log.slots(f"kv/CTR{key}"), NOW_MS) == times
        last = [ms for start, writes in ((1, before), (101, lost), (201, after))
                for ms, write in enumerate(writes, start) if write == (Kind.REG, key)]  # fmt: skip
        shown = folds.register(log.slots(f"kv/REG{key}"), NOW_MS)
        assert (shown.val if shown is not None else None) == (last[-1] if last else None)


@given(st.lists(st.integers(1, 3650), min_size=1, max_size=4, unique=True), st.integers(-3650, 3650))
def test_claims_from_the_future_move_nobody(days: list[int], mine: int) -> None:
    now_ms = NOW_MS + mine * DAY_MS
    near = rec(0, "kv/a", mine * DAY_MS)
    far = [rec(0, f"kv/{day}", (mine + day) * DAY_MS) for day in days]
    log, clock = log_of(), HybridClock()
    outcome = take(log, delta([near, *far]), [near, *far], now_ms=now_ms)
    for record in outcome.stored:
        clock.receive(record.hlc)
    assert outcome.stored == [near]
    assert outcome.head == near.hlc
    assert clock.send(now_ms) >> 16 <= now_ms + FUTURE_MS_MAX

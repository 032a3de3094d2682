"""A store set back to a backup: what was forgotten comes back first, what was written since goes on top."""

from __future__ import annotations

from authors import DAY_MS, NOTARY, NOW_MS, TAG, gc, gone, log_of, rec, slot, stamp

from mesh.core import folds, sync, tally
from mesh.core.collect import Statement
from mesh.core.fence import Fence
from mesh.core.memory import MemoryLog
from mesh.core.own import Own, own_offered
from mesh.core.record import Kind, Record
from mesh.sim.model.wire import aid_of

ME = aid_of(0)
LATER_MS = NOW_MS + 1000


def recover(log: MemoryLog, fence: Fence, records: list[Record], *, reset: bool = False) -> list[Record]:
    """Take a peer's answer back and write what goes on top."""
    said = fence.recover(log, ME, records, reset=reset, now_ms=LATER_MS)
    out = []
    top = max(LATER_MS << 16, log.author(ME).head + 1)
    for at, say in enumerate(said):
        record = NOTARY.sign(ME, TAG, top + at, say)
        sync.write(log, record)
        out.append(record)
    return out


def test_a_fence_passes_a_day_after_somebody_answered() -> None:
    log = log_of(rec(0, "kv/a", 1))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    assert not fence.passed(NOW_MS + 2 * DAY_MS)
    assert recover(log, fence, []) == []
    assert not fence.passed(NOW_MS + DAY_MS - 1)
    assert fence.passed(NOW_MS + DAY_MS)


def test_a_fence_stays_over_restarts_until_it_has_passed() -> None:
    log = log_of(rec(0, "kv/a", 1))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    sync.write(log, rec(0, "kv/b", 2))
    again = Fence.opened(log, ME, fence, NOW_MS + 5, 2)
    assert (again.hlc, again.head) == (stamp(1), stamp(2))
    assert again.epoch > fence.epoch


def test_what_was_forgotten_comes_back() -> None:
    log, lost = log_of(rec(0, "kv/a", 1)), rec(0, "kv/b", 2, val="lost")
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    recover(log, fence, [lost])
    assert log.get(slot(0, "kv/b")) == lost
    assert fence.forgot


def test_a_later_write_goes_on_top_with_what_it_was_written_over() -> None:
    log = log_of(rec(0, "kv/a", 1))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    sync.write(log, rec(0, "kv/m", 20, kind=Kind.MV, val="new", sees={aid_of(1): 5}))
    lost = rec(0, "kv/m", 10, kind=Kind.MV, val="lost", sees={aid_of(2): 7})
    recover(log, fence, [lost])
    held = log.get(slot(0, "kv/m", Kind.MV))
    assert held is not None
    assert (held.val, held.stamp) == ("new", stamp(20))
    assert held.sees == {aid_of(1): 5, aid_of(2): 7}


def test_counters_of_both_lives_add_up_once() -> None:
    log = MemoryLog()
    first = Fence.opened(log, ME, None, NOW_MS, 1)

    def counted(fence: Fence, total: int, ms: int) -> Record:
        say = fence.counted(log, ME, Statement("kv/c", Kind.CTR, [total, 0]))
        return NOTARY.sign(ME, TAG, stamp(ms), say)

    sync.write(log, counted(first, 1, 1))
    lost = counted(first, 3, 2)  # two more, in the first life
    second = Fence.opened(log, ME, first, NOW_MS + 5, 2)
    sync.write(log, counted(second, 5, 10))  # four more, in the second
    recover(log, second, [lost])
    assert folds.counter(log.slots("kv/c"), LATER_MS) == 7


def test_a_reset_of_the_own_log_takes_away_what_was_deleted_after_the_backup() -> None:
    log = log_of(rec(0, "kv/a", 1), rec(0, "kv/b", 2))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    peer = log_of(rec(0, "kv/a", 1), rec(0, "kv/b", 2), gone(0, "kv/a", 3), gc(0, 3, 4))
    recover(log, fence, list(peer.since(ME, 0)), reset=True)
    assert [record.path for record in log.since(ME, 0)] == ["kv/b", "~gc"]


def test_a_stray_is_believed_while_it_is_known_that_something_was_forgotten() -> None:
    """Two resets of one floor: what the first left out and the second names was not deleted."""
    floor, one, two = gc(0, 3, 4), rec(0, "kv/one", 1), rec(0, "kv/two", 2)
    log = MemoryLog()
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    recover(log, fence, [one, floor], reset=True)
    own = own_offered(log, ME, [one, two, floor], LATER_MS)
    assert own is not None
    assert own.strays == [two]
    assert fence.trusted(own, LATER_MS) == [two]
    recover(log, fence, [one, two, floor], reset=True)
    assert log.get(slot(0, "kv/two")) == two
    assert not fence.trusted(Own([], [two]), LATER_MS + DAY_MS)


def test_a_stray_that_the_backup_did_not_have_and_is_not_newer_was_deleted() -> None:
    log = log_of(gc(0, 3, 4))
    log.set_marks(ME, head=gc(0, 3, 4).hlc, floor=rec(0, "kv/x", 3).hlc)
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    fence.forgot = True
    stray = rec(0, "kv/one", 1)
    assert not fence.trusted(Own([], [stray]), LATER_MS)
    recover(log, fence, [stray, gc(0, 3, 4), rec(0, "kv/new", 9)], reset=True)
    assert log.get(slot(0, "kv/one")) is None
    assert log.get(slot(0, "kv/new")) is not None


def test_a_stray_that_the_backup_had_and_a_reset_did_not_name_is_believed() -> None:
    log = log_of(rec(0, "kv/one", 1), rec(0, "kv/two", 2))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    recover(log, fence, [rec(0, "kv/one", 1), gc(0, 3, 4)], reset=True)
    assert log.get(slot(0, "kv/two")) is None
    assert fence.trusted(Own([], [rec(0, "kv/two", 2)]), LATER_MS)


def test_a_stray_that_comes_with_news_of_ours_is_believed_also_after_the_day() -> None:
    """The first answer of a whole day left both out; withdrawn at once, the value would be gone for good."""
    floor, noted, two = gc(0, 3, 4), rec(0, "removed/x", 1), rec(0, "kv/two", 2)
    log = MemoryLog()
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    recover(log, fence, [floor], reset=True)
    late_ms = LATER_MS + 2 * DAY_MS
    own = own_offered(log, ME, [noted, two, floor], late_ms)
    assert own is not None
    assert (own.unknown, own.strays) == ([noted], [two])
    assert fence.trusted(own, late_ms) == [two]
    assert fence.trusted(Own([], [two]), late_ms) == []
    recover(log, fence, [noted, two, floor], reset=True)
    assert log.get(slot(0, "kv/two")) == two


def test_a_counter_that_a_reset_did_not_name_stays() -> None:
    counter = rec(0, "kv/c", 1, kind=Kind.CTR, val=[5, 0])
    log = log_of(counter, rec(0, "kv/two", 2))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    recover(log, fence, [gc(0, 3, 4)], reset=True)
    assert log.get(slot(0, "kv/c", Kind.CTR)) == counter
    assert log.get(slot(0, "kv/two")) is None


def test_what_was_noted_for_a_removed_author_is_joined() -> None:
    path = f"removed/{aid_of(2).hex()}"
    lost = rec(0, path, 2, kind=Kind.ALL, val={"by": b"x", "counters": {"kv/c": [5, 0], "kv/d": [1, 0]}})
    log = log_of(rec(0, "kv/a", 1))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    sync.write(log, rec(0, path, 10, kind=Kind.ALL, val={"counters": {"kv/c": [3, 4]}}))
    recover(log, fence, [lost])
    held = log.get(slot(0, path, Kind.ALL))
    assert held is not None
    assert tally.notes(held.val) == {"kv/c": (5, 4), "kv/d": (1, 0)}


def test_a_copy_written_over_a_forgotten_value_yields_to_it() -> None:
    """A restored admin speaks for a removed author in a slot where it had a value of its own."""
    lost = rec(0, "kv/m", 20, kind=Kind.MV, val="mine", sees={})
    log = log_of(rec(0, "kv/a", 1))
    fence = Fence.opened(log, ME, None, NOW_MS, 1)
    copied = {aid_of(2): stamp(5)}
    sync.write(log, rec(0, "kv/m", 30, kind=Kind.MV, val="copy", asof=stamp(5), sees=copied))
    recover(log, fence, [lost])
    assert [record.val for record in folds.siblings(log.slots("kv/m"), LATER_MS)] == ["mine"]


def test_a_clock_set_back_takes_the_fence_with_it() -> None:
    log = log_of(rec(0, "kv/a", 1))
    fence = Fence(hlc=stamp(50), set_ms=NOW_MS + 50, head=stamp(50))
    fence.rewound(log, ME, NOW_MS + 10)
    assert (fence.hlc, fence.head, fence.set_ms) == (stamp(1), stamp(1), NOW_MS + 10)


def test_who_is_alone_in_a_scope_waits_for_nobody() -> None:
    fence = Fence(set_ms=NOW_MS)
    fence.alone()
    assert fence.passed(NOW_MS + DAY_MS)

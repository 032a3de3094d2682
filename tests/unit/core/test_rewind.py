"""A clock that was ahead: the foreign future is dropped, the own is said again."""

from __future__ import annotations

from authors import DAY_MS, NOW_MS, gc, log_of, rec, slot, stamp

from mesh.core import sync
from mesh.core.record import GC_PATH, Kind
from mesh.core.rewind import rewind
from mesh.sim.model.wire import aid_of

ME, OTHER = aid_of(0), aid_of(1)


def test_nothing_happens_when_nothing_lies_in_the_future() -> None:
    log = log_of(rec(0, "kv/a", 1))
    assert rewind(log, ME, NOW_MS + 100) == []
    assert log.author(ME).head == stamp(1)


def test_own_writes_are_said_again_in_their_order() -> None:
    log = log_of(rec(0, "kv/a", 1), rec(0, "kv/c", 5 * DAY_MS), rec(0, "kv/b", 6 * DAY_MS))
    assert [say.path for say in rewind(log, ME, NOW_MS)] == ["kv/c", "kv/b"]
    assert log.author(ME).head == stamp(1)
    assert log.get(slot(0, "kv/c")) is None


def test_foreign_records_are_dropped_and_asked_for_again() -> None:
    log = log_of(rec(1, "kv/a", 1), rec(1, "kv/b", 5 * DAY_MS))
    assert rewind(log, ME, NOW_MS) == []
    assert log.author(OTHER).head == 0
    assert [record.path for record in log.since(OTHER, 0)] == ["kv/a"]


def test_what_was_seen_of_the_future_is_cut_to_the_bound() -> None:
    far = stamp(9 * DAY_MS)
    log = log_of(rec(0, "kv/m", 5 * DAY_MS, kind=Kind.MV, sees={OTHER: far, aid_of(2): stamp(1)}))
    (say,) = rewind(log, ME, NOW_MS)
    assert say.sees is not None
    assert say.sees[aid_of(2)] == stamp(1)
    assert say.sees[OTHER] < far


def test_a_floor_from_the_future_becomes_the_newest_that_remains() -> None:
    log = log_of(rec(0, "kv/a", 1))
    sync.write(log, gc(0, 5 * DAY_MS, 6 * DAY_MS))
    (say,) = rewind(log, ME, NOW_MS)
    assert (say.path, say.val) == (GC_PATH, stamp(1))

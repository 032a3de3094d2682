"""What a floor takes away and what it never does."""

from __future__ import annotations

import pytest
from authors import NOW_MS, gc, gone, log_of, rec, slot, stamp

from mesh.core.floors import apply_floor, collected, gc_floor, gc_order, outlived
from mesh.core.record import Kind, Op
from mesh.sim.model.wire import aid_of


def test_deletes_and_voids_up_to_the_floor_go() -> None:
    assert collected(gone(0, "kv/a", 5), stamp(5))
    assert collected(rec(0, "kv/a", 5, op=Op.VOID), stamp(5))
    assert not collected(gone(0, "kv/a", 6), stamp(5))


def test_a_value_stays_until_its_ttl_ended_before_the_floor() -> None:
    assert not collected(rec(0, "kv/a", 1), stamp(5))
    assert not collected(rec(0, "kv/a", 1, ttl=10), stamp(5))
    assert collected(rec(0, "kv/a", 1, ttl=3), stamp(5))


def test_logs_and_removals_are_no_business_of_a_floor() -> None:
    assert not collected(rec(0, "kv/log", 1, kind=Kind.LOG, ttl=1), stamp(5))
    assert not collected(gone(0, f"removed/{aid_of(1).hex()}", 1, kind=Kind.ALL), stamp(5))


def test_the_newest_record_stays_because_it_proves_the_head() -> None:
    log = log_of(gone(0, "kv/a", 1), gone(0, "kv/b", 2))
    assert apply_floor(log, aid_of(0), stamp(9)) == [slot(0, "kv/a")]
    assert log.newest(aid_of(0)) == stamp(2)


@pytest.mark.parametrize("value", [None, True, -1, 0, "5", stamp(9), [1]])
def test_a_floor_that_is_nonsense_is_no_floor(value: object) -> None:
    assert gc_floor(rec(0, "~gc", 5, val=value)) == 0


def test_the_larger_floor_wins_then_the_newer() -> None:
    assert gc_order(gc(0, 4, 5)) > gc_order(gc(0, 2, 7))
    assert gc_order(gc(0, 4, 6)) > gc_order(gc(0, 4, 5))
    assert gc_order(None) < gc_order(gc(0, 1, 2))


def test_what_is_past_its_ttl_is_outlived_a_minute_later() -> None:
    record = rec(0, "kv/log", 0, kind=Kind.LOG, ttl=1000)
    assert not outlived(record, NOW_MS + 1000)
    assert outlived(record, NOW_MS + 61_000)

"""Taking, answering and comparing: the rules one by one, each beside the wrong rule that looked right."""

from __future__ import annotations

import random

import msgspec
import pytest
from authors import (
    DAY_MS,
    NOW_MS,
    compare,
    delta,
    dump,
    gc,
    give,
    give_all,
    gone,
    log_of,
    rec,
    slot,
    stamp,
    take,
)

from mesh.core import folds, receive, sync
from mesh.core.memory import MemoryLog
from mesh.core.quota import UNLIMITED, Limits
from mesh.core.record import LIVE, MESH, Kind
from mesh.sim.model.rules import Policy
from mesh.sim.model.variants import VARIANTS
from mesh.sim.model.wire import aid_of

TRUE, WRONG = "the true rules", "the wrong rule"


def policy(name: str | None) -> Policy:
    return Policy() if name is None else VARIANTS[name]()


def test_a_delta_without_a_hole_moves_the_head_to_what_it_proves() -> None:
    one, two, log = rec(0, "kv/a", 1), rec(0, "kv/b", 2), MemoryLog()
    outcome = take(log, delta([one, two], upto=stamp(99)), [one, two])
    assert (outcome.head, outcome.forward, outcome.want) == (two.hlc, True, None)


@pytest.mark.parametrize(("name", "head"), [(None, 2), ("trusts-upto", 99)])
def test_no_number_from_the_wire_moves_a_head_beyond_what_is_verified(name: str | None, head: int) -> None:
    one, two, log = rec(0, "kv/a", 1), rec(0, "kv/b", 2), MemoryLog()
    assert take(log, delta([one, two], upto=stamp(99)), [one, two], judge=policy(name).judge).head == stamp(
        head
    )


def test_a_hole_keeps_the_records_and_asks_for_what_is_missing() -> None:
    late, log = rec(0, "kv/b", 5), MemoryLog()
    outcome = take(log, delta([late], since=stamp(3)), [late])
    assert (outcome.head, outcome.want, outcome.stored) == (0, 0, [late])


def test_the_newer_record_of_a_slot_stays_whatever_comes_last() -> None:
    old, new, log = rec(0, "kv/a", 1, val=1), rec(0, "kv/a", 2, val=2), MemoryLog()
    take(log, delta([new]), [new])
    take(log, delta([old]), [old])
    assert log.get(slot(0, "kv/a")) == new


@pytest.mark.parametrize(("name", "held"), [(None, 2), ("forwards-only-new", 1)])
def test_what_is_forwarded_is_whole_even_where_part_of_it_was_known(name: str | None, held: int) -> None:
    one, two, middle, last = rec(0, "kv/a", 1), rec(0, "kv/b", 2), MemoryLog(), MemoryLog()
    take(middle, delta([two], since=stamp(1)), [two])  # came over a hole
    message = delta([one, two])
    outcome = take(middle, message, [one, two])
    onward = policy(name).passed_on(message, outcome, b"")
    assert onward is not None
    by_sig = {record.sig: record for record in (one, two)}
    take(last, onward, [by_sig[sig] for _, sig in onward.records])
    assert len(last) == held


@pytest.mark.parametrize(("name", "kept"), [(None, False), ("forwards-resets", True)])
def test_a_reset_is_not_passed_on_as_if_it_were_plain(name: str | None, kept: bool) -> None:
    value, other = rec(0, "kv/a", 1), rec(0, "kv/b", 4)
    author = log_of(value, gone(0, "kv/a", 2), gc(0, 2, 3), other)
    part = sync.serve(author, aid_of(0), 0)
    assert part.reset
    middle, last = log_of(value), log_of(value)
    message = sync.delta_of(MESH, aid_of(0), part)
    onward = policy(name).passed_on(message, take(middle, message, part.records), b"")
    if onward is not None:
        take(last, onward, part.records)
    else:
        give(author, last, 0)
    assert (last.get(slot(0, "kv/a")) is not None) == kept
    assert last.author(aid_of(0)).head == other.hlc


@pytest.mark.parametrize(("name", "left"), [(None, 1), ("trusts-floor", 0)])
def test_a_reset_without_the_authors_own_word_deletes_nothing(name: str | None, left: int) -> None:
    log, other = log_of(rec(0, "kv/a", 1)), rec(0, "kv/b", 4)
    take(log, delta([other], reset=True), [other], judge=policy(name).judge)
    assert len(list(log.slots("kv/a"))) == left


@pytest.mark.parametrize(("name", "whole"), [(None, True), ("head-after-list", False)])
def test_a_list_exchange_makes_no_claim_to_be_complete(name: str | None, whole: bool) -> None:
    """A pulled record from beyond a hole: with the head moved, the delete in the hole is never asked for."""
    value, delete, last = rec(0, "kv/a", 1), gone(0, "kv/a", 2), rec(0, "kv/b", 3)
    author, log = log_of(value, delete, last), log_of(value)
    answer = delta([last], since=value.hlc, upto=value.hlc, pull=True)
    take(log, answer, [last], judge=policy(name).judge)
    give(author, log, 0)
    assert (log.get(slot(0, "kv/a")) == delete) == whole


def test_who_asks_from_below_the_floor_is_reset() -> None:
    author = log_of(rec(0, "kv/a", 1), rec(0, "kv/b", 2), gone(0, "kv/a", 3), gc(0, 3, 4))
    behind = log_of(rec(0, "kv/a", 1))
    give(author, behind, 0)
    assert dump(behind) == dump(author)


def test_a_floor_that_rises_between_two_parts_turns_the_answer_into_a_reset() -> None:
    values = [rec(0, f"kv/{name}", at) for at, name in enumerate("abcdef", 1)]
    author = log_of(*values, gone(0, "kv/f", 7))
    behind = log_of(values[5])
    first = sync.serve(author, aid_of(0), 0, bytes_max=300)
    assert first.more
    assert not first.reset
    sync.write(author, gc(0, 7, 8))
    second = sync.serve(author, aid_of(0), 0, bytes_max=300, after=first)
    assert second.reset
    assert second.since == 0
    give(author, behind, 0)
    assert dump(behind) == dump(author)


def test_what_fills_a_hole_between_two_parts_is_in_the_second() -> None:
    """The first went over the hole to its end; the second may claim only what it holds."""
    one, delete, far = rec(0, "kv/a", 1), gone(0, "kv/a", 2), [rec(0, f"kv/{at}", at) for at in range(3, 9)]
    middle, last = log_of(one), log_of(one)
    take(middle, delta(far, since=stamp(2)), far)
    first = sync.serve(middle, aid_of(0), one.hlc, bytes_max=300)
    assert first.more
    assert first.upto == one.hlc
    take(middle, delta([delete, *far], since=one.hlc), [delete, *far])
    take(last, sync.delta_of(MESH, aid_of(0), first), first.records)
    rest = first
    while rest.more:
        rest = sync.serve(middle, aid_of(0), one.hlc, bytes_max=300, after=rest)
        take(last, sync.delta_of(MESH, aid_of(0), rest), rest.records)
    assert dump(last) == dump(middle)


def test_a_floor_that_the_head_has_passed_counts_with_a_reset_only() -> None:
    """A relay left the delete and the floor out: the floor alone would take the delete away unseen."""
    value, other = rec(0, "kv/a", 1), rec(0, "kv/b", 5)
    author = log_of(value, gone(0, "kv/a", 2), gc(0, 2, 3), other)
    log = MemoryLog()
    take(log, delta([value, other]), [value, other])
    assert log.author(aid_of(0)).head == author.author(aid_of(0)).head
    compare(log, author, 0)
    assert dump(log) == dump(author)


def test_nothing_below_the_floor_is_pulled_from_a_replica_with_another_floor() -> None:
    value, delete, other = rec(0, "kv/a", 1), gone(0, "kv/a", 2), rec(0, "kv/b", 5)
    seen = log_of(value, delete, gc(0, 2, 3), other)
    stale = log_of(value, other)
    assert sync.missing(seen, sync.listings(stale, MESH, aid_of(0))[0]) == []


@pytest.mark.parametrize(("name", "held"), [(None, True), ("drops-pulls-below-floor", False)])
def test_what_a_relay_left_out_is_pulled_also_below_the_floor(name: str | None, held: bool) -> None:
    live = rec(0, "kv/live", 1)
    rest = [gc(0, 3, 4), rec(0, "kv/b", 5)]
    log = log_of(rec(0, "kv/a", 2), gone(0, "kv/a", 3), *rest)
    head = log.author(aid_of(0)).head
    answer = delta([live], since=head, upto=head, pull=True)
    take(log, answer, [live], judge=policy(name).judge)
    assert (log.get(slot(0, "kv/live")) is not None) == held


@pytest.mark.parametrize(("name", "floor"), [(None, 4), ("newest-floor", 2)])
def test_of_two_floors_the_larger_counts_not_the_newer(name: str | None, floor: int) -> None:
    log = MemoryLog()
    for records in ([rec(0, "kv/a", 1), gc(0, 4, 5)], [rec(0, "kv/b", 6), gc(0, 2, 7)]):
        take(log, delta(records), records, judge=policy(name).judge)
    held = log.get(slot(0, "~gc"))
    assert held is not None
    assert held.val == stamp(floor)


@pytest.mark.parametrize(("name", "shown"), [(None, 1), ("sees-without-sees", 2)])
def test_what_a_write_that_was_seen_had_replaced_stays_replaced(name: str | None, shown: int) -> None:
    """Also when that write is gone, and by one who never held what it had replaced."""
    old = rec(1, "kv/m", 1, kind=Kind.MV, val="old")
    over = rec(2, "kv/m", 2, kind=Kind.MV, val="over", sees={aid_of(1): old.hlc})
    sees = policy(name).sees([over], aid_of(3), NOW_MS)
    new = rec(3, "kv/m", 3, kind=Kind.MV, val="new", sees=sees)
    assert len(folds.visible([old, new])) == shown


def test_whoever_says_a_smaller_floor_is_told_the_larger() -> None:
    low, high = gc(0, 2, 7), gc(0, 4, 5)
    log = log_of(rec(0, "kv/a", 1), high)
    outcome = take(log, delta([low], since=stamp(5)), [low])
    told = sync.correction(MESH, outcome)
    assert told is not None
    assert told.records == [(high.body, high.sig)]
    assert outcome.head == high.hlc  # a head stands on what is stored


def test_records_ahead_of_the_clock_wait_and_move_nothing() -> None:
    near, far, log = rec(0, "kv/a", 1), rec(0, "kv/b", 10 * DAY_MS), MemoryLog()
    outcome = take(log, delta([near, far]), [near, far], now_ms=NOW_MS)
    assert (outcome.refused, outcome.head, len(log)) == ("future", near.hlc, 1)


def test_the_quota_takes_what_fits_in_order_and_lets_deletes_pass() -> None:
    records = [rec(0, f"kv/{name}", at) for at, name in enumerate("abcdefgh", 1)]
    log = MemoryLog()
    limits = Limits(slots_max=4)
    outcome = take(log, delta(records), records, limits=limits)
    assert (outcome.refused, outcome.head, len(log)) == ("quota", records[4].hlc, 5)
    delete = gone(0, "kv/a", 9)
    take(log, delta([delete], since=records[4].hlc), [delete], limits=limits)
    assert log.get(slot(0, "kv/a")) == delete


def test_of_two_records_under_one_stamp_every_replica_keeps_the_same() -> None:
    one, two = rec(0, "kv/a", 1, val=1), rec(0, "kv/a", 1, val=2)
    left, right = MemoryLog(), MemoryLog()
    for log, order in ((left, (one, two)), (right, (two, one))):
        clashes = [take(log, delta([record]), [record]).clash for record in order]
        assert any(clashes)
    assert dump(left) == dump(right)


def test_logs_are_swept_when_outlived_but_the_newest_record_stays() -> None:
    first, second = (rec(0, "kv/log", at, kind=Kind.LOG, ttl=1000) for at in (1, 2))
    log = log_of(first, second)
    assert sync.sweep(log, NOW_MS + DAY_MS) == [first]
    assert log.newest(aid_of(0)) == second.hlc


def test_a_removed_admin_keeps_its_own_removals_only() -> None:
    path = f"removed/{aid_of(3).hex()}"
    records = [rec(0, "kv/a", 1), rec(0, path, 2, kind=Kind.ALL, val={})]
    log = MemoryLog()
    outcome = take(log, delta(records), records, limits=Limits(removed=True, admin=True))
    assert (outcome.stored, outcome.head) == ([records[1]], records[1].hlc)


def test_a_want_from_any_stamp_is_answered_in_full() -> None:
    author = log_of(*(rec(0, f"kv/{name}", at) for at, name in enumerate("abcdef", 1)))
    log = MemoryLog()
    give_all(author, log, 0, 0)
    assert dump(log) == dump(author)


def test_a_renewal_in_the_live_scope_by_the_short_way_ends_as_by_the_long_one() -> None:
    dice = random.Random(1)
    short = long = 0
    for _ in range(60):
        quick, slow = MemoryLog(fingerprints=False), MemoryLog(fingerprints=False)
        for step in range(1, 9):
            at, kind = dice.randrange(step, step + 3), dice.choice([Kind.REG, Kind.ALL, Kind.ALL, Kind.LOG])
            ttl = dice.choice([60_000, 60_000, 5, None if kind != Kind.LOG else 5])
            one = rec(0, dice.choice(["node/a", "node/a", "node/b", "~gc"]), at, kind=kind, ttl=ttl)
            flags = {"reset": dice.random() < 0.05, "pull": dice.random() < 0.05}
            since, upto = dice.choice([0, 0, 0, stamp(at - 1)]), stamp(dice.choice([at, at, at, 15, 2]))
            message = msgspec.structs.replace(delta([one], since=since, upto=upto, **flags), scope=LIVE)
            told = {
                "now_ms": NOW_MS + dice.choice([0, 0, 100_000]),
                "limits": dice.choice([UNLIMITED, UNLIMITED, Limits(slots_max=3), Limits(removed=True)]),
            }
            by_the_long = sync.receive(slow, message, [one], judge=receive.LiveJudge(), **told)
            given = receive.renewed(quick, message, one, **told)
            short, long = short + (given is not None), long + (given is None)
            assert by_the_long == (given or sync.receive(quick, message, [one], **told))
            assert dump(quick) == dump(slow)
    assert min(short, long) > 40

"""What an author owes its own log, and what a removal asks of everyone."""

from __future__ import annotations

from authors import DAY_MS, NOTARY, NOW_MS, TAG, gc, gone, log_of, rec, slot, stamp

from mesh.core import folds, sync
from mesh.core.collect import (
    Collector,
    answer_strays,
    drop_removed,
    inherited,
    plan_removal,
    voids_before_drop,
)
from mesh.core.memory import MemoryLog
from mesh.core.own import Own
from mesh.core.record import GC_PATH, Kind, Op, Record
from mesh.core.removal import heard, tell
from mesh.sim.model.variants import VARIANTS
from mesh.sim.model.wire import aid_of

LATER_MS = NOW_MS + 3 * DAY_MS
ME, OTHER, GONE = aid_of(0), aid_of(1), aid_of(2)


def replica(*records: Record) -> MemoryLog:
    """What a node holds of several authors."""
    log = MemoryLog()
    for record in sorted(records, key=lambda record: record.hlc):
        sync.write(log, record)
    return log


def said(log: MemoryLog, statements: list) -> list[Record]:  # type: ignore[type-arg]
    """Write own statements, as the author does."""
    out = []
    for at, say in enumerate(statements):
        record = NOTARY.sign(ME, TAG, (LATER_MS << 16) + at, say)
        sync.write(log, record)
        out.append(record)
    return out


def test_a_delete_that_nobody_needs_is_collected_after_a_day() -> None:
    log = replica(rec(0, "kv/a", 1), gone(0, "kv/a", 2))
    assert Collector().plan(log, ME, NOW_MS + 1000) == []
    said(log, Collector().plan(log, ME, LATER_MS))
    assert list(log.slots("kv/a")) == []
    assert log.author(ME).floor == stamp(2)


def test_an_idle_author_says_no_floor() -> None:
    log = replica(rec(0, "kv/a", 1))
    assert Collector().plan(log, ME, LATER_MS) == []
    assert VARIANTS["floor-whatever-is-freed"].collector().plan(log, ME, LATER_MS) != []


def test_a_delete_that_still_beats_anothers_value_is_said_again_in_its_place() -> None:
    value, delete = rec(1, "kv/a", 1, val="v"), gone(0, "kv/a", 2)
    log = replica(value, delete, gone(0, "kv/b", 3))
    records = said(log, Collector().plan(log, ME, LATER_MS))
    again = log.get(slot(0, "kv/a"))
    assert again is not None
    assert (again.op, again.stamp) == (Op.DEL, delete.hlc)
    assert records[-1].path == GC_PATH
    assert folds.register(log.slots("kv/a"), LATER_MS) is None


def test_without_saying_it_again_the_value_comes_back() -> None:
    log = replica(rec(1, "kv/a", 1, val="v"), gone(0, "kv/a", 2))
    said(log, VARIANTS["collects-without-reissue"].collector().plan(log, ME, LATER_MS))
    assert folds.register(log.slots("kv/a"), LATER_MS) is not None


def test_a_delete_said_again_under_a_fresh_stamp_would_beat_what_was_written_since() -> None:
    for name, shown in ((None, True), ("reissues-fresh", False)):
        collector = Collector() if name is None else VARIANTS[name].collector()
        log = replica(rec(1, "kv/a", 1), gone(0, "kv/a", 2), gone(0, "kv/b", 3))
        said(log, collector.plan(log, ME, LATER_MS))
        sync.write(log, rec(2, "kv/a", 5, val="newer, by one who was cut off"))
        assert (folds.register(log.slots("kv/a"), LATER_MS) is not None) == shown


def test_an_own_value_that_anothers_record_replaced_is_withdrawn() -> None:
    mine = rec(0, "kv/m", 1, kind=Kind.MV, val=1, sees={})
    log = replica(mine, rec(1, "kv/m", 2, kind=Kind.MV, val=2, sees={ME: mine.hlc}))
    (void,) = Collector().plan(log, ME, LATER_MS)
    assert (void.op, void.asof) == (Op.VOID, mine.hlc)


def test_a_users_value_that_the_winner_had_not_seen_stays_as_a_conflict() -> None:
    log = replica(rec(0, "kv/a", 1, sees={}), rec(1, "kv/a", 2, sees={}))
    assert Collector().plan(log, ME, LATER_MS) == []


def test_an_expired_value_is_said_again_as_a_delete_where_it_is_needed() -> None:
    for name, shown in ((None, False), ("expired-is-absent", True)):
        collector = Collector() if name is None else VARIANTS[name].collector()
        log = replica(rec(1, "kv/a", 1), rec(0, "kv/a", 2, ttl=1000), gone(0, "kv/b", 2000))
        said(log, collector.plan(log, ME, LATER_MS))
        assert (folds.register(log.slots("kv/a"), LATER_MS) is not None) == shown


def test_a_delete_of_what_a_removed_author_said_waits_until_all_admins_have_spoken() -> None:
    log = replica(gone(0, "kv/m", 2, kind=Kind.MV, sees={GONE: stamp(1)}))
    waiting = {"removed": lambda aid: aid == GONE, "unheard": lambda log, aid: not heard(log, aid, OTHER)}
    collector = Collector(**waiting)  # type: ignore[arg-type]
    assert [say.op for say in collector.plan(log, ME, LATER_MS)] == []
    (told,) = tell(log, GONE, OTHER)
    log.put(NOTARY.sign(OTHER, TAG, stamp(5), told))  # it came ahead of what the admin says before it
    assert [say.op for say in collector.plan(log, ME, LATER_MS)] == []
    log.set_marks(OTHER, head=stamp(5), floor=0)
    assert tell(log, GONE, OTHER) == []
    (floor,) = collector.plan(log, ME, LATER_MS)
    assert floor.path == GC_PATH


# -- strays -------------------------------------------------------------------------------------------------


def test_a_stray_is_withdrawn() -> None:
    stray = rec(0, "kv/a", 1)
    (void,) = answer_strays(log_of(rec(0, "kv/b", 2)), Own([], [stray]), LATER_MS)
    assert (void.path, void.op) == ("kv/a", Op.VOID)


def test_a_stray_above_an_older_own_value_was_forgotten_and_is_said_again() -> None:
    old = rec(0, "kv/c", 1, kind=Kind.CTR, val=[1, 0])
    stray = rec(0, "kv/c", 2, kind=Kind.CTR, val=[3, 0])
    (say,) = answer_strays(log_of(old), Own([], [stray]), LATER_MS)
    assert (say.op, say.val[:2]) == (Op.PUT, [3, 0])
    register = answer_strays(log_of(rec(0, "kv/a", 1)), Own([], [rec(0, "kv/a", 2, val="b")]), LATER_MS)
    assert [(say.val, say.asof) for say in register] == [("b", stamp(2))]


def test_a_stray_below_a_newer_own_value_is_none_of_our_business() -> None:
    assert answer_strays(log_of(rec(0, "kv/a", 2)), Own([], [rec(0, "kv/a", 1)]), LATER_MS) == []


# -- removals -----------------------------------------------------------------------------------------------


def test_what_a_removed_author_decided_is_said_again_in_its_place() -> None:
    value = rec(2, "kv/a", 3, val="decided", sees={})
    log = replica(rec(1, "kv/a", 1, sees={}), value)
    plan = plan_removal(log, ME, GONE, LATER_MS)
    said(log, plan.statements)
    drop_removed(log, GONE, admin=False)
    shown = folds.register(log.slots("kv/a"), LATER_MS)
    assert shown is not None
    assert (shown.aid, shown.val, shown.stamp) == (ME, "decided", value.hlc)


def test_of_two_copies_of_one_value_one_shows() -> None:
    value = rec(2, "kv/m", 1, kind=Kind.MV, val="v", sees={})
    copies = []
    for author in (0, 1):
        (say,) = plan_removal(replica(value), aid_of(author), GONE, LATER_MS).statements
        copies.append(NOTARY.sign(aid_of(author), TAG, stamp(10 + author), say))
    assert [record.val for record in folds.siblings(copies, LATER_MS)] == ["v"]


def test_a_copy_is_kept_when_the_one_it_was_taken_from_is_removed_too() -> None:
    """An admin spoke for a removed author, and is removed: the second copy is the same statement."""
    for kind in (Kind.REG, Kind.MV):
        value = rec(2, "kv/a", 1, kind=kind, val="v", sees={})
        (say,) = plan_removal(replica(value), OTHER, GONE, LATER_MS).statements
        log = replica(NOTARY.sign(OTHER, TAG, stamp(10), say))
        said(log, plan_removal(log, ME, OTHER, LATER_MS).statements)
        assert voids_before_drop(log, ME, OTHER) == []
        drop_removed(log, OTHER, admin=True)
        assert [record.val for record in folds.visible(log.slots("kv/a"), kind)] == ["v"]


def test_an_own_value_that_a_removed_author_had_replaced_is_withdrawn_first() -> None:
    mine = rec(0, "kv/m", 1, kind=Kind.MV, val=1, sees={})
    log = replica(mine, gone(2, "kv/m", 2, kind=Kind.MV, sees={ME: mine.hlc}))
    (void,) = voids_before_drop(log, ME, GONE)
    assert (void.op, void.asof) == (Op.VOID, mine.hlc)


def test_a_users_value_that_a_removed_author_had_not_seen_shows_again() -> None:
    log = replica(rec(0, "kv/a", 1, sees={}), gone(2, "kv/a", 2, sees={}))
    assert voids_before_drop(log, ME, GONE) == []


def test_counters_of_the_removed_are_noted_and_the_largest_counts() -> None:
    log = replica(rec(2, "kv/c", 1, kind=Kind.CTR, val=[7, 2]))
    (piece,) = plan_removal(log, ME, GONE, LATER_MS).counters
    notes = [
        rec(author, f"removed/{GONE.hex()}", 9, kind=Kind.ALL, val={"counters": counters})
        for author, counters in ((0, piece), (1, {"kv/c": [5, 2]}))
    ]
    assert inherited(notes) == {"kv/c": 5}


def test_a_removed_admins_own_removals_outlive_it() -> None:
    log = replica(rec(2, "kv/a", 1), rec(2, f"removed/{aid_of(3).hex()}", 2, kind=Kind.ALL, val={}))
    drop_removed(log, GONE, admin=True)
    assert [record.path for record in log.since(GONE, 0)] == [f"removed/{aid_of(3).hex()}"]
    assert log.author(GONE).head == stamp(2)


def test_a_floor_is_never_said_below_the_one_in_force() -> None:
    log = replica(gone(0, "kv/a", 1), gone(0, "kv/b", 2), gc(0, 2, 3))
    assert [say.path for say in Collector().plan(log, ME, LATER_MS)] == []

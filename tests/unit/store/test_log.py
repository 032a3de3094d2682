"""One suite for what replication needs of a store: the log in RAM and the log in LMDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.core.log import NO_AUTHOR, AuthorState
from mesh.core.memory import MemoryLog
from mesh.core.record import Kind, Op, fingerprint
from mesh.store.environment import open_env
from mesh.store.log import LmdbLog
from mesh.store.watch import Change


@pytest.fixture
def lmdb_log(tmp_path) -> Iterator[LmdbLog]:
    (tmp_path / "env").mkdir()
    env, tables = open_env(tmp_path / "env", 1 << 28)
    with env.begin(write=True) as txn:
        yield LmdbLog(txn, tables, "m", [])
    env.close()


@pytest.fixture(params=["memory", "lmdb"])
def log(request):
    return MemoryLog() if request.param == "memory" else request.getfixturevalue("lmdb_log")


def test_an_empty_log_knows_nobody(log, pen):
    assert log.author(pen.aid) == NO_AUTHOR
    assert list(log.authors()) == []
    assert log.newest(pen.aid) == 0
    assert log.at(pen.aid, 1) is None
    assert list(log.since(pen.aid, 0)) == []
    assert list(log.paths("")) == []


def test_a_slot_holds_the_newest_put_and_accounts_for_it(log, pen):
    old, new = pen.say("kv/a", 1), pen.say("kv/a", "longer")
    log.put(old)
    log.put(new)
    assert log.get(new.slot) == new
    assert log.peek(new.slot) == (new.hlc, new.sig)
    assert log.at(pen.aid, old.hlc) is None
    assert log.at(pen.aid, new.hlc) == new
    assert log.author(pen.aid) == AuthorState(0, 0, 1, fingerprint(new.sig), new.size)


def test_marks_move_only_by_set_marks(log, pen):
    rec = pen.say("kv/a", 1)
    log.put(rec)
    log.set_marks(pen.aid, head=rec.hlc, floor=7)
    log.put(pen.say("kv/b", 2))
    state = log.author(pen.aid)
    assert (state.head, state.floor, state.count) == (rec.hlc, 7, 2)
    assert list(log.authors()) == [(pen.aid, state)]


def test_dropping_leaves_nothing_behind(log, pen):
    rec = pen.say("kv/a", 1, ttl=1000)
    log.put(rec)
    log.drop(rec.slot)
    log.drop(rec.slot)
    assert log.get(rec.slot) is None
    assert log.peek(rec.slot) is None
    assert list(log.since(pen.aid, 0)) == []
    assert list(log.expiring(1 << 60)) == []
    state = log.author(pen.aid)
    assert (state.count, state.fp, state.size) == (0, 0, 0)


def test_records_of_kind_log_are_slots_of_their_own(log, pen):
    entries = [pen.say("kv/log", n, kind=Kind.LOG, ttl=1000) for n in range(3)]
    for rec in entries:
        log.put(rec)
    state = log.author(pen.aid)
    assert state.count == 3
    assert state.fp == sum(fingerprint(rec.sig) for rec in entries) % 2**128
    assert state.size == sum(rec.size for rec in entries)
    assert list(log.slots("kv/log")) == entries


def test_authors_are_ascending_and_apart(log, pens):
    for pen in reversed(pens):
        log.put(pen.say("kv/a", 1))
        log.set_marks(pen.aid, head=pen.hlc, floor=0)
    assert [aid for aid, _ in log.authors()] == [pen.aid for pen in pens]
    log.drop_author(pens[0].aid)
    assert log.author(pens[0].aid) == NO_AUTHOR
    assert [aid for aid, _ in log.authors()] == [pen.aid for pen in pens[1:]]
    assert [rec.aid for rec in log.slots("kv/a")] == [pen.aid for pen in pens[1:]]


def test_slots_of_a_path_come_by_kind_author_and_hlc(log, pens):
    records = [pen.say("kv/a", 1, kind=kind) for kind in (Kind.ALL, Kind.REG, Kind.MV) for pen in pens[::-1]]
    records += [pens[0].say("kv/a", n, kind=Kind.LOG, ttl=5) for n in range(2)]
    for rec in [*records, pens[0].say("kv/ab", 1), pens[0].say("kv/a/b", 1), pens[0].say("kv/A", 1)]:
        log.put(rec)
    assert list(log.slots("kv/a")) == sorted(records, key=lambda rec: (rec.kind, rec.aid, rec.hlc))


def test_paths_are_distinct_ascending_and_begin_where_told(log, pens):
    paths = ["kv/a", "kv/a%20b", "kv/a-b", "kv/a/b", "kv/ab", "kv/b", "member/x", "~gc"]
    for pen in pens:
        for path in paths:
            log.put(pen.say(path, 1))
    assert list(log.paths("")) == sorted(paths)
    assert list(log.paths("kv/a")) == sorted(path for path in paths if path.startswith("kv/a"))
    assert list(log.paths("kv/", "kv/a/b")) == ["kv/a/b", "kv/ab", "kv/b"]
    assert list(log.paths("kv/", "kv/a.")) == ["kv/a/b", "kv/ab", "kv/b"]
    assert list(log.paths("nothing")) == []
    assert list(log.paths("kv/", "zzz")) == []


def test_since_is_the_authors_log_by_hlc(log, pens):
    records = {pen.aid: [pen.say(f"kv/{n}", n) for n in range(5)] for pen in pens}
    for group in records.values():
        for rec in reversed(group):
            log.put(rec)
    for aid, group in records.items():
        assert list(log.since(aid, 0)) == group
        assert list(log.since(aid, group[2].hlc)) == group[3:]
        assert list(log.since(aid, group[-1].hlc)) == []
        assert list(log.since(aid, (1 << 64) - 1)) == []
        assert log.newest(aid) == group[-1].hlc


def test_expiry_is_soonest_first_and_follows_the_slot(log, pen, start_ms):
    late = pen.say("kv/late", 1, ttl=60_000)
    soon = pen.say("kv/soon", 1, ttl=1_000)
    for rec in (late, soon, pen.say("kv/never", 1)):
        log.put(rec)
    assert list(log.expiring(start_ms)) == []
    assert list(log.expiring(soon.expiry_ms - 1)) == []
    assert list(log.expiring(soon.expiry_ms)) == [soon]
    assert list(log.expiring(late.expiry_ms)) == [soon, late]
    log.put(pen.say("kv/soon", 2))
    assert list(log.expiring(late.expiry_ms)) == [late]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_both_logs_are_the_same_after_any_changes(data, lmdb_log, pens):
    for pen in pens:
        lmdb_log.drop_author(pen.aid)
    lmdb_log.flush()
    ram = MemoryLog()
    paths = ["kv/a", "kv/b", "kv/a/c", "member/x"]
    steps = st.tuples(
        st.sampled_from(["put", "drop", "marks", "forget"]), st.integers(0, 3), st.integers(0, 3)
    )
    for what, who, where in data.draw(st.lists(steps, max_size=40)):
        pen, path = pens[who], paths[where]
        kind = data.draw(st.sampled_from(list(Kind)))
        ttl = data.draw(st.sampled_from([None, 5, 50_000])) if kind != Kind.LOG else 100
        rec = pen.say(path, where, kind=kind, ttl=ttl, op=data.draw(st.sampled_from(list(Op))))
        old = data.draw(st.sampled_from([rec, *ram.since(pen.aid, 0)])).slot
        for log in (ram, lmdb_log):
            if what == "put":
                log.put(rec)
            elif what == "drop":
                log.drop(old)
            elif what == "marks":
                log.set_marks(pen.aid, head=rec.hlc, floor=where)
            else:
                log.drop_author(pen.aid)
        if data.draw(st.booleans()):
            lmdb_log.flush()
    for pen in pens:
        assert ram.author(pen.aid) == lmdb_log.author(pen.aid)
        assert list(ram.since(pen.aid, 0)) == list(lmdb_log.since(pen.aid, 0))
        assert ram.newest(pen.aid) == lmdb_log.newest(pen.aid)
    assert list(ram.paths("")) == list(lmdb_log.paths(""))
    for path in paths:
        assert list(ram.slots(path)) == list(lmdb_log.slots(path))
    assert list(ram.expiring(1 << 62)) == list(lmdb_log.expiring(1 << 62))
    known = [(aid, state) for aid, state in ram.authors() if state != NO_AUTHOR]
    assert known == list(lmdb_log.authors())


def test_every_change_is_told_in_order(lmdb_log, pen):
    rec = pen.say("kv/a", 1)
    lmdb_log.put(rec)
    lmdb_log.drop(rec.slot)
    told = lmdb_log._changes
    assert told == [
        Change("m", "kv/a", Kind.REG, pen.aid, rec.hlc, rec),
        Change("m", "kv/a", Kind.REG, pen.aid, rec.hlc, None),
    ]
    assert [change.op for change in told] == [Op.PUT, None]


def test_entries_of_a_log_are_merged_from_their_authors_in_both_directions(lmdb_log, pens):
    entries = []
    for number in range(40):
        pen = pens[number * 7 % 3]
        pen.hlc = max(other.hlc for other in pens)
        entries.append(pen.say("kv/log", number, kind=Kind.LOG, ttl=1000 + number))
        for rec in (
            entries[-1],
            pen.say("kv/log", number, kind=Kind.CTR),
            pen.say("kv/log/x", 1, kind=Kind.LOG, ttl=1),
        ):
            lmdb_log.put(rec)
    assert list(lmdb_log.entries("kv/log", lambda aid: 0)) == entries
    assert list(lmdb_log.entries("kv/log", lambda aid: 0, newest_first=True)) == entries[::-1]
    half = entries[20].hlc
    assert list(lmdb_log.entries("kv/log", lambda aid: half)) == entries[21:]
    assert list(lmdb_log.entries("kv/log", lambda aid: half, newest_first=True)) == entries[:20:-1]
    left = [rec for rec in entries if rec.aid != pens[0].aid]
    assert list(lmdb_log.entries("kv/log", lambda aid: None if aid == pens[0].aid else 0)) == left
    assert list(lmdb_log.entries("kv/log", lambda aid: (1 << 64) - 1)) == []
    assert list(lmdb_log.entries("kv/lo", lambda aid: 0)) == []
    newest = {rec.aid: (rec.hlc, rec.expiry_ms) for rec in entries}
    assert lmdb_log.log_ends("kv/log") == newest

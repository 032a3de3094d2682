"""The one writer: jobs share commits, each fails alone, nothing is told before it is on disk."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.config import Store as Settings
from mesh.errors import Conflict, StoreError, StoreFull
from mesh.store import writer
from mesh.store.store import Store


async def test_a_write_is_visible_and_told_once_it_returns(store, pen, putting):
    told = []
    store.add_listener(told.extend)
    rec = pen.say("kv/a", 1)
    assert await store.write(putting(rec)) == 1
    with store.read("m") as log:
        assert log.get(rec.slot) == rec
        assert log.author(pen.aid).head == rec.hlc
    assert [(change.scope, change.path, change.record) for change in told] == [("m", "kv/a", rec)]


async def test_writers_at_the_same_time_share_commits(store, pen, putting):
    before = store.stats()["commits"]
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(store.write, putting(pen.say(f"kv/{number}", number)))
    assert store.stats()["commits"] - before <= 3
    with store.read("m") as log:
        assert log.author(pen.aid).count == 200


async def test_a_job_that_raises_loses_only_itself(store, pen, putting):
    good, bad = [pen.say(f"kv/good{n}", n) for n in range(3)], pen.say("kv/bad", 1)
    answers = {}

    def refuses(txn):
        putting(bad)(txn)
        txn.put_meta("left", b"over")
        raise Conflict("no")

    async def call(name, job):
        try:
            answers[name] = await store.write(job)
        except Conflict as error:
            answers[name] = error.message

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "first", putting(pen.say("kv/first", 0)))
        await trio.testing.wait_all_tasks_blocked(0)
        for name, job in (("a", putting(good[0])), ("bad", refuses), ("b", putting(good[1], good[2]))):
            nursery.start_soon(call, name, job)
    assert answers == {"first": 1, "a": 1, "bad": "no", "b": 2}
    assert store.meta("left") is None
    with store.read("m") as log:
        assert [log.get(rec.slot) for rec in good] == good
        assert log.get(bad.slot) is None
        assert log.author(pen.aid).count == 4


async def test_a_job_that_refuses_before_writing_costs_the_others_nothing(store, pen, putting):
    runs = []

    def counted(txn):
        runs.append(1)
        return putting(pen.say("kv/a", 1))(txn)

    def refuses(txn):
        raise Conflict("no")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, putting(pen.say("kv/first", 0)))
        await trio.testing.wait_all_tasks_blocked(0)
        nursery.start_soon(store.write, counted)
        with pytest.raises(Conflict):
            await store.write(refuses)
    assert len(runs) == 1


async def test_a_job_that_only_looks_costs_no_commit(store, pen, putting):
    await store.write(putting(pen.say("kv/a", 1)))
    before = store.stats()["commits"]
    assert await store.write(lambda txn: txn.log("m").author(pen.aid).count) == 1
    assert store.stats()["commits"] == before


async def test_a_job_sees_what_jobs_before_it_wrote(store, pen, putting):
    def appends(txn):
        seen = txn.meta("list") or b""
        txn.put_meta("list", seen + b"x")
        return len(seen)

    results = []

    async def call():
        results.append(await store.write(appends))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(call)
    assert sorted(results) == list(range(20))
    assert store.meta("list") == b"x" * 20


async def test_a_lingering_job_after_another_waits_for_company_and_a_local_one_takes_it_along(
    open_store, pen, putting, nursery
):
    store = open_store(settings=Settings(ballast_bytes=0, linger_ms=10_000))
    await nursery.start(store.run)
    await store.write(putting(pen.say("kv/first", 1)), linger=True)
    before = store.stats()["commits"]
    async with trio.open_nursery() as callers:
        callers.start_soon(lambda: store.write(putting(pen.say("kv/foreign", 1)), linger=True))
        await trio.testing.wait_all_tasks_blocked()
        with store.read("m") as log:
            assert list(log.paths("")) == ["kv/first"]
        await store.write(putting(pen.say("kv/local", 1)))
    assert store.stats()["commits"] == before + 1


@pytest.mark.parametrize(("flash_saver", "waits_s"), [(False, (0.0, 0.02)), (True, (1.0, 1.0))])
async def test_a_lingering_job_is_committed_at_once_when_alone_and_soon_when_it_follows_another(
    open_store, pen, putting, autojump_clock, nursery, flash_saver, waits_s
):
    settings = Settings(ballast_bytes=0, linger_ms=20, flash_saver=flash_saver)
    store = open_store(settings=settings, simulated=True)
    await nursery.start(store.run)
    for number, wait_s in enumerate(waits_s):
        start = trio.current_time()
        await store.write(putting(pen.say(f"kv/foreign/{number}", 1)), linger=True)
        assert trio.current_time() - start == pytest.approx(wait_s)


async def test_a_long_job_lets_the_loop_breathe_and_others_wait_for_it(store, pen, putting):
    order = []

    def long_job(txn):
        for number in range(5):
            putting(pen.say(f"kv/{number}", number))(txn)
            order.append(number)
            yield
        return "done"

    async def other():
        await store.write(lambda txn: order.append("other"))

    ticks = 0

    async def tick():
        nonlocal ticks
        while "other" not in order:
            ticks += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        result = []

        async def call():
            result.append(await store.write(long_job))

        nursery.start_soon(call)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(other)
    assert result == ["done"]
    assert order == [0, 1, 2, 3, 4, "other"]
    assert ticks >= 5


async def test_a_long_job_that_raises_late_leaves_nothing(store, pen, putting):
    def long_job(txn):
        putting(pen.say("kv/half", 1))(txn)
        yield
        raise Conflict("late")

    with pytest.raises(Conflict):
        await store.write(long_job)
    with store.read("m") as log:
        assert list(log.paths("")) == []
    await store.write(putting(pen.say("kv/after", 1)))


async def test_a_cancelled_callers_job_is_committed_all_the_same(store, pen, putting):
    rec = pen.say("kv/a", 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.write(putting(rec))
    assert scope.cancelled_caught
    await store.write(putting(pen.say("kv/b", 1)))
    with store.read("m") as log:
        assert log.get(rec.slot) == rec


async def test_what_was_accepted_is_committed_when_the_writer_is_cancelled(open_store, pen, putting, running):
    store = open_store()
    async with trio.open_nursery() as callers, running(store):
        for number in range(50):
            callers.start_soon(store.write, putting(pen.say(f"kv/{number}", number)))
        callers.start_soon(lambda: store.write(putting(pen.say("kv/lingers", 1)), linger=True))
        await trio.testing.wait_all_tasks_blocked(0)
    with store.read("m") as log:
        assert log.author(pen.aid).count == 51
    with pytest.raises(StoreError, match="closed"):
        await store.write(putting(pen.say("kv/late", 1)))


async def test_a_write_before_the_writer_runs_waits_for_it(open_store, pen, putting, nursery):
    store = open_store()
    done = trio.Event()

    async def early():
        await store.write(putting(pen.say("kv/early", 1)))
        done.set()

    nursery.start_soon(early)
    await trio.testing.wait_all_tasks_blocked()
    await nursery.start(store.run)
    await done.wait()


async def test_too_many_waiting_jobs_hold_their_callers(open_store, pen, putting, nursery):
    store = open_store()
    async with trio.open_nursery() as callers:
        for number in range(writer.QUEUE_MAX + 50):
            callers.start_soon(store.write, putting(pen.say(f"kv/{number}", number)))
        await trio.testing.wait_all_tasks_blocked()
        assert store.stats()["waiting"] == writer.QUEUE_MAX
        await nursery.start(store.run)
    with store.read("m") as log:
        assert log.author(pen.aid).count == writer.QUEUE_MAX + 50


async def test_a_full_map_grows_and_nobody_notices(open_store, pens, putting, nursery, monkeypatch):
    monkeypatch.setattr("mesh.store.environment._map_bytes", lambda wanted: 256 << 10)
    store = open_store()
    await nursery.start(store.run)
    size = store.stats()["map_bytes"]

    async def write(pen):
        for number in range(300):
            await store.write(putting(pen.say(f"kv/{number}", "x" * 1000)))

    async with trio.open_nursery() as callers:
        for pen in pens:
            callers.start_soon(write, pen)
    assert store.stats()["map_bytes"] > size
    with store.read("m") as log:
        for pen in pens:
            assert log.author(pen.aid).count == 300
            assert len(list(log.since(pen.aid, 0))) == 300


async def test_a_map_that_cannot_grow_refuses_the_write_and_lives_on(
    open_store, pen, putting, nursery, monkeypatch
):
    monkeypatch.setattr("mesh.store.environment._map_bytes", lambda wanted: 256 << 10)
    monkeypatch.setattr(writer, "MAP_BYTES_MAX", 1 << 20)
    store = open_store()
    await nursery.start(store.run)

    async def write_until_refused():
        for number in range(2000):
            await store.write(putting(pen.say(f"kv/{number}", "x" * 1000)))

    with pytest.raises(StoreFull, match="cannot grow"):
        await write_until_refused()
    with store.read("m") as log:
        first = next(log.since(pen.aid, 0))
    await store.write(lambda txn: txn.log("m").drop(first.slot), spare=True)


async def test_metadata_is_written_and_removed(store):
    await store.write(lambda txn: txn.put_meta("name", b"value"))
    assert store.meta("name") == b"value"
    await store.write(lambda txn: txn.put_meta("name", None))
    assert store.meta("name") is None


async def test_commit_numbers_grow_and_survive(open_store, pen, putting, running):
    store = open_store()
    async with running(store):
        await store.write(putting(pen.say("kv/a", 1)))
        first = store.commit_number
        await store.write(putting(pen.say("kv/b", 1)))
        assert store.commit_number == first + 1
    store.close()
    assert open_store().commit_number == first + 1


async def test_a_read_sees_the_committed_state_only(store, pen, putting):
    seen = []

    def job(txn):
        putting(pen.say("kv/a", 1))(txn)
        with store.read("m") as log:
            seen.append(list(log.paths("")))

    await store.write(job)
    assert seen == [[]]


def test_a_closed_store_says_so(open_store):
    store: Store = open_store()
    store.close()
    with pytest.raises(StoreError, match="closed"), store.read("m"):
        pass


async def test_a_slow_job_that_nobody_waits_behind_is_committed_without_another_turn(
    store, pen, putting, monkeypatch
):
    monkeypatch.setattr(writer, "SLICE_S", -1.0)
    fills = []
    fill = writer.Writer._fill

    def counted(self):
        fills.append(1)
        fill(self)

    monkeypatch.setattr(writer.Writer, "_fill", counted)
    assert await store.write(putting(pen.say("kv/slow", 1))) == 1
    assert len(fills) == 1

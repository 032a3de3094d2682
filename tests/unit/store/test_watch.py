"""Watches tell which paths changed, never lose the newest state, and never grow with what happens."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.config import Store as Settings
from mesh.core.record import LIVE, Kind
from mesh.errors import UsageError
from mesh.store.watch import RING_PATHS_MAX, Cursor, Rounds


async def next_of(watch):
    with trio.fail_after(60):
        return await anext(watch)


async def test_a_watch_gives_the_paths_under_its_prefix_that_changed(store, pen, putting):
    with store.watch("kv/a", "m") as watch:
        await store.write(putting(pen.say("kv/a/2", 1), pen.say("kv/b", 1), pen.say("kv/a/1", 1)))
        seen = await next_of(watch)
        assert (seen.paths, seen.rescan) == (["kv/a/1", "kv/a/2"], False)


async def test_many_changes_of_one_path_come_as_one(store, pen, putting):
    with store.watch("kv/", "m") as watch:
        for value in range(20):
            await store.write(putting(pen.say("kv/a", value)))
        assert (await next_of(watch)).paths == ["kv/a"]
        with trio.move_on_after(0) as scope:
            await anext(watch)
        assert scope.cancelled_caught


async def test_other_scopes_and_longer_prefixes_are_not_told(store, pen, putting):
    with store.watch("kv/long/prefix", "m") as watch, store.watch("", "z") as other:
        await store.write(putting(pen.say("kv/lo", 1)))
        for quiet in (watch, other):
            with trio.move_on_after(0) as scope:
                await anext(quiet)
            assert scope.cancelled_caught


async def test_a_cursor_resumes_where_it_was(store, pen, putting):
    with store.watch("kv/", "m") as watch:
        await store.write(putting(pen.say("kv/a", 1)))
        cursor = (await next_of(watch)).cursor
    await store.write(putting(pen.say("kv/b", 1)))
    await store.write(putting(pen.say("kv/c", 1), pen.say("other", 1)))
    with store.watch("kv/", "m", Cursor.parse(str(cursor))) as watch:
        seen = await next_of(watch)
        assert (seen.paths, seen.rescan) == (["kv/b", "kv/c"], False)
        assert seen.cursor.number == cursor.number + 2


async def test_a_cursor_that_is_up_to_date_waits(store, pen, putting):
    await store.write(putting(pen.say("kv/a", 1)))
    with store.watch("", "m") as watch:
        cursor = watch.cursor
    with store.watch("", "m", cursor) as watch:
        with trio.move_on_after(0) as scope:
            await anext(watch)
        assert scope.cancelled_caught


async def test_a_cursor_that_is_too_old_means_rescan(open_store, pen, putting, nursery):
    store = open_store(settings=Settings(ballast_bytes=0, watch_commits_max=16))
    await nursery.start(store.run)
    with store.watch("", "m") as watch:
        cursor = watch.cursor
    for number in range(17):
        await store.write(putting(pen.say(f"kv/{number}", 1)))
    with store.watch("", "m", cursor) as watch:
        assert (await next_of(watch)).rescan


async def test_a_cursor_of_another_opening_means_rescan(open_store, pen, putting, running):
    store = open_store()
    async with running(store):
        await store.write(putting(pen.say("kv/a", 1)))
        with store.watch("", "m") as watch:
            cursor = watch.cursor
    store.close()
    store = open_store()
    async with running(store):
        with store.watch("", "m", cursor) as watch:
            seen = await next_of(watch)
            assert (seen.paths, seen.rescan) == ([], True)


async def test_a_cursor_from_the_future_means_rescan(store):
    with store.watch("", "m") as watch:
        future = watch.cursor._replace(number=10**9)
    with store.watch("", "m", future) as watch:
        assert (await next_of(watch)).rescan


async def test_a_watcher_that_sleeps_holds_a_bounded_set(store, pen, putting):
    with store.watch("kv/", "m", paths_max=10) as watch:
        for number in range(11):
            await store.write(putting(pen.say(f"kv/{number}", 1)))
        seen = await next_of(watch)
        assert (seen.paths, seen.rescan) == ([], True)
        await store.write(putting(pen.say("kv/a", 1)))
        assert (await next_of(watch)).paths == ["kv/a"]


def test_the_kept_rounds_are_bounded_in_paths_too():
    rounds = Rounds("epoch", 1000)
    for number in range(4):
        rounds.changed([f"kv/{number}/{n}" for n in range(RING_PATHS_MAX // 3)])
    assert rounds._kept_paths <= RING_PATHS_MAX
    assert rounds.watch("", Cursor("epoch", 0), 10)._rescan
    assert not rounds.watch("", Cursor("epoch", 3), RING_PATHS_MAX)._rescan


async def test_a_changed_policy_makes_every_watch_read_anew(store, pen, putting):
    with store.watch("kv/", "m") as first, store.watch("", "z") as second:
        cursor = first.cursor
        store.dirty_watches()
        assert (await next_of(first)).rescan
        assert (await next_of(second)).rescan
    with store.watch("kv/", "m", cursor) as resumed:
        assert (await next_of(resumed)).rescan


async def test_closing_a_watch_ends_its_reader(store, autojump_clock):
    watch = store.watch("", "m")

    async def read():
        async for _ in watch:
            pass
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        watch.close()
        watch.close()


async def test_what_expires_is_told_once(store, pen, putting, start_ms):
    store.expire(start_ms)
    rec = pen.say("kv/a", 1, ttl=1000)
    live = pen.say("node/x", 1, kind=Kind.ALL, ttl=2000)
    await store.write(putting(rec, pen.say("kv/b", 1)))
    store.live.put(live)
    assert store.next_expiry_ms(start_ms) == rec.expiry_ms
    with store.watch("", "m") as durable, store.watch("", LIVE) as lives:
        assert store.expire(rec.expiry_ms - 1) == []
        assert store.expire(rec.expiry_ms) == [("m", "kv/a")]
        assert (await next_of(durable)).paths == ["kv/a"]
        assert store.expire(rec.expiry_ms) == []
        assert store.next_expiry_ms(rec.expiry_ms) == live.expiry_ms
        assert store.expire(live.expiry_ms + 5) == [("l", "node/x")]
        assert (await next_of(lives)).paths == ["node/x"]
    assert store.next_expiry_ms(live.expiry_ms) is None


async def test_a_clock_that_jumps_back_expires_nothing_twice(store, pen, putting, start_ms):
    rec = pen.say("kv/a", 1, ttl=1000)
    await store.write(putting(rec))
    store.expire(start_ms)
    assert store.expire(rec.expiry_ms) == [("m", "kv/a")]
    assert store.expire(start_ms) == []
    assert store.expire(rec.expiry_ms + 1) == []


async def test_changes_of_the_live_scope_are_told_at_once(store, pen):
    told = []
    store.add_listener(lambda changes: told.append([change.path for change in changes]))
    first, second = pen.say("node/a", 1, kind=Kind.ALL, ttl=5), pen.say("node/b", 1, kind=Kind.ALL, ttl=5)
    with store.watch("node/", LIVE) as watch:
        store.live.put(first)
        store.write_live([second])
        store.live.drop(first.slot)
        with store.live.together():
            store.live.put(first.__class__(*[getattr(first, name) for name in first.__struct_fields__]))
            store.live.drop(second.slot)
        store.live.drop_author(pen.aid)
        assert (await next_of(watch)).paths == ["node/a", "node/b"]
    assert told == [["node/a"], ["node/b"], ["node/a"], ["node/a", "node/b"], ["node/a"]]


@pytest.mark.parametrize("text", ["", "abc", "abc.", "abc.x", ".", "a.-1", "a.1" + "0" * 80])
def test_a_malformed_cursor_is_refused(text):
    with pytest.raises(UsageError, match="cursor"):
        Cursor.parse(text)


async def test_a_listener_that_follows_no_user_data_hears_of_the_rest_alone(store, pen, putting):
    told, rest = [], []
    store.add_listener(lambda changes: told.append([change.path for change in changes]))
    store.add_listener(lambda changes: rest.append([change.path for change in changes]), user_data=False)
    await store.write(putting(pen.say("kv/a", 1)))
    await store.write(putting(pen.say("kv/b", 1), pen.say("topic/b", 1), pen.say("wl/b", 1)))
    assert told == [["kv/a"], ["kv/b", "topic/b", "wl/b"]]
    assert rest == [["wl/b"]]


async def test_who_was_hushed_hears_of_no_commit_and_what_was_accepted_is_there(store, pen, putting):
    told = []
    store.add_listener(lambda changes: told.append([change.path for change in changes]))
    await store.write(putting(pen.say("kv/a", 1)))
    store.hush()
    await store.write(putting(pen.say("kv/b", 1)))
    assert told == [["kv/a"]]
    with store.read("m") as log:
        assert list(log.paths("kv/")) == ["kv/a", "kv/b"]


async def test_a_listener_sees_its_author_as_the_commit_left_it(store, pen, putting):
    seen = []
    store.add_listener(lambda changes: seen.append(store.author("m", pen.aid)))
    for number in range(3):
        await store.write(putting(pen.say(f"kv/{number}", 1)))
        with store.read("m") as log:
            assert seen[-1] == log.author(pen.aid) == store.author("m", pen.aid)
    assert [state.count for state in seen] == [1, 2, 3]

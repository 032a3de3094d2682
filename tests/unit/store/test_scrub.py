"""Damaged rows are found, never believed, dropped, and leave what makes the others send them again."""

from __future__ import annotations

import pytest
import trio

from mesh.config import Store as Settings
from mesh.core.log import AuthorState
from mesh.core.record import Kind, Op, fingerprint
from mesh.errors import StoreError
from mesh.store import rows
from mesh.store.addresses import Known
from mesh.store.rows import Damaged


async def damage(store, table, key=None, *, drop=False):
    """Flip a bit in a stored value, or lose a row, behind the store's back."""
    handle = getattr(store._tables, table)

    def job(txn):
        cursor = txn.raw.cursor(db=handle)
        assert cursor.set_range(key) if key else cursor.first()
        found, value = cursor.item()
        changed = value[:-1] + bytes([value[-1] ^ 0x10])
        txn.put_row(handle, found, None if drop else changed)
        return found

    return await store.write(job)


def wanted_state(records, head, floor=0):
    fp = sum(fingerprint(rec.sig) for rec in records) % 2**128
    count = len(records)
    return AuthorState(head, floor, count, fp, sum(rec.size for rec in records))


async def some_records(store, pens, putting):
    records = {}
    for pen in pens:
        mine = [pen.say(f"kv/{n}", n, ttl=60_000 if n % 2 else None) for n in range(6)]
        mine.append(pen.say("kv/log", 1, kind=Kind.LOG, ttl=60_000))
        await store.write(putting(*mine))
        records[pen.aid] = mine
    return records


def assert_sound(store, records, heads=None):
    with store.read("m") as log:
        for aid, mine in records.items():
            head = mine[-1].hlc if heads is None or aid not in heads else heads[aid]
            assert log.author(aid) == wanted_state(mine, head)
            assert list(log.since(aid, 0)) == mine
        every = [rec for mine in records.values() for rec in mine]
        assert sorted(rec.hlc for rec in log.expiring(1 << 62)) == sorted(rec.hlc for rec in every if rec.ttl)


async def test_a_sound_store_has_nothing_to_mend(store, pens, putting):
    await some_records(store, pens, putting)
    await store.put_address(Known(pens[0].public, [], 1))
    await store.write(putting(pens[0].say("kv/0", 2)))
    assert await store.tender.scrub() == 0
    assert store.stats()["mended"] == 0


@pytest.mark.parametrize("drop", [False, True])
async def test_a_damaged_record_is_dropped_and_the_fingerprint_follows(store, pens, putting, drop):
    records = await some_records(store, pens, putting)
    told = []
    store.add_listener(told.extend)
    victim = records[pens[0].aid][1]
    await damage(store, "rec", rows.slot_key(b"m", victim.slot), drop=drop)
    assert await store.tender.scrub() >= 1
    records[pens[0].aid].remove(victim)
    assert_sound(store, records)
    if not drop:
        assert [(change.path, change.record) for change in told] == [("kv/1", None)]
    assert await store.tender.scrub() == 0


@pytest.mark.parametrize("table", ["log", "exp"])
@pytest.mark.parametrize("drop", [False, True])
async def test_a_damaged_order_is_rebuilt(store, pens, putting, table, drop):
    records = await some_records(store, pens, putting)
    await damage(store, table, drop=drop)
    assert await store.tender.scrub() >= 1
    assert_sound(store, records)
    assert await store.tender.scrub() == 0


async def test_a_lost_head_falls_to_zero_but_our_own_does_not(store, pens, putting):
    records = await some_records(store, pens, putting)
    store.tender.me = pens[0].aid
    for pen in pens[:2]:
        await damage(store, "heads", b"m" + pen.aid)
    assert await store.tender.scrub() == 2
    assert_sound(store, records, heads={pens[1].aid: 0})
    assert await store.tender.scrub() == 0


async def test_a_lost_floor_is_what_the_author_said(store, pen, putting):
    gc = pen.say("~gc", 1)
    floor = gc.hlc - 5
    gc = pen.say("~gc", floor, hlc=gc.hlc)
    rec = pen.say("kv/a", 1)
    await store.write(putting(gc, rec))
    store.tender.me = pen.aid
    await damage(store, "heads", b"m" + pen.aid)
    await store.tender.scrub()
    with store.read("m") as log:
        assert log.author(pen.aid) == wanted_state([gc, rec], rec.hlc, floor)


async def test_a_wrong_count_is_found_and_mended(store, pens, putting):
    records = await some_records(store, pens, putting)
    aid = pens[0].aid
    key = b"m" + aid
    wrong = wanted_state(records[aid][1:], records[aid][-1].hlc)
    await store.write(lambda txn: txn.put_row(store._tables.heads, key, rows.pack_state(key, wrong)))
    assert await store.tender.scrub() == 1
    assert_sound(store, records)


async def test_a_reader_of_a_damaged_record_is_told_and_it_is_mended_at_once(store, pens, putting):
    records = await some_records(store, pens, putting)
    victim = records[pens[0].aid][0]
    noted = []
    store.tender.on_damage = noted.append
    await damage(store, "rec", rows.slot_key(b"m", victim.slot))
    with pytest.raises(Damaged), store.read("m") as log:
        log.get(victim.slot)
    assert [error.table for error in noted] == ["rec"]
    while store.stats()["mended"] == 0:
        await trio.sleep(0.001)
    with store.read("m") as log:
        assert log.get(victim.slot) is None
    assert store.stats()["damaged"] == 0


async def test_a_writer_that_meets_damage_fails_alone_and_may_try_again(store, pens, putting):
    records = await some_records(store, pens, putting)
    pen = pens[0]
    await damage(store, "rec", rows.slot_key(b"m", records[pen.aid][0].slot))
    new = pen.say("kv/0", "new")
    with pytest.raises(StoreError, match="damaged"):
        await store.write(putting(new))
    while store.stats()["mended"] == 0:
        await trio.sleep(0.001)
    await store.write(putting(new))
    records[pen.aid] = [*records[pen.aid][1:], new]
    assert_sound(store, records)


@pytest.mark.parametrize("table", ["hist", "ring", "addr"])
async def test_rows_that_are_nobodys_are_dropped(store, pen, putting, table):
    await store.write(putting(pen.say("kv/a", 1)))
    await store.write(putting(pen.say("kv/a", 2)))
    await store.put_address(Known(pen.public, ["/ip4/10.0.0.1/tcp/1"], 5))
    await damage(store, table)
    assert await store.tender.scrub() >= 1
    assert await store.tender.scrub() == 0
    if table == "addr":
        assert store.addresses() == []
    else:
        assert store.replaced("m", "kv/a") == []


async def test_a_damaged_identity_is_written_again(store):
    mesh = store.meta("mesh")
    await damage(store, "meta", b"mesh")
    assert await store.tender.scrub() == 1
    assert store.meta("mesh") == mesh


async def test_scrubbing_goes_on_by_itself(open_store, pen, putting, nursery):
    store = open_store(settings=Settings(ballast_bytes=0, scrub_interval_s=0.001))
    await nursery.start(store.run)
    await store.write(putting(*(pen.say(f"kv/{n}", n, op=Op.PUT) for n in range(50))))
    await damage(store, "rec")
    with trio.fail_after(60):
        while store.stats()["mended"] == 0:
            await trio.sleep(0.01)


async def test_addresses_are_last_seen_first_and_bounded(store, pens, monkeypatch):
    monkeypatch.setattr("mesh.store.addresses.MEMBERS_MAX", 3)
    for number, pen in enumerate(pens):
        await store.put_address(Known(pen.public, [f"/ip4/10.0.0.{n}/tcp/1" for n in range(20)], number))
    await store.put_address(Known(pens[1].public, ["/ip4/10.1.1.1/tcp/1"], 50))
    known = store.addresses()
    assert [entry.public for entry in known] == [pens[1].public, pens[3].public, pens[2].public]
    assert known[0].addresses == ["/ip4/10.1.1.1/tcp/1"]
    assert len(known[1].addresses) == 8


async def test_replaced_values_are_kept_in_a_bounded_ring(open_store, pens, putting, nursery):
    store = open_store(settings=Settings(ballast_bytes=0, history_max=20))
    await nursery.start(store.run)
    pen, other = pens[:2]
    values = [pen.say("kv/a", n) for n in range(30)]
    for rec in values:
        await store.write(putting(rec))
    assert store.replaced("m", "kv/a") == values[-17:-1]
    for number in range(10):
        for value in range(2):
            await store.write(putting(other.say(f"kv/b{number}", value)))
    assert len(store.replaced("m", "kv/a")) == 10
    assert store.stats()["hist_rows"] == store.stats()["ring_rows"] == 20
    await store.write(putting(pen.say("member/x", 1)))
    await store.write(putting(pen.say("member/x", 2)))
    assert store.replaced("m", "member/x") == []


async def test_a_vote_that_was_damaged_takes_the_voters_seat_along(store):
    def vote(txn):
        for name in ("px/cell/main/00/a", "px/seat", "other"):
            txn.put_meta(name, b"x")

    await store.write(vote)
    await damage(store, "meta", b"px/cell/")
    assert await store.tender.scrub() == 1
    assert store.meta("px/cell/main/00/a") is None
    assert store.meta("px/seat") is None
    assert store.meta("other") == b"x"
    assert await store.write(lambda txn: list(txn.names("px/"))) == []

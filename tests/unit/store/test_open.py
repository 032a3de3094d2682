"""Opening a store: ours or not, in order or not; what is damaged is put aside and never believed."""

from __future__ import annotations

import os
import subprocess
import sys

import lmdb
import pytest

from mesh.config import Store as Settings
from mesh.errors import StoreError
from mesh.store import environment, rows
from mesh.store.addresses import Known


def kill(store):
    """Leave the store as a killed process leaves it."""
    store._closed = True
    store._env.close()
    os.close(store._lock)


async def fill(store, running, putting, *records, scope="m"):
    async with running(store):
        await store.write(putting(*records, scope=scope))


async def test_what_was_written_is_there_after_a_restart(open_store, running, pen, putting):
    rec = pen.say("kv/a", {"b": [1, None, b"x"]})
    store = open_store()
    assert store.opened.created
    await fill(store, running, putting, rec)
    generation = store.generation
    store.close()
    again = open_store()
    assert again.opened == environment.Opened()
    assert again.generation == generation
    with again.read("m") as log:
        assert log.get(rec.slot) == rec


async def test_a_kill_loses_nothing_and_the_file_is_checked(open_store, running, pen, putting):
    rec = pen.say("kv/a", 1, ttl=10**9)
    store = open_store()
    await fill(store, running, putting, rec)
    kill(store)
    again = open_store()
    assert again.opened == environment.Opened(checked=True)
    with again.read("m") as log:
        assert log.get(rec.slot) == rec


def test_a_second_process_is_refused_by_the_first_ones_pid(open_store, home):
    open_store()
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
        open_store()
    code = (
        "from mesh.store.store import Store\n"
        "from mesh.errors import StoreError\n"
        "import sys\n"
        "try:\n"
        "    Store.open(sys.argv[1], mesh_id=b'mesh-of-the-test', zone='default')\n"
        "except StoreError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
    assert f"in use by process {os.getpid()}" in done.stdout


def test_a_store_of_another_mesh_is_refused(open_store):
    open_store().close()
    with pytest.raises(StoreError, match="belongs to mesh"):
        open_store(mesh_id=b"another-mesh-id!")
    open_store()


async def test_a_store_of_another_zone_is_refused_unless_the_node_moved(open_store, running, pen, putting):
    store = open_store()
    await fill(store, running, putting, pen.say("kv/zone", 1, ttl=5), pen.say("kv/zone", 2), scope="z")
    keeps = pen.say("kv/mesh", 1)
    store.close()
    store = open_store()
    await fill(store, running, putting, keeps, pen.say("kv/twice", 1), pen.say("kv/twice", 2))
    store.close()
    with pytest.raises(StoreError, match="zone 'default'"):
        open_store(zone="attic")
    moved = open_store(zone="attic", new_zone=True)
    with moved.read("z") as log:
        assert list(log.paths("")) == []
        assert list(log.authors()) == []
        assert list(log.expiring(1 << 62)) == []
        assert log.replaced("kv/zone") == []
    with moved.read("m") as log:
        assert log.get(keeps.slot) == keeps
        assert len(log.replaced("kv/twice")) == 1
    moved.close()
    open_store(zone="attic")


def test_a_store_of_a_later_version_is_refused(open_store, home):
    open_store().close()
    rewrite_meta(home, b"schema", b"99")
    environment.mark_clean(home)
    with pytest.raises(StoreError, match="format 99"):
        open_store()


def rewrite_meta(home, name, value):
    env, tables = environment.open_env(home, 1 << 28)
    with env.begin(write=True) as txn:
        txn.put(name, rows.seal(name, value), db=tables.meta)
    env.close()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_directory_that_others_can_write_is_refused(open_store, home, mode):
    open_store().close()
    home.chmod(mode)
    with pytest.raises(StoreError, match="can be written by others") as caught:
        open_store()
    assert caught.value.hint == f"chmod 700 {home}"


def test_a_file_in_the_stores_place_is_refused(open_store, home):
    home.write_text("hello")
    with pytest.raises(StoreError, match="is not a directory"):
        open_store()


def test_a_place_that_does_not_exist_is_refused_clearly(open_store, tmp_path):
    with pytest.raises(StoreError, match="cannot be opened: No such file"):
        open_store(path=tmp_path / "no" / "where" / "store")


def test_files_are_for_us_alone(open_store, home):
    store = open_store(settings=Settings(ballast_bytes=1 << 20))
    assert home.stat().st_mode & 0o777 == 0o700
    for path in [*home.iterdir(), home.with_name("store.lock")]:
        assert path.stat().st_mode & 0o077 == 0, path
    store.close()


def test_a_half_made_store_is_made_anew(open_store, home):
    half = home.with_name("store.new")
    half.mkdir()
    (half / "data.mdb").write_bytes(b"half")
    assert open_store().opened.created
    assert not half.exists()


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, 12288, 20000])
async def test_a_truncated_file_is_put_aside(open_store, running, pen, putting, home, keep):
    store = open_store()
    await fill(store, running, putting, *(pen.say(f"kv/{n}", "x" * 300) for n in range(500)))
    generation = store.generation
    store.close()
    os.truncate(home / "data.mdb", keep)
    again = open_store()
    assert again.opened.damaged
    assert again.opened.checked
    assert (home.with_name("store-damaged-1") / "data.mdb").stat().st_size == keep
    assert again.generation != generation
    with again.read("m") as log:
        assert list(log.paths("")) == []


async def test_what_must_never_fall_is_carried_over(open_store, running, pen, putting, home):
    store = open_store()
    async with running(store):
        await store.write(lambda txn: txn.put_meta("hlc_ceiling", b"12345678"))
        await store.write(lambda txn: txn.put_meta("incarnation", b"7"))
        await store.write(lambda txn: txn.put_meta("other", b"1"))
        await store.write(putting(*(pen.say(f"kv/{n}", "x" * 300) for n in range(500))))
    kill(store)
    flip_value(home, "rec")
    again = open_store()
    assert "damaged" in again.opened.damaged
    assert again.meta("hlc_ceiling") == b"12345678"
    assert again.meta("incarnation") == b"7"
    assert again.meta("other") is None


def flip_value(home, table):
    """Flip one bit in the middle of a value, where LMDB does not look."""
    env, tables = environment.open_env(home, 1 << 28)
    with env.begin(write=True) as txn:
        cursor = txn.cursor(db=getattr(tables, table))
        cursor.first()
        key, value = cursor.item()
        middle = len(value) // 2
        txn.put(
            key, value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :], db=getattr(tables, table)
        )
    env.close()


@pytest.mark.parametrize("table", ["rec", "log", "heads", "exp", "meta", "hist", "addr"])
async def test_a_flipped_bit_in_any_table_is_found_after_an_unclean_stop(
    open_store, running, pen, putting, home, table
):
    store = open_store()
    await fill(store, running, putting, pen.say("kv/a", 1), pen.say("kv/a", 2), pen.say("kv/b", 1, ttl=10))
    store.close()
    store = open_store()
    async with running(store):
        await store.put_address(Known(pen.public, ["/ip4/127.0.0.1/tcp/1"], 5))
    kill(store)
    flip_value(home, table)
    assert open_store().opened.damaged


def test_only_the_newest_damaged_stores_are_kept(open_store, home):
    for _ in range(4):
        store = open_store()
        store.close()
        os.truncate(home / "data.mdb", 100)
    open_store()
    assert sorted(path.name for path in home.parent.glob("store-damaged-*")) == [
        "store-damaged-3",
        "store-damaged-4",
    ]


def test_a_missing_data_file_makes_a_new_generation(open_store, home):
    store = open_store()
    generation = store.generation
    store.close()
    (home / "data.mdb").unlink()
    again = open_store()
    assert again.opened.damaged == "its data file is missing"
    assert again.generation != generation


def test_garbage_instead_of_a_store_is_put_aside(open_store, home):
    home.mkdir(mode=0o700)
    (home / "data.mdb").write_bytes(os.urandom(50_000))
    assert open_store().opened.damaged


def test_a_foreign_lmdb_file_is_put_aside(open_store, home):
    home.mkdir(mode=0o700)
    env = lmdb.open(str(home))
    with env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    env.close()
    assert open_store().opened.damaged

"""Stores that lose power, are killed, damaged or filled. Numbers are small here and large when asked:
STORE_FAULTS=50 multiplies them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from mesh.config import Store as Settings
from mesh.core import record
from mesh.core.clock import hlc_of
from mesh.errors import StoreFull
from mesh.identity.keys import NodeKey
from mesh.store.store import Store

HERE = Path(__file__).parent
TIMES = int(os.environ.get("STORE_FAULTS", "1"))
MESH_ID = b"mesh-of-the-test"
KEY = NodeKey.from_seed(b"c" * 32)


def run(*argv, **how):
    return subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, **how)


@pytest.fixture
def powercut(tmp_path):
    """Runs it in a folder that goes with the test, also when it dies in the middle."""
    env = {**os.environ, "POWERCUT_DIR": str(tmp_path)}
    return lambda *argv, **how: run(HERE / "powercut.py", *argv, env=env, **how)


def open_store(home):
    return Store.open(home, mesh_id=MESH_ID, zone="default", settings=Settings(ballast_bytes=0))


# -- power cuts ---------------------------------------------------------------------------------------------


def test_no_power_cut_loses_an_acknowledged_write(powercut):
    states = 200 * TIMES
    done = powercut(states, random.randrange(10**6), check=True)
    found = json.loads(done.stdout)
    assert found["sound"] == states, found
    assert found["flushes"] >= 300


def test_a_store_that_does_not_flush_is_caught(powercut):
    done = powercut(100, 1, "nosync")
    assert done.returncode < 0 or json.loads(done.stdout)["wrong"]


# -- kill -9 ------------------------------------------------------------------------------------------------


def test_a_killed_store_holds_all_it_acknowledged(tmp_path):
    home, acknowledged = tmp_path / "store", set()
    dice = random.Random()
    for _ in range(4 * TIMES):
        child = subprocess.Popen(
            [sys.executable, str(HERE / "store_child.py"), "write", str(home)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for _ in range(dice.randrange(1, 60)):
            acknowledged.add(int(child.stdout.readline()))
        child.kill()
        acknowledged |= {int(line) for line in child.stdout if line.endswith("\n")}
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        store = open_store(home)
        assert store.opened.damaged == ""
        with store.read("m") as log:
            held = {int(rec.path.partition("/")[2]) for rec in log.since(KEY.aid, 0)}
        assert acknowledged <= held
        acknowledged = held
        store.close()


# -- damaged files ------------------------------------------------------------------------------------------


async def make_store(home, count=400):
    store = open_store(home)
    made = []
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)

        def job(txn):
            log = txn.log("m")
            for number in range(count):
                rec = record.sign(
                    KEY.secret,
                    MESH_ID,
                    b"m",
                    path=f"kv/{number}",
                    kind=0,
                    hlc=hlc_of(1_700_000_000_000 + number),
                    val="x" * (number % 7 * 100),
                    ttl=1000 if number % 3 else None,
                )
                log.put(rec)
                made.append(rec)
            log.set_marks(KEY.aid, head=made[-1].hlc, floor=0)

        await store.write(job)
        nursery.cancel_scope.cancel()
    store.close()
    return made


def harm(data: bytes, how: str, dice: random.Random) -> bytes:
    image = bytearray(data)
    if how == "truncated":
        return bytes(image[: dice.randrange(len(image))])
    if how == "bits flipped":
        for _ in range(8):
            image[dice.randrange(len(image))] ^= 1 << dice.randrange(8)
    elif how == "page zeroed":
        at = dice.randrange(len(image) // 4096) * 4096
        image[at : at + 4096] = bytes(4096)
    elif how == "pages exchanged":
        one, other = (dice.randrange(2, len(image) // 4096) * 4096 for _ in range(2))
        image[one : one + 4096], image[other : other + 4096] = (
            image[other : other + 4096],
            image[one : one + 4096],
        )
    elif how == "garbage":
        at = dice.randrange(len(image))
        piece = dice.randbytes(dice.randrange(1, 9000))
        image[at : at + len(piece)] = piece
    elif how == "headers":
        for _ in range(4):
            at = dice.randrange(len(image) // 4096) * 4096 + dice.randrange(32)
            image[at] = dice.randrange(256)
    return bytes(image)


@pytest.mark.parametrize(
    "how", ["truncated", "bits flipped", "page zeroed", "pages exchanged", "garbage", "headers"]
)
async def test_a_damaged_file_never_ends_the_process_and_nothing_false_is_read(tmp_path, how):
    home, dice = tmp_path / "store", random.Random(how)
    made = await make_store(home)
    sound = (home / "data.mdb").read_bytes()
    aside = 0
    for _ in range(3 * TIMES):
        (home / "data.mdb").write_bytes(harm(sound, how, dice))
        store = open_store(home)
        with store.read("m") as log:
            held = list(log.since(KEY.aid, 0))
            assert held == (made if not store.opened.damaged else [])
            assert [rec.slot for rec in held] == [log.get(rec.slot).slot for rec in held]
        aside += bool(store.opened.damaged)
        store.close()
    assert aside or how in ("pages exchanged", "headers", "garbage", "page zeroed")


# -- full disks ---------------------------------------------------------------------------------------------


def check_full(seen):
    assert seen["written"] > 10
    assert seen["full"]
    assert seen["read"] == seen["written"]
    assert "deletes only" in seen["refused"]
    assert seen["deleted"] == 3
    assert seen["after"] == 10**6
    assert seen["told"] == [True, False]


def test_a_full_disk_makes_the_store_read_only_until_there_is_room(tmp_path):
    done = run(HERE / "store_child.py", "full", tmp_path / "store", 1 << 20)
    assert done.returncode == 0, done.stderr
    check_full(json.loads(done.stdout))
    store = open_store(tmp_path / "store")
    assert not store.opened.checked
    store.close()


def test_a_place_without_room_is_refused_clearly(tmp_path):
    code = (
        "import resource, sys; from mesh.store.store import Store; from mesh.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: Store.open(sys.argv[1], mesh_id=b'm' * 16, zone='z')\n"
        "except StoreError as error: print(error.message)\n"
    )
    done = run("-c", code, tmp_path / "store", check=True)
    assert "no store can be made" in done.stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("size", [3000, 40_000], ids=["small values", "values that are written in part"])
async def test_deletes_go_on_when_the_disk_itself_is_full(tmp_path, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    settings = Settings(ballast_bytes=1 << 20)
    try:
        store = Store.open(disk / "store", mesh_id=MESH_ID, zone="default", settings=settings)
        try:
            await fill_and_recover(store, disk, size)
        finally:
            store.close()
        open_store(disk / "store").close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def fill_and_recover(store, disk, size):
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await fill(store, size)
        assert store.full
        assert not (disk / "store" / "ballast").exists()
        with store.read("m") as log:
            slots = [rec.slot for rec in log.since(KEY.aid, 0)]
        gone = slots[: len(slots) // 2]
        for slot in gone:
            await store.write(lambda txn, slot=slot: txn.log("m").drop(slot), spare=True)
        with store.read("m") as log:
            assert log.author(KEY.aid).count == len(slots) - len(gone)
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        with trio.fail_after(120):
            while store.full:
                await trio.sleep(0.1)
        assert (disk / "store" / "ballast").exists()
        await store.write(lambda txn: txn.put_meta("name", b"value"))
        nursery.cancel_scope.cancel()


async def fill(store, size):
    """Write until the store is full."""

    def job(txn):
        log = txn.log("m")
        hlc = max(log.author(KEY.aid).head, hlc_of(1_700_000_000_000)) + 1
        rec = record.sign(KEY.secret, MESH_ID, b"m", path=f"kv/{hlc}", kind=0, hlc=hlc, val="x" * size)
        log.put(rec)
        log.set_marks(rec.aid, head=hlc, floor=0)

    async def for_ever():
        while True:
            await store.write(job)

    with pytest.raises(StoreFull):
        await for_ever()

"""Records what a working store writes, and replays it cut at random points, as power cuts do.

    python tests/fault/powercut.py STATES SEED [sync]

LMDB's calls of pwrite, writev, fdatasync and ftruncate are caught by exchanging their addresses in the offset
table of its shared object, so that the order and the flushes are the real ones. A state after a cut has all
that was flushed before, and of what was written since a random part, torn at 512 or 4096 bytes. Each state
must open, be whole, and hold every acknowledged write. Prints one JSON object. `nosync` records a store that
does not flush: it must be caught losing writes, or this test proves nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import trio
from lmdb import cpython as engine

from mesh.config import Store as Settings
from mesh.core import record
from mesh.core.clock import hlc_of
from mesh.identity.keys import NodeKey
from mesh.store import check, environment
from mesh.store.log import LmdbLog
from mesh.store.store import Store

MESH_ID = b"mesh-of-the-test"
KEY = NodeKey.from_seed(b"p" * 32)
WRITES = 150
_SSIZE = ctypes.c_ssize_t
_SIGNATURES: dict[bytes, Any] = {
    b"pwrite": ctypes.CFUNCTYPE(
        _SSIZE, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
    ),
    b"writev": ctypes.CFUNCTYPE(_SSIZE, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, use_errno=True),
    b"fdatasync": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, use_errno=True),
    b"ftruncate": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int64, use_errno=True),
}
_keep: list[Any] = []


class Recorder:
    """Operations on data.mdb in order: ("write", at, bytes, flushed), ("flush",), ("size", n), ("ack", n)."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, ...]] = []

    def hook(self) -> None:
        """Exchange LMDB's calls."""
        libc = ctypes.CDLL(None, use_errno=True)
        caught = {
            b"pwrite": self._pwrite(_real(libc, b"pwrite")),
            b"writev": self._writev(_real(libc, b"writev")),
            b"fdatasync": self._fdatasync(_real(libc, b"fdatasync")),
            b"ftruncate": self._ftruncate(_real(libc, b"ftruncate")),
        }
        slots = _offset_table(Path(engine.__file__))
        missing = {b"pwrite", b"fdatasync"} - slots.keys()
        assert not missing, f"cannot catch {missing}"
        for name, function in caught.items():
            callback = _SIGNATURES[name](function)
            _keep.append(callback)
            for address in slots.get(name, ()):
                _poke(libc, address, ctypes.cast(callback, ctypes.c_void_p).value or 0)

    def _ours(self, fd: int) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").endswith("/data.mdb")

    def _write(self, fd: int, at: int, data: bytes) -> None:
        flushed = bool(ctypes.CDLL(None).fcntl(fd, 3) & os.O_DSYNC)
        self.operations.append(("write", at, data, flushed))

    def _pwrite(self, real: Any) -> Callable[..., int]:
        def pwrite(fd: int, buffer: int, size: int, at: int) -> int:
            if self._ours(fd):
                self._write(fd, at, ctypes.string_at(buffer, size))
            return int(real(fd, buffer, size, at))

        return pwrite

    def _writev(self, real: Any) -> Callable[..., int]:
        def writev(fd: int, vectors: int, count: int) -> int:
            if self._ours(fd):
                at = os.lseek(fd, 0, os.SEEK_CUR)
                raw = ctypes.string_at(vectors, 16 * count)
                pieces = [ctypes.string_at(base, size) for base, size in struct.iter_unpack("@QQ", raw)]
                self._write(fd, at, b"".join(pieces))
            return int(real(fd, vectors, count))

        return writev

    def _fdatasync(self, real: Any) -> Callable[..., int]:
        def fdatasync(fd: int) -> int:
            done = int(real(fd))
            if self._ours(fd):
                self.operations.append(("flush",))
            return done

        return fdatasync

    def _ftruncate(self, real: Any) -> Callable[..., int]:
        def ftruncate(fd: int, size: int) -> int:
            if self._ours(fd):
                self.operations.append(("size", size))
            return int(real(fd, size))

        return ftruncate


def _real(libc: Any, name: bytes) -> Any:
    address = ctypes.cast(getattr(libc, name.decode()), ctypes.c_void_p).value
    return _SIGNATURES[name](address)


def _poke(libc: Any, address: int, value: int) -> None:
    page = address & ~4095
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(8192), 3):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.c_uint64.from_address(address).value = value


def _offset_table(path: Path) -> dict[bytes, list[int]]:
    """Where a 64-bit ELF shared object that is loaded keeps the addresses of functions it imports."""
    data = path.read_bytes()
    assert data[:5] == b"\x7fELF\x02", "not a 64-bit ELF file"
    maps = Path("/proc/self/maps").read_text().splitlines()
    base = min(int(line.split("-")[0], 16) for line in maps if line.endswith(str(path)))
    start, size, count = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + size * n) for n in range(count)]
    found: dict[bytes, list[int]] = {}
    for _, kind, _, _, offset, length, link, _, _, _ in sections:
        if kind != 4:  # SHT_RELA
            continue
        symbols = sections[link]
        names = sections[symbols[6]][4] if symbols[1] == 11 else None  # SHT_DYNSYM and its strings
        for at in range(offset, offset + length, 24) if names is not None else ():
            where, info, _ = struct.unpack_from("<QQq", data, at)
            name_at = struct.unpack_from("<I", data, symbols[4] + 24 * (info >> 32))[0]
            name = data[names + name_at : data.index(b"\0", names + name_at)]
            if name.removesuffix(b"64") in _SIGNATURES:
                found.setdefault(name.removesuffix(b"64"), []).append(base + where)
    return found


# -- recording ----------------------------------------------------------------------------------------------


def records() -> list[record.Record]:
    """What is written: new keys, overwrites, deletes by another op, values of several pages."""
    dice = random.Random(5)
    made = []
    for number in range(WRITES):
        value = dice.choice([number, "x" * dice.randrange(200), "y" * 9000])
        made.append(
            record.sign(
                KEY.secret,
                MESH_ID,
                b"m",
                path=f"kv/{dice.randrange(60)}",
                kind=record.Kind.REG,
                hlc=hlc_of(1_700_000_000_000 + number),
                val=value,
                ttl=dice.choice([None, 1000]),
            )
        )
    return made


async def record_writes(home: Path, recorder: Recorder, made: list[record.Record]) -> bytes:
    """Write them one by one; returns the file as it was before the first."""
    store = Store.open(home, mesh_id=MESH_ID, zone="default", settings=Settings(ballast_bytes=0))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        before = (home / "data.mdb").read_bytes()
        recorder.operations.clear()
        for number, rec in enumerate(made):

            def job(txn: Any, rec: record.Record = rec) -> None:
                log = txn.log("m")
                log.put(rec)
                log.set_marks(rec.aid, head=rec.hlc, floor=0)

            await store.write(job)
            recorder.operations.append(("ack", number))
        operations = list(recorder.operations)
        nursery.cancel_scope.cancel()
    store.close()
    recorder.operations = operations
    return before


# -- replaying ----------------------------------------------------------------------------------------------


def cut(before: bytes, operations: list[tuple[Any, ...]], dice: random.Random) -> tuple[bytes, int]:
    """One state after a power cut, and how many writes had been acknowledged."""
    end = dice.randrange(len(operations) + 1)
    image, unflushed, acknowledged = bytearray(before), list[tuple[int, bytes]](), 0
    for what, *rest in operations[:end]:
        if what == "ack":
            acknowledged = rest[0] + 1
        elif what == "size":
            _resize(image, rest[0])
        elif what == "flush" or rest[2]:
            for at, data in unflushed if what == "flush" else [(rest[0], rest[1])]:
                _apply(image, at, data)
            unflushed = [] if what == "flush" else unflushed
        else:
            unflushed.append((rest[0], rest[1]))
    if end < len(operations) and operations[end][0] == "write":
        unflushed.append(operations[end][1:3])  # cut in the middle of it
    tear, keep = dice.choice([512, 4096]), dice.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    for at, data in unflushed:
        for start in range(0, len(data), tear):
            if dice.random() < keep:
                _apply(image, at + start, data[start : start + tear])
    return bytes(image), acknowledged


def _resize(image: bytearray, size: int) -> None:
    del image[size:]
    image.extend(bytes(size - len(image)))


def _apply(image: bytearray, at: int, data: bytes) -> None:
    if len(image) < at + len(data):
        image.extend(bytes(at + len(data) - len(image)))
    image[at : at + len(data)] = data


def judge(home: Path, made: list[record.Record], acknowledged: int) -> str:
    """What is wrong with the store at `home`, "" if nothing."""
    if check.main(str(home)):
        return "corrupt"
    env, tables = environment.open_env(home, 1 << 28)
    try:
        with env.begin() as txn:
            log = LmdbLog(txn, tables, "m")
            head = log.author(KEY.aid).head
            held = {rec.path: rec for rec in log.since(KEY.aid, 0)}
    finally:
        env.close()
    count = sum(rec.hlc <= head for rec in made)
    if count < acknowledged:
        return f"lost: {acknowledged} acknowledged, {count} there"
    return "" if held == {rec.path: rec for rec in made[:count]} else "wrong"


def main(states: int, seed: int, *, sync: bool) -> int:
    """Record, replay, and print what was found."""
    dice, recorder, made = random.Random(seed), Recorder(), records()
    recorder.hook()
    if not sync:
        real = lmdb.open
        lmdb.open = lambda *args, **how: real(*args, **{**how, "sync": False, "metasync": False})
    found: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("POWERCUT_DIR")) as folder,
        open(os.devnull, "w") as null,
    ):
        before = trio.run(record_writes, Path(folder) / "store", recorder, made)
        home = Path(folder) / "cut"
        sys.stdout, out = null, sys.stdout
        for _ in range(states):
            image, acknowledged = cut(before, recorder.operations, dice)
            home.mkdir()
            (home / "data.mdb").write_bytes(image)
            wrong = judge(home, made, acknowledged)
            found[wrong] = found.get(wrong, 0) + 1
            shutil.rmtree(home)
        sys.stdout = out
    flushes = sum(what[0] == "flush" or (what[0] == "write" and what[3]) for what in recorder.operations)
    sound = found.pop("", 0)
    print(json.dumps({"states": states, "sound": sound, "wrong": found, "flushes": flushes}))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sync=sys.argv[3:] != ["nosync"]))

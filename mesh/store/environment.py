"""The store's directory: made whole or not at all, used by one process, checked after an unclean stop.

    <data-dir>/store.lock        held by the process that uses the store; its pid inside
    <data-dir>/store/data.mdb    LMDB's file, lock.mdb beside it
    <data-dir>/store/ballast     freed when the disk is full
    <data-dir>/store/clean       there only after a clean stop: what data.mdb looked like then
    <data-dir>/store/started     there else: in which life of the machine, how often in a row
    <data-dir>/store-damaged-N   what was found damaged, the newest two
    <data-dir>/store-restore     a checked backup, put in place by the next start
    <data-dir>/store-replaced    what a backup took the place of

LMDB maps its file, and a damaged one ends the process that reads it (a truncation by SIGBUS). So unless the
last stop was clean and the file is as it was left, a child process reads everything first; if the child finds
damage or dies, the file is put aside and an empty store of a new generation takes its place, which the other
members fill again. What must never fall (the clock's ceiling, the incarnation) is carried over.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec

from mesh.errors import StoreError
from mesh.store import ballast, rows
from mesh.store.log import Tables

log = logging.getLogger(__name__)

SCHEMA = b"1"
RISING_META = ("hlc_ceiling", "incarnation")
DAMAGED_KEPT = 2
DEEP_BYTES = 32 << 20
STAGED = "-restore"
READERS_MAX = 16
_CHECK_FLOOR_S = 60.0
_CHECK_BYTES_PER_S = 2 << 20


class Opened(msgspec.Struct):
    """What was found.

    Attributes:
        created: there was nothing.
        damaged: why the old file was put aside, or "".
        put_aside: where it is now, or "".
        checked: whether a child process read the file through.
        restored: whether a backup was put in place.
    """

    created: bool = False
    damaged: str = ""
    put_aside: str = ""
    checked: bool = False
    restored: bool = False


# -- one process --------------------------------------------------------------------------------------------


def lock(path: Path) -> int:
    """Take the lock beside the store at `path`; returns the descriptor that holds it.

    Raises:
        StoreError: another process has it, named by pid; or the place cannot be written.
    """
    name = path.with_name(path.name + ".lock")
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"{name} cannot be opened: {error.strerror}", "check its owner and mode") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise StoreError(
            f"the store {path} is in use by process {holder}", "stop that agent, or use another --data-dir"
        ) from None
    with contextlib.suppress(OSError):  # on a full disk others are not told who we are
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


# -- opening ------------------------------------------------------------------------------------------------


def open_env(path: Path, map_bytes: int, *, sync: bool = True) -> tuple[lmdb.Environment, Tables]:
    """Open the environment at `path`, which exists. Without `sync` a power cut may cost everything.

    Raises:
        StoreError: LMDB refuses it.
    """
    try:
        env = lmdb.open(
            str(path),
            map_size=_map_bytes(map_bytes),
            max_dbs=len(rows.NAMES),
            max_readers=READERS_MAX,
            mode=0o600,
            readahead=False,
            sync=sync,
            metasync=sync,
        )
        tables = Tables(*(env.open_db(name) for name in rows.NAMES))
    except lmdb.Error as error:
        raise StoreError(f"the store {path} cannot be opened: {error}", "check its owner and disk") from None
    return env, tables


def _map_bytes(wanted: int) -> int:
    return wanted if sys.maxsize > 1 << 32 else min(wanted, 1 << 30)


def create(path: Path, meta: dict[str, bytes], map_bytes: int) -> None:
    """Make an empty store at `path`. After a power cut there is either all of it or nothing.

    Raises:
        StoreError: the disk refuses.
    """
    new = path.with_name(path.name + ".new")
    try:
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700, parents=True)
        env, tables = open_env(new, map_bytes)
        try:
            with env.begin(write=True) as txn:
                for name, value in meta.items():
                    key = name.encode()
                    txn.put(key, rows.seal(key, value), db=tables.meta)
        finally:
            env.close()
        put_in_place(new, path)
    except (OSError, lmdb.Error, StoreError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise StoreError(f"no store can be made at {path}: {error}", "check its owner and disk") from None


def put_in_place(new: Path, path: Path) -> None:
    """Rename a finished directory, whatever happens to the power."""
    sync_file(new / "data.mdb")
    sync_file(new)
    new.rename(path)
    sync_file(path.parent)


def sync_file(path: Path) -> None:
    """fsync a file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_access(path: Path) -> None:
    """Refuse a directory that others could change or that we cannot.

    Raises:
        StoreError: naming the path, what is wrong, and the command that mends it.
    """
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path} is not a directory", "the store needs a directory of its own")
    if found.st_uid != os.geteuid():
        us = os.geteuid()
        raise StoreError(f"{path} belongs to uid {found.st_uid}, we are {us}", f"chown -R {us} {path}")
    if found.st_mode & 0o022:
        raise StoreError(f"{path} can be written by others", f"chmod 700 {path}")
    for name in (path, path / "data.mdb"):
        if name.exists() and not os.access(name, os.R_OK | os.W_OK):
            raise StoreError(f"{name} cannot be read and written", f"chmod u+rwX -R {path}")


def lay_ballast(path: Path, wanted: int) -> None:
    """Lay the ballast if there is room; without it the store opens all the same."""
    ballast.restore(str(path / "ballast"), wanted)


# -- clean stops --------------------------------------------------------------------------------------------


def _looks(path: Path) -> dict[str, int]:
    found = (path / "data.mdb").stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def mark_clean(path: Path) -> None:
    """Note that the store was closed in order; where the disk has no room for that, the next start checks."""
    try:
        _write(path / "clean", json.dumps(_looks(path)).encode())
        sync_file(path / "clean")
        (path / "started").unlink(missing_ok=True)
        sync_file(path)
    except OSError as error:
        log.warning("%s: it cannot be noted that the store was closed in order: %s", path, error.strerror)


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def was_clean(path: Path) -> bool:
    """Whether the last stop was clean and the file is as it was left."""
    try:
        return bool(json.loads((path / "clean").read_bytes()) == _looks(path))
    except (OSError, ValueError):
        return False


def mark_in_use(path: Path) -> None:
    """From here on a stop is unclean unless `mark_clean` says otherwise."""
    name = path / "clean"
    note_start(path)
    if name.exists():
        name.unlink()
        sync_file(path)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def note_start(path: Path) -> None:
    """Note in which life of the machine the store is in use, and how often in a row it was not closed.

    A full disk may have no room for that; the next start then looks more closely than it need.
    """
    try:
        _write(path / "started", f"{_boot_id()} {_unclean_starts(path) + 1}\n".encode())
    except OSError as error:
        log.warning("%s: it cannot be noted that the store is in use: %s", path, error.strerror)


def _unclean_starts(path: Path) -> int:
    """How often the store was opened in this life of the machine since it was closed in order."""
    try:
        boot, _, count = (path / "started").read_text().partition(" ")
        return int(count) if boot and boot == _boot_id() else 0
    except (OSError, ValueError):
        return 0


def _needs_deep_check(path: Path) -> bool:
    """Whether more than the process may have ended: the machine, or the process again and again.

    A killed process leaves the file as the kernel has it. A small file is verified deeply anyway.
    """
    small = (path / "data.mdb").stat().st_size <= DEEP_BYTES
    return small or _unclean_starts(path) != 1


# -- damage -------------------------------------------------------------------------------------------------


def check(path: Path, *, deep: bool = True) -> tuple[str, dict[str, bytes]]:
    """Read a store through in a child process.

    Args:
        deep: verify the tree's structure page by page too, about 1 s for 80 MB.

    Returns:
        What is wrong, "" if nothing; and the named values that could still be read.
    """
    limit_s = _CHECK_FLOOR_S + (path / "data.mdb").stat().st_size / _CHECK_BYTES_PER_S
    argv = [sys.executable, "-m", "mesh.store.check", str(path), *(["--deep"] if deep else [])]
    null = subprocess.DEVNULL
    try:
        done = subprocess.run(argv, stdin=null, capture_output=True, timeout=limit_s, check=False)
        out, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as late:
        out, code = late.stdout or b"", None
    lines = out.decode("utf-8", "replace").splitlines()
    meta = _parse_meta(lines[0]) if lines else {}
    if code == 0:
        return "", meta
    if code is None:
        return f"reading it took more than {limit_s:.0f} s", meta
    if code < 0:
        return f"reading it ended by signal {-code}", meta
    return (lines[-1] if len(lines) > 1 else f"reading it failed with status {code}"), meta


def _parse_meta(line: str) -> dict[str, bytes]:
    try:
        return {str(name): base64.b64decode(value) for name, value in json.loads(line).items()}
    except (ValueError, AttributeError, TypeError, binascii.Error):
        return {}


def put_aside(path: Path) -> Path:
    """Move a damaged store out of the way; of those before, only the newest is kept."""
    olds = sorted(path.parent.glob(path.name + "-damaged-*"), key=_serial)
    for old in olds[: max(0, len(olds) - DAMAGED_KEPT + 1)]:
        shutil.rmtree(old, ignore_errors=True)
    target = path.with_name(f"{path.name}-damaged-{_serial(olds[-1]) + 1 if olds else 1}")
    (path / "ballast").unlink(missing_ok=True)
    path.rename(target)
    sync_file(path.parent)
    return target


def _serial(path: Path) -> int:
    last = path.name.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def prepare(path: Path, meta: dict[str, bytes], map_bytes: int) -> Opened:
    """Leave a sound store at `path`: the one that is there, or a new one with these named values.

    Raises:
        StoreError: the place cannot be used.
    """
    if not path.exists():
        create(path, meta, map_bytes)
        return Opened(created=True)
    check_access(path)
    if not (path / "data.mdb").exists():
        aside = put_aside(path)
        create(path, meta, map_bytes)
        return Opened(created=True, damaged="its data file is missing", put_aside=str(aside))
    if was_clean(path):
        return Opened()
    wrong, found = check(path, deep=_needs_deep_check(path))
    if not wrong:
        return Opened(checked=True)
    aside = put_aside(path)
    kept = {name: found[name] for name in RISING_META if name in found}
    create(path, {**meta, **kept}, map_bytes)
    return Opened(damaged=wrong, put_aside=str(aside), checked=True)

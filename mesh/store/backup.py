"""Copies of a store: consistent, checked whole, and put in place by the next start.

    DIRECTORY/data.mdb        LMDB's compacting copy of one snapshot, made while the store works
    DIRECTORY/manifest.json   whose it is, when it was made, its size and SHA-256

A copy is older than what its owner has said since, so a store made from one is of a new generation and has no
fence: the author gets back from the other members what it forgot before its writes go on top. What must never
fall is taken from the store that is replaced, where that is larger.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from mesh.errors import StoreError, StoreFull, UsageError
from mesh.store import environment, rows
from mesh.store.ballast import NO_ROOM, is_disk_full
from mesh.store.environment import RISING_META, open_env, sync_file
from mesh.store.log import Tables

FORMAT = 1
MANIFEST = "manifest.json"
FENCES = b"fence/"
_CHUNK = 1 << 20


class Manifest(msgspec.Struct, frozen=True):
    """What a copy says of itself. `commit`: it holds at least what was committed up to this number.

    Attributes:
        format: version of this layout.
        mesh, generation: hexadecimal.
        created_ms: mesh time, unix milliseconds.
        size, sha256: of data.mdb.
    """

    format: int
    mesh: str
    zone: str
    generation: str
    commit: int
    created_ms: int
    size: int
    sha256: str


def copy(
    env: lmdb.Environment,
    target: Path,
    *,
    mesh: bytes,
    zone: str,
    generation: bytes,
    commit: int,
    now_ms: int,
) -> Manifest:
    """Copy an open environment into a new directory; there is all of it or nothing. Blocks: for a thread.

    Raises:
        UsageError: the directory exists and is not empty.
        StoreFull: no room. StoreError: the place cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already", "name a new directory")
    part = target.with_name(target.name + ".part")
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(mode=0o700)
        env.copy(str(part), compact=True)
        data = part / "data.mdb"
        data.chmod(0o600)
        size, digest = _digest(data)
        manifest = Manifest(FORMAT, mesh.hex(), zone, generation.hex(), commit, now_ms, size, digest)
        (part / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        sync_file(part / MANIFEST)
        environment.put_in_place(part, target)
    except (OSError, lmdb.Error) as error:
        full = is_disk_full(error, str(target)) if isinstance(error, lmdb.Error) else error.errno in NO_ROOM
        shutil.rmtree(part, ignore_errors=True)
        kind = StoreFull if full else StoreError
        raise kind(f"no copy can be made at {target}: {error}", "check its owner and free space") from None
    return manifest


def _digest(path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def check(folder: Path, *, mesh: bytes, zone: str) -> Manifest:
    """Read a copy through, its damage confined to a child process. Blocks: for a thread.

    Raises:
        UsageError: not a copy, damaged, of a later format, or of another mesh or zone.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{folder} is not a backup of a store: {error}") from None
    if manifest.format != FORMAT:
        raise UsageError(f"the backup has format {manifest.format}, this version reads {FORMAT}")
    if manifest.mesh != mesh.hex():
        raise UsageError(f"the backup is of mesh {manifest.mesh}, this node is of {mesh.hex()}")
    if manifest.zone != zone:
        raise UsageError(f"the backup is of zone {manifest.zone!r}, this node is of {zone!r}")
    try:
        found = _digest(folder / "data.mdb")
    except OSError as error:
        raise UsageError(f"the backup is not whole: {error}") from None
    if found != (manifest.size, manifest.sha256):
        raise UsageError("the backup is damaged: its checksum does not match", "take another one")
    wrong, _ = environment.check(folder)
    if wrong:
        raise UsageError(f"the backup is damaged: {wrong}", "take another one")
    return manifest


def stage(folder: Path, place: Path, *, mesh: bytes, zone: str) -> Manifest:
    """Check a copy and lay it beside the store at `place`: the next opening puts it in place. Blocks.

    Raises:
        UsageError: as `check`. StoreFull, StoreError: it cannot be laid there.
    """
    manifest = check(folder, mesh=mesh, zone=zone)
    staged = place.with_name(place.name + environment.STAGED)
    part = place.with_name(place.name + ".part")
    try:
        for old in (part, staged):
            if old.exists():
                shutil.rmtree(old)
        part.mkdir(mode=0o700)
        shutil.copyfile(folder / "data.mdb", part / "data.mdb")
        (part / "data.mdb").chmod(0o600)
        environment.put_in_place(part, staged)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        kind = StoreFull if error.errno in NO_ROOM else StoreError
        raise kind(f"the backup cannot be laid at {staged}: {error}", "check its free space") from None
    return manifest


def put_in_place(place: Path, map_bytes: int) -> bool:
    """If a copy is staged, make it the store; the old one is kept aside, the newest one. Returns whether.

    A power cut at any point leaves either the old store and the staged copy, or the new store.

    Raises:
        StoreError: it cannot be opened or written.
    """
    staged = place.with_name(place.name + environment.STAGED)
    if not staged.exists():
        return False
    rising = _rising(place) if (place / "data.mdb").exists() else {}
    env, tables = open_env(staged, map_bytes)
    try:
        with env.begin(write=True) as txn:
            _make_ours(txn, tables, rising)
    except lmdb.Error as error:
        raise StoreError(f"the backup at {staged} cannot be used: {error}", f"rm -r {staged}") from None
    finally:
        env.close()
    environment.mark_clean(staged)
    replaced = place.with_name(place.name + "-replaced")
    if place.exists():
        if replaced.exists():
            shutil.rmtree(replaced)
        (place / "ballast").unlink(missing_ok=True)
        place.rename(replaced)
    environment.put_in_place(staged, place)
    return True


def _rising(place: Path) -> dict[str, bytes]:
    """The named values of the store that is there, as far as they can be read."""
    _, meta = environment.check(place)
    return {name: value for name, value in meta.items() if name in RISING_META}


def _make_ours(txn: Any, tables: Tables, rising: dict[str, bytes]) -> None:
    generation = b"generation"
    txn.put(generation, rows.seal(generation, os.urandom(16)), db=tables.meta)
    for name in [key for key, _ in txn.cursor(db=tables.meta) if key.startswith(FENCES)]:
        txn.delete(name, db=tables.meta)
    for text, value in rising.items():
        name = text.encode()
        held = txn.get(name, db=tables.meta)
        old = rows.unseal("meta", name, held) if held is not None else b""
        if int.from_bytes(value, "big") > int.from_bytes(old, "big"):
            txn.put(name, rows.seal(name, value), db=tables.meta)

"""Authors, records and stores for the tests of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from nacl.bindings import crypto_sign_seed_keypair

from mesh.config import Store as Settings
from mesh.core import record
from mesh.core.clock import hlc_of
from mesh.core.record import Record
from mesh.store.store import Store, Txn

MESH_ID = b"mesh-of-the-test"
START_MS = 1_700_000_000_000


class Pen:
    """An author that signs with growing stamps."""

    def __init__(self, number: int, scope: str = "m") -> None:
        self.public, self.secret = crypto_sign_seed_keypair(number.to_bytes(32, "big"))
        self.aid = self.public[:16]
        self.hlc = hlc_of(START_MS)
        self.tag = record.scope_tag(scope, "default")

    def say(self, path: str, val: Any = None, **fields: Any) -> Record:
        self.hlc = fields.pop("hlc", self.hlc + (1 << 16))
        kind = fields.pop("kind", record.Kind.REG)
        return record.sign(
            self.secret, MESH_ID, self.tag, path=path, kind=kind, hlc=self.hlc, val=val, **fields
        )


@pytest.fixture
def start_ms() -> int:
    """The time of the first records, unix milliseconds."""
    return START_MS


@pytest.fixture
def pen() -> Pen:
    return Pen(1)


@pytest.fixture
def pens() -> list[Pen]:
    return sorted((Pen(number) for number in range(1, 5)), key=lambda pen: pen.aid)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def settings() -> Settings:
    return Settings(ballast_bytes=0)


@pytest.fixture
def open_store(home: Path, settings: Settings) -> Iterator[Callable[..., Store]]:
    opened: list[Store] = []

    def open_one(**changes: Any) -> Store:
        arguments: dict[str, Any] = {"mesh_id": MESH_ID, "zone": "default", "settings": settings}
        store = Store.open(changes.pop("path", home), **{**arguments, **changes})
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@asynccontextmanager
async def _running(store: Store) -> AsyncIterator[Store]:
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


@pytest.fixture
def running() -> Callable[[Store], AbstractAsyncContextManager[Store]]:
    """`async with running(store)`: with its writer at work."""
    return _running


@pytest.fixture
async def store(open_store: Callable[..., Store], nursery: trio.Nursery) -> Store:
    """A store with its writer at work until the end of the test."""
    store = open_store()
    await nursery.start(store.run)
    return store


def _putting(*records: Record, scope: str = "m") -> Callable[[Txn], int]:
    def job(txn: Txn) -> int:
        log = txn.log(scope)
        for rec in records:
            log.put(rec)
            log.set_marks(rec.aid, head=rec.hlc, floor=0)
        return len(records)

    return job


@pytest.fixture
def putting() -> Callable[..., Callable[[Txn], int]]:
    """`putting(record, ...)`: a job that puts records and moves their authors' heads."""
    return _putting

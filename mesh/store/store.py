"""What a node remembers: the durable scopes in LMDB, the live scope in RAM.

Reads are short snapshots on the event loop, which see what is committed; writes are jobs of the one writer
(`mesh/store/writer.py`). What changed is told to listeners and watches after the commit, in commit order.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import lmdb
import trio

from mesh.config import Store as Settings
from mesh.core import sync
from mesh.core.log import AuthorState
from mesh.core.record import LIVE, Record
from mesh.errors import StoreError, leaves
from mesh.store import addresses, backup, environment, identity, rows
from mesh.store.addresses import Known
from mesh.store.backup import Manifest
from mesh.store.environment import Opened
from mesh.store.live import LiveLog
from mesh.store.log import Tables, sizes
from mesh.store.reading import Reading, ReadingLive
from mesh.store.rows import Damaged
from mesh.store.tender import Tender
from mesh.store.txn import Txn
from mesh.store.watch import PATHS_MAX, USER_DATA, Change, Cursor, Watch, new_rounds
from mesh.store.writer import Writer

__all__ = ["Change", "Cursor", "Damaged", "Known", "Opened", "Store", "Txn", "Watch"]

log = logging.getLogger(__name__)

T = TypeVar("T")
DURABLE_SCOPES = ("m", "z")


class Store:
    """One node's store. Open it with `Store.open`, and start `run` before the first write is awaited.

    Attributes:
        live: the live scope's slots; changing it tells listeners and watches at once.
        opened: what was found when it was opened.
        generation: 16 bytes that change whenever the store may have forgotten something.
        tender: scrubs and mends; tell it `me`, our own aid.
        on_full: called with True when the disk is full, with False when there is room again.
    """

    def __init__(
        self,
        path: Path,
        lock: int,
        env: lmdb.Environment,
        tables: Tables,
        settings: Settings,
        opened: Opened,
        threaded: bool,
    ) -> None:
        self.path = path
        self.opened = opened
        self._lock = lock
        self._env = env
        self._tables = tables
        self._closed = False
        self._telling: Txn | None = None
        self._listeners: list[tuple[Callable[[list[Change]], None], bool]] = []
        self.on_full: Callable[[bool], None] = lambda full: None
        self._suspect = False
        self._writer = Writer(
            env,
            tables,
            settings,
            str(path / "ballast"),
            threaded=threaded,
            committed=self._committed,
            damaged=lambda error: self.tender.note(error),
            full_changed=lambda full: self.on_full(full),
        )
        names = ("schema", "mesh", "zone", "generation")
        self._identity = {name: value for name in names if (value := self.meta(name)) is not None}
        self.tender = Tender(env, tables, self.write, self._identity, settings.scrub_interval_s)
        self.generation = self._identity.get("generation", b"")
        self._rounds = new_rounds(self.generation, settings.watch_commits_max)
        self._expired_ms = dict.fromkeys((*DURABLE_SCOPES, LIVE), -1)
        self.live = LiveLog(self._tell)
        self.commit_number: int = env.info()["last_txnid"]

    # -- opening and closing ----------------------------------------------------------------------------

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        *,
        mesh_id: bytes,
        zone: str,
        settings: Settings | None = None,
        new_zone: bool = False,
        simulated: bool = False,
    ) -> Store:
        """Open the store in the directory `path`, making it if there is none.

        A file that was not closed in order is read through in a child process first; one that is damaged is
        put aside and replaced by an empty store of a new generation (see `opened`).

        Args:
            mesh_id: 16 bytes; a store of another mesh is refused.
            zone: the node's zone; a store of another zone is refused, unless
            new_zone: the node has moved: the old zone's state is dropped, it is of no use under the new name.
            simulated: for virtual clocks, which run on while a thread works: no thread, and no fsync.

        Raises:
            StoreError: in use by another process, of another mesh, zone or version, or not accessible.
        """
        settings = settings or Settings()
        place = Path(path)
        lock = environment.lock(place)
        try:
            meta = {
                "schema": environment.SCHEMA,
                "mesh": mesh_id,
                "zone": zone.encode(),
                "generation": os.urandom(16),
            }
            restored = backup.put_in_place(place, settings.map_bytes)
            opened = environment.prepare(place, meta, settings.map_bytes)
            opened.restored = restored
            env, tables = environment.open_env(place, settings.map_bytes, sync=not simulated)
            try:
                identity.check(place, env, tables, meta, new_zone)
                environment.mark_in_use(place)
                environment.lay_ballast(place, settings.ballast_bytes)
                return Store(place, lock, env, tables, settings, opened, not simulated)
            except BaseException:
                env.close()
                raise
        except BaseException:
            os.close(lock)
            raise

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve writes until cancelled; what was accepted is committed before it returns.

        Raises:
            StoreError: the disk or LMDB failed; the next start checks the store.
        """
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._writer.run)
                task_status.started()
                await self.tender.run()
        except BaseExceptionGroup as group:
            failed = group.subgroup(StoreError)
            if failed is not None:
                self._suspect = True
                raise leaves(failed)[0] from group
            raise

    def close(self) -> None:
        """Close the files. Call it after `run` has ended; without it the next start checks the store."""
        if self._closed:
            return
        self._closed = True
        self._env.close()
        if not self._suspect:
            environment.mark_clean(self.path)
        os.close(self._lock)

    # -- reading ----------------------------------------------------------------------------------------

    def read(self, scope: str) -> Reading | ReadingLive:
        """A snapshot of one scope: `with store.read("m") as log`. Never keep it across an await.

        Raises (on use):
            Damaged: a row that was needed is damaged; it is noted and mended soon.
        """
        return ReadingLive(self.live) if scope == LIVE else self.read_durable(scope)

    def read_durable(self, scope: str) -> Reading:
        """As `read`, of a scope on disk: an `LmdbLog`, which can do more than a `Log`."""
        return Reading(scope, self._tables, self._begin_read, self._end_read)

    def _begin_read(self) -> Any:
        if self._closed:
            raise StoreError("the store is closed")
        self._writer.open_reads += 1
        try:
            return self._env.begin()
        except lmdb.Error as error:
            self._writer.open_reads -= 1
            raise StoreError(f"the store cannot be read: {error}") from error

    def _end_read(self, error: BaseException | None) -> None:
        self._writer.open_reads -= 1
        if isinstance(error, Damaged):
            self.tender.note(error)
        elif isinstance(error, lmdb.Error):
            self._suspect = True
            raise StoreError(
                f"the store is damaged: {error}", "restart the agent: it checks the store"
            ) from error

    def meta(self, name: str) -> bytes | None:
        """A small named value as committed, or None."""
        key = name.encode()
        txn = self._begin_read()
        try:
            value = txn.get(key, db=self._tables.meta)
            return None if value is None else rows.unseal("meta", key, value)
        finally:
            txn.abort()
            self._end_read(None)

    def replaced(self, scope: str, path: str) -> list[Record]:
        """Values under `kv/` that were replaced here, oldest first; a bounded few."""
        with self.read_durable(scope) as log:
            return log.replaced(path)

    # -- writing ----------------------------------------------------------------------------------------

    @overload
    async def write(
        self,
        job: Callable[[Txn], Generator[None, None, T]],
        *,
        linger: bool = False,
        spare: bool = False,
        early: bool = False,
    ) -> T: ...

    @overload
    async def write(
        self, job: Callable[[Txn], T], *, linger: bool = False, spare: bool = False, early: bool = False
    ) -> T: ...

    async def write(
        self, job: Callable[[Txn], Any], *, linger: bool = False, spare: bool = False, early: bool = False
    ) -> Any:
        """Run a job in the writer's transaction; returns its result once that is on disk.

        Jobs of many callers share a commit. One that raises loses only itself. A job may be run several
        times, so it must have no effect but on the transaction; it runs on the event loop and must not wait.
        A long one is a generator function: it yields now and then to let the loop breathe.

        Args:
            linger: wait a little for company: for what others can send again.
            spare: it frees space: also tried when the disk is full.
            early: return when the job has run, before it is on disk: it may still be lost.

        Raises:
            StoreFull: disk full; nothing was written.
            StoreError: closed, or a row the job needed is damaged.
        """
        return await self._writer.write(job, linger=linger, spare=spare, early=early)

    def write_live(self, records: Sequence[Record]) -> None:
        """Store own, freshly signed records of the live scope."""
        with self.live.together():
            for rec in records:
                sync.write(self.live, rec)

    # -- what changed -----------------------------------------------------------------------------------

    def add_listener(self, listener: Callable[[list[Change]], None], *, user_data: bool = True) -> None:
        """Call `listener` on the loop after each commit (and each change of the live scope), in order.

        Args:
            user_data: whether it wants to hear of users' keys and messages (USER_DATA): of most changes.
        """
        self._listeners.append((listener, user_data))

    def hush(self) -> None:
        """Tell no listener any more: what was accepted is still committed, and nobody acts on it."""
        self._listeners.clear()

    def watch(
        self, prefix: str, scope: str, cursor: Cursor | None = None, *, paths_max: int = PATHS_MAX
    ) -> Watch:
        """Watch the paths of a scope that begin with `prefix`; with a cursor, from there on."""
        return self._rounds[scope].watch(prefix, cursor, paths_max)

    def dirty_watches(self) -> None:
        """What may be seen changed (a policy, a removed member): every watch reads anew."""
        for rounds in self._rounds.values():
            rounds.all_changed()

    def expire(self, now_ms: int) -> list[tuple[str, str]]:
        """Tell watches what expired since the last call.

        Args:
            now_ms: mesh time. It may jump; what expired before the first call is not told.

        Returns:
            (scope, path) of what now reads as deleted.
        """
        found: list[tuple[str, str]] = []
        for scope, last_ms in self._expired_ms.items():
            self._expired_ms[scope] = max(last_ms, now_ms)
            if 0 <= last_ms < now_ms:
                paths = self._expiring_paths(scope, last_ms, now_ms)
                self._rounds[scope].changed(paths)
                found += [(scope, path) for path in paths]
        return found

    def next_expiry_ms(self, now_ms: int) -> int | None:
        """Mesh time at which the next record expires, or None."""
        times = []
        for scope in DURABLE_SCOPES:
            with self.read_durable(scope) as log:
                times += [at for at, _ in _first(log.expiries(now_ms + 1, rows.U64_MAX))]
        times += [at for at in (self.live.next_expiry_ms(now_ms),) if at is not None]
        return min(times, default=None)

    def _expiring_paths(self, scope: str, after_ms: int, until_ms: int) -> list[str]:
        if scope == LIVE:
            return self.live.expired_paths(after_ms, until_ms)
        with self.read_durable(scope) as log:
            keys = [key for _, key in log.expiries(after_ms + 1, until_ms)]
        return list(dict.fromkeys(rows.parse_slot_key(key).path for key in keys))

    def author(self, scope: str, aid: bytes) -> AuthorState:
        """The state of an author as committed; to listeners, while they are told, it costs nothing."""
        state = None if scope == LIVE or self._telling is None else self._telling.known(scope, aid)
        if state is not None:
            return state
        with self.read(scope) as log:
            return log.author(aid)

    def _committed(self, number: int, txn: Txn) -> None:
        self.commit_number = number
        self._telling = txn
        self._tell(txn.changes)
        self._telling = None

    def _tell(self, changes: list[Change]) -> None:
        if not changes:
            return
        by_scope: dict[str, list[str]] = {}
        for change in changes:
            by_scope.setdefault(change.scope, []).append(change.path)
        for scope, paths in by_scope.items():
            self._rounds[scope].changed(paths)
        others = [change for change in changes if not change.path.startswith(USER_DATA)]
        for listener, user_data in self._listeners:
            told = changes if user_data else others
            try:
                if told:
                    listener(told)
            except Exception:  # others' records: a value that one consumer cannot bear must not end the agent
                log.exception("a listener failed at %s", sorted({change.path for change in changes})[:5])

    # -- addresses --------------------------------------------------------------------------------------

    def addresses(self) -> list[Known]:
        """The address book, last seen first."""
        return addresses.read(self._env, self._tables)

    async def put_address(self, known: Known) -> None:
        """Note where a member was reached. Waits for company, and nothing is lost if it is not awaited."""
        await self.write(lambda txn: addresses.put(txn, self._tables, known), linger=True)

    def stats(self) -> dict[str, int | bool]:
        """Sizes and counts, for metrics and doctor."""
        return {
            **sizes(self._env, self._tables),
            "live_records": len(self.live),
            "commits": self._writer.commits,
            "changes": self._writer.records,
            "waiting": self._writer.waiting,
            "full": self.full,
            "damaged": len(self.tender.damaged),
            "mended": self.tender.mended,
        }

    async def backup(self, target: str | os.PathLike[str], now_ms: int = 0) -> Manifest:
        """Copy the store as it is now into a new directory, while it goes on working.

        Raises:
            UsageError: the directory exists. StoreFull, StoreError: the place cannot be written.
        """
        make = partial(
            backup.copy,
            self._env,
            Path(target),
            mesh=self._identity["mesh"],
            zone=self._identity["zone"].decode(),
            generation=self.generation,
            commit=self.commit_number,
            now_ms=now_ms,
        )
        with self._writer.pinned():
            return await trio.to_thread.run_sync(make)

    # -- trouble ----------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the disk is full and only deletes are taken."""
        return self._writer.full


def _first(items: Iterable[T]) -> list[T]:
    for item in items:
        return [item]
    return []

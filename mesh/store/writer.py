"""The one writer: many callers' jobs in one transaction, one fsync for all of them.

    write(job) → queue → jobs run on the event loop, in slices → commit in the one store thread → answers

A job is a plain function of the transaction. Jobs run on the loop, so that they share its state without locks
and do not fight over the interpreter lock, which LMDB's binding gives up in each call: in a thread beside a
busy loop the same jobs took 5 to 100 times as long. The thread begins, commits and aborts, because these take
and give back LMDB's write lock, which belongs to a thread, and because a commit is the fsync: the loop never
waits for a disk. The thread leaves the next transaction open, so a write on an idle store costs one hop.

While a commit runs, jobs queue up and share the next one. Callers are answered after the fsync; a caller that
is cancelled meanwhile is not told, but its job is committed. A long job is a generator: at each `yield` the
loop may breathe; nothing else is written between.

A job that raises loses only itself. If it had changed something already, or the map was full, the transaction
is thrown away and the others are run once more: **a job may run several times** and must have no effect but
on the transaction. This was measured against a nested transaction around each job (2 MiB of page lists are
allocated for it: 10 µs a job): raising after writing is rare, so it should pay, and nobody else.

Disk full: the ballast file is freed, so that deletes can commit; all else is refused with StoreFull until
there is room again, which is looked for every few seconds.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import GeneratorType
from typing import Any

import lmdb
import outcome
import trio

from mesh.config import Store as Settings
from mesh.errors import StoreError, StoreFull
from mesh.store import ballast
from mesh.store.ballast import is_disk_full
from mesh.store.log import Tables
from mesh.store.pending import Job, Pending, Waiting
from mesh.store.rows import Damaged
from mesh.store.thread import Inline, Thread
from mesh.store.txn import Txn

BATCH_RECORDS_MAX = 1000
BATCH_BYTES_MAX = 1 << 20
QUEUE_MAX = 1024
SLICE_S = 0.005
ROOM_CHECK_S = 5.0
FLASH_SAVER_LINGER_S = 1.0
MAP_BYTES_MAX = 1 << (40 if sys.maxsize > 1 << 32 else 30)


class Writer:
    """Owns the write transaction.

    Args:
        threaded: commit in a thread; else on the loop, for virtual clocks.
        committed: called on the loop after each commit with LMDB's transaction id and what was committed.
        damaged: called when a job met a damaged row.
        full_changed: called with True when the disk became full, with False when there is room again.
    """

    def __init__(
        self,
        env: lmdb.Environment,
        tables: Tables,
        settings: Settings,
        ballast_path: str,
        *,
        threaded: bool,
        committed: Callable[[int, Txn], None],
        damaged: Callable[[Damaged], None],
        full_changed: Callable[[bool], None],
    ) -> None:
        self._env = env
        self._tables = tables
        self._settings = settings
        self._ballast_path = ballast_path
        self._committed = committed
        self._damaged = damaged
        self._full_changed = full_changed
        saver = settings.flash_saver
        self._waiting = Waiting(FLASH_SAVER_LINGER_S if saver else settings.linger_ms / 1000, always=saver)
        self._room = trio.lowlevel.ParkingLot()
        self._txn: Txn | None = None
        self._batch: list[Pending] = []
        self._current: Pending | None = None
        self._must_redo = False
        self._posted = False
        self._running = False
        self._closed = False
        self._thread: Thread | Inline = Thread() if threaded else Inline()
        self.full = False
        self.open_reads = 0
        self._pins = 0
        self._unpinned = trio.lowlevel.ParkingLot()
        self.commits = 0
        self.records = 0

    # -- callers ----------------------------------------------------------------------------------------

    async def write(self, job: Job, *, linger: bool, spare: bool, early: bool) -> Any:
        """Run a job and return its result after the fsync. See `Store.write`."""
        while len(self._waiting) >= QUEUE_MAX and not self._closed:
            await self._room.park()
        if self._closed:
            await trio.lowlevel.checkpoint_if_cancelled()  # at a stop the caller is ending, not failing
            raise StoreError("the store is closed")
        if self.full and not spare:
            raise StoreFull("the disk is full: the store takes deletes only", "free some space")
        pending = Pending(job, spare, early)
        self._waiting.add(pending, linger=linger)
        if not linger and self._idle:
            self._fill()
        if not self._posted:
            self._thread.wake()
        if not pending.answered:
            pending.task = trio.lowlevel.current_task()

            def give_up(_: Any) -> trio.lowlevel.Abort:
                pending.task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(give_up)
        else:
            await trio.lowlevel.checkpoint()
        assert pending.result is not None
        return pending.result.unwrap()

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """While a thread reads a snapshot of its own: the map does not grow meanwhile."""
        self._pins += 1
        try:
            yield
        finally:
            self._pins -= 1
            self._unpinned.unpark_all()

    @property
    def waiting(self) -> int:
        """Jobs that were not begun."""
        return len(self._waiting)

    @property
    def _idle(self) -> bool:
        busy = self._thread.busy or self._current or self._batch or self._must_redo or self._txn is None
        return self._running and not busy

    # -- the task ---------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled, then commit what was accepted.

        Raises:
            StoreError: LMDB failed in a way that only a restart can mend.
        """
        self._thread.start()
        try:
            await self._begin()
            self._running = True
            task_status.started()
            while True:
                await self._turn(wait=True)
        finally:
            self._closed = True
            try:
                with trio.CancelScope(shield=True):
                    while self._running and self._txn is not None and self._work_left():
                        await self._turn(wait=False)
                    self._running = False
                    await self._discard()
            finally:
                self._running = False
                self._thread.stop()
                self._refuse_all()

    def _work_left(self) -> bool:
        return bool(self._waiting or self._batch or self._current or self._posted or self._must_redo)

    def _refuse_all(self) -> None:
        error = outcome.Error(StoreError("the store is closed"))
        for pending in [*self._batch, *self._waiting.take()]:
            pending.answer(error)
        self._batch.clear()
        self._room.unpark_all()

    async def _turn(self, wait: bool) -> None:
        if self._posted:
            while wait and not self._thread.done:
                await self._thread.news()
            await self._settle()
        elif self._must_redo:
            await self._redo()
        elif self._batch or self._current or self._due(wait):
            self._fill()
            await trio.lowlevel.checkpoint()
        else:
            patience_s = self._patience()
            if patience_s == math.inf:  # the usual case; a cancel scope costs more than the wait
                await self._thread.news()
                return
            with trio.move_on_after(max(0.0, patience_s)):
                await self._thread.news()
            if self.full and self._idle:
                await self._look_for_room()

    def _due(self, wait: bool) -> bool:
        return self._waiting.due(trio.current_time()) if wait else bool(self._waiting)

    def _patience(self) -> float:
        """How long nothing needs to be done, if nobody asks, seconds."""
        patience = self._waiting.patience(trio.current_time())
        return max(0.0, min(patience, ROOM_CHECK_S) if self.full else patience)

    # -- filling a transaction --------------------------------------------------------------------------

    def _fill(self) -> None:
        """Run jobs until the batch is full, the queue is empty, or the loop should breathe."""
        until = time.perf_counter() + SLICE_S
        while (pending := self._next()) is not None:
            if not self._run_job(pending):
                return
            if time.perf_counter() > until and self._more_fits() and self._waiting:
                return
        self._post_commit()

    def _next(self) -> Pending | None:
        if self._current is not None:
            return self._current
        if not self._more_fits():
            return None
        return self._waiting.next(trio.current_time())

    def _more_fits(self) -> bool:
        txn = self._txn
        assert txn is not None
        return len(txn.changes) < BATCH_RECORDS_MAX and txn.size < BATCH_BYTES_MAX

    def _run_job(self, pending: Pending) -> bool:
        """Run a job, or go on with it; False when it paused or the transaction must be thrown away."""
        txn = self._txn
        assert txn is not None
        before, counted = txn.mark(), len(txn.changes)
        started_here = pending.generator is None
        self._current = None
        try:
            if pending.generator is None:
                result = pending.job(txn)
                if isinstance(result, GeneratorType):
                    pending.generator = result
            if pending.generator is not None:
                next(pending.generator)
                self._current = pending
                return False
        except StopIteration as stop:
            result = stop.value
        except Exception as error:
            pending.generator = None
            return self._job_raised(pending, error, clean=started_here and txn.mark() == before)
        pending.generator = None
        pending.result = outcome.Value(result)
        try:
            txn.flush()
        except lmdb.MapFullError as error:
            return self._job_raised(pending, error, clean=False)
        txn.size += sum(change.record.size for change in txn.changes[counted:] if change.record is not None)
        self._batch.append(pending)
        if pending.early:
            pending.answer(pending.result)
        return True

    def _job_raised(self, pending: Pending, error: Exception, *, clean: bool) -> bool:
        if isinstance(error, lmdb.MapFullError):
            pending.result = None
            self._batch.append(pending)
            self._must_redo = True
            return False
        if isinstance(error, Damaged):
            self._damaged(error)
        elif isinstance(error, lmdb.Error):
            error = StoreError(f"the store failed: {error}")
        pending.answer(outcome.Error(error))
        if not clean:
            self._must_redo = True
        return clean

    # -- committing -------------------------------------------------------------------------------------

    def _post_commit(self) -> None:
        txn = self._txn
        assert txn is not None
        if txn.mark() == (0, 0):
            self._answer_batch()
            return
        raw = txn.raw

        def commit() -> tuple[int, Any]:
            number = raw.id()
            raw.commit()
            return number, self._env.begin(write=True)

        self._thread.post(commit)
        self._posted = True

    async def _settle(self) -> None:
        txn = self._txn
        assert txn is not None
        try:
            number, raw = await self._thread.result()
        except lmdb.Error as error:
            self._posted = False
            self._txn = None
            await self._commit_failed(error)
            return
        self._posted = False
        self._txn = Txn(raw, self._tables, self._settings.history_max)
        self.commits += 1
        self.records += len(txn.changes)
        self._committed(number, txn)
        self._answer_batch()

    def _answer_batch(self) -> None:
        batch, self._batch = self._batch, []
        for pending in batch:
            assert pending.result is not None
            pending.answer(pending.result)
        self._room.unpark_all()

    async def _begin(self) -> None:
        raw = await self._thread.call(lambda: self._env.begin(write=True))
        self._txn = Txn(raw, self._tables, self._settings.history_max)

    async def _discard(self) -> None:
        """Throw the open transaction away."""
        txn, self._txn = self._txn, None
        if txn is not None:
            await self._thread.call(txn.raw.abort)

    async def _redo(self) -> None:
        """Throw the transaction away and queue its jobs again, in their order."""
        with trio.CancelScope(shield=True):
            short = [pending for pending in self._batch if pending.result is None]
            await self._discard()
            if short and not await self._grow():
                self._refuse(short)
            self._requeue()
            await self._begin()
            self._must_redo = False

    def _requeue(self) -> None:
        batch, self._batch = self._batch, []
        self._waiting.again(batch)

    def _refuse(self, refused: Sequence[Pending]) -> None:
        error = StoreFull("no room: the store cannot grow, nothing was written", "free some space")
        for pending in refused:
            pending.answer(outcome.Error(error))
        self._batch = [pending for pending in self._batch if not pending.answered]

    async def _grow(self) -> bool:
        """Double the map. Runs on the loop, where reads live, so none can be open; waits for copies."""
        while self._pins:
            await self._unpinned.park()
        assert self.open_reads == 0, "a read snapshot was kept across an await"
        size = self._env.info()["map_size"]
        if size * 2 > MAP_BYTES_MAX:
            return False
        self._env.set_mapsize(size * 2)
        return True

    async def _commit_failed(self, error: lmdb.Error) -> None:
        with trio.CancelScope(shield=True):
            if isinstance(error, lmdb.MapFullError):
                if not await self._grow():
                    self._refuse(self._batch)
                self._requeue()
                await self._begin()
            elif is_disk_full(error, self._ballast_path):
                await self._disk_full()
            else:
                raise StoreError(f"the store failed to commit: {error}") from error

    # -- a full disk ------------------------------------------------------------------------------------

    async def _disk_full(self) -> None:
        """Free the ballast, refuse this batch but for deletes, and take nothing else for now."""
        became_full, self.full = not self.full, True
        freed = ballast.size(self._ballast_path) > 0
        if freed:
            await self._thread.call(lambda: ballast.free(self._ballast_path))
        self._refuse([pending for pending in self._batch if not (pending.spare and freed)])
        self._requeue()
        self._refuse(self._waiting.take(lambda pending: not pending.spare))
        await self._begin()
        if became_full:
            self._full_changed(True)

    async def _look_for_room(self) -> None:
        if await self._thread.call(lambda: ballast.restore(self._ballast_path, self._settings.ballast_bytes)):
            self.full = False
            self._full_changed(False)

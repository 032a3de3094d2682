"""What this node says: stamps, signs and stores its own statements.

A durable statement is built inside the writer's transaction: `build` sees the slots as they are at that
moment (a compare-and-set, a counter total or the `sees` of a multi-value write needs that), the stamp is
drawn there, so stamps and commits have one order, and the caller is answered after the fsync. Nothing is
written if `build` raises. The clock's ceiling is stored ahead of use in the same commits, so a restart
never issues a stamp twice, whatever the wall clock does.

Statements of the live scope are RAM only and immediate; they have a clock of their own, because strict
growth is asked per (scope, author) only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Sequence

import msgspec

from mesh.core import record, sync
from mesh.core.clock import HybridClock, hlc_of
from mesh.core.collect import Statement
from mesh.core.fence import Fence
from mesh.core.log import Log
from mesh.core.record import LIVE, MESH, ZONE, Kind, Record
from mesh.core.rewind import rewind
from mesh.errors import MeshError, PeerError, StoreFull
from mesh.identity.keys import NodeKey
from mesh.store.store import Damaged, Store, Txn
from mesh.wire import codec

__all__ = ["Author", "Statement"]

CEILING_META = "hlc_ceiling"
CEILING_AHEAD_MS = 10_000
APART_MS = 200
FENCE_META = "fence/"
BREATHE_WRITES = 64
DURABLE = (MESH, ZONE)


Build = Callable[[Log], Sequence[Statement]]


class Author:
    """The pen of one node.

    Args:
        wall_ms: mesh time in unix milliseconds.
        quota: own slots and bytes allowed by the role, or None.
    """

    def __init__(
        self,
        store: Store,
        key: NodeKey,
        mesh_id: bytes,
        zone: str,
        wall_ms: Callable[[], int],
        limits: sync.Limits | None = None,
    ) -> None:
        self.store = store
        self.aid = key.aid
        self._secret = key.secret
        self._mesh_id = mesh_id
        self._zone = zone
        self._wall_ms = wall_ms
        self.limits = limits or sync.Limits()
        # A store set back to a copy has the ceiling of the copy. Were the first stamps above it the same in
        # two lives, others would hold proof of two histories under our key.
        start = _stamp(store.meta(CEILING_META)) + secrets.randbelow(hlc_of(APART_MS))
        self.clock = HybridClock(start)
        self.live_clock = HybridClock(start)
        self.fences = {scope: self._fence(scope) for scope in DURABLE}
        self._fenced = False

    def _fence(self, scope: str) -> Fence:
        stored = self.store.meta(FENCE_META + scope)
        with self.store.read(scope) as log:
            return Fence.opened(log, self.aid, _unpack(stored), self._wall_ms(), secrets.randbits(16))

    async def say(
        self,
        scope: str,
        build: Build,
        *,
        raw: bool = False,
        queued: bool = False,
        beside: Callable[[Txn], None] = lambda txn: None,
    ) -> list[Record]:
        """Write durable statements; returns the records once they are on disk.

        Args:
            build: called with the scope's log inside the transaction; may raise a MeshError to refuse.
            raw: exempt from the author's quota (deletes and collection always are).
            queued: do not wait for the disk.
            beside: what else is noted in the same commit: one of its own would be waited for first.

        Raises:
            StoreFull: the node's own quota or the disk is exhausted.
        """
        assert scope != LIVE

        def job(txn: Txn) -> list[Record]:
            records = self._build(txn, scope, build, None if raw else self.limits)
            beside(txn)
            return records

        return await self.store.write(job, spare=raw, early=queued)

    async def say_each(
        self, scope: str, builds: Sequence[Build], *, queued: bool = False
    ) -> list[list[Record] | MeshError]:
        """Many writes in one commit, each seeing those before it; one that is refused spares the others.

        Raises:
            StoreError: the disk is full, or a row is damaged; nothing was written.
        """

        def job(txn: Txn) -> Generator[None, None, list[list[Record] | MeshError]]:
            said: list[list[Record] | MeshError] = []
            for number, build in enumerate(builds, 1):
                try:
                    said.append(self._build(txn, scope, build, self.limits))
                except Damaged:
                    raise
                except MeshError as error:
                    said.append(error)
                if number % BREATHE_WRITES == 0:
                    yield
            return said

        return await self.store.write(job, early=queued)

    async def start(self) -> None:
        """Put the fences on disk before anything is said under them.

        Raises:
            StoreFull: there is no room. Then they go with whatever is said first; this may be tried again.
        """
        await self.store.write(self._put_fences, spare=True)
        self._fenced = True

    def _put_fences(self, txn: Txn) -> None:
        for scope, fence in self.fences.items():
            txn.put_meta(FENCE_META + scope, codec.encode(msgspec.to_builtins(fence)))

    async def recover(self, scope: str, records: Sequence[Record], *, reset: bool) -> list[Record]:
        """Take back what a peer knows of ourselves and this store forgot; see `core/fence.py`.

        Args:
            records: the peer's whole answer to `want(fence)`.
        """

        def job(txn: Txn) -> tuple[Fence, list[Record]]:
            log = txn.log(scope)
            fence = msgspec.convert(msgspec.to_builtins(self.fences[scope]), Fence)
            self.clock.receive(max((rec.hlc for rec in records), default=0))
            statements = fence.recover(log, self.aid, records, reset=reset, now_ms=self._wall_ms())
            said = self._write(txn, scope, log, statements, None)
            txn.put_meta(FENCE_META + scope, codec.encode(msgspec.to_builtins(fence)))
            return fence, said

        self.fences[scope], said = await self.store.write(job)
        return said

    async def confirm(self, scope: str) -> None:
        """A peer holds exactly what we hold of ourselves: nothing was forgotten."""
        fence = msgspec.structs.replace(self.fences[scope], checked=True)
        self.fences[scope] = fence
        packed = codec.encode(msgspec.to_builtins(fence))
        await self.store.write(lambda txn: txn.put_meta(FENCE_META + scope, packed), linger=True)

    @property
    def newest(self) -> int:
        """The highest stamp given out or seen."""
        return max(self.clock.last, self.live_clock.last)

    async def rewind(self) -> int:
        """Our clock was ahead: drop the future and say our own part of it again; returns how many records."""

        def job(txn: Txn) -> int:
            now_ms = self._wall_ms()
            said = {scope: rewind(txn.log(scope), self.aid, now_ms) for scope in DURABLE}
            self.clock.last = max(txn.log(scope).author(self.aid).head for scope in DURABLE)
            txn.put_meta(CEILING_META, hlc_of(now_ms + CEILING_AHEAD_MS).to_bytes(8, "big"))
            for scope, statements in said.items():
                log = txn.log(scope)
                self.fences[scope].rewound(log, self.aid, now_ms)
                txn.put_meta(FENCE_META + scope, codec.encode(msgspec.to_builtins(self.fences[scope])))
                self._write(txn, scope, log, statements, None)
            # A restart must not find the ceiling of the wrong time, and go on from there.
            ceiling = max(self.clock.last + hlc_of(1), hlc_of(now_ms + CEILING_AHEAD_MS))
            txn.put_meta(CEILING_META, ceiling.to_bytes(8, "big"))
            return sum(map(len, said.values()))

        again = await self.store.write(job)
        live = self.store.live
        with live.together():
            for aid, _ in list(live.authors()):
                live.drop_author(aid)
        self.live_clock.last = 0
        return again

    def _build(self, txn: Txn, scope: str, build: Build, limits: sync.Limits | None) -> list[Record]:
        log, fence = txn.log(scope), self.fences[scope]
        statements = [fence.counted(log, self.aid, statement) for statement in build(log)]
        return self._write(txn, scope, log, statements, limits)

    def _write(
        self,
        txn: Txn,
        scope: str,
        log: Log,
        statements: Sequence[Statement],
        limits: sync.Limits | None,
    ) -> list[Record]:
        if not self._fenced:
            self._put_fences(txn)
        records = [self._sign(scope, statement, self.clock) for statement in statements]
        for rec in records:
            outcome = sync.write(log, rec, limits=limits)
            if outcome.refused:
                raise StoreFull(outcome.refused, "delete something, or ask an admin for a larger quota")
        if records and self.clock.last > _stamp(txn.meta(CEILING_META)):
            # Ahead of the wall clock, not of itself: else each restart would push the clock on, and after a
            # few in a row nobody would take our stamps for true any more.
            ahead = hlc_of(self._wall_ms() + CEILING_AHEAD_MS)
            ceiling = max(self.clock.last + hlc_of(1), ahead)
            txn.put_meta(CEILING_META, ceiling.to_bytes(8, "big"))
        return records

    def say_live(self, statements: Sequence[Statement]) -> list[Record]:
        """Write statements of the live scope, at once and in RAM only."""
        records = [self._sign(LIVE, statement, self.live_clock) for statement in statements]
        self.store.write_live(records)
        return records

    def say_live_again(self) -> list[Record]:
        """Say what stands in our slots of the live scope again, above the stamps of an earlier life.

        Not messages: whoever listens here has had them already.
        """
        live = self.store.live
        held = [rec for rec in live.since(self.aid, 0) if rec.kind != Kind.LOG]
        return self.say_live([Statement(rec.path, rec.kind, rec.val, rec.op, rec.ttl) for rec in held])

    def _sign(self, scope: str, statement: Statement, clock: HybridClock) -> Record:
        return record.sign(
            self._secret,
            self._mesh_id,
            record.scope_tag(scope, self._zone),
            path=statement.path,
            kind=statement.kind,
            hlc=clock.send(self._wall_ms()),
            op=statement.op,
            ttl=statement.ttl,
            val=statement.val,
            asof=statement.asof,
            sees=statement.sees,
        )


def _stamp(stored: bytes | None) -> int:
    return int.from_bytes(stored, "big") if stored else 0


def _unpack(stored: bytes | None) -> Fence | None:
    try:
        return None if stored is None else msgspec.convert(codec.decode(stored), Fence)
    except (PeerError, msgspec.ValidationError):
        return None  # damaged: the whole log is asked for again, which costs only bytes

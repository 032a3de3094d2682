"""Users' replicated state: the keys under `kv/`, as `mesh.admin.features.Kv` describes them.

A write reads the key inside the writer's transaction, decides what to say, says it, and answers after the
fsync; a read folds the slots of a key in one short snapshot. Nothing is cached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from mesh.agent import kv_write
from mesh.agent.author import Author, Statement
from mesh.agent.kv_keys import base_path
from mesh.agent.kv_read import TYPES, read, read_slots
from mesh.agent.kv_reader import Json, Reader, Removals, letter_of
from mesh.agent.kv_shape import Shape
from mesh.agent.kv_write import View
from mesh.core.log import Log
from mesh.errors import Failed, MeshError, TimedOut, UsageError
from mesh.store.log import LmdbLog
from mesh.store.store import Store

Durable = str | int
BATCH_MAX = 10_000
COPIES_TIMEOUT_S = 5.0


def everyone(aid: bytes, path: str) -> bool:
    """The policy under which everybody may write everywhere."""
    return True


class Kv(Reader):
    """The keys of one node's mesh and zone.

    Args:
        now_ms: mesh time, unix milliseconds.
        who: (id, name) of an author.
        may: whether an author may write a path; slots of others do not count.
        permit: raises Denied unless we may write a path.
        copies: waits until so many neighbours hold our records up to an hlc on disk; returns how many do.
        held: how many neighbours are known to hold an author's records up to an hlc, (scope, aid, hlc).
        removals: the admitted records under `removed/` of a scope, which hold counters of removed authors.
    """

    def __init__(
        self,
        store: Store,
        author: Author,
        *,
        now_ms: Callable[[], int],
        who: Callable[[bytes], tuple[str, str]],
        may: Callable[[bytes, str], bool] = everyone,
        permit: Callable[[str], None] = lambda path: None,
        copies: Callable[[str, int, int, float], Awaitable[int]] | None = None,
        held: Callable[[str, bytes, int], int] = lambda scope, aid, hlc: 0,
        removals: Removals = lambda scope: (),
    ) -> None:
        super().__init__(store, Shape(who, held), now_ms, may, removals)
        self._author = author
        self._permit = permit
        self._copies = copies

    # -- writing ----------------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        value: Any,
        *,
        type: str | None,
        scope: str,
        ttl_ms: int | None,
        durable: Durable,
    ) -> Json:
        """Make the visible value this one. `shapes.Written`."""
        write = _putting(value, type, ttl_ms)
        return await self._write(key, type or "reg", write, scope, durable)

    async def cas(
        self,
        key: str,
        value: Any,
        *,
        expect: Json,
        type: str | None,
        scope: str,
        ttl_ms: int | None,
        durable: Durable,
    ) -> Json:
        """Put if the state here is as expected, judged inside the transaction. Conflict."""
        name = type or "reg"
        write = _putting(value, name, ttl_ms)

        def compare_and_put(view: View) -> Sequence[Statement]:
            kv_write.compare(view, name, expect)
            return write(view)

        return await self._write(key, name, compare_and_put, scope, durable)

    async def delete(self, key: str, *, type: str | None, scope: str, durable: Durable) -> Json:
        """`shapes.Written`. NotFound when nothing is visible."""
        named: list[str] = []

        def delete(view: View) -> Sequence[Statement]:
            named[:] = [type or next(iter(view.found), "reg")]
            return kv_write.delete(view, type)

        written = await self._write(key, "", delete, scope, durable, spare=True)
        return {**written, "type": named[0]}

    async def counter_add(self, key: str, by: int, *, scope: str, durable: Durable) -> Json:
        """`shapes.Written` with the new total as `value`."""
        totals: list[int] = []

        def add(view: View) -> Sequence[Statement]:
            found = view.take("counter")
            totals[:] = [(found.value if found else 0) + by]
            return kv_write.add(view, by)

        written = await self._write(key, "counter", add, scope, durable)
        return {**written, "value": totals[0]}

    async def set_change(
        self, key: str, *, add: Sequence[Any], remove: Sequence[Any], scope: str, durable: Durable
    ) -> Json:
        """Add and remove elements. `shapes.Written`."""
        return await self._write(
            key, "set", lambda view: kv_write.change_set(view, add, remove), scope, durable
        )

    async def map_change(
        self, key: str, *, set: Mapping[str, Any], delete: Sequence[str], scope: str, durable: Durable
    ) -> Json:
        """Set and delete fields. `shapes.Written`."""
        for value in set.values():
            kv_write.check_value(value)
        return await self._write(
            key, "map", lambda view: kv_write.change_map(view, set, delete), scope, durable
        )

    async def log_append(
        self, key: str, value: Any, *, ttl_ms: int | None, scope: str, durable: Durable
    ) -> Json:
        """Append an entry; `ttl_ms` None: 30 days. `shapes.Written`."""
        kv_write.check_value(value)
        return await self._write(
            key, "log", lambda view: kv_write.append(view, [value], ttl_ms), scope, durable
        )

    async def put_many(self, entries: Sequence[Json], *, scope: str, durable: Durable, dry_run: bool) -> Json:
        """Many puts and deletes in one commit; one that is refused spares the others. `shapes.Batch`."""
        letter = letter_of(scope)
        if len(entries) > BATCH_MAX:
            raise UsageError(f"{len(entries)} entries at once, at most {BATCH_MAX} are allowed")
        builds: dict[int, Callable[[Log], Sequence[Statement]]] = {}
        refused: dict[int, MeshError] = {}
        for index, entry in enumerate(entries):
            try:
                builds[index] = self._build(letter, entry["key"], _writing(entry))
            except MeshError as error:
                refused[index] = error
        hlcs: dict[int, str] = {}
        if dry_run:
            refused.update(self._try(letter, builds))
        else:
            said = await self._author.say_each(letter, list(builds.values()), queued=durable == "queued")
            for index, outcome in zip(builds, said, strict=True):
                if isinstance(outcome, MeshError):
                    refused[index] = outcome
                else:
                    hlcs[index] = str(max((rec.hlc for rec in outcome), default=0))
            await self._wait_for_copies(letter, max(map(int, hlcs.values()), default=0), durable)
        await trio.lowlevel.checkpoint()
        return {
            "written": len(hlcs),
            "hlcs": [hlcs.get(index) for index in range(len(entries))],
            "refused": [
                {"index": index, "key": entries[index]["key"], **error.body()}
                for index, error in sorted(refused.items())
            ],
        }

    def _try(
        self, letter: str, builds: Mapping[int, Callable[[Log], Sequence[Statement]]]
    ) -> dict[int, MeshError]:
        """What would be refused, judged on the present state."""
        refused: dict[int, MeshError] = {}
        with self._store.read_durable(letter) as log:
            for index, build in builds.items():
                try:
                    build(log)
                except MeshError as error:
                    refused[index] = error
        return refused

    def _build(self, letter: str, key: str, write: kv_write.Write) -> Callable[[Log], Sequence[Statement]]:
        """A write of one key as the author runs it inside the transaction."""
        base = base_path(key)
        self._permit(base)
        me = self._author.aid

        def build(log: Log) -> Sequence[Statement]:
            assert isinstance(log, LmdbLog)
            slots = read_slots(log, base, self._may)
            now_ms, inherited = self._now_ms(), self._inherited(letter, slots)
            return write(
                View(key, slots, read(slots, now_ms, inherited, entries_max=1), me, now_ms, inherited)
            )

        return build

    async def _write(
        self, key: str, type: str, write: kv_write.Write, scope: str, durable: Durable, *, spare: bool = False
    ) -> Json:
        letter = letter_of(scope)
        build = self._build(letter, key, write)
        records = await self._author.say(letter, build, raw=spare, queued=durable == "queued")
        hlc = max((rec.hlc for rec in records), default=0)
        held = await self._wait_for_copies(letter, hlc, durable) if records else 0
        return self._shape.written(key, type, scope, self._author.aid, hlc or self._author.clock.last, held)

    async def _wait_for_copies(self, letter: str, hlc: int, durable: Durable) -> int:
        if isinstance(durable, str) or not hlc:
            return 0
        if self._copies is None:
            raise Failed("this node has no links yet: the write is on disk here only")
        held = await self._copies(letter, hlc, durable, COPIES_TIMEOUT_S)
        if held < durable:
            raise TimedOut(
                f"the write is on disk here and on {held} of the {durable} neighbours asked for",
                "it stays, and reaches the others when they can be reached",
            )
        return held


def _putting(value: Any, type: str | None, ttl_ms: int | None) -> kv_write.Write:
    """A put as a write.

    Raises:
        UsageError: unknown type, or a value that cannot be stored.
    """
    put = kv_write.PUT.get(type or "reg")
    if put is None:
        raise UsageError(f"unknown type {type!r:.40}", ", ".join(TYPES))
    if ttl_ms is not None and not 0 < ttl_ms <= 1 << 48:
        raise UsageError(f"a ttl of {ttl_ms} ms is not possible")
    if type in ("set", "map", "log") and isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            kv_write.check_value(part)
    else:
        kv_write.check_value(value)
    return lambda view: put(view, value, ttl_ms)


def _writing(entry: Json) -> kv_write.Write:
    """An entry of a batch as a write."""
    if entry.get("delete"):
        return lambda view: kv_write.delete(view, entry.get("type"))
    return _putting(entry["value"], entry.get("type"), entry.get("ttl_ms"))

"""Reading users' keys: one, a range of them in the order of keys, their history, and what changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import trio

from mesh.agent.kv_keys import base_path, in_order, key_of, prefix_path
from mesh.agent.kv_read import Found, Inherited, Slots, read, read_slots
from mesh.agent.kv_shape import Shape
from mesh.core import folds
from mesh.core.record import MESH, ZONE, Kind, Record
from mesh.errors import NotFound, UsageError
from mesh.store.log import LmdbLog
from mesh.store.store import Cursor, Store

Json = dict[str, Any]
Rows = list[Json]
Removals = Callable[[str], Iterable[Record]]
SCOPES = {"mesh": MESH, "zone": ZONE}
PAGE_KEYS = 128
HISTORY_MAX = 1000


class Reader:
    """Reads of one node's mesh and zone.

    Args:
        now_ms: mesh time, unix milliseconds.
        may: whether an author may write a path; slots of others do not count.
        removals: the admitted records under `removed/` of a scope, which hold counters of removed authors.
    """

    def __init__(
        self,
        store: Store,
        shape: Shape,
        now_ms: Callable[[], int],
        may: Callable[[bytes, str], bool],
        removals: Removals,
    ) -> None:
        self._store = store
        self._shape = shape
        self._now_ms = now_ms
        self._may = may
        self._removals = removals

    # -- reading ----------------------------------------------------------------------------------------

    async def get(self, key: str, *, type: str | None, scope: str) -> Json:
        """`shapes.Entry`. NotFound."""
        base, letter = base_path(key), letter_of(scope)
        with self._store.read_durable(letter) as log:
            found = self._found(log, letter, base)
        await trio.lowlevel.checkpoint()
        entry = self._entry(key, scope, found, type)
        if entry is None:
            raise _missing(key, scope, type, found)
        return entry

    async def list(
        self, prefix: str, *, type: str | None, scope: str, after: str | None, limit: int, values: bool
    ) -> Rows:
        """`shapes.Entry`, ascending by key (code points), keys > `after`."""
        rows: Rows = []
        while len(rows) < limit:
            page, last = self._page(prefix, after, scope, type, limit - len(rows))
            rows += page
            if last is None:
                break
            after = last
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return rows if values else [{**row, "value": None} for row in rows]

    async def export(self, prefix: str, *, scope: str) -> AsyncIterator[Json]:
        """`shapes.Entry` of every key and type, ascending, read in pages."""
        after: str | None = None
        while True:
            rows, after = self._page(prefix, after, scope, None, PAGE_KEYS, every_type=True)
            for row in rows:
                yield row
            if after is None:
                return
            await trio.lowlevel.checkpoint()

    def _page(
        self,
        prefix: str,
        after: str | None,
        scope: str,
        type: str | None,
        most: int,
        *,
        every_type: bool = False,
    ) -> tuple[Rows, str | None]:
        """Entries of the next keys of one snapshot, and the last key looked at, None at the end."""
        letter, rows, last = letter_of(scope), list[Json](), None
        seen = 0
        with self._store.read_durable(letter) as log:
            for key in in_order(log, prefix, after):
                last = key
                seen += 1
                found = self._found(log, letter, base_path(key))
                for wanted in found if every_type else (type,):
                    entry = self._entry(key, scope, found, wanted)
                    if entry is not None:
                        rows.append(entry)
                if len(rows) >= most or seen >= PAGE_KEYS:
                    return rows, last
        return rows, None

    async def history(self, key: str, *, scope: str) -> Rows:
        """`shapes.Revision`, newest first. NotFound."""
        base, letter = base_path(key), letter_of(scope)
        with self._store.read_durable(letter) as log:
            slots = read_slots(log, base, self._may)
            records = list(slots.everything())
            current = self._current(slots.everything())
            paths = {base, *(rec.path for rec in records)}
        for path in sorted(paths):
            records += self._store.replaced(letter, path)
        await trio.lowlevel.checkpoint()
        if not records:
            raise NotFound(f"nothing was ever written to {key!r} in scope {scope}")
        unique = {(rec.aid, rec.hlc): rec for rec in reversed(records)}
        newest = sorted(unique.values(), key=lambda rec: (rec.hlc, rec.aid), reverse=True)[:HISTORY_MAX]
        return [self._shape.revision(rec, current=(rec.aid, rec.hlc) in current) for rec in newest]

    def _current(self, records: Iterable[Record]) -> set[tuple[bytes, int]]:
        """Which statements take part in what is read now."""
        by_path: dict[tuple[str, int], list[Record]] = {}
        for rec in records:
            by_path.setdefault((rec.path, rec.kind), []).append(rec)
        current: list[Record] = []
        for (_, kind), group in by_path.items():
            chosen = folds.visible(group, kind) if kind in (Kind.REG, Kind.MV) else group
            current += [rec for rec in chosen if folds.live(rec, self._now_ms()) or chosen[0] is rec]
        return {(rec.aid, rec.hlc) for rec in current}

    async def log_read(self, key: str, *, scope: str, after: str | None, limit: int) -> Rows:
        """`shapes.LogEntry` with a larger hlc than `after`, oldest first; without it the newest `limit`.

        NotFound when the log has no entry at all.
        """
        base, letter = base_path(key), letter_of(scope)
        now_ms = self._now_ms()
        with self._store.read_durable(letter) as log:
            slots = read_slots(log, base, self._may)
            found = slots.entries(int(after)) if after is not None else slots.entries(newest_first=True)
            chosen = list(islice((rec for rec in found if folds.live(rec, now_ms)), limit))
            if not chosen and not any(folds.live(rec, now_ms) for rec in slots.entries()):
                raise _missing(key, scope, "log", self._found(log, letter, base))
        await trio.lowlevel.checkpoint()
        ordered = chosen if after is not None else chosen[::-1]
        return [self._shape.log_entry(rec) for rec in ordered]

    def _found(self, log: LmdbLog, letter: str, base: str) -> dict[str, Found]:
        slots = read_slots(log, base, self._may)
        return read(slots, self._now_ms(), self._inherited(letter, slots))

    def _entry(self, key: str, scope: str, found: Mapping[str, Found], type: str | None) -> Json | None:
        chosen = found.get(type) if type else next(iter(found.values()), None)
        return None if chosen is None else self._shape.entry(key, scope, chosen, list(found))

    def _inherited(self, letter: str, slots: Slots) -> Inherited | None:
        """What removed authors left of the counter that a key may be."""
        if slots.plain and not any(rec.kind == Kind.CTR for rec in slots.plain):
            return None
        left: dict[bytes, tuple[int, int]] = {}
        newest: Record | None = None
        for rec in self._removals(letter):
            counters = rec.val.get("counters") if isinstance(rec.val, dict) else None
            pair = counters.get(slots.base) if isinstance(counters, dict) else None
            if pair is None:
                continue
            plus, minus = folds.totals_of(pair)
            gone = bytes.fromhex(rec.path.split("/")[1])
            old = left.get(gone, (0, 0))
            left[gone] = (max(plus, old[0]), max(minus, old[1]))
            newest = rec if newest is None or rec.hlc > newest.hlc else newest
        return None if newest is None else Inherited(left, newest)

    # -- watching ---------------------------------------------------------------------------------------

    async def watch(
        self, prefix: str, *, scope: str, cursor: str | None, initial: bool
    ) -> AsyncIterator[Json]:
        """`shapes.Change`."""
        letter = letter_of(scope)
        begin = None if cursor is None else Cursor.parse(cursor)
        with self._store.watch(prefix_path(prefix), letter, begin) as watch:
            at = str(watch.cursor)
            if initial:
                async for entry in self.export(prefix, scope=scope):
                    yield self._shape.change("put", at, entry["key"], scope, entry)
                yield self._shape.change("ready", at, "", scope, None)
            async for seen in watch:
                if seen.rescan:
                    yield self._shape.change("rescan", str(seen.cursor), "", scope, None)
                    continue
                for key in dict.fromkeys(key_of(path) for path in seen.paths):
                    yield self._changed(key, scope, str(seen.cursor))

    def _changed(self, key: str, scope: str, cursor: str) -> Json:
        letter = letter_of(scope)
        with self._store.read_durable(letter) as log:
            found = self._found(log, letter, base_path(key))
        entry = self._entry(key, scope, found, None)
        return self._shape.change("delete" if entry is None else "put", cursor, key, scope, entry)


def letter_of(scope: str) -> str:
    """The scope's letter in records.

    Raises:
        UsageError: no such scope.
    """
    try:
        return SCOPES[scope]
    except KeyError:
        raise UsageError(f"unknown scope {scope!r:.40}", "mesh or zone") from None


def _missing(key: str, scope: str, type: str | None, found: Mapping[str, Found]) -> NotFound:
    what = f"{type} " if type else ""
    also = f"; it is a {' and '.join(found)}" if found else ""
    return NotFound(f"there is no {what}key {key!r} in scope {scope}{also}", "`meshctl kv ls` lists keys")

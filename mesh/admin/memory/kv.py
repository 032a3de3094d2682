"""Keys of every type in a dict."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import trio

from mesh.admin.features import Durable, Json, Rows, Scope, Type
from mesh.admin.memory.clock import ID, Clock, iso
from mesh.admin.values import dumps
from mesh.errors import Conflict, MeshError, NotFound, UsageError
from mesh.wire.codec import check_user_value

TYPES: tuple[Type, ...] = ("reg", "mv", "flag", "counter", "set", "map", "log")
VALUE_BYTES_MAX = 64 << 10
LOG_TTL_MS = 30 * 86_400_000


class MemoryKv:
    """One author's state; it forgets nothing but what is deleted or expired."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[tuple[str, str, str], Json] = {}
        self._history: dict[tuple[str, str], Rows] = {}
        self._log: list[tuple[str, str, str]] = []
        self._moved = trio.Event()

    # Reading

    async def get(self, key: str, *, type: Type | None, scope: Scope) -> Json:
        self._expire()
        found = self._types(scope, key)
        wanted = [kind for kind in found if type in (None, kind)]
        if not wanted:
            what = f"{type} " if type else ""
            raise NotFound(f"there is no {what}key {key!r} in scope {scope}", "`meshctl kv ls` lists keys")
        return {**self._entries[scope, key, wanted[0]], "types": found}

    def _types(self, scope: str, key: str) -> list[Type]:
        return [kind for kind in TYPES if (scope, key, kind) in self._entries]

    def _expire(self) -> None:
        now = self._clock.now()
        for slot, entry in list(self._entries.items()):
            if entry["expires"] is not None and entry["expires"] <= now:
                self._drop(slot)

    async def list(
        self, prefix: str, *, type: Type | None, scope: Scope, after: str | None, limit: int, values: bool
    ) -> Rows:
        self._expire()
        rows = []
        for (place, key, kind), entry in sorted(self._entries.items(), key=lambda item: item[0][1]):
            if place == scope and key.startswith(prefix) and type in (None, kind) and key > (after or ""):
                shown = {} if values else {"value": None}
                rows.append({**entry, "types": self._types(scope, key), **shown})
        return rows[:limit]

    async def export(self, prefix: str, *, scope: Scope) -> AsyncIterator[Json]:
        for row in await self.list(prefix, type=None, scope=scope, after=None, limit=1 << 60, values=True):
            yield row

    async def history(self, key: str, *, scope: Scope) -> Rows:
        found = self._history.get((scope, key))
        if not found:
            raise NotFound(f"nothing was ever written to {key!r} in scope {scope}")
        return found[::-1]

    async def watch(
        self, prefix: str, *, scope: Scope, cursor: str | None, initial: bool
    ) -> AsyncIterator[Json]:
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
            raise UsageError(f"cursor {cursor[:64]!r} is malformed", "use one that a watch gave")
        at = len(self._log) if cursor is None else int(cursor)
        if at > len(self._log):
            at = len(self._log)
            yield {**self._change("rescan", at, scope), "key": ""}
        if initial:
            async for entry in self.export(prefix, scope=scope):
                yield {
                    **self._change("put", at, scope),
                    "key": entry["key"],
                    "type": entry["type"],
                    "entry": entry,
                }
            yield self._change("ready", at, scope)
        while True:
            while at < len(self._log):
                place, key, kind = self._log[at]
                at += 1
                if place == scope and key.startswith(prefix):
                    now = self._entries.get((place, key, kind))
                    change = self._change("put" if now else "delete", at, scope)
                    yield {**change, "key": key, "type": kind, "entry": now}
            await self._moved.wait()

    def _change(self, change: str, at: int, scope: str) -> Json:
        empty: Json = {"key": "", "type": None, "entry": None}
        return {"change": change, "cursor": str(at), "scope": scope, **empty}

    # Writing

    def _store(self, key: str, kind: Type, value: Any, scope: str, ttl_ms: int | None = None) -> Json:
        _check(key, value)
        written = {**self._stamp(), "key": key, "type": kind, "scope": scope, "acknowledged": 0}
        expires = None if ttl_ms is None else iso(self._clock.wall_s() + ttl_ms / 1000)
        self._entries[scope, key, kind] = {
            **written,
            "value": value,
            "author_name": "alpha",
            "expires": expires,
            "conflicts": [],
            "types": [],
        }
        self._note(written, "put", value)
        return written

    def _stamp(self) -> Json:
        return {"author": ID, "hlc": self._clock.stamp(), "time": self._clock.now()}

    def _note(self, written: Json, op: str, value: Any) -> None:
        revision = {key: written[key] for key in ("author", "hlc", "time", "type")}
        rows = self._history.setdefault((written["scope"], written["key"]), [])
        for row in rows:
            row["current"] = False
        rows.append({**revision, "author_name": "alpha", "op": op, "value": value, "current": True})
        self._log.append((written["scope"], written["key"], written["type"]))
        self._moved.set()
        self._moved = trio.Event()

    def _drop(self, slot: tuple[str, str, str]) -> Json:
        scope, key, kind = slot
        del self._entries[slot]
        written = {**self._stamp(), "key": key, "type": kind, "scope": scope, "acknowledged": 0}
        self._note(written, "delete", None)
        return written

    def _value(self, key: str, kind: str, scope: str, empty: Any) -> Any:
        self._expire()
        entry = self._entries.get((scope, key, kind))
        return empty if entry is None else entry["value"]

    async def put(
        self, key: str, value: Any, *, type: Type | None, scope: Scope, ttl_ms: int | None, durable: Durable
    ) -> Json:
        kind = type or "reg"
        _check_type(kind, value)
        if kind == "log":
            for item in value:
                written = await self.log_append(key, item, ttl_ms=ttl_ms, scope=scope, durable=durable)
            return written
        return self._store(key, kind, value, scope, ttl_ms)

    async def cas(self, key: str, value: Any, *, expect: Json, type: Any, scope: Scope, **how: Any) -> Json:
        there = self._entries.get((scope, key, type or "reg"))
        if "absent" in expect:
            holds = there is None
        elif there is None:
            holds = False
        else:
            holds = all(there[name] == wanted for name, wanted in expect.items())
        if not holds:
            what = "it is not there" if there is None else f"its hlc is {there['hlc']}"
            raise Conflict(f"key {key!r} is not as expected: {what}", "read it again and decide anew")
        return await self.put(key, value, type=type, scope=scope, **how)

    async def put_many(
        self, entries: Sequence[Json], *, scope: Scope, durable: Durable, dry_run: bool
    ) -> Json:
        hlcs: list[str | None] = []
        refused = []
        for index, entry in enumerate(entries):
            try:
                hlcs.append(await self._put_one(entry, scope, durable, dry_run=dry_run))
            except MeshError as error:
                hlcs.append(None)
                refused.append({"index": index, "key": entry["key"], **error.body()})
        return {"written": 0 if dry_run else len(entries) - len(refused), "hlcs": hlcs, "refused": refused}

    async def _put_one(self, entry: Json, scope: Scope, durable: Durable, *, dry_run: bool) -> str | None:
        key, kind = entry["key"], entry.get("type")
        if dry_run:
            _check(key, entry.get("value"))
            if not entry.get("delete"):
                _check_type(kind or "reg", entry["value"])
            return None
        if entry.get("delete"):
            return str((await self.delete(key, type=kind, scope=scope, durable=durable))["hlc"])
        ttl_ms = entry.get("ttl_ms")
        written = await self.put(key, entry["value"], type=kind, scope=scope, ttl_ms=ttl_ms, durable=durable)
        return str(written["hlc"])

    async def delete(self, key: str, *, type: Type | None, scope: Scope, durable: Durable) -> Json:
        entry = await self.get(key, type=type, scope=scope)
        return self._drop((scope, key, entry["type"]))

    async def counter_add(self, key: str, by: int, *, scope: Scope, durable: Durable) -> Json:
        total = self._value(key, "counter", scope, 0) + by
        return {**self._store(key, "counter", total, scope), "value": total}

    async def set_change(
        self, key: str, *, add: Sequence[Any], remove: Sequence[Any], scope: Scope, durable: Durable
    ) -> Json:
        there = [item for item in self._value(key, "set", scope, []) if item not in remove]
        for item in add:
            if item not in there:
                there.append(item)
        return self._store(key, "set", sorted(there, key=repr), scope)

    async def map_change(
        self, key: str, *, set: Mapping[str, Any], delete: Sequence[str], scope: Scope, durable: Durable
    ) -> Json:
        there = {**self._value(key, "map", scope, {}), **set}
        kept = {name: value for name, value in sorted(there.items()) if name not in delete}
        return self._store(key, "map", kept, scope)

    async def log_append(
        self, key: str, value: Any, *, ttl_ms: int | None, scope: Scope, durable: Durable
    ) -> Json:
        entry = {**self._stamp(), "value": value, "author_name": "alpha"}
        there = self._value(key, "log", scope, [])
        return self._store(key, "log", [*there, entry], scope, ttl_ms or LOG_TTL_MS)

    async def log_read(self, key: str, *, scope: Scope, after: str | None, limit: int) -> Rows:
        entries: Rows = (await self.get(key, type="log", scope=scope))["value"]
        if after is None:
            return entries[-limit:]
        return [entry for entry in entries if int(entry["hlc"]) > int(after)][:limit]


def _check(key: str, value: Any) -> None:
    if not key:
        raise UsageError("the key is empty")
    if len(key.encode()) > 250:
        raise UsageError(f"key {key[:40]!r}… has {len(key.encode())} bytes, at most 250 are allowed")
    check_user_value(value)
    size = len(dumps(value))
    if size > VALUE_BYTES_MAX:
        raise UsageError(f"the value has {size} bytes, at most {VALUE_BYTES_MAX} are allowed")


_PYTHON_TYPES: dict[str, type] = {"flag": bool, "counter": int, "set": list, "map": dict, "log": list}


def _check_type(kind: str, value: Any) -> None:
    wanted = _PYTHON_TYPES.get(kind, object)
    if not isinstance(value, wanted) or (kind == "counter" and isinstance(value, bool)):
        raise UsageError(f"a {kind} takes a {wanted.__name__}, not {json.dumps(value, default=repr)[:80]}")

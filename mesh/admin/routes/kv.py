"""Routes of replicated state. `{key...}` is all that follows, percent-decoded; keys may hold slashes.

`PUT /v1/kv/{key}` takes {"value": …} as JSON; with the content type text/plain or application/octet-stream
the body is the value itself, as text or bytes, and the options come in the query string.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from mesh.admin import shapes
from mesh.admin.features import Json, Kv, Scope, Type
from mesh.admin.router import Call, Route
from mesh.admin.values import with_bytes
from mesh.errors import UsageError

BATCH_MAX = 10_000
LIST_MAX = 10_000
Hlc = Annotated[str, Meta(pattern="^[0-9]{1,20}$")]
TtlMs = Annotated[int, Meta(ge=1, le=1 << 48)]
Copies = Literal["local", "queued"] | Annotated[int, Meta(ge=1, le=64)]


class ScopeQuery(Struct, forbid_unknown_fields=True):
    """Where the key lives, and of which type it is; no type: whichever is there."""

    type: Type | None = None
    scope: Scope = "mesh"


class DeleteQuery(Struct, forbid_unknown_fields=True):
    """`durable`: local, queued, or a number of neighbours that must have it on disk."""

    type: Type | None = None
    scope: Scope = "mesh"
    durable: Copies = "local"


class PutOptions(Struct, forbid_unknown_fields=True):
    """Options of a put. At most one of the three expectations; with one it is a compare-and-set."""

    type: Type | None = None
    scope: Scope = "mesh"
    ttl_ms: TtlMs | None = None
    durable: Copies = "local"
    if_hlc: Hlc | None = None
    if_absent: bool = False


class PutBody(PutOptions, forbid_unknown_fields=True, kw_only=True):
    """A value and options. `if_value`: only if this is the value there."""

    value: Any
    if_value: Any | UnsetType = UNSET


class BatchEntry(Struct, forbid_unknown_fields=True):
    """One put, or with `delete` one delete."""

    key: str
    value: Any = UNSET
    type: Type | None = None
    ttl_ms: TtlMs | None = None
    delete: bool = False


class BatchBody(Struct, forbid_unknown_fields=True):
    """Many puts in one commit. One that is refused spares the others; `dry_run` writes nothing."""

    entries: Annotated[list[BatchEntry], Meta(max_length=BATCH_MAX)]
    scope: Scope = "mesh"
    durable: Copies = "local"
    dry_run: bool = False


class ListQuery(Struct, forbid_unknown_fields=True):
    """Keys beginning with `prefix` and larger than `after`, in order of code points."""

    prefix: str = ""
    type: Type | None = None
    scope: Scope = "mesh"
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_MAX)] = 1000
    values: bool = True


class WatchQuery(Struct, forbid_unknown_fields=True):
    """`initial`: what is there first. `cursor`: of the last line handled; empty: there was none."""

    prefix: str = ""
    scope: Scope = "mesh"
    cursor: str | None = None
    initial: bool = False


class ExportQuery(Struct, forbid_unknown_fields=True):
    """Keys beginning with `prefix`."""

    prefix: str = ""
    scope: Scope = "mesh"


class WriteBody(Struct, forbid_unknown_fields=True):
    """Options of every write."""

    scope: Scope = "mesh"
    durable: Copies = "local"


class CounterBody(WriteBody, forbid_unknown_fields=True, kw_only=True):
    """What to add; may be negative."""

    by: Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)] = 1


class SetBody(WriteBody, forbid_unknown_fields=True, kw_only=True):
    """Elements to add and to remove."""

    add: list[Any] = []
    remove: list[Any] = []


class MapBody(WriteBody, forbid_unknown_fields=True, kw_only=True):
    """Fields to set and to delete."""

    set: dict[str, Any] = {}
    delete: list[str] = []


class LogBody(WriteBody, forbid_unknown_fields=True, kw_only=True):
    """An entry to append. `ttl_ms`: how long it is kept, 30 days when absent."""

    value: Any
    ttl_ms: TtlMs | None = None


class LogQuery(Struct, forbid_unknown_fields=True):
    """Entries with a larger hlc than `after`, oldest first; without it the newest `limit`."""

    scope: Scope = "mesh"
    after: Hlc | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_MAX)] = 1000


async def _get(kv: Kv, call: Call) -> Json:
    return await kv.get(call.args["key"], type=call.query.type, scope=call.query.scope)


async def _put(kv: Kv, call: Call) -> Json:
    key = call.args["key"]
    if call.raw is None:
        if call.query != PutOptions():
            raise UsageError("options belong into the body beside `value`", '{"value": …, "ttl_ms": 1000}')
        options, value = call.body, with_bytes(call.body.value)
        expect = _expectation(options, options.if_value)
    else:
        options, value = call.query, _raw_value(call)
        expect = _expectation(options, UNSET)
    common: Json = {"scope": options.scope, "ttl_ms": options.ttl_ms, "durable": options.durable}
    if expect is None:
        return await kv.put(key, value, type=options.type, **common)
    if options.type not in (None, "reg", "mv"):
        raise UsageError(f"compare-and-set is for reg and mv, not {options.type}")
    return await kv.cas(key, value, expect=expect, type=options.type, **common)


def _raw_value(call: Call) -> str | bytes:
    assert call.raw is not None
    if call.content_type != "text/plain":
        return call.raw
    try:
        return call.raw.decode()
    except UnicodeDecodeError:
        raise UsageError("the body is not UTF-8", "send it as application/octet-stream") from None


def _expectation(options: PutOptions, if_value: Any) -> Json | None:
    given: Json = {}
    if options.if_hlc is not None:
        given["hlc"] = options.if_hlc
    if options.if_absent:
        given["absent"] = True
    if if_value is not UNSET:
        given["value"] = with_bytes(if_value)
    if len(given) > 1:
        raise UsageError(f"only one of if_hlc, if_value, if_absent: {', '.join(given)} were given")
    return given or None


async def _delete(kv: Kv, call: Call) -> Json:
    query: DeleteQuery = call.query
    return await kv.delete(call.args["key"], type=query.type, scope=query.scope, durable=query.durable)


async def _batch(kv: Kv, call: Call) -> Json:
    body: BatchBody = call.body
    entries = [_entry(at, entry) for at, entry in enumerate(body.entries)]
    return await kv.put_many(entries, scope=body.scope, durable=body.durable, dry_run=body.dry_run)


def _entry(at: int, entry: BatchEntry) -> Json:
    if (entry.value is UNSET) != entry.delete:
        raise UsageError(f"entry {at} ({entry.key[:80]!r}) needs either `value` or `delete`")
    row: Json = {"key": entry.key}
    if entry.delete:
        row["delete"] = True
    else:
        row["value"] = with_bytes(entry.value)
    if entry.type is not None:
        row["type"] = entry.type
    if entry.ttl_ms is not None:
        row["ttl_ms"] = entry.ttl_ms
    return row


async def _list(kv: Kv, call: Call) -> list[Json]:
    query: ListQuery = call.query
    return await kv.list(
        query.prefix,
        type=query.type,
        scope=query.scope,
        after=query.after,
        limit=query.limit,
        values=query.values,
    )


def _watch(kv: Kv, call: Call) -> AsyncIterator[Json]:
    query: WatchQuery = call.query
    return kv.watch(query.prefix, scope=query.scope, cursor=query.cursor or None, initial=query.initial)


def _export(kv: Kv, call: Call) -> AsyncIterator[Json]:
    return kv.export(call.query.prefix, scope=call.query.scope)


async def _history(kv: Kv, call: Call) -> list[Json]:
    found = await kv.history(call.args["key"], scope=call.query.scope)
    return [row for row in found if call.query.type in (None, row["type"])]


async def _counter(kv: Kv, call: Call) -> Json:
    body: CounterBody = call.body
    return await kv.counter_add(call.args["key"], body.by, scope=body.scope, durable=body.durable)


async def _set(kv: Kv, call: Call) -> Json:
    body: SetBody = call.body
    add, remove = with_bytes(body.add), with_bytes(body.remove)
    return await kv.set_change(
        call.args["key"], add=add, remove=remove, scope=body.scope, durable=body.durable
    )


async def _map(kv: Kv, call: Call) -> Json:
    body: MapBody = call.body
    fields = {name: with_bytes(value) for name, value in body.set.items()}
    return await kv.map_change(
        call.args["key"], set=fields, delete=body.delete, scope=body.scope, durable=body.durable
    )


async def _append(kv: Kv, call: Call) -> Json:
    body: LogBody = call.body
    return await kv.log_append(
        call.args["key"],
        with_bytes(body.value),
        ttl_ms=body.ttl_ms,
        scope=body.scope,
        durable=body.durable,
    )


async def _read(kv: Kv, call: Call) -> list[Json]:
    query: LogQuery = call.query
    return await kv.log_read(call.args["key"], scope=query.scope, after=query.after, limit=query.limit)


def _route(method: str, pattern: str, handler: Any, result: Any, summary: str, **more: Any) -> Route:
    return Route(
        method=method, pattern=pattern, feature="kv", handler=handler, result=result, summary=summary, **more
    )


ROUTES = (
    _route("GET", "/v1/kv", _list, shapes.Entry, "Keys and values of a prefix.", many=True, query=ListQuery),
    _route("POST", "/v1/kv", _batch, shapes.Batch, "Many puts and deletes in one commit.", body=BatchBody),
    _route("GET", "/v1/kv/{key...}", _get, shapes.Entry, "One key.", query=ScopeQuery),
    _route(
        "PUT",
        "/v1/kv/{key...}",
        _put,
        shapes.Written,
        "Write a key, or compare and set it.",
        query=PutOptions,
        body=PutBody,
        takes="raw",
    ),
    _route("DELETE", "/v1/kv/{key...}", _delete, shapes.Written, "Delete a key.", query=DeleteQuery),
    _route(
        "GET",
        "/v1/watch",
        _watch,
        shapes.Change,
        "What changes under a prefix.",
        kind="lines",
        query=WatchQuery,
    ),
    _route(
        "GET", "/v1/export", _export, shapes.Entry, "Every key of a prefix.", kind="lines", query=ExportQuery
    ),
    _route(
        "GET",
        "/v1/history/{key...}",
        _history,
        shapes.Revision,
        "Who wrote what when, newest first.",
        many=True,
        query=ScopeQuery,
    ),
    _route("POST", "/v1/counter/{key...}", _counter, shapes.Written, "Add to a counter.", body=CounterBody),
    _route(
        "POST", "/v1/set/{key...}", _set, shapes.Written, "Add and remove elements of a set.", body=SetBody
    ),
    _route("POST", "/v1/map/{key...}", _map, shapes.Written, "Set and delete fields of a map.", body=MapBody),
    _route("POST", "/v1/log/{key...}", _append, shapes.Written, "Append to a log.", body=LogBody),
    _route("GET", "/v1/log/{key...}", _read, shapes.LogEntry, "Entries of a log.", many=True, query=LogQuery),
)

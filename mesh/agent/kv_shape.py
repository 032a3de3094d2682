"""Keys as JSON: the shapes that the admin interface promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from mesh.agent.kv_read import Found, field_of
from mesh.core.clock import unix_ms_of
from mesh.core.record import MESH, ZONE, Op, Record

Json = dict[str, Any]
_LETTERS = {"mesh": MESH, "zone": ZONE}
_OPS = {Op.PUT: "put", Op.DEL: "delete", Op.VOID: "void"}
_KINDS = ("reg", "mv", "counter", "log", "all")
_LAST_MS = 253_402_300_799_999  # the end of year 9999


def iso(unix_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds; the last moment of year 9999 for what is later."""
    moment = datetime.fromtimestamp(min(max(unix_ms, 0), _LAST_MS) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Shape:
    """Makes JSON of records.

    Args:
        who: (id, name) of an author.
        held: neighbours known to hold an author's records up to an hlc.
    """

    def __init__(
        self, who: Callable[[bytes], tuple[str, str]], held: Callable[[str, bytes, int], int]
    ) -> None:
        self._who = who
        self._held = held

    def _origin(self, rec: Record) -> Json:
        author, name = self._who(rec.aid)
        return {
            "author": author,
            "author_name": name,
            "hlc": str(rec.stamp),
            "time": iso(unix_ms_of(rec.stamp)),
        }

    def entry(self, key: str, scope: str, found: Found, types: Sequence[str]) -> Json:
        """`shapes.Entry`."""
        newest = found.newest
        value = [self.log_entry(rec) for rec in found.value] if found.type == "log" else found.value
        siblings = [
            {"value": other.value, **self._origin(other.record), "deleted": other.record.op == Op.DEL}
            for other in found.conflicts
        ]
        return {
            "key": key,
            "type": found.type,
            "value": value,
            **self._origin(newest),
            "expires": None if newest.expiry_ms is None else iso(newest.expiry_ms),
            "scope": scope,
            "conflicts": siblings,
            "types": types,
            "acknowledged": self._held(_LETTERS[scope], newest.aid, newest.hlc),
        }

    def written(self, key: str, type: str, scope: str, aid: bytes, hlc: int, acknowledged: int) -> Json:
        """`shapes.Written`."""
        return {
            "key": key,
            "type": type,
            "scope": scope,
            "author": self._who(aid)[0],
            "hlc": str(hlc),
            "time": iso(unix_ms_of(hlc)),
            "acknowledged": acknowledged,
        }

    def change(self, change: str, cursor: str, key: str, scope: str, entry: Json | None) -> Json:
        """`shapes.Change`."""
        type = None if entry is None else entry["type"]
        return {"change": change, "cursor": cursor, "key": key, "scope": scope, "type": type, "entry": entry}

    def revision(self, rec: Record, *, current: bool) -> Json:
        """`shapes.Revision`."""
        marked = rec.path.partition("%+")[2][:1]
        type = {"f": "flag", "s": "set", "m": "map"}.get(marked) or _KINDS[min(rec.kind, 4)]
        value = rec.val
        if type == "map" and field_of(rec) is not None:
            value = {rec.val[0]: rec.val[1]}
        op = _OPS[Op(rec.op)] if rec.op in _OPS else "void"
        return {**self._origin(rec), "type": type, "op": op, "value": value, "current": current}

    def log_entry(self, rec: Record) -> Json:
        """`shapes.LogEntry`."""
        return {"value": rec.val, **self._origin(rec)}

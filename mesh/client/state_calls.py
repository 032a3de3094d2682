"""Calls about replicated state and messages. `mesh/client/calls.py` has the conventions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mesh.client.base import FOREVER_S, Base, given, patience
from mesh.client.http import Request, quote, segment
from mesh.errors import UsageError

_UNSET: Any = object()


def _key(prefix: str, key: str) -> str:
    if not key:
        raise UsageError("the key is empty")
    return f"/v1/{prefix}/{quote(key)}"


class StateCalls(Base):
    """Keys of every type, topics, requests and queries."""

    # Replicated state

    def get(self, key: str, *, type: str | None = None, scope: str = "mesh") -> Any:
        """`Entry`. NotFound when there is none."""
        return self._get(_key("kv", key), type=type, scope=scope)

    def put(
        self,
        key: str,
        value: Any,
        *,
        type: str | None = None,
        scope: str = "mesh",
        ttl_ms: int | None = None,
        durable: str | int = "local",
        if_hlc: str | None = None,
        if_value: Any = _UNSET,
        if_absent: bool = False,
    ) -> Any:
        """`Written`. With one of the expectations a compare-and-set: Conflict when it does not hold."""
        body: dict[str, Any] = {"value": value, "scope": scope, "durable": durable, "if_absent": if_absent}
        body |= given(type=type, ttl_ms=ttl_ms, if_hlc=if_hlc)
        if if_value is not _UNSET:
            body["if_value"] = if_value
        return self._ask(Request("PUT", _key("kv", key), body=body))

    def put_many(
        self,
        entries: Iterable[Mapping[str, Any]],
        *,
        scope: str = "mesh",
        durable: str | int = "local",
        dry_run: bool = False,
    ) -> Any:
        """`Batch`: many in one commit. Each has key and value (or delete: True), optional type and ttl_ms."""
        return self._post(
            "/v1/kv", FOREVER_S, entries=list(entries), scope=scope, durable=durable, dry_run=dry_run
        )

    def delete(
        self, key: str, *, type: str | None = None, scope: str = "mesh", durable: str | int = "local"
    ) -> Any:
        """`Written`. NotFound when there is none."""
        return self._ask(Request("DELETE", _key("kv", key), given(type=type, scope=scope, durable=durable)))

    def scan(
        self,
        prefix: str = "",
        *,
        type: str | None = None,
        scope: str = "mesh",
        after: str | None = None,
        limit: int = 1000,
        values: bool = True,
    ) -> Any:
        """List of `Entry`, at most `limit`; go on with `after` the last key."""
        return self._get(
            "/v1/kv", prefix=prefix, type=type, scope=scope, after=after, limit=limit, values=values
        )

    def watch(
        self, prefix: str = "", *, scope: str = "mesh", cursor: str | None = None, initial: bool = False
    ) -> Any:
        """Stream of `Change`. `initial`: what is there first. `cursor`: of the last change handled."""
        query = {"prefix": prefix, "scope": scope, "cursor": cursor, "initial": initial}
        return self._lines(Request("GET", "/v1/watch", query))

    def export(self, prefix: str = "", *, scope: str = "mesh") -> Any:
        """Stream of `Entry`."""
        return self._lines(Request("GET", "/v1/export", {"prefix": prefix, "scope": scope}))

    def history(self, key: str, *, type: str | None = None, scope: str = "mesh") -> Any:
        """List of `Revision`, newest first."""
        return self._get(_key("history", key), type=type, scope=scope)

    def counter_add(self, key: str, by: int = 1, *, scope: str = "mesh", durable: str | int = "local") -> Any:
        """`Written` with the new total."""
        return self._post(_key("counter", key), by=by, scope=scope, durable=durable)

    def set_change(
        self,
        key: str,
        *,
        add: Sequence[Any] = (),
        remove: Sequence[Any] = (),
        scope: str = "mesh",
        durable: str | int = "local",
    ) -> Any:
        """`Written`."""
        path = _key("set", key)
        return self._post(path, add=list(add), remove=list(remove), scope=scope, durable=durable)

    def map_change(
        self,
        key: str,
        *,
        set: Mapping[str, Any] = {},
        delete: Sequence[str] = (),
        scope: str = "mesh",
        durable: str | int = "local",
    ) -> Any:
        """`Written`."""
        path = _key("map", key)
        return self._post(path, set=dict(set), delete=list(delete), scope=scope, durable=durable)

    def log_append(
        self,
        key: str,
        value: Any,
        *,
        ttl_ms: int | None = None,
        scope: str = "mesh",
        durable: str | int = "local",
    ) -> Any:
        """`Written`; kept for 30 days unless `ttl_ms` is given."""
        more = given(ttl_ms=ttl_ms)
        return self._post(_key("log", key), value=value, scope=scope, durable=durable, **more)

    def log_read(self, key: str, *, scope: str = "mesh", after: str | None = None, limit: int = 1000) -> Any:
        """List of `LogEntry`, oldest first; the newest ones without `after`."""
        return self._get(_key("log", key), scope=scope, after=after, limit=limit)

    # Messages

    def publish(
        self,
        topic: str,
        payload: Any,
        *,
        qos: int = 0,
        id: str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """`Published`."""
        more = given(id=id, timeout_s=timeout_s)
        return self._post("/v1/publish", patience(timeout_s), topic=topic, payload=payload, qos=qos, **more)

    def publish_many(self, topic: str, payloads: Sequence[Any], *, timeout_s: float | None = None) -> Any:
        """`PublishedMany`: up to 1,000 messages of qos 0 in one call, for many a second."""
        more = given(timeout_s=timeout_s)
        return self._post("/v1/publish/many", patience(timeout_s), topic=topic, payloads=payloads, **more)

    def subscribe(self, pattern: str, *, replay: int = 0) -> Any:
        """Stream of `Message`; subscribed as soon as this returns (is entered)."""
        return self._lines(Request("GET", "/v1/subscribe", {"pattern": pattern, "replay": replay}))

    def request(self, node: str, name: str, payload: Any = None, *, timeout_s: float | None = None) -> Any:
        """`Answer` of the handler `name` on a node."""
        more = given(timeout_s=timeout_s)
        return self._post("/v1/request", patience(timeout_s), node=node, name=name, payload=payload, **more)

    def request_stream(
        self, node: str, name: str, payload: Any = None, *, timeout_s: float | None = None
    ) -> Any:
        """Stream of `Answer`: the parts of one answer."""
        body = {"node": node, "name": name, "payload": payload, **given(timeout_s=timeout_s)}
        return self._lines(Request("POST", "/v1/request/stream", body=body))

    def serve(self, name: str) -> Any:
        """Stream of `Call`, each to be answered with `answer`. `handle` is simpler."""
        return self._lines(Request("GET", "/v1/serve", {"name": name}))

    def parts(self, call: str) -> Any:
        """Stream of `Part`: what the caller of a `Call` with `parts` sends besides."""
        return self._lines(Request("GET", f"/v1/parts/{segment(call)}"))

    def answer(
        self, call: str, payload: Any = None, *, more: bool = False, error: Mapping[str, str] | None = None
    ) -> Any:
        """Answer a `Call`; `more`: further parts follow."""
        failed = given(error=error)
        return self._post(f"/v1/answers/{segment(call)}", payload=payload, more=more, **failed)

    def query(
        self,
        name: str,
        payload: Any = None,
        *,
        labels: Mapping[str, str] = {},
        timeout_s: float | None = None,
        combine: str | None = None,
        selector: str | None = None,
    ) -> Any:
        """`QueryResult`: the answers of every node with these labels, and who is missing.

        `combine` brings the answers together on the way: count, sum, mean, min, max, top:K, histogram,
        distinct. `selector` chooses nodes by expressions such as "tier=edge,region!=eu,!battery".
        """
        more = given(timeout_s=timeout_s, combine=combine, selector=selector)
        return self._post(
            "/v1/query", patience(timeout_s), name=name, payload=payload, labels=dict(labels), **more
        )

    def query_stream(
        self,
        name: str,
        payload: Any = None,
        *,
        labels: Mapping[str, str] = {},
        timeout_s: float | None = None,
        combine: str | None = None,
        selector: str | None = None,
    ) -> Any:
        """Stream of `Answer` (or one `Combined`), at the end one `Coverage`."""
        more = given(timeout_s=timeout_s, combine=combine, selector=selector)
        body = {"name": name, "payload": payload, "labels": dict(labels), **more}
        return self._lines(Request("POST", "/v1/query/stream", body=body))

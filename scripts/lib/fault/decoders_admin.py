"""The admin API as a decoder: the real server before the features in memory, given whatever bytes or values.

An answer with the status 500 is a crash: it stands for an error that nobody foresaw. `admin api` is given
HTTP as bytes; `admin values` a CBOR list [route, word, query, body] of which a request is made, so that the
values of each route can be exchanged for others of any type, one by one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import msgspec
import trio
from msgspec import inspect

from fault.decoders_net import FedPipe, in_trio
from mesh.admin.http import HttpConnection
from mesh.admin.memory import Features
from mesh.admin.routes import ROUTES
from mesh.admin.server import AdminServer
from mesh.admin.values import dumps
from mesh.errors import PeerError
from mesh.wire import codec

Seeds = list[bytes]
FAILED = b"HTTP/1.1 500 "
AFRESH = 500


class _Owner:
    """Stands for the socket where the kernel is asked who is at the other end."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        if option != socket.SO_PEERCRED:
            raise OSError("an older kernel")
        return struct.pack("3i", os.getpid(), os.geteuid(), os.getegid())


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """What is refused a million times need not be logged."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class Admin:
    """The server, before features in memory that are begun anew now and then: they remember what was put."""

    def __init__(self) -> None:
        self._count = 0
        self._server: AdminServer | None = None

    def take(self, data: bytes) -> object:
        if self._count % AFRESH == 0:
            self._server = None
        self._count += 1
        return in_trio(self._converse, data)

    def take_values(self, data: bytes) -> object:
        return self.take(_asked(codec.decode(data)))

    async def _converse(self, data: bytes) -> object:
        if self._server is None:
            self._server = AdminServer(Features(lambda: 1_800_000_000.0), "/nowhere/admin.sock")
        pipe = FedPipe(data)
        with _quiet(logging.getLogger("mesh.admin")), suppress(trio.BrokenResourceError):
            with trio.move_on_after(3600):
                await self._server._converse(HttpConnection(pipe), _Owner())  # type: ignore[arg-type]
        if FAILED in pipe.sent:
            raise AssertionError(f"a 500: {bytes(pipe.sent[-300:])!r}")
        if pipe.sent.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 413")):
            raise PeerError("refused")
        return bytes(pipe.sent)


def request(method: str, target: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    """One as a client sends it."""
    head = f"{method} {target} HTTP/1.1\r\nHost: mesh\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def requests() -> Seeds:
    """Right ones, as bytes."""
    deep = b'{"value": ' + b"[" * 3000 + b"]" * 3000 + b"}"
    return [
        request("GET", "/v1/status"),
        request("GET", "/v1/members?state=alive") + request("GET", "/v1/links"),
        request("PUT", "/v1/kv/a/b?type=reg", b'{"value": {"base64": "aGk="}}'),
        request("PUT", "/v1/kv/a", b"hello", "text/plain"),
        request("PUT", "/v1/kv/deep", deep),
        request("GET", "/v1/kv?prefix=a&limit=3"),
        request("POST", "/v1/kv:batch", b'{"operations": [{"op": "put", "key": "a", "value": 1}]}'),
        request("POST", "/v1/invites", b'{"uses": 1, "ttl_s": 60}'),
        request("PUT", "/v1/routes/orders", b'{"algorithm": "smooth"}'),
        request("POST", "/v1/services", b'{"name": "orders", "port": 80, "checks": [{"kind": "tcp"}]}'),
        request("PUT", "/v1/workloads/web", b'{"name": "web", "command": ["/bin/web"], "replicas": 2}'),
        request("POST", "/v1/topics/a", b'{"payload": {"a": 1}}'),
        request("PUT", "/v1/policy", b'{"roles": {"member": {"write": ["kv/**"]}}, "nodes": {}}'),
        b"POST /v1/kv:batch HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ]


def values() -> Seeds:
    """One of each route, every field of its query and body filled in."""
    found = []
    for number, route in enumerate(ROUTES):
        if route.kind == "switch":
            continue
        query = sample(inspect.type_info(route.query))
        body = None if route.body is None else sample(inspect.type_info(route.body))
        found.append(codec.encode([number, "a", query, body]))
    return found


def sample(kind: inspect.Type) -> Any:
    """A value of a type."""
    match kind:
        case inspect.StrType():
            return "a"
        case inspect.IntType() | inspect.FloatType():
            return max(kind.ge or 1, 1)
        case inspect.BoolType():
            return True
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType():
            return [sample(kind.item_type)]
        case inspect.TupleType():
            return [sample(each) for each in kind.item_types]
        case inspect.DictType():
            return {"a": sample(kind.value_type)}
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.UnionType():
            return sample(next(each for each in kind.types if not isinstance(each, inspect.NoneType)))
        case inspect.StructType() | inspect.TypedDictType():
            return {field.encode_name: sample(field.type) for field in kind.fields}
        case _:
            return {"a": [1, "b"]}


def _asked(raw: Any) -> bytes:
    """The request that a list stands for, as near to it as HTTP allows."""
    number, word, query, body = [*raw, None, None, None, None][:4] if isinstance(raw, list) else [0] * 4
    route = ROUTES[number % len(ROUTES) if isinstance(number, int) else 0]
    parts = [
        quote(_text(word), safe="") if part.startswith("{") else part for part in route.pattern.split("/")
    ]
    pairs = query.items() if isinstance(query, dict) else ()
    asked = "&".join(f"{quote(_text(name))}={quote(_text(value))}" for name, value in pairs if name)
    target = "/".join(parts) + (f"?{asked}" if asked else "")
    return request(route.method, target, b"" if body is None else dumps(body))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value[:500]
    return json.dumps(msgspec.to_builtins(value, str_keys=True))[:500]

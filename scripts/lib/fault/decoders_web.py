"""Decoders that programs on the machine and callers outside the mesh reach: HTTP, SOCKS, DNS, PROXY, answers.

The gateway and the proxy are the real relays before a service whose answer is a part of the input, so that a
hostile service is tried as well as a hostile caller. The admin API stands in `decoders_admin`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
import trio

from fault import decoders_admin
from fault.decoders_admin import Admin
from fault.decoders_net import PEER, FedPipe, in_trio
from mesh.agent import forward, gateway, grpccheck, httpcheck, names, proxy, socks
from mesh.agent.web import Leg, Limits, Way
from mesh.client import http as client
from mesh.config import Gateway as GatewaySettings
from mesh.config import Proxy as ProxySettings
from mesh.core.checks import parse_check
from mesh.core.tokens import Token, hash_of
from mesh.discovery import dns
from mesh.errors import PeerError, Unreachable
from mesh.observe.counters import Counters
from mesh.runtimes import engine, logreader

Seeds = list[bytes]
Read = Callable[[bytes], object]
SPLIT = b"\n=====\n"
HOST = b"Host: orders.mesh\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nframes"
SECRET = "s" * 32


def every() -> list[tuple[str, Read, Seeds]]:
    """Name, reader and right inputs of each."""
    got = b"GET /orders/a?b=c HTTP/1.1\r\n" + HOST
    posted = b"POST /orders HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"
    upgraded = got + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\nhello"
    gated = [got + b"X-Token: mesht_0123456789abcdef_" + SECRET.encode() + b"\r\n\r\n", posted, upgraded]
    asked = b"GET http://orders.mesh/a HTTP/1.1\r\n" + HOST + b"\r\n"
    connected = b"CONNECT orders.mesh:80 HTTP/1.1\r\n" + HOST + b"\r\nhello"
    question = dns.pack([dns.Question(("orders", "mesh"), dns.A)], ident=7)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
    return [
        ("admin api", Admin().take, decoders_admin.requests()),
        ("admin values", Admin().take_values, decoders_admin.values()),
        ("gateway", lambda data: in_trio(_gated, data), _with_answers(gated)),
        ("proxy", lambda data: in_trio(_proxied, data), _with_answers([asked, connected])),
        ("socks", _socks, [b"\5\1\0\5\1\0\3\x0borders.mesh\0\x50", b"\5\2\0\1\5\1\0\1\x7f\0\0\1\0\x50rest"]),
        ("dns questions", Questions().take, [question, question[:-4] + b"\0\x21\0\1"]),
        ("proxy header", _proxy_header, [b"192.0.2.1 5000", b"2001:db8::1 1", b" 0", b"fe80::1%eth0 7"]),
        ("http check", lambda data: in_trio(_http_check, data), [head, ANSWER, CHUNKED]),
        ("grpc check", lambda data: in_trio(_grpc_check, data), [_h2()]),
        ("client's answer", _client, [head, CHUNKED, ANSWER.replace(b"hello", b"[{}] ")]),
        ("client's lines", _lines, [b'{"a": 1}\n{"error": {"code": "x", "message": "y"}}\n', b"[" * 3000]),
        ("engine's log", _engine_log, [b"\1\0\0\0\0\0\0\x102026-01-01 hello\n", b"\2\0\0\0\0\0\0\1x"]),
        ("kept log", lambda data: list(logreader._lines(data)), [b"2026-01-01T00:00:00Z stdout F hello\n"]),
    ]


def _with_answers(requests: Seeds) -> Seeds:
    return [request + SPLIT + answer for request in requests for answer in (ANSWER, CHUNKED, UPGRADE)]


# -- gateway and proxy --------------------------------------------------------------------------------------


class _Legs:
    """What both relays of the input have in common: each request goes to the service in the input."""

    answers: bytes

    async def leg(self, way: Way) -> Leg:
        kept = self.kept("k") if not way.tried else None  # type: ignore[attr-defined]
        if len(way.tried) > 1:
            raise Unreachable("no more instances")
        return kept or Leg("k", FedPipe(self.answers))

    def may_retry(self, way: Way) -> bool:
        return len(way.tried) < 2


class _Gateway(_Legs, gateway.GatewayRelay):
    pass


class _Proxy(_Legs, proxy.ProxyRelay):
    async def tunnel(self, request: h11.Request) -> Leg:
        host = bytes(request.target).rpartition(b":")[0].decode("ascii", "replace")
        proxy.service_of(host, "mesh")
        return Leg("t", FedPipe(self.answers))


def _gates() -> gateway.Gateway:
    token = Token(hash_of(SECRET), ("*",), ("/",), 1 << 50)
    settings = GatewaySettings(
        routes={"/api": "orders", "shop.example/": "shop"}, open=("orders",), body_bytes_max=1000
    )
    return gateway.Gateway(
        None,  # type: ignore[arg-type]
        lambda: settings,
        "mesh",
        lambda id_: token,
        lambda: 1_800_000_000_000,
        lambda: True,
        Counters(),
        lambda problem: None,
    )


GATES = _gates()
LIMITS = Limits(body_bytes_max=1000)


async def _relayed(relay: _Gateway | _Proxy, near: FedPipe, answers: bytes) -> object:
    relay.answers = answers
    await relay.run()
    if near.sent.startswith(b"HTTP/1.1 400"):
        raise PeerError("refused")
    return bytes(near.sent)


async def _gated(data: bytes) -> object:
    asked, _, answers = data.partition(SPLIT)
    near: Any = FedPipe(asked)
    return await _relayed(_Gateway(near, LIMITS, None, GATES), near, answers)  # type: ignore[arg-type]


async def _proxied(data: bytes) -> object:
    asked, _, answers = data.partition(SPLIT)
    near: Any = FedPipe(asked)
    return await _relayed(_Proxy(near, LIMITS, None, "mesh"), near, answers)  # type: ignore[arg-type]


def _socks(data: bytes) -> object:
    server = socks.Server()
    for at in range(0, len(data), 3):
        server.feed(data[at : at + 3])
        if server.wanted is not None:
            return proxy.service_of(server.wanted[0], "mesh") if server.wanted[0].endswith("mesh") else None
    return None


# -- DNS, PROXY ---------------------------------------------------------------------------------------------


class _Imports:
    def imports(self) -> dict[str, tuple[str, int]]:
        return {"orders": ("127.0.0.1", 5432), "shop": ("::1", 80)}


class _Rotation:
    def rotation(self, name: str) -> list[Any]:
        return []


class Questions:
    """The server of names. What it answers must be readable."""

    def __init__(self) -> None:
        fakes: Any = _Imports(), _Rotation(), ProxySettings(), None
        self._names = names.Names(*fakes)

    def take(self, data: bytes) -> object:
        packet = dns.parse(data)
        answer = self._names.answer(data, names.UDP_BYTES_MAX)
        if answer:
            assert dns.parse(answer).ident == packet.ident
            assert len(answer) <= names.UDP_BYTES_MAX
        return answer


def _proxy_header(data: bytes) -> object:
    """Whatever a peer says of its caller, the header that the service gets can be read as its RFC says."""
    host, _, port = data.decode("latin-1").rpartition(" ")
    number = int(port) % 65536 if port.isascii() and port.isdigit() and len(port) < 9 else 0
    header = forward.proxy_header(forward.Caller(PEER.public, "peer", host[:255], number))
    assert header[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    assert header[12] == 0x21
    assert len(header) == 16 + int.from_bytes(header[14:16], "big")
    addresses = {0x00: 0, 0x11: 12, 0x21: 36}[header[13]]
    tlv = header[16 + addresses :]
    assert tlv[:1] == b"\xe0"
    assert tlv[3:] == PEER.peer_id.encode()
    return header


# -- answers of programs that the agent asks ----------------------------------------------------------------


async def _http_check(data: bytes) -> object:
    raw = {"kind": "http", "path": "/", "body": "hello", "expect_headers": {"content-type": "text"}}
    pipe: Any = FedPipe(data)
    return await httpcheck.ask(pipe, parse_check("fuzz", raw, "127.0.0.1", 80), 4096)


async def _grpc_check(data: bytes) -> object:
    pipe: Any = FedPipe(data)
    with trio.move_on_after(10):
        return await grpccheck.ask(pipe, parse_check("fuzz", {"kind": "grpc"}, "127.0.0.1", 80), 4096)
    return None


def _h2() -> bytes:
    """What a healthy server says: settings, headers, a message, the end."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    asker, server = (
        H2Connection(H2Configuration(client_side=True)),
        H2Connection(H2Configuration(client_side=False)),
    )
    asker.initiate_connection()
    fields = [(":method", "POST"), (":path", grpccheck.PATH), (":scheme", "http"), (":authority", "a")]
    asker.send_headers(1, fields)
    server.initiate_connection()
    server.receive_data(asker.data_to_send())
    server.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    server.send_data(1, b"\0\0\0\0\2\x08\x01")
    server.send_headers(1, [("grpc-status", "0")], end_stream=True)
    return bytes(server.data_to_send())


def _client(data: bytes) -> object:
    """Our client reads what claims to be an agent."""
    import json

    reply, body = client.Reply(), b""
    for at in range(0, len(data), 50):
        body += b"".join(reply.feed(data[at : at + 50]))
        if reply.done:
            return client.answer_of(reply.status, body, json.loads)
    raise Unreachable("it ended too early")


def _lines(data: bytes) -> object:
    import json

    return client.Lines(json.loads).feed([data[:40], data[40:], b"\n"])


def _engine_log(data: bytes) -> object:
    splitter = engine._Splitter()
    found = [line for at in range(0, len(data), 9) for line in splitter.feed(data[at : at + 9])]
    return found + splitter.end()

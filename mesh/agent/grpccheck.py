"""The gRPC health check (grpc.health.v1.Health/Check): one unary call over HTTP/2.

The call is small enough to be written here: a request of one text field, an answer of one number, each behind
five bytes that tell "not compressed" and the length. HTTP/2 itself is the package h2's (extra `grpc`).
"""

from __future__ import annotations

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from mesh.core.checks import Check
from mesh.core.health import Outcome, Result, shown

READ_BYTES = 16 << 10
PATH = "/grpc.health.v1.Health/Check"
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
SERVING = 1


class _Answer:
    """What came on the stream so far."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.done = ""

    def take(self, event: Event, conn: H2Connection) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            for name, value in event.headers or ():
                self.headers[_text(name)] = _text(value)
        elif isinstance(event, DataReceived):
            self.body += event.data or b""
            conn.acknowledge_received_data(event.flow_controlled_length or 0, 1)
        elif isinstance(event, StreamEnded):
            self.done = "ended"
        elif isinstance(event, StreamReset | ConnectionTerminated):
            self.done = f"it ended the call: {ErrorCodes(event.error_code or 0).name}"


async def ask(stream: trio.abc.Stream, check: Check, body_bytes_max: int) -> Outcome:
    """Ask a server for the health of a service and judge the answer.

    Raises:
        trio.BrokenResourceError, OSError: the connection failed.
    """
    conn = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    answer = _Answer()
    try:
        conn.initiate_connection()
        conn.send_headers(1, _headers(check))
        conn.send_data(1, _request(check.service), end_stream=True)
        while not answer.done:
            await stream.send_all(conn.data_to_send())
            data = bytes(await stream.receive_some(READ_BYTES))
            if not data:
                return Outcome(Result.FAIL, "it closed the connection without an answer")
            for event in conn.receive_data(data):
                answer.take(event, conn)
            if len(answer.body) > body_bytes_max:
                return Outcome(Result.FAIL, "the answer does not end")
    except (ProtocolError, ValueError) as error:
        return Outcome(Result.FAIL, shown(f"the answer is not HTTP/2: {error}"))
    return _judge(answer)


def _headers(check: Check) -> list[tuple[str, str]]:
    host = f"[{check.host}]" if ":" in check.host else check.host
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", f"{host}:{check.port}"),
        (":path", PATH),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "meshd-check"),
    ]


def _request(service: str) -> bytes:
    name = service.encode()[:127]
    body = b"\x0a" + bytes([len(name)]) + name if name else b""
    return b"\0" + len(body).to_bytes(4, "big") + body


def _judge(answer: _Answer) -> Outcome:
    if answer.done != "ended":
        return Outcome(Result.FAIL, shown(answer.done))
    code = answer.headers.get("grpc-status")
    if code != "0":
        text = answer.headers.get("grpc-message", "")
        status = answer.headers.get(":status", "")
        return Outcome(Result.FAIL, shown(f"HTTP {status}, grpc-status {code or 'missing'} {text}".strip()))
    serving = _status(answer.body)
    word = STATUSES[serving] if serving < len(STATUSES) else str(serving)
    return Outcome(Result.PASS if serving == SERVING else Result.FAIL, word)


def _status(body: bytes) -> int:
    """Field 1 of the message; 0 where it is left out or nothing that we know."""
    message = body[5:]
    return message[1] if len(message) >= 2 and message[0] == 0x08 and message[1] < 0x80 else 0


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")

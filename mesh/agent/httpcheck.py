"""One HTTP request of a check, and what its answer says. No redirect is followed, no body read to its end."""

from __future__ import annotations

import h11
import trio

from mesh.core.checks import Check
from mesh.core.health import Outcome, Result, shown

READ_BYTES = 16 << 10
AGENT = "meshd-check"


async def ask(stream: trio.abc.Stream, check: Check, body_bytes_max: int) -> Outcome:
    """Send the request of a check over a connection and judge the answer.

    Raises:
        trio.BrokenResourceError, OSError: the connection failed.
    """
    conn = h11.Connection(our_role=h11.CLIENT)
    try:
        await stream.send_all(_request(conn, check))
        answer = await _next(stream, conn)
        while isinstance(answer, h11.InformationalResponse):
            answer = await _next(stream, conn)
        if not isinstance(answer, h11.Response):
            return Outcome(Result.FAIL, "it closed the connection without an answer")
        if answer.status_code not in check.status:
            where = _header(answer, "location")
            more = f", to {where} (redirects are not followed)" if where else ""
            return Outcome(Result.FAIL, shown(f"status {answer.status_code}{more}"))
        for name, wanted in check.expect_headers.items():
            found = _header(answer, name)
            if found is None or wanted not in found:
                return Outcome(Result.FAIL, shown(f"header {name} is {found!r}, it should hold {wanted!r}"))
        if check.body and not await _holds(stream, conn, check.body.encode(), body_bytes_max):
            limit = f"the first {body_bytes_max >> 10} KiB of the body"
            return Outcome(Result.FAIL, shown(f"{limit} do not hold {check.body!r}"))
    except h11.RemoteProtocolError as error:
        return Outcome(Result.FAIL, shown(f"the answer is not HTTP: {error}"))
    return Outcome(Result.PASS, f"status {answer.status_code}")


def _request(conn: h11.Connection, check: Check) -> bytes:
    host = f"[{check.host}]" if ":" in check.host else check.host
    standard = 443 if check.scheme == "https" else 80
    headers = {
        "Host": host if check.port == standard else f"{host}:{check.port}",
        "User-Agent": AGENT,
        "Accept": "*/*",
        "Connection": "close",
    }
    own = {name.lower() for name in check.headers}
    kept = [(name, text) for name, text in headers.items() if name.lower() not in own]
    request = h11.Request(
        method=check.method, target=check.path, headers=[*kept, *((n, t) for n, t in check.headers.items())]
    )
    return (conn.send(request) or b"") + (conn.send(h11.EndOfMessage()) or b"")


async def _next(stream: trio.abc.Stream, conn: h11.Connection) -> object:
    """The next event; None when the connection ends before an answer."""
    while True:
        event = conn.next_event()
        if event is not h11.NEED_DATA:
            return event
        data = bytes(await stream.receive_some(READ_BYTES))
        if not data and conn.their_state is h11.SEND_RESPONSE and not conn.trailing_data[0]:
            return None
        conn.receive_data(data)


def _header(answer: h11.Response, name: str) -> str | None:
    wanted = name.lower().encode()
    found = [value for key, value in answer.headers if key == wanted]
    return b", ".join(found).decode("latin-1") if found else None


async def _holds(stream: trio.abc.Stream, conn: h11.Connection, wanted: bytes, bytes_max: int) -> bool:
    """Whether the beginning of the body holds a text."""
    body = b""
    while len(body) < bytes_max:
        event = await _next(stream, conn)
        if not isinstance(event, h11.Data):
            break
        body += bytes(event.data)
        if wanted in body:
            return True
    return False

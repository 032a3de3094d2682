"""A gateway on the first of three nodes, and an HTTP program behind a service."""

from __future__ import annotations

from typing import Any

import h11
from town import Town, echo, everything

from mesh.agent import pipes
from mesh.agent.gateway import Gateway
from mesh.agent.pipes import TcpPipe
from mesh.config import Gateway as Settings
from mesh.core import tokens
from mesh.core.tokens import Token
from mesh.observe.counters import Counters

SECRET = "5" * 64
NOW_MS = 1_700_000_000_000


def token(**more: Any) -> Token:
    value = tokens.make(
        SECRET, more.get("services", ["orders"]), more.get("paths", []), more.get("ttl_s", 60), "", NOW_MS
    )
    found = tokens.read(value)
    assert found is not None
    return found


class Front:
    """A gateway on the first of three nodes."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.settings = Settings(listen="0")
        self.tokens: dict[str, Token] = {"a" * 12: token()}
        self.now_ms = NOW_MS
        self.healthy = True
        self.counters = Counters()
        self.alarms: list[str] = []
        self.gateway = Gateway(
            town.nodes[0].router,
            lambda: self.settings,
            "mesh",
            self.tokens.get,
            lambda: self.now_ms,
            lambda: self.healthy,
            self.counters,
            self.alarms.append,
        )

    async def ask(self, request: bytes) -> bytes:
        assert self.gateway.listening is not None
        pipe = await pipes.connect(*self.gateway.listening, 5)
        try:
            await pipe.send(request)
            await pipe.close()
            return await everything(pipe)
        finally:
            await pipe.reset()

    async def get(self, path: str, *, host: str = "x", shown: str = "a" * 12, more: str = "") -> bytes:
        line = f"Authorization: Bearer {tokens.text_of(shown, SECRET)}\r\n" if shown else ""
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{line}{more}\r\n".encode())


async def web(pipe: TcpPipe) -> None:
    """Answers with the head and body it got; for `/stream` in chunks, for `/ws` by switching to an echo."""
    conn = h11.Connection(h11.SERVER)
    while True:
        head, body = None, b""
        while not isinstance(event := conn.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                if conn.they_are_waiting_for_100_continue:
                    await pipe.send(conn.send(h11.InformationalResponse(status_code=100, headers=[])))
                conn.receive_data(await pipe.receive())
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                return
        assert head is not None
        if b"/ws" in head.target:
            switch = h11.InformationalResponse(
                status_code=101, headers=[("upgrade", "websocket"), ("connection", "upgrade")]
            )
            await pipe.send(conn.send(switch))
            await echo(pipe)
            return
        shown = b"".join(b"%s: %s\n" % pair for pair in head.headers)
        text = b"%s %s\n%s\n%s" % (head.method, head.target, shown, body)
        if b"/stream" in head.target:
            await pipe.send(conn.send(h11.Response(status_code=200, headers=[])))
            for number in range(3):
                await pipe.send(conn.send(h11.Data(data=b"part %d\n" % number)))
        else:
            headers = [("content-length", str(len(text)))]
            await pipe.send(conn.send(h11.Response(status_code=200, headers=headers)))
            await pipe.send(conn.send(h11.Data(data=text)))
        await pipe.send(conn.send(h11.EndOfMessage()))
        conn.start_next_cycle()

"""Name servers and helpers for the tests of discovery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from dnslib import RR, DNSRecord

from mesh.discovery.base import Found


async def _one_port() -> tuple[trio.socket.SocketType, list[trio.SocketListener]]:
    """A UDP and a TCP socket on one number, which may be free for one and taken for the other."""
    while True:
        udp = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        await udp.bind(("127.0.0.1", 0))
        try:
            return udp, await trio.open_tcp_listeners(udp.getsockname()[1], host="127.0.0.1")
        except OSError:
            udp.close()


class NameServer:
    """Answers over UDP and TCP on one free port from zone lines; `cut` truncates over UDP."""

    def __init__(self, zone: list[str], *, cut: bool = False, silent: bool = False, code: int = 0) -> None:
        self.zone = [record for line in zone for record in RR.fromZone(line)]
        self.cut = cut
        self.silent = silent
        self.code = code
        self.asked = 0
        self.port = 0

    def reply(self, data: bytes, *, over_tcp: bool) -> bytes:
        request = DNSRecord.parse(data)
        answer = request.reply()
        answer.header.rcode = self.code
        if self.cut and not over_tcp:
            answer.header.tc = 1
            return bytes(answer.pack())
        for record in self.zone:
            if str(record.rname) == str(request.q.qname) and record.rtype == request.q.qtype:
                answer.add_answer(record)
        return bytes(answer.pack())

    async def run(self, *, task_status: Any) -> None:
        udp, listeners = await _one_port()
        self.port = udp.getsockname()[1]
        with udp:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._tcp, listeners)
                task_status.started(self)
                while True:
                    data, source = await udp.recvfrom(4096)
                    self.asked += 1
                    if not self.silent:
                        await udp.sendto(b"garbage", source)
                        await udp.sendto(self.reply(data, over_tcp=False), source)

    async def _tcp(self, stream: trio.SocketStream) -> None:
        data = await stream.receive_some(4096)
        answer = self.reply(data[2:], over_tcp=True)
        await stream.send_all(len(answer).to_bytes(2, "big") + answer)
        await stream.aclose()


@pytest.fixture
def name_server(nursery: trio.Nursery) -> Callable[..., Any]:
    async def start(zone: list[str], **options: Any) -> NameServer:
        server: NameServer = await nursery.start(NameServer(zone, **options).run)
        return server

    return start


class Finds:
    """Collects what finders report, and waits for it."""

    def __init__(self) -> None:
        self.all: list[Found] = []
        self._more = trio.Event()

    def __call__(self, found: Found) -> None:
        self.all.append(found)
        self._more.set()

    async def until(self, condition: Callable[[list[Found]], bool]) -> None:
        with trio.fail_after(60):
            while not condition(self.all):
                self._more = trio.Event()
                await self._more.wait()


@pytest.fixture
def finds() -> Finds:
    return Finds()

"""A server over a real unix socket, with the features in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from mesh.admin.memory import Features
from mesh.admin.server import AdminServer


@pytest.fixture
def features() -> Features:
    return Features()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "admin.sock")


@pytest.fixture
async def server(features: Features, path: str, nursery: trio.Nursery) -> AdminServer:
    made = AdminServer(features, path, body_bytes_max=100_000, connections_max=8)
    await nursery.start(made.run)
    return made


class Raw:
    """A client that sends bytes as they are."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, text: str | bytes) -> None:
        await self.stream.send_all(text.encode() if isinstance(text, str) else text)

    async def send_until_refused(self, text: str, *, pause_s: float = 0) -> None:
        try:
            while True:
                await self.send(text)
                await trio.sleep(pause_s)
        except trio.BrokenResourceError:
            return

    async def ask(self, text: str | bytes) -> str:
        """Send, then read until the server closes."""
        await self.send(text)
        return await self.rest()

    async def rest(self) -> str:
        data = b""
        try:
            async for piece in self.stream:
                data += piece
        except trio.BrokenResourceError:
            pass  # it closed without having read all that was sent
        return data.decode()

    async def until(self, mark: str) -> str:
        data = b""
        while mark.encode() not in data:
            piece = await self.stream.receive_some()
            assert piece, data
            data += piece
        return data.decode()


@pytest.fixture
async def raw(server: AdminServer) -> AsyncIterator[Callable[[], object]]:
    """Opens raw connections, closed at the end."""
    opened = []

    async def connect() -> Raw:
        stream = await trio.open_unix_socket(server.path)
        opened.append(stream)
        return Raw(stream)

    yield connect
    for stream in opened:
        await stream.aclose()

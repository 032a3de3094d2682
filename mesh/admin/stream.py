"""An answer in JSON lines or in pieces of bytes, from a feature's async iterator.

The iterator lives in one task from its first step to its end, because it may hold cancel scopes. The
answer's head goes out with the first item, or after STREAM_START_S: by then the iterator has run to its
first wait, so whoever sees the head of a subscription is subscribed. Bytes wait for the first piece, because
an error cannot be told in their midst: there the answer is cut off, and the client sees that its end is
missing. A client that goes away cancels the iterator.

A line that comes alone is written by the task that made it; lines that come together are handed to the task
that passes on, which by its turn finds more of them for one write.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import trio

from mesh.admin.http import LINES_TYPE, HttpConnection
from mesh.admin.router import Route
from mesh.admin.values import dumps
from mesh.errors import Failed, MeshError, ours

STREAM_START_S = 0.02
LINES_AT_ONCE = 64
ALONE_S = 0.001

log = logging.getLogger("mesh.admin")


def internal(error: Exception) -> MeshError:
    """What is told of a mistake of ours."""
    return Failed(f"internal error: {type(error).__name__}", "the agent's log has the details")


class Stream:
    """Sends one streamed answer."""

    def __init__(self, conn: HttpConnection, route: Route) -> None:
        self._conn = conn
        self._name = f"{route.method} {route.pattern}"
        self._lines = route.kind == "lines"
        self._give, self._take = trio.open_memory_channel[bytes](LINES_AT_ONCE)
        self._error: MeshError | None = None
        self._cut_off = False
        self._begun = False
        self._rests = False  # all lines are out, and who passes them on waits for more
        self._alone_at = -math.inf

    async def send(self, items: AsyncIterator[Any]) -> None:
        """Send all items.

        Raises:
            MeshError: the iterator failed before anything was sent.
            trio.BrokenResourceError: the client went away, or the answer could not be completed.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect, items)
            try:
                first = await self._first()
                if first is not None or self._error is None:
                    await self._conn.begin(LINES_TYPE if self._lines else "application/octet-stream")
                    self._begun = True
                    nursery.start_soon(self._watch_client, nursery.cancel_scope)
                    await self._pass_on(first)
                    self._error = None
            except trio.BrokenResourceError:
                self._cut_off = True
            nursery.cancel_scope.cancel()
        if self._cut_off:
            raise trio.BrokenResourceError
        if self._error is not None:
            raise self._error

    async def _first(self) -> bytes | None:
        """The first item, b"" when it is late, None when there is none."""
        with trio.move_on_after(STREAM_START_S if self._lines else math.inf):
            return await self._next()
        await trio.lowlevel.checkpoint()  # where the loop stood still, the iterator has not had its turn yet
        try:
            return self._take.receive_nowait()
        except trio.WouldBlock:
            return b""
        except trio.EndOfChannel:
            return None

    async def _next(self) -> bytes | None:
        try:
            try:
                return self._take.receive_nowait()
            except trio.WouldBlock:
                self._rests = self._begun and self._lines
                return await self._take.receive()
        except trio.EndOfChannel:
            return None
        finally:
            self._rests = False

    async def _pass_on(self, data: bytes | None) -> None:
        while data is not None:
            if data:
                await self._conn.piece(data + self._more())
            data = await self._next()
        if self._error is not None:
            if not self._lines:
                raise trio.BrokenResourceError
            await self._conn.piece(dumps(self._error.body()) + b"\n")
        await self._conn.end()

    def _more(self) -> bytes:
        """What else is ready, so that many lines share a write."""
        ready = []
        for _ in range(LINES_AT_ONCE):
            try:
                ready.append(self._take.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        return b"".join(ready)

    async def _watch_client(self, scope: trio.CancelScope) -> None:
        await self._conn.gone()
        self._cut_off = True
        scope.cancel()

    async def _collect(self, items: AsyncIterator[Any]) -> None:
        async with self._give:
            try:
                async with aclosing(items):  # type: ignore[type-var]
                    async for item in items:
                        data = dumps(item) + b"\n" if self._lines else item
                        if not self._rests or not await self._written(data):
                            self._rests = False
                            try:
                                self._give.send_nowait(data)  # lines that are ready together cost one turn
                            except trio.WouldBlock:
                                await self._give.send(data)
            except Exception as error:
                self._error = ours(error)
                if self._error is None:
                    log.exception("%s", self._name)
                    self._error = internal(error)

    async def _written(self, data: bytes) -> bool:
        """Write a line from here, if none came just before; else it is handed over."""
        now = trio.current_time()
        if now < self._alone_at:
            return False
        self._alone_at = now + ALONE_S
        try:
            await self._conn.piece(data)
        except trio.BrokenResourceError:
            self._cut_off = True  # and `_watch_client` sees it, too
        return True

"""The feature `logs`: what instances of a workload write, read from any node.

Each node serves the logs of its own instances under `sys/logs` to members that may request `logs/<workload>`.
A reader asks every node that may hold one, at most NODES_MAX at once, and with `follow` looks every few
seconds for further ones, so that it goes on where an instance was taken over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

import trio

from mesh.agent.calls import Calls
from mesh.agent.callstream import Call
from mesh.agent.lasting import sparing
from mesh.agent.peers import Peers
from mesh.agent.supervisor import Supervisor
from mesh.core.policy import REQUEST
from mesh.errors import Denied, Failed, MeshError, NotFound, PeerError, UnknownNode
from mesh.identity.keys import peer_id_of, public_of

Json = dict[str, Any]
METHOD = "sys/logs"
RIGHT = "logs/"
NODES_MAX = 64
LINES_AT_ONCE = 64
QUIET_S = 10.0
PATIENCE_S = 30.0
LOOK_AGAIN_S = 1.0
TAIL_MAX = 10_000
TEXT_CHARS_MAX = 32 * 1024


class Logs:
    """See `mesh.admin.features.Logs`.

    Attributes:
        where: the nodes that may hold instances of a workload; all that are there, unless replaced.
    """

    def __init__(self, supervisor: Supervisor, calls: Calls, peers: Peers) -> None:
        self._supervisor = supervisor
        self._calls = calls
        self._peers = peers
        self.where: Callable[[str], Iterable[bytes]] = lambda workload: peers.present()
        calls.handle(METHOD, self._serve)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; readers live in here."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    # -- reading ----------------------------------------------------------------------------------------

    async def read(self, name: str, *, node: str | None, tail: int, follow: bool) -> AsyncIterator[Json]:
        """Lines of a workload's instances, or of the one named like `web/2`, as they come in."""
        send, receive = trio.open_memory_channel[Json](LINES_AT_ONCE)
        reading = _Reading(name, tail, follow, send)
        if node is not None:
            aid = public_of(node)[:16]
            if self._peers.public_of(aid) is None:
                raise UnknownNode(f"no member {node}", "`meshctl members` lists them")
            reading.only = aid
        self._nursery.start_soon(sparing, self._gather, reading)
        try:
            async for line in receive:
                reading.found = True
                yield line
            if not reading.found:
                raise reading.trouble or NotFound(
                    f"no instance of {name[:80]!r} has a log on any node that is there"
                )
        finally:
            reading.scope.cancel()

    async def _gather(self, reading: _Reading) -> None:
        """Read from every node that may hold an instance, and with `follow` from those that come to."""
        with reading.scope:
            async with reading.send, trio.open_nursery() as nursery:
                while True:
                    workload = reading.name.partition("/")[0]
                    aids = [reading.only] if reading.only else sorted(self.where(workload))
                    for aid in aids:
                        if aid not in reading.busy:
                            reading.busy.add(aid)
                            nursery.start_soon(self._pump, reading, aid)
                    if not reading.follow:
                        break
                    await trio.sleep(LOOK_AGAIN_S)

    async def _pump(self, reading: _Reading, aid: bytes) -> None:
        public = self._peers.public_of(aid)
        if public is not None:
            async with reading.slots:
                await self._read_node(reading, aid, public)
        if reading.follow:
            await trio.sleep(LOOK_AGAIN_S)
            reading.busy.discard(aid)

    async def _read_node(self, reading: _Reading, aid: bytes, public: bytes) -> None:
        tail = 0 if aid in reading.seen else reading.tail
        body = {"name": reading.name, "tail": tail, "follow": reading.follow}
        try:
            async with aclosing(self._calls.stream(public, METHOD, body, deadline_s=PATIENCE_S)) as parts:
                async for part in parts:
                    reading.seen.add(aid)
                    for line in _lines(part):
                        where = {"node": peer_id_of(public), "node_name": self._peers.name_of(aid)}
                        await reading.send.send({**where, **line})
        except NotFound:
            pass
        except MeshError as error:
            reading.trouble = reading.trouble or error

    # -- serving ----------------------------------------------------------------------------------------

    async def _serve(self, call: Call) -> None:
        """Emit lists of [instance, time, stream, text]."""
        match call.body:
            case {"name": str(name), "tail": int(tail), "follow": bool(follow)}:
                pass
            case _:
                raise PeerError("a request for logs that cannot be read")
        workload = name.partition("/")[0]
        if not self._peers.may(call.public[:16], REQUEST, RIGHT + workload):
            raise Denied(f"{peer_id_of(call.public)} may not request {RIGHT}{workload[:80]}")
        if not self._supervisor.known(name):
            raise NotFound(f"no instance of {name[:80]!r} here")
        send, receive = trio.open_memory_channel[list[str]](LINES_AT_ONCE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_all, name, min(max(tail, 0), TAIL_MAX), follow, send)
            async with receive:
                await _emit(call, receive)
            nursery.cancel_scope.cancel()

    async def _read_all(
        self, name: str, tail: int, follow: bool, send: trio.MemorySendChannel[list[str]]
    ) -> None:
        """Read every instance, and with `follow` those that come."""
        async with send, trio.open_nursery() as nursery:
            read: set[str] = set()
            while True:
                for instance in self._supervisor.known(name):
                    if instance not in read:
                        read.add(instance)
                        nursery.start_soon(self._read_one, instance, tail, follow, send)
                if not follow:
                    break
                await trio.sleep(LOOK_AGAIN_S)

    async def _read_one(
        self, instance: str, tail: int, follow: bool, send: trio.MemorySendChannel[list[str]]
    ) -> None:
        try:
            async with aclosing(self._supervisor.logs(instance, tail=tail, follow=follow)) as lines:
                async for line in lines:
                    await send.send([instance, line.time, line.stream, line.text[:TEXT_CHARS_MAX]])
        except (MeshError, trio.BrokenResourceError):
            pass  # it was forgotten meanwhile, or nobody listens any more


async def _emit(call: Call, receive: trio.MemoryReceiveChannel[list[str]]) -> None:
    """Pass lines on, many at once where they come fast; a sign of life where none come."""
    while True:
        batch: list[list[str]] = []
        try:
            with trio.move_on_after(QUIET_S):
                batch.append(await receive.receive())
            while len(batch) < LINES_AT_ONCE and sum(len(row[3]) for row in batch) < TEXT_CHARS_MAX:
                batch.append(receive.receive_nowait())
        except trio.WouldBlock:
            pass
        except trio.EndOfChannel:
            if batch:
                await call.emit(batch)
            return
        await call.emit(batch)


def _lines(part: Any) -> Iterable[Json]:
    """A part of an answer as lines. Raises Failed for what is none."""
    for row in part if isinstance(part, list) else [None]:
        match row:
            case [str(instance), str(time), str(stream), str(text)]:
                yield {"instance": instance, "time": time, "stream": stream, "line": text}
            case _:
                raise Failed("a node sent a log that cannot be read")


class _Reading:
    """One reader."""

    def __init__(self, name: str, tail: int, follow: bool, send: trio.MemorySendChannel[Json]) -> None:
        self.name = name
        self.tail = tail
        self.follow = follow
        self.send = send
        self.scope = trio.CancelScope()
        self.slots = trio.CapacityLimiter(NODES_MAX)
        self.only: bytes | None = None
        self.busy: set[bytes] = set()
        self.seen: set[bytes] = set()
        self.found = False
        self.trouble: MeshError | None = None

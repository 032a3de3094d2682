"""A few nodes in one process, with everything that messages stand on: stores, hosts in memory, links.

Links are plain: what a node says in the live scope reaches its neighbours' stores as a delta, and goes on
from there, so that a line of nodes works too.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.agent.author import Author
from mesh.agent.calls import Calls
from mesh.agent.messages import Messages
from mesh.agent.programs import Programs
from mesh.agent.query import Queries
from mesh.agent.topics import Topics
from mesh.config import Messages as Settings
from mesh.core import sync
from mesh.core.record import LIVE
from mesh.identity.keys import NodeKey, peer_id_of
from mesh.net.base import Admission
from mesh.net.memory import MemoryHost, Switchboard
from mesh.observe.counters import Counters
from mesh.store.store import Store
from mesh.store.watch import Change
from mesh.wire import messages, protocols
from mesh.wire.messages import Ask, Delta, Reply

MESH_ID = b"m" * 16
NOW_MS = 1_700_000_000_000


class Node:
    """One node of a fleet; also its own member table and its links."""

    def __init__(self, fleet: Fleet, number: int, path: Path) -> None:
        self.fleet = fleet
        self.number = number
        self.key = NodeKey.from_seed(number.to_bytes(32, "big"))
        self.name = f"node-{number}"
        self.labels: dict[str, str] = {"name": self.name, "tier": "edge" if number % 2 else "cloud"}
        self.settings = Settings()
        self.forbidden: set[tuple[bytes, str, str]] = set()
        self.links: list[Node] = []
        self.silent = False
        self.taken: int | None = None
        self.wire, self.wired = trio.open_memory_channel[Any](100_000)
        self.counters = Counters()
        self.store = Store.open(path, mesh_id=MESH_ID, zone="default", simulated=True)
        self.author = Author(self.store, self.key, MESH_ID, "default", fleet.now_ms)
        self.host = MemoryHost(
            fleet.board, self.key, listen=["/ip4/127.0.0.1/tcp/0"], gate=lambda public, ip: Admission.MEMBER
        )
        topics = Topics(
            self.key.aid,
            self.author,
            self.store.live,
            self,
            lambda: self.settings,
            self.counters,
            fleet.now_ms,
            lambda: self.taken,
        )
        calls = Calls(self.key.public, self, self.open, self.counters)
        programs = Programs(self.key.aid, self, fleet.now_ms)
        queries = Queries(
            self.key, MESH_ID, self, self, programs, self.counters, fleet.now_ms, fleet.rng.randbytes
        )
        self.messages = Messages(self.key.aid, self, topics, calls, programs, queries, lambda: self.settings)
        self.host.handle(protocols.CALL, calls.accept)
        self.store.add_listener(self._changed)

    async def run(self, *, task_status: Any) -> None:
        async with trio.open_nursery() as self.nursery:
            await self.nursery.start(self.store.run)
            await self.nursery.start(self.host.run)
            await self.nursery.start(self.messages.run)
            self.nursery.start_soon(self._carry)
            with trio.CancelScope() as self.scope:
                task_status.started()
                await trio.sleep_forever()
            self.nursery.cancel_scope.cancel()
        self.store.close()

    async def open(self, public: bytes, protocol: str, deadline_s: float) -> Any:
        if self.host.connection(public) is None:
            other = self.fleet.by_public[public]
            await self.host.dial(other.host.addresses[0], public, deadline_s=20)
        return await self.host.open(public, protocol, deadline_s=deadline_s)

    # -- member table -----------------------------------------------------------------------------------

    def name_of(self, aid: bytes) -> str:
        node = self.fleet.by_aid.get(aid)
        return node.name if node else ""

    def public_of(self, aid: bytes) -> bytes | None:
        node = self.fleet.by_aid.get(aid)
        return node.key.public if node else None

    def present(self) -> Sequence[bytes]:
        return [node.key.aid for node in self.fleet.nodes if not node.silent]

    def labels_of(self, aid: bytes) -> Mapping[str, str]:
        return self.fleet.by_aid[aid].labels

    def may(self, aid: bytes, verb: str, name: str) -> bool:
        return (aid, verb, name) not in self.forbidden

    # -- links ------------------------------------------------------------------------------------------

    def neighbours(self, scope: str) -> Sequence[bytes]:
        return [node.key.aid for node in self.links]

    def send(self, aid: bytes, message: Ask | Reply) -> bool:
        other = self.fleet.by_aid[aid]
        if other not in self.links:
            return False
        self.wire.send_nowait((other, messages.encode(message)))
        return True

    def _changed(self, changes: list[Change]) -> None:
        self.messages.changed(changes)
        for change in changes:
            if change.record is not None and change.scope == LIVE:
                for other in self.links:
                    self.wire.send_nowait((other, change.record))

    async def _carry(self) -> None:
        """Bring what was sent to the others, in order."""
        async for other, what in self.wired:
            if other.silent or self.silent:
                continue
            if isinstance(what, bytes):
                message = messages.decode(what)
                assert isinstance(message, Ask | Reply)
                other.messages.queries.receive(self.key.aid, message)
            else:
                other.take([what])

    def take(self, records: Iterable[Any]) -> None:
        for record in records:
            if record.aid != self.key.aid:
                since = self.store.live.author(record.aid).head
                delta = Delta(LIVE, record.aid, since, record.hlc, False, [(record.body, record.sig)])
                with self.store.live.together():
                    sync.receive(
                        self.store.live, delta, [record], now_ms=self.fleet.now_ms(), limits=sync.Limits()
                    )

    @property
    def id(self) -> str:
        return peer_id_of(self.key.public)


class Fleet:
    """Nodes in a line, 0 - 1 - 2 - ..., or linked as told."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self.path = path
        self.nursery = nursery
        self.rng = random.Random(1)
        self.board = Switchboard(self.rng)
        self.nodes: list[Node] = []
        self.by_aid: dict[bytes, Node] = {}
        self.by_public: dict[bytes, Node] = {}
        self.begun = trio.current_time()

    def now_ms(self) -> int:
        return NOW_MS + int((trio.current_time() - self.begun) * 1000)

    async def add(self, *, link: bool = True) -> Node:
        """A running node, linked with the last one."""
        node = Node(self, len(self.nodes), self.path / f"node-{len(self.nodes)}")
        before = self.nodes[-1] if self.nodes and link else None
        self.nodes.append(node)
        self.by_aid[node.key.aid] = self.by_public[node.key.public] = node
        await self.nursery.start(node.run)
        if before is not None:
            self.join(before, node)
        return node

    def join(self, a: Node, b: Node) -> None:
        """Link two nodes and exchange what they hold of the live scope."""
        a.links.append(b)
        b.links.append(a)
        for one, other in ((a, b), (b, a)):
            for aid, _ in list(one.store.live.authors()):
                other.take(list(one.store.live.since(aid, 0)))


@pytest.fixture
async def fleet(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Fleet]:
    made = Fleet(tmp_path, nursery)
    yield made
    for node in made.nodes:
        node.scope.cancel()


@pytest.fixture
def line(fleet: Fleet) -> Callable[[int], Any]:
    async def make(size: int) -> list[Node]:
        for _ in range(size):
            await fleet.add()
        return fleet.nodes

    return make


class Inbox:
    """Collects what a stream gives, in a task, and waits for it."""

    def __init__(self, nursery: trio.Nursery, stream: AsyncIterator[Any]) -> None:
        self.all: list[Any] = []
        self.error: Exception | None = None
        self.ended = trio.Event()
        self.scope = trio.CancelScope()
        self._more = trio.Event()
        self._stream = stream
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            try:
                async for item in self._stream:
                    self.all.append(item)
                    self._more.set()
            except Exception as error:
                self.error = error
            finally:
                with trio.CancelScope(shield=True):
                    await self._stream.aclose()  # type: ignore[attr-defined]
                self.ended.set()
                self._more.set()

    async def until(self, count: int) -> list[Any]:
        with trio.fail_after(120):
            while len(self.all) < count and not self.ended.is_set():
                self._more = trio.Event()
                await self._more.wait()
        return self.all

    @property
    def payloads(self) -> list[Any]:
        return [item.get("payload", item.get("dropped")) for item in self.all]


@pytest.fixture
def inbox(nursery: trio.Nursery) -> Callable[[AsyncIterator[Any]], Inbox]:
    return lambda stream: Inbox(nursery, stream)

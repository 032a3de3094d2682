"""A few nodes in one process that offer services on real sockets and call each other over hosts in memory."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from mesh.agent import pipes
from mesh.agent.forward import Caller, Forward
from mesh.agent.pipes import Pipe, TcpPipe
from mesh.agent.routing import Router
from mesh.agent.web import CallerHeader, Limits
from mesh.core.registry import Endpoint, Health, Instance, Service, service_id
from mesh.core.routes import Route
from mesh.core.routing import Place
from mesh.errors import Unreachable
from mesh.identity.keys import NodeKey
from mesh.net.base import Admission
from mesh.net.memory import MemoryHost, Switchboard
from mesh.observe.counters import Counters
from mesh.wire import protocols
from mesh.wire.forward import Open


class Catalogue:
    """What everybody offers; the test writes it."""

    def __init__(self) -> None:
        self.listed: dict[str, list[Instance]] = {}
        self.on_change: list[Callable[[frozenset[str] | None], None]] = []

    def instances(self, name: str) -> Sequence[Instance]:
        return self.listed.get(name, [])

    def put(self, *instances: Instance) -> None:
        name = instances[0].service.name
        self.listed[name] = list(instances)
        for listener in self.on_change:
            listener(frozenset((name,)))


class Node:
    """One agent, as far as services go: it is its own table, surroundings and offers."""

    def __init__(self, town: Town, number: int) -> None:
        self.town = town
        self.key = NodeKey.from_seed(number.to_bytes(32, "big"))
        self.me = self.key.aid
        self.name = f"n{number}"
        self.zone = "default"
        self.forbidden: set[tuple[bytes, str]] = set()
        self.relays: set[bytes] = set()
        self.own_services: dict[str, Service] = {}
        self.documents: dict[str, Route] = {}
        self.counters = Counters()
        self.host = MemoryHost(
            town.board, self.key, listen=["/ip4/127.0.0.1/tcp/0"], gate=lambda public, ip: Admission.MEMBER
        )
        self.forward = Forward(
            self.key.public, self, self.open, self, self.counters, self._web, idle_s=lambda: 3600.0
        )
        self.router = Router(town.catalogue, self, self.documents.get, random.Random(number))
        self.router.forward = self.forward
        self.host.handle(protocols.SVC, self.forward.accept)

    async def _web(self, near: Pipe, far: Pipe, caller: Caller) -> None:
        await CallerHeader(near, far, f"{caller.name} {caller.id}".encode(), Limits()).run()

    async def run(self, *, task_status: Any) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.host.run)
            await nursery.start(self.forward.run)
            with trio.CancelScope() as self.scope:
                task_status.started()
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    async def open(self, public: bytes, protocol: str, deadline_s: float) -> Any:
        if self.host.connection(public) is None:
            other = self.town.by_aid[public[:16]]
            await self.host.dial(other.host.addresses[0], public, deadline_s=20)
        return await self.host.open(public, protocol, deadline_s=deadline_s)

    def offer(self, name: str, port: int, **more: Any) -> Instance:
        """Register a service of ours; the test puts the instance into the catalogue."""
        health = more.pop("health", Health.HEALTHY)
        service = Service(
            service_id(name, "1", self.key.public),
            name,
            "1",
            self.me,
            (Endpoint("tcp", "127.0.0.1", port),),
            zone=self.zone,
            **more,
        )
        self.own_services[service.id] = service
        return Instance(service, health, True, labels={"name": self.name, "tier": "edge"})

    # -- what the parts ask -----------------------------------------------------------------------------

    def own(self, id_: str) -> Service | None:
        return self.own_services.get(id_)

    def may_relay(self, aid: bytes) -> bool:
        return aid in self.relays

    async def pass_on(self, head: Open, caller: Caller, deadline_s: float) -> tuple[Pipe, str]:
        raise Unreachable("no gateway")

    def name_of(self, aid: bytes) -> str:
        node = self.town.by_aid.get(aid)
        return node.name if node else ""

    def public_of(self, aid: bytes) -> bytes | None:
        node = self.town.by_aid.get(aid)
        return node.key.public if node else None

    def present(self) -> Sequence[bytes]:
        return sorted(self.town.by_aid)

    def labels_of(self, aid: bytes) -> Mapping[str, str]:
        return {}

    def may(self, aid: bytes, verb: str, name: str) -> bool:
        return (aid, name) not in self.forbidden

    def place_of(self, aid: bytes) -> Place:
        return Place(aid, self.town.by_aid[aid].zone)

    def way_to(self, aid: bytes) -> tuple[float | None, float]:
        return 0.001, 0.0

    def free_of(self, aid: bytes) -> Mapping[str, float]:
        return {}

    def capabilities_of(self, aid: bytes) -> Sequence[str]:
        return ()

    def gateways_of(self, zone: str) -> Sequence[bytes]:
        return [node.me for node in self.town.nodes if node.zone == zone]


class Town:
    """Nodes, and programs behind their services."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.board = Switchboard(random.Random(1))
        self.catalogue = Catalogue()
        self.nodes: list[Node] = []
        self.by_aid: dict[bytes, Node] = {}

    async def add(self, count: int = 1) -> list[Node]:
        for _ in range(count):
            node = Node(self, len(self.nodes) + 1)
            self.nodes.append(node)
            self.by_aid[node.me] = node
            await self.nursery.start(node.run)
        return self.nodes

    def program(self, handle: Callable[[TcpPipe], Awaitable[None]]) -> int:
        """A TCP program on a free port of loopback."""
        return self.serve(handle)[1]

    def serve(self, handle: Callable[[TcpPipe], Awaitable[None]]) -> tuple[str, int]:
        listener = pipes.listen("127.0.0.1", 0)
        self.nursery.start_soon(pipes.serve, listener, handle, 100)
        host, port = listener.getsockname()[:2]
        return host, port


async def echo(pipe: TcpPipe) -> None:
    """Sends back what comes, and closes when the caller has."""
    while data := await pipe.receive():
        await pipe.send(data)
    await pipe.close()


def saying(text: bytes) -> Callable[[TcpPipe], Awaitable[None]]:
    """A program that says one thing and closes."""

    async def say(pipe: TcpPipe) -> None:
        await pipe.send(text, last=True)
        await pipe.receive()

    return say


async def everything(pipe: Pipe) -> bytes:
    """All that comes until the end."""
    parts = []
    while data := await pipe.receive():
        parts.append(data)
    return b"".join(parts)


async def running(nursery: trio.Nursery, part: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
    """Start what tells when its ports are open, and wait for that."""
    ready = trio.Event()
    nursery.start_soon(part, ready.set)
    await ready.wait()

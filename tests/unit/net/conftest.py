"""Hosts to test with: on real sockets and in memory, behind one fixture."""

import random
from collections.abc import Callable
from functools import partial

import pytest
import trio

from mesh.identity.keys import NodeKey
from mesh.net.base import Admission, HostLimits
from mesh.net.hostbase import HostBase
from mesh.net.memory import MemoryHost, Switchboard

PATIENCE_S = 60.0  # how long a test waits for what must happen; never how long it may take


class World:
    """Makes hosts of one kind, all listening on loopback, and runs them."""

    def __init__(self, kind: str, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.nursery = nursery
        self.board = Switchboard(random.Random(7))
        self._scopes: dict[HostBase, trio.CancelScope] = {}

    def make(self, key: NodeKey | None = None, *, listen: bool = True, gate=None, **more) -> HostBase:
        """A host that does not run yet; without a gate everybody is a member."""
        where = ["/ip4/127.0.0.1/tcp/0"] if listen else []
        gate = gate or (lambda public, ip: Admission.MEMBER)
        key = key or NodeKey.generate()
        if self.kind == "memory":
            return MemoryHost(self.board, key, listen=where, gate=gate, **more)
        from mesh.net.host import Host

        return Host(key, listen=where, gate=gate, **more)

    async def start(self, key: NodeKey | None = None, **more) -> HostBase:
        """A running host."""
        host = self.make(key, **more)
        await self.run(host)
        return host

    async def run(self, host: HostBase) -> None:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.CancelScope() as self._scopes[host]:
                await host.run(task_status=task_status)

        await self.nursery.start(run)

    def stop(self, host: HostBase) -> None:
        self._scopes[host].cancel()

    async def dial(self, one: HostBase, other: HostBase):
        return await one.dial(other.addresses[0], other.public, deadline_s=PATIENCE_S)

    async def pair(self, **more):
        """Two hosts, the first connected to the second."""
        one, other = await self.start(), await self.start(**more)
        return one, other, await self.dial(one, other)


@pytest.fixture(params=["sockets", "memory"])
async def world(request, nursery) -> World:
    return World(request.param, nursery)


@pytest.fixture
async def sockets(nursery) -> World:
    return World("sockets", nursery)


@pytest.fixture
def keys() -> tuple[NodeKey, NodeKey]:
    """Two keys, the lower one first."""
    one, other = sorted((NodeKey.generate(), NodeKey.generate()), key=lambda key: key.public)
    return one, other


async def echo(stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


@pytest.fixture
def echoing() -> Callable:
    return echo


@pytest.fixture
def until() -> Callable:
    """Wait until a condition holds."""

    async def wait(condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await trio.sleep(0.005)

    return wait


@pytest.fixture
def limits() -> Callable[..., HostLimits]:
    return partial(HostLimits)

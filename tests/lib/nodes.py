"""Real nodes in one process, over in-memory links that can be cut, each with a clock of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import trio

from mesh.agent.certs import Certs
from mesh.agent.invites import Invites
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.removed import Refusal
from mesh.config import Config, Discovery, Membership, Store
from mesh.core.vitals import State
from mesh.identity import home
from mesh.net.base import Admission
from mesh.net.memory import MemoryDatagrams, MemoryHost, Switchboard

NOW_MS = 1_800_000_000_000
CONFIG = Config(
    store=Store(map_bytes=64 << 20, ballast_bytes=0, linger_ms=0.0),
    discovery=Discovery(mdns=False),
    membership=Membership(profile="local"),
)


async def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for a condition; the bound only keeps a failed test from hanging."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


class Village:
    """Members of one mesh on one switchboard."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        self.config = CONFIG
        self.board = Switchboard(random.Random(5))
        self.nodes: list[Node] = []
        self.scopes: dict[bytes, trio.CancelScope] = {}
        self._begun = trio.current_time()
        self.ahead_ms: dict[str, int] = {}
        self.ended: dict[bytes, trio.Event] = {}
        self.refused: list[Node] = []

    def wall_ms(self) -> int:
        return NOW_MS + int((trio.current_time() - self._begun) * 1000)

    def _host_for(self, node: Node) -> tuple[MemoryHost, MemoryDatagrams]:
        ip = f"10.0.0.{len(self.nodes) + 1}"
        host = MemoryHost(
            self.board,
            node.key,
            listen=[f"/ip4/{ip}/tcp/0"],
            gate=lambda public, _: Admission[node.directory.gate(public).name],
        )
        return host, MemoryDatagrams(self.board, node.key, node.public_of_member, host=ip)

    async def settle(self, count: int) -> list[Node]:
        """Nodes that all see each other alive and are all linked."""
        home.create_mesh(self.folder / "n0", "n0", "village", now_ms=NOW_MS)
        first = await self._start("n0")
        members = Members(first)
        fields = {"roles": [], "zone": None, "tier": None, "labels": {}, "uses": count, "ttl_s": None}
        made = await Invites(first, Certs(first, members.rows)).create(**fields)
        for number in range(1, count):
            home.join_mesh(self.folder / f"n{number}", made["token"], f"n{number}", now_ms=NOW_MS)
            await self._start(f"n{number}")
        await until(lambda: all(len(node.links.sessions) == count - 1 for node in self.nodes))
        await until(lambda: self.all_see(self.nodes, self.nodes, State.ALIVE))
        return self.nodes

    async def _start(self, name: str) -> Node:
        def wall_ms() -> int:
            return self.wall_ms() + self.ahead_ms.get(name, 0)

        node = Node(home.open_home(self.folder / name), self.config, self._host_for, wall_ms=wall_ms)
        scope = self.scopes[node.me] = trio.CancelScope()
        self.ended[node.me] = trio.Event()

        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                try:
                    await node.run(task_status=task_status)
                except* Refusal:
                    self.refused.append(node)
            self.ended[node.me].set()

        await self.nursery.start(run)
        for other in self.nodes:
            node.links.found(other.key.public, other.host.addresses[0])
            node.links.dial_now(other.me)
        self.nodes.append(node)
        return node

    async def restart(self, node: Node, meanwhile: Callable[[], None] = lambda: None) -> Node:
        """Stop a node and start it again from what it left on disk."""
        name = node.home.name
        self.scopes[node.me].cancel()
        await self.ended[node.me].wait()
        self.nodes.remove(node)
        await until(lambda: all(node.me not in other.links.sessions for other in self.nodes))
        meanwhile()
        return await self._start(name)

    @staticmethod
    def all_see(viewers: list[Node], subjects: list[Node], state: State) -> bool:
        """Whether each viewer sees each other subject in this state."""
        return all(
            viewer.vitality.machine.state(subject.me) == state
            for viewer in viewers
            for subject in subjects
            if viewer is not subject
        )

    def cut(self, side: list[Node], *, cut: bool = True) -> None:
        for one in side:
            for other in self.nodes:
                if other not in side:
                    self.board.cut(one.key.public, other.key.public, cut)

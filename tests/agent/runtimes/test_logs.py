"""Logs and figures of instances as a node serves them to itself: rights, following, what is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.agent.calls import Calls
from mesh.agent.logs import Logs
from mesh.agent.measured import Measured
from mesh.agent.supervisor import Supervisor
from mesh.errors import Denied, MeshError, NotFound
from mesh.identity.keys import NodeKey, peer_id_of
from mesh.observe.counters import Counters
from mesh.runtimes.base import Launch
from mesh.runtimes.process import Processes

KEY = NodeKey.generate()


class Peers:
    """A mesh of one, whose rights can be taken away."""

    def __init__(self) -> None:
        self.allowed = True
        self.asked: list[tuple[str, str]] = []

    def name_of(self, aid: bytes) -> str:
        return "me"

    def public_of(self, aid: bytes) -> bytes | None:
        return KEY.public if aid == KEY.public[:16] else None

    def present(self) -> Sequence[bytes]:
        return [KEY.public[:16]]

    def labels_of(self, aid: bytes) -> Mapping[str, str]:
        return {}

    def may(self, aid: bytes, verb: str, name: str) -> bool:
        self.asked.append((verb, name))
        return self.allowed


class Node:
    """What logs need of a node."""

    def __init__(self, root: Path) -> None:
        async def nowhere(public: bytes, protocol: str, deadline_s: float) -> Any:
            raise AssertionError

        self.peers = Peers()
        self.calls = Calls(KEY.public, self.peers, nowhere, Counters())
        self.supervisor = Supervisor(
            {"process": lambda: Processes(root, "test", lambda: 0)}, root, now_ms=lambda: 0, sample_s=0.02
        )
        self.logs = Logs(self.supervisor, self.calls, self.peers)
        self.measured = Measured(self.supervisor, self.calls, self.peers)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.calls.run)
            await nursery.start(self.logs.run)
            await nursery.start(self.supervisor.run)
            task_status.started()

    def want(self, *scripts: str, epoch: int = 0) -> None:
        argv = [("/bin/sh", "-c", script) for script in scripts]
        self.supervisor.want(
            Launch(instance=f"web/{number}", workload="web", argv=each, epoch=epoch)
            for number, each in enumerate(argv)
        )

    async def read(self, name: str, tail: int = 100) -> list[str]:
        async with aclosing(self.logs.read(name, node=None, tail=tail, follow=False)) as lines:  # type: ignore[type-var]
            return [f"{line['instance']} {line['line']}" async for line in lines]


@pytest.fixture
async def node(root: Path, nursery: trio.Nursery) -> AsyncIterator[Node]:
    made = Node(root)
    await nursery.start(made.run)
    yield made
    await made.supervisor.close(60)
    nursery.cancel_scope.cancel()


async def until_read(node: Node, name: str, wanted: set[str]) -> None:
    with trio.fail_after(60):
        while True:
            try:
                if set(await node.read(name)) >= wanted:
                    return
            except NotFound:
                pass
            await trio.sleep(0.02)


async def test_a_workloads_log_is_that_of_all_its_instances(node: Node) -> None:
    node.want("echo one; exec sleep 1000", "echo two; exec sleep 1000")
    await until_read(node, "web", {"web/0 one", "web/1 two"})
    assert await node.read("web/1") == ["web/1 two"]
    assert ("request", "logs/web") in node.peers.asked


async def test_a_reader_that_follows_goes_on_with_what_starts_later(node: Node) -> None:
    node.want("echo one; exec sleep 1000")
    await until_read(node, "web", {"web/0 one"})
    seen: set[str] = set()
    with trio.fail_after(60):
        async with aclosing(node.logs.read("web", node=None, tail=10, follow=True)) as lines:  # type: ignore[type-var]
            async for line in lines:
                assert line["node"] == peer_id_of(KEY.public)
                seen.add(f"{line['instance']} {line['line']}")
                if seen == {"web/0 one"}:
                    node.want("echo one; exec sleep 1000", "echo two; exec sleep 1000")
                if "web/1 two" in seen:
                    break


async def test_what_is_not_there_or_not_allowed_is_refused(node: Node) -> None:
    with pytest.raises(NotFound):
        await node.read("web")
    node.want("echo one; exec sleep 1000")
    await until_read(node, "web", {"web/0 one"})
    node.peers.allowed = False
    with pytest.raises(Denied):
        await node.read("web")
    for method, body in (("sys/logs", {"name": 1}), ("sys/instances", [])):
        with pytest.raises(MeshError):
            await node.calls.request(KEY.public, method, body, deadline_s=10)


async def test_rows_get_the_figures_of_the_node_that_runs_them(node: Node) -> None:
    node.want("exec sleep 1000")
    me = peer_id_of(KEY.public)
    rows = [{"node": me, "instance": "web/0"}, {"node": None, "instance": "web/1"}]
    with trio.fail_after(60):
        while True:
            found = await node.measured.add("web", rows)
            if found[0]["measured"] and found[0]["measured"]["processes"]:
                break
            await trio.sleep(0.02)
    assert found[0]["measured"]["starts"] == 1
    assert found[0]["measured"]["memory_bytes"] > 0
    assert found[1]["measured"] is None
    node.peers.allowed = False
    assert (await node.measured.add("web", rows))[0]["measured"] is None


async def test_a_log_of_nonsense_from_a_node_is_an_error_and_not_a_crash(node: Node) -> None:
    async def nonsense(call: Any) -> None:
        await call.emit([["web/0", 7]])

    node.calls._handlers["sys/logs"] = nonsense
    with pytest.raises(MeshError, match="cannot be read"):
        await node.read("web")

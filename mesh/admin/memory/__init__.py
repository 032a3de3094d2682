"""The features in memory: one node of a small made-up mesh, with state that really works.

What the agent does with a store and links, this does with a dict: keys of every type, watches with cursors,
topics, requests and queries between local programs. The server, the client library and `meshctl` are tested
against it, and so may be any program that talks to an agent:

    with running(Features(), "/tmp/somewhere/admin.sock") as path:
        Client(path).put("greeting", "hello")
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from mesh.admin.memory.changes import MemoryRollouts, MemoryShadows
from mesh.admin.memory.clock import ID, Clock
from mesh.admin.memory.kv import MemoryKv
from mesh.admin.memory.locks import MemoryLeases, MemoryQuorums
from mesh.admin.memory.logs import MemoryLogs
from mesh.admin.memory.messages import MemoryMessages
from mesh.admin.memory.node import (
    MemoryCerts,
    MemoryEvents,
    MemoryInvites,
    MemoryMembers,
    MemoryMetrics,
    MemoryStatus,
)
from mesh.admin.memory.policy import MemoryPolicy
from mesh.admin.memory.secret import MemorySecrets
from mesh.admin.memory.services import MemoryServices, MemoryShards
from mesh.admin.memory.traffic import MemoryRouting, MemoryTokens
from mesh.admin.memory.workloads import MemoryWorkloads
from mesh.admin.server import AdminServer

__all__ = ["ID", "Features", "running"]


class Features:
    """Everything that `AdminServer` can be given.

    Args:
        wall_s: unix time in seconds; a fixed one makes answers repeatable.
    """

    def __init__(self, wall_s: Callable[[], float] | None = None) -> None:
        clock = Clock(wall_s)
        self.members = MemoryMembers(clock)
        self.status = MemoryStatus(clock, self.members)
        self.events = MemoryEvents(clock)
        self.metrics = MemoryMetrics(clock)
        self.invites = MemoryInvites(clock)
        self.certs = MemoryCerts(clock, self.members)
        self.policy = MemoryPolicy(clock, self.members)
        self.kv = MemoryKv(clock)
        self.rollouts = MemoryRollouts(clock)
        self.shadows = MemoryShadows(clock)
        self.quorums = MemoryQuorums(self.members)
        self.leases = MemoryLeases()
        self.messages = MemoryMessages(clock, self.members)
        self.logs = MemoryLogs()
        self.routing = MemoryRouting(clock, self.messages)
        self.tokens = MemoryTokens(clock)
        self.workloads = MemoryWorkloads()
        self.secrets = MemorySecrets(clock)
        self.services = MemoryServices(clock)
        self.shards = MemoryShards(clock)


@contextmanager
def running(features: object, path: str, **options: Any) -> Iterator[str]:
    """Serve features on a socket, in a thread of its own, while the `with` lasts."""
    ready: queue.SimpleQueue[trio.CancelScope | BaseException] = queue.SimpleQueue()
    token: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        server = AdminServer(features, path, **options)
        token.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            ready.put(nursery.cancel_scope)

    def body() -> None:
        try:
            trio.run(serve)
        except BaseExceptionGroup as group:
            ready.put(group.exceptions[0])

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    scope = ready.get()
    if isinstance(scope, BaseException):
        raise scope
    try:
        yield path
    finally:
        token[0].run_sync_soon(scope.cancel)
        thread.join()
    if not ready.empty():
        raise AssertionError("the server crashed") from ready.get()  # type: ignore[misc]

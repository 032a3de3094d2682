"""Everything about quorums that runs on a node, put together.

votes      what this node promised as a voter     quorums   what admins ask
proposer   rounds, over calls to the voters       leases    locks for programs and for the agent's own work
"""

from __future__ import annotations

import trio

from mesh.agent.calls import Calls
from mesh.agent.certs import Certs
from mesh.agent.lasting import lasting
from mesh.agent.leases import Leases
from mesh.agent.node import Node
from mesh.agent.proposing import Proposer
from mesh.agent.quorum import Quorums
from mesh.agent.table import Table
from mesh.agent.votes import Votes


class Agreement:
    """See the module."""

    def __init__(self, node: Node, certs: Certs, table: Table, calls: Calls) -> None:
        self._votes = Votes(node)
        for method, handler in self._votes.handlers.items():
            calls.handle(method, handler)
        self._proposer = Proposer(node.me, calls.request, table.public_of, node.rng)
        self.quorums = Quorums(node, certs, table, self._votes, self._proposer)
        self.leases = Leases(node.me, self.quorums, self._proposer, table, node.rng)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, self._votes.run)
            await nursery.start(self._proposer.run)
            await nursery.start(self.leases.run)
            task_status.started()

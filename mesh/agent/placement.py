"""Everything about workloads that runs on a node, put together.

orders       what admins want to run, and may       placer      the machine of placement, carried out
secrets      what it needs and only some may read
supervisor   what runs here                         workloads   what people ask; logs: what instances wrote
"""

from __future__ import annotations

import trio

from mesh.agent.calls import Calls
from mesh.agent.certs import Certs
from mesh.agent.events import Events
from mesh.agent.lasting import lasting
from mesh.agent.leases import Leases
from mesh.agent.logs import Logs
from mesh.agent.measured import Measured
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.offering import Offering
from mesh.agent.orders import Orders
from mesh.agent.placer import Placer
from mesh.agent.rolling import Rolling
from mesh.agent.rollouts import Rollouts
from mesh.agent.runtimes import supervisor_of
from mesh.agent.secret import Secrets
from mesh.agent.table import Table
from mesh.agent.workloads import Workloads


class Placement:
    """See the module."""

    def __init__(
        self,
        node: Node,
        table: Table,
        members: Members,
        events: Events,
        offered: Offering,
        leases: Leases,
        certificates: Certs,
        calls: Calls,
        rollouts: Rollouts,
    ) -> None:
        self.orders = Orders(node)
        self.secrets = Secrets(node, certificates, table, self.orders)
        self.supervisor = supervisor_of(node, self.secrets.open)
        self.placer = Placer(
            node, table, members, events, offered, leases, self.supervisor, self.orders, self.secrets
        )
        self._rolling = Rolling(node, rollouts, self.orders, self.placer)
        measured = Measured(self.supervisor, calls, table)
        self.workloads = Workloads(node, certificates, table, self.orders, self.placer, rollouts, measured)
        self.secrets.table, self.secrets.restarted = self.placer.machine.table, self.workloads.restarted
        self.logs = Logs(self.supervisor, calls, table)
        self.logs.where = lambda name: self.workloads.holders(name) or table.present()
        members.before_leaving.append(self.placer.leave)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.logs.run)
            await nursery.start(self.placer.run)
            nursery.start_soon(lasting, self.secrets.run)
            task_status.started()

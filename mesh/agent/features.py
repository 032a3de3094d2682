"""All features of a node, under the names by which the admin routes ask for them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from mesh import settings
from mesh.agent.discovery import Discovery
from mesh.agent.duties import Duties
from mesh.agent.events import Events
from mesh.agent.kv import Kv
from mesh.agent.members import Members
from mesh.agent.metrics import Metrics
from mesh.agent.node import Node
from mesh.agent.status import Logs, Status
from mesh.agent.table import Table
from mesh.config import Config
from mesh.errors import MeshError

log = logging.getLogger(__name__)


class Features:
    """What `mesh.admin.server` serves. Constructed with the node, started once it runs.

    Attributes:
        left: set when the node has left the mesh and is to stop.
    """

    def __init__(self, node: Node, logs: Logs) -> None:
        self._node = node
        self._logs = logs
        self.members = Members(node)
        self.status = Status(node, self.members, logs, lambda: self._node.config)
        self.left = self.members.left
        self.events = Events(
            node.now_ms, node.directory.public_of, self.members.name_of, self.members.card_of
        )
        node.on_members.append(self.events.members_changed)
        node.on_state.append(self.events.state_changed)
        node.on_alarm.append(self._alarmed)
        self.metrics = Metrics(node.config.metrics, str(node.home.path), node.now_ms)
        node.use_capacity(self.metrics.capacity)
        self.table = Table(node, self.members)
        self.kv = Kv(
            node.store,
            node.author,
            now_ms=node.now_ms,
            who=self.table.who,
            may=self.table.may_write,
            permit=self.table.permit,
            copies=node.spread.held_by,
            held=node.spread.holders,
            removals=self.table.removals,
        )
        self._discovery = Discovery(node)
        self._duties = Duties(node)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the features' tasks until cancelled."""
        self.members.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discovery.run)
            nursery.start_soon(self.metrics.run)
            nursery.start_soon(self._duties.run)
            task_status.started()

    def _alarmed(self, kind: str, aid: bytes, text: str) -> None:
        self.events.tell(f"alarm.{kind}", text, aid=aid)

    def reload(self, load: Callable[[], Config]) -> None:
        """Read the configuration anew; apply what can be applied and say what cannot."""
        try:
            config = load()
        except MeshError as error:
            log.error("configuration not reloaded: %s", error.message)
            return
        changes = settings.diff(self._node.config, config)
        self._node.config = config
        self._logs.set_level(config.log.level)
        self.metrics.reload(config.metrics)
        for name in changes.reloadable:
            log.info("reloaded %s", name)
        for name in changes.restart:
            log.warning("%s changed, and counts after a restart", name)
        self._node.nursery.start_soon(self._node.publish_card)

"""All features of a node, under the names by which the admin routes ask for them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from mesh import settings
from mesh.agent.discovery import Discovery
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.status import Logs, Status
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
        self._discovery = Discovery(node)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the features' tasks until cancelled."""
        self.members.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discovery.run)
            task_status.started()

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
        for name in changes.reloadable:
            log.info("reloaded %s", name)
        for name in changes.restart:
            log.warning("%s changed, and counts after a restart", name)
        self._node.nursery.start_soon(self._node.publish_card)

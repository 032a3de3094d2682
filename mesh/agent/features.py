"""All features of a node, under the names by which the admin routes ask for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import trio

import mesh
from mesh import settings
from mesh.agent.agreement import Agreement
from mesh.agent.calls import Calls
from mesh.agent.certs import Certs
from mesh.agent.discovery import Discovery
from mesh.agent.duties import Duties
from mesh.agent.events import Events
from mesh.agent.insist import insist
from mesh.agent.invites import Invites
from mesh.agent.kv import Kv
from mesh.agent.lasting import lasting
from mesh.agent.members import Members
from mesh.agent.messages import Messages
from mesh.agent.metrics import Metrics
from mesh.agent.node import Node
from mesh.agent.offering import Offering
from mesh.agent.placement import Placement
from mesh.agent.policy import Policies
from mesh.agent.programs import Programs
from mesh.agent.query import Queries
from mesh.agent.renewal import Keeper
from mesh.agent.rollouts import Rollouts
from mesh.agent.shadow import Shadows
from mesh.agent.shards import Shards
from mesh.agent.status import Logs, Status
from mesh.agent.summary import Summary
from mesh.agent.table import Table
from mesh.agent.topics import Topics
from mesh.agent.traffic import Traffic
from mesh.config import Config
from mesh.config import Messages as MessageSettings
from mesh.errors import MeshError
from mesh.wire import protocols

log = logging.getLogger(__name__)


class Features:
    """What `mesh.admin.server` serves. Constructed with the node, started once it runs.

    Attributes:
        up: set once all tasks run.
        left: set when the agent is to stop: it left the mesh, or with `restart` is to start anew.
    """

    def __init__(self, node: Node, logs: Logs) -> None:
        self._node = node
        self._logs = logs
        self.restart = False
        self.up = trio.Event()
        self.members = Members(node)
        self.status = Status(node, self.members, logs, lambda: self._node.config, self._start_anew)
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
        self.certs = Certs(node, self.members.rows)
        self.invites = Invites(node, self.certs)
        self.policy = Policies(node, self.certs, self.members.name_of)
        self.members.use(self.certs)
        self.messages = self._messages()
        self._agreed = Agreement(node, self.certs, self.table, self.messages.calls)
        self.quorums, self.leases = self._agreed.quorums, self._agreed.leases
        self._own_config, self._document = node.config, dict[str, tuple[str, Any]]()
        self.rollouts = Rollouts(node, self.certs, self.table)
        self.shadows = Shadows(node, self.certs, self.table, self.rollouts, self._take_document)
        self._keeper = Keeper(node, self.certs, self._moved)
        self._discovery = Discovery(node)
        self.status.more_checks += [self._discovery.check, self.metrics.check]
        self._duties = Duties(node)
        self._summary = Summary(node)
        self.offered = Offering(node, self.table, self.members, self.events, self._summary.ours)
        self.services = self.offered.services
        self._traffic = Traffic(
            node,
            self.table,
            self.members,
            self.certs,
            self.offered.registry,
            self.messages,
            self.metrics.counters,
        )
        self.routing, self.tokens = self._traffic.routing, self._traffic.tokens
        self.shards = Shards(node, self.table, self.events)
        calls = self.messages.calls
        self.placed = Placement(
            node,
            self.table,
            self.members,
            self.events,
            self.offered,
            self.leases,
            self.certs,
            calls,
            self.rollouts,
        )
        self.workloads, self.logs = self.placed.workloads, self.placed.logs
        self.secrets = self.placed.secrets

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the features' tasks until cancelled."""
        self.members.start()
        self._logs.faults.on_fault.append(self._faulted)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, self._discovery.run)
            nursery.start_soon(lasting, self.metrics.run)
            nursery.start_soon(lasting, self._duties.run)
            nursery.start_soon(lasting, self._keeper.run)
            nursery.start_soon(lasting, self._summary.run)
            nursery.start_soon(self.offered.run)
            nursery.start_soon(lasting, self.shards.run)
            nursery.start_soon(self._traffic.run)
            await nursery.start(self.messages.run)
            await nursery.start(self._agreed.run)
            await nursery.start(self.placed.run)
            nursery.start_soon(lasting, self.rollouts.run)
            nursery.start_soon(lasting, self.shadows.run)
            assert self._node.host is not None
            self._node.host.handle(protocols.CALL, self.messages.calls.accept)
            self.up.set()
            task_status.started()

    def _messages(self) -> Messages:
        node, counters, peers = self._node, self.metrics.counters, self.table
        programs = Programs(node.me, peers, node.now_ms)
        calls = Calls(node.key.public, peers, node.open, counters)
        topics = Topics(
            node.me,
            node.author,
            node.store.live,
            peers,
            self._settings,
            counters,
            node.now_ms,
            node.spread.taken,
        )
        messages = Messages(
            node.me,
            peers,
            topics,
            calls,
            programs,
            Queries(node.key, node.mesh_id, peers, node, programs, counters, node.now_ms, node.rng.randbytes),
            self._settings,
        )
        node.store.add_listener(messages.changed)
        node.use_queries(messages.queries)
        messages.queries.register("mesh.status", self._brief)
        messages.queries.register("mesh.metric", self.metrics.value)
        return messages

    def _brief(self, _: object) -> dict[str, object]:
        """What each node answers to the query `mesh.status`."""
        node = self._node
        load, free = self.metrics.capacity()
        return {
            "version": mesh.__version__,
            "uptime_s": round(trio.current_time() - node.started_at, 1),
            "links": len(node.links.sessions),
            "load": load,
            "free": free,
            "problems": len(node.alarms),
        }

    def _settings(self) -> MessageSettings:
        return self._node.config.messages

    def _moved(self, zone: str) -> None:
        """Our certificate names another zone: its store and links are others, so the agent starts anew."""
        log.warning("this node was moved to zone %s: starting anew", zone)
        self._start_anew()

    def _start_anew(self) -> None:
        self.restart = True
        self.left.set()

    def _alarmed(self, kind: str, aid: bytes, text: str) -> None:
        self.events.tell(f"alarm.{kind}", text, aid=aid)

    def _faulted(self) -> None:
        self.metrics.counters["errors.unforeseen"] += 1

    def reload(self, load: Callable[[], Config]) -> None:
        """Read the configuration anew; apply what can be applied and say what cannot."""
        try:
            self._own_config = load()
            self._reconfigure()
        except MeshError as error:
            log.error("configuration not reloaded: %s", error.message)
        except Exception:
            log.exception("configuration not reloaded")

    def _take_document(self, document: Mapping[str, tuple[str, Any]]) -> None:
        """What documents of the mesh say of our settings."""
        if document != self._document:
            self._document = dict(document)
            self._reconfigure()

    def _reconfigure(self) -> None:
        before, read = self._node.config, settings.with_document(self._own_config, self._document)
        changes, config = settings.diff(before, read), settings.in_force(before, read)
        self._node.config = config
        self._logs.set_level(config.log.level)
        self.metrics.reload(config.metrics)
        self.offered.reload()
        self._traffic.reload()
        for name in changes.reloadable:
            log.info("reloaded %s", name)
        for name in changes.restart:
            if name not in before.pending or before.pending[name] != config.pending[name]:
                log.warning("%s changed, and counts after a restart", name)
        self._node.nursery.start_soon(insist, self._node.publish_card)

"""What a node owes its logs: the daily collection of its own deletes (`core/collect.py`), and the sweep of
expired entries of everybody's append-only logs.

The log is looked through in slices over short snapshots; what follows is written in one transaction. Expired
entries leave every replica by the same mark of mesh time, a multiple of SWEEP_MS, so that fingerprints stay
equal and nobody offers to another what that one has just dropped.
"""

from __future__ import annotations

import logging
from functools import partial

import trio

from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.core import sync
from mesh.core.collect import Collector, Statement, Survey
from mesh.core.judgement import removed_keys
from mesh.core.log import Log
from mesh.core.record import MESH, ZONE
from mesh.core.removal import heard, tell

log = logging.getLogger(__name__)

FIRST_S = 600.0
SWEEP_MS = 600_000
SWEEP_JITTER_S = 20.0
SWEPT_AT_ONCE = 1_000


class Duties:
    """The author's duties of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._collectors = {
            scope: Collector(
                int(node.config.sync.collect_age_s * 1000),
                removed=lambda aid: node.directory.limits(aid).removed,
                unheard=partial(self._unheard, scope),
            )
            for scope in (MESH, ZONE)
        }

    async def run(self) -> None:
        """Do all duties, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect_daily)
            nursery.start_soon(self._sweep_often)

    async def _sweep_often(self) -> None:
        while True:
            mark_ms = self._node.now_ms() // SWEEP_MS * SWEEP_MS
            for scope in (MESH, ZONE):
                await insist(self.sweep, scope, mark_ms)
            left_s = (mark_ms + SWEEP_MS - self._node.now_ms()) / 1000
            await trio.sleep(max(left_s, 0.0) + self._node.rng.uniform(0.0, SWEEP_JITTER_S))

    async def sweep(self, scope: str, mark_ms: int) -> int:
        """Drop entries of append-only logs that were past their ttl at this mesh time; returns how many."""
        node, swept = self._node, 0
        while True:
            with node.store.read(scope) as slots:
                if not sync.swept(slots, mark_ms, most=1):
                    return swept
            gone = await node.store.write(
                lambda txn: len(sync.sweep(txn.log(scope), mark_ms, most=SWEPT_AT_ONCE)), spare=True
            )
            node.spread.machine.reload()
            swept += gone

    async def _collect_daily(self) -> None:
        """Once a day, the first time some minutes after the start."""
        await trio.sleep(min(FIRST_S, self._node.config.sync.collect_interval_s))
        while True:
            for scope in (MESH, ZONE):
                await insist(self.collect, scope)
            await trio.sleep(self._node.config.sync.collect_interval_s)

    async def collect(self, scope: str) -> int:
        """Collect own deletes of a scope now; returns how many statements that took."""
        node, collector = self._node, self._collectors[scope]
        fence = node.author.fences[scope]
        if not self._company(scope):
            fence.alone()
        if not fence.passed(node.now_ms(), int(node.config.sync.collect_age_s * 1000)):
            return 0
        survey: Survey | None = None
        while survey is None or not survey.done:
            with node.store.read(scope) as slots:
                survey = collector.survey(slots, node.me, node.now_ms(), node.view.counts, survey)
            await trio.lowlevel.checkpoint()

        def build(slots: Log) -> list[Statement]:
            said = collector.plan(slots, node.me, node.now_ms(), node.view.counts, survey)
            for gone in sorted(removed_keys(node.directory.evidence)) if node.is_admin else ():
                said += tell(slots, gone, node.me)
            return said

        records = await node.author.say(scope, build, raw=True)
        if records:
            log.info("collected in scope %s with %d statements", scope, len(records))
        return len(records)

    def _unheard(self, scope: str, slots: Log, gone: bytes) -> bool:
        """Whether some admin of the scope may still speak for a removed author."""
        for aid in self._node.directory.members():
            cert = self._node.directory.certificate(aid)
            here = cert is not None and (scope == MESH or cert.zone == self._node.zone)
            if here and cert is not None and cert.is_admin and not heard(slots, gone, aid):
                return True
        return False

    def _company(self, scope: str) -> bool:
        """Whether another member replicates the scope: only then can somebody remind us of what we forgot."""
        directory = self._node.directory
        others = [aid for aid in directory.members() if aid != self._node.me]
        if scope == MESH:
            return bool(others)
        certs = [directory.certificate(aid) for aid in others]
        return any(cert is not None and cert.zone == self._node.zone for cert in certs)

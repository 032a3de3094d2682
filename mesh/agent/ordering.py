"""The orders about workloads as admins give them: apply, scale, remove from nodes, restart, delete.

An order is a record, so it reaches nodes that are away when they return. One that the rules of admission
would let run nowhere is refused, unless it is insisted on: each node would keep the rules all the same, and
what ran before would be drained without a word (`core/outlook.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mesh.agent.admitting import Admitting
from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.agent.orders import Orders, read_spec
from mesh.agent.placer import Placer
from mesh.agent.rollouts import Rollouts
from mesh.agent.table import Table
from mesh.core.dependencies import refuse_circle
from mesh.core.folds import register
from mesh.core.holding import KEEPING
from mesh.core.log import Log
from mesh.core.outlook import outlook
from mesh.core.record import MESH, Kind, Op, Record
from mesh.core.seating import Spec
from mesh.core.workload import PREFIX, Workload, document, parse
from mesh.errors import Conflict, Denied, NotFound, UsageError

Json = dict[str, Any]
Rows = list[Json]

AT_ONCE_MAX = 1000


class Ordering(Admitting):
    """One half of the feature `workloads`; the other one shows."""

    def __init__(
        self,
        node: Node,
        certificates: Certs,
        table: Table,
        orders: Orders,
        placer: Placer,
        rollouts: Rollouts,
    ) -> None:
        super().__init__(node, certificates, table, orders, placer)
        self._rollouts = rollouts

    @abstractmethod
    def _row(self, name: str) -> Json:
        """`shapes.Workload`. NotFound."""

    @abstractmethod
    async def show(self, name: str) -> Json:
        """`shapes.WorkloadDetail`. NotFound."""

    def _spec(self, name: str) -> Spec:
        self._orders.specs()
        spec = self._orders.newest.get(name)
        if spec is None:
            if name in self._orders.faults:
                raise UsageError(f"workload {name}: {self._orders.faults[name]}", "apply it again")
            raise _unknown(name)
        return spec

    async def apply(self, specs: Sequence[Json], *, dry_run: bool, force: bool) -> Rows:
        """`shapes.Applied` of each. One that cannot be read, or a circle, refuses all; so does one that the
        rules admit nowhere, unless `force`.
        """
        parsed = self._parse_all(specs)
        if not dry_run:
            self._certs.require_admin()
        said: Rows = []

        def build(slots: Log) -> list[Statement]:
            said.clear()
            found = [self._applied(slots, workload, force) for workload in parsed]
            said.extend(row for row, _ in found)
            return [] if dry_run else [statement for _, each in found for statement in each]

        if dry_run:
            with self._node.store.read(MESH) as slots:
                build(slots)
        else:
            await self._node.author.say(MESH, build)
        return said

    def _parse_all(self, specs: Sequence[Json]) -> list[Workload]:
        if not 1 <= len(specs) <= AT_ONCE_MAX:
            raise UsageError(f"{len(specs)} workloads at once", f"1 to {AT_ONCE_MAX}")
        parsed = [parse(raw) for raw in specs]
        names = [workload.name for workload in parsed]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"workload {name} is there twice", "each name once")
        known = {name: spec.workload for name, spec in self._orders.specs().items()}
        refuse_circle({**known, **{workload.name: workload for workload in parsed}})
        return parsed

    def _applied(self, slots: Log, workload: Workload, force: bool) -> tuple[Json, list[Statement]]:
        held = self._held(slots, workload.name)
        gen = held.gen + 1 if held is not None else 1
        same = held is not None and held.workload == workload
        change = "unchanged" if same else "created" if held is None else "changed"
        warnings = self._admitted(workload, force=force or same)
        row = {"name": workload.name, "change": change, "gen": gen - same, "warnings": warnings}
        if same:
            return row, []
        return row, self._staged(slots, workload, held.restarts if held is not None else 0)

    def _admitted(self, workload: Workload, *, force: bool) -> list[str]:
        """What the rules of admission have against it on some nodes, as warnings.

        Raises:
            Denied: they have something against it on every node, and it is not insisted on.
        """
        ahead = outlook(workload, self._placer.machine.table.sites.values(), self._orders.rules())
        if not ahead.refused:
            return ahead.warnings
        running = self._running(workload.name)
        stops = f"; {running} running would stop" if running else ""
        if not force:
            raise Denied(
                f"workload {workload.name} would run nowhere: {ahead.refused}{stops}",
                "change it or the rule (`meshctl admission ls`), or order it all the same with --force",
            )
        return [f"it is to run nowhere: {ahead.refused}"]

    def _running(self, name: str) -> int:
        """How many instances of it there are."""
        seats = self._placer.machine.table
        return sum(
            claim.st in KEEPING for seat in seats.seats(name) for claim in seats.claims.get(seat, {}).values()
        )

    def _record(self, slots: Log, name: str) -> Record | None:
        """The record of a workload as this transaction sees it."""
        return register(self._node.view.visible(slots.slots(PREFIX + name)), self._node.now_ms())

    def _held(self, slots: Log, name: str) -> Spec | None:
        """What is stored of a workload as this transaction sees it; None when there is nothing sound."""
        rec = self._record(slots, name)
        try:
            return read_spec(rec.val) if rec is not None else None
        except UsageError:
            gen = rec.val.get("gen") if rec is not None and isinstance(rec.val, dict) else 0
            nothing = Workload(name=name)
            return Spec(nothing, gen if isinstance(gen, int) else 0)

    def _staged(self, slots: Log, workload: Workload, restarts: int) -> list[Statement]:
        """The next generation, and the order to roll it out."""
        subject, more = f"workload/{workload.name}", {"restarts": restarts}
        return self._rollouts.stage(slots, subject, document(workload), workload.rollout, more)

    async def _change(self, name: str, change: Callable[[Spec], Spec]) -> Json:
        """Store a changed spec under the next gen. NotFound, Denied."""
        self._spec(name)
        self._certs.require_admin()

        def build(slots: Log) -> list[Statement]:
            held = self._held(slots, name)
            if held is None:
                raise _unknown(name)
            new = change(held)
            return self._staged(slots, new.workload, new.restarts)

        await self._node.author.say(MESH, build)
        return self._row(name)

    async def _amend(self, name: str, change: Callable[[Workload], Workload]) -> None:
        """Store a changed spec under its gen, where nothing of what runs is to be changed. NotFound."""

        def build(slots: Log) -> list[Statement]:
            rec = self._record(slots, name)
            if rec is None:
                raise _unknown(name)
            spec = change(read_spec(rec.val).workload)
            return [Statement(PREFIX + name, Kind.REG, {**rec.val, "spec": document(spec)})]

        await self._node.author.say(MESH, build)

    def restarted(self, slots: Log, name: str) -> list[Statement]:
        """What to say so that every instance is started anew, by its rollout."""
        held = self._held(slots, name)
        return self._staged(slots, held.workload, held.restarts + 1) if held is not None else []

    async def scale(self, name: str, replicas: int | str, *, force: bool) -> Json:
        """`shapes.Workload`."""
        self._spec(name)
        self._certs.require_admin()

        def scaled(held: Workload) -> Workload:
            spec = parse({**document(held), "replicas": replicas})
            self._admitted(spec, force=force)
            return spec

        await self._amend(name, scaled)
        return self._row(name)

    async def remove(self, name: str, nodes: Sequence[str], *, back: bool) -> Json:
        """`shapes.WorkloadDetail`."""
        self._spec(name)
        self._certs.require_admin()
        known = {self._table.name_of(aid) for aid in self._node.directory.members()}
        for node in nodes:
            if node not in known and not back:
                raise NotFound(f"no member is called {node!r:.80}", "`meshctl members` lists names")

        def avoiding(held: Workload) -> Workload:
            kept = [node for node in held.avoid if node not in nodes]
            return parse({**document(held), "avoid": kept if back else [*kept, *dict.fromkeys(nodes)]})

        await self._amend(name, avoiding)
        return await self.show(name)

    async def restart(self, name: str) -> Json:
        """`shapes.Workload`."""
        return await self._change(
            name, lambda spec: msgspec.structs.replace(spec, restarts=spec.restarts + 1)
        )

    async def delete(self, name: str) -> Json:
        """`shapes.Workload` as it was."""
        row = self._row(name)
        self._certs.require_admin()
        for other, spec in sorted(self._orders.specs().items()):
            if name in spec.workload.depends:
                raise Conflict(f"{other} depends on {name}", f"delete {other} first, or apply it without")
        gone = [*self._rollouts.end(f"workload/{name}"), Statement(PREFIX + name, Kind.REG, None, Op.DEL)]
        await self._node.author.say(MESH, lambda _: gone)
        return row


def _unknown(name: str) -> NotFound:
    return NotFound(f"no workload {name!r:.80}", "`meshctl workload ls` lists them")

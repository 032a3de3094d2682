"""Rollouts as this node sees them: orders and statements from the store, targets from whoever has them.

A node that moved, or said a halt, stays in the picture also when the thing has left it since: what it said
must not be lost with its claim.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from mesh.agent.node import Node
from mesh.agent.table import Table
from mesh.core import policy, rollout
from mesh.core.folds import everyone, register
from mesh.core.mover import Running
from mesh.core.record import MESH
from mesh.core.rollout import MOVED, Order, Picture, Plan, Target
from mesh.core.vitals import GONE_FOR_NOW, State, StateChanged
from mesh.errors import PeerError
from mesh.store.store import Change

Json = dict[str, Any]

ACTIVE_MAX = 1024
_CONCERNS = (rollout.PREFIX, policy.PATH, "removed/", "cert/")


class Subject(Protocol):
    """One kind of subject.

    Attributes:
        staged_from_nothing: its first generation is rolled out too, in the place of generation 0.
    """

    staged_from_nothing: bool

    def targets(self, name: str) -> Iterable[bytes]:
        """Nodes that have it."""

    def knew(self, name: str) -> Iterable[bytes]:
        """Nodes that have it or gave it up: whose word counts."""

    def running(self, name: str) -> Running | None:
        """What this node has of it now; None: nothing."""

    def path(self, name: str) -> str:
        """The path of its record, which has generations (`mesh/core/generations.py`)."""

    def plan(self, spec: Json) -> Plan:
        """How a generation is to be rolled out. UsageError."""

    def check(self, name: str, spec: Json, plan: Plan) -> None:
        """Refuse a plan that cannot be done with this spec. UsageError, Conflict."""

    def short(self, name: str, up: Iterable[bytes]) -> int:
        """How many of its instances none of these nodes has."""


class Pictures:
    """See the module."""

    def __init__(self, node: Node, table: Table) -> None:
        self._node = node
        self._table = table
        self.subjects: dict[str, Subject] = {}
        self._orders: dict[str, Order] | None = None
        self._newest: dict[str, str] = {}
        self._speakers: dict[str, list[bytes]] = {}
        self._fell_ms: dict[bytes, int] = {}

    def changed(self, changes: list[Change]) -> bool:
        """The store changed; returns whether that concerns rollouts."""
        if any(change.scope == MESH and change.path.startswith(_CONCERNS) for change in changes):
            self._orders = None
            return True
        return False

    def state_changed(self, change: StateChanged) -> None:
        """Liveness changed its mind."""
        if change.new == State.DEAD:
            self._fell_ms[change.aid] = self._node.now_ms()
        elif change.new == State.ALIVE:
            self._fell_ms.pop(change.aid, None)

    def orders(self) -> dict[str, Order]:
        """Every order that counts, by its id."""
        if self._orders is None:
            self._load()
        assert self._orders is not None
        return self._orders

    def _load(self) -> None:
        found: dict[str, Order] = {}
        self._speakers = {}
        view, now_ms = self._node.view, self._node.now_ms()
        with self._node.store.read(MESH) as slots:
            for path in slots.paths(rollout.PREFIX):
                try:
                    aid, ident = rollout.parts_of(path)
                except PeerError:
                    continue
                if aid:
                    self._speakers.setdefault(ident, []).append(aid)
                elif len(found) < ACTIVE_MAX:
                    record = register(view.visible(slots.slots(path)), now_ms)
                    order = self._read(ident, record.val) if record is not None else None
                    if order is not None:
                        found[ident] = order
        self._orders = found
        ascending = sorted(found, key=lambda ident: (found[ident].after, found[ident].gen, ident))
        self._newest = {found[ident].subject: ident for ident in ascending}

    def _read(self, ident: str, value: Any) -> Order | None:
        try:
            return rollout.decode_order(value)
        except PeerError as error:
            self._node.alarm("rollout", self._node.me, f"rollout {ident[:80]}: {error.message}")
            return rollout.unread(value)

    def newest(self, subject: str, after: int | None = None) -> tuple[str, Order] | None:
        """The newest order about a subject."""
        orders = self.orders()
        known = self._newest.get(subject)
        if known is None or after in (None, orders[known].after):
            return (known, orders[known]) if known is not None else None
        found = [
            (order.after, order.gen, ident)
            for ident, order in orders.items()
            if order.subject == subject and after == order.after
        ]
        if not found:
            return None
        ident = max(found)[2]
        return ident, orders[ident]

    def picture(self, ident: str, order: Order) -> Picture:
        """A rollout as it is now."""
        kind, _, name = order.subject.partition("/")
        provider = self.subjects.get(kind)
        aids = set() if provider is None else set(provider.targets(name))
        others = set() if provider is None else {*provider.knew(name)} & {*self._speakers.get(ident, ())}
        said = self._statements(ident, aids | others)
        aids |= {
            aid for aid, word in said.items() if word.gen == order.gen and (word.st in MOVED or word.halt)
        }
        targets = [self._target(aid) for aid in sorted(aids)]
        up = [target.aid for target in targets if not target.fell_ms]
        short = provider.short(name, up) if provider is not None else 0
        return Picture(ident, order, targets[: rollout.TARGETS_MAX], said, short=short)

    def _target(self, aid: bytes) -> Target:
        member = self._node.vitality.machine.board.members.get(aid)
        state = State.ALIVE if aid == self._node.me else member.state if member is not None else State.LEFT
        # A stop is no death: whoever stopped in order comes back soon.
        fell_ms = self._fell_ms.setdefault(aid, self._node.now_ms()) if state in GONE_FOR_NOW else 0
        return Target(aid, self._region(aid), fell_ms, state == State.REGISTERING)

    def _region(self, aid: bytes) -> str:
        labels = self._table.labels_of(aid)
        return labels.get("region") or labels.get("zone", "")

    def _statements(self, ident: str, aids: Iterable[bytes]) -> dict[bytes, rollout.Statement]:
        found: dict[bytes, rollout.Statement] = {}
        view, now_ms = self._node.view, self._node.now_ms()
        with self._node.store.read(MESH) as slots:
            for aid in set(aids):
                records = view.visible(slots.slots(rollout.statement_path(aid, ident)))
                record = everyone(records, now_ms).get(aid)
                if record is not None:
                    try:
                        found[aid] = rollout.decode_statement(record.val)
                    except PeerError:
                        continue
        return found

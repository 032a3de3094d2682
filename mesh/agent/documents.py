"""Admins' documents in the mesh scope, one at each path below a prefix: read once, and again after a change.

Routes (`core/routes.py`) and tokens (`core/tokens.py`) are kept this way. A document counts if the newest
statement at its path is by somebody who may write there, which for these paths are admins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mesh.agent.author import Statement
from mesh.agent.node import Node
from mesh.core.folds import winner
from mesh.core.record import MESH, Kind, Op, Record
from mesh.store.store import Change

T = TypeVar("T")


class Documents(Generic[T]):
    """Documents by path.

    Args:
        read: a value as what it means, None if it does not count.
        changed: called when any of them may have.
    """

    def __init__(
        self,
        node: Node,
        prefix: str,
        read: Callable[[str, Any], T | None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._node = node
        self._prefix = prefix
        self._read = read
        self._told = changed
        self._found: dict[str, T] | None = None
        node.store.add_listener(self._changed, user_data=False)
        node.on_members.append(lambda joined, gone: self._stale())

    def _changed(self, changes: list[Change]) -> None:
        if any(each.scope == MESH and each.path.startswith(self._prefix) for each in changes):
            self._stale()

    def _stale(self) -> None:
        self._found = None
        self._told()

    def all(self) -> dict[str, T]:
        """Every document that counts, by path."""
        if self._found is None:
            self._found = {}
            with self._node.store.read(MESH) as slots:
                for path in slots.paths(self._prefix):
                    best = self._winner(slots.slots(path))
                    value = self._read(path, best.val) if best is not None else None
                    if value is not None:
                        self._found[path] = value
        return self._found

    def get(self, path: str) -> T | None:
        """The document at a path."""
        return self.all().get(path)

    def record(self, path: str) -> Record | None:
        """The record in force at a path, also one whose value does not count."""
        with self._node.store.read(MESH) as slots:
            return self._winner(slots.slots(path))

    def paths(self) -> list[str]:
        """Every path that has a record in force."""
        with self._node.store.read(MESH) as slots:
            return [path for path in slots.paths(self._prefix) if self._winner(slots.slots(path))]

    def _winner(self, records: Any) -> Record | None:
        best = winner(self._node.view.visible(records))
        return best if best is not None and best.op == Op.PUT else None

    async def put(self, path: str, value: Any) -> None:
        """Say it. Whether we may has been asked."""
        await self._node.author.say(MESH, lambda _: [Statement(path, Kind.REG, value)])

    async def delete(self, path: str) -> None:
        """Take it back."""
        await self._node.author.say(MESH, lambda _: [Statement(path, Kind.REG, None, Op.DEL)])

"""What a job of the writer sees: the write transaction, scope by scope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.core.log import AuthorState
from mesh.store import rows
from mesh.store.log import LmdbLog, Tables
from mesh.store.watch import Change


class Txn:
    """The writer's transaction. What it changes is told and answered after the commit, or never was."""

    def __init__(self, raw: Any, tables: Tables, history_max: int) -> None:
        self.raw = raw
        self.changes: list[Change] = []
        self._tables = tables
        self._history_max = history_max
        self._logs: dict[str, LmdbLog] = {}
        self._rows_written = 0
        self.size = 0

    def log(self, scope: str) -> LmdbLog:
        """The slots of a durable scope, with what earlier jobs of this transaction wrote."""
        log = self._logs.get(scope)
        if log is None:
            log = LmdbLog(self.raw, self._tables, scope, self.changes, self._history_max)
            self._logs[scope] = log
        return log

    def meta(self, name: str) -> bytes | None:
        """A small named value, or None."""
        key = name.encode()
        value = self.raw.get(key, db=self._tables.meta)
        return None if value is None else rows.unseal("meta", key, value)

    def put_meta(self, name: str, value: bytes | None) -> None:
        """Set a small named value; None removes it."""
        key = name.encode()
        self.put_row(self._tables.meta, key, None if value is None else rows.seal(key, value))

    def names(self, prefix: str, start: str = "") -> Iterator[str]:
        """Names of small values that begin so, ascending, from `start` on."""
        cursor, first = self.raw.cursor(db=self._tables.meta), prefix.encode()
        if cursor.set_range(max(first, start.encode())):
            for key in cursor.iternext(keys=True, values=False):
                if not key.startswith(first):
                    return
                yield key.decode()

    def put_row(self, table: Any, key: bytes, value: bytes | None) -> None:
        """Write a row of another table of the store; None removes it."""
        self._rows_written += 1
        if value is None:
            self.raw.delete(key, db=table)
        else:
            self.raw.put(key, value, db=table)

    def known(self, scope: str, aid: bytes) -> AuthorState | None:
        """The state of an author as this transaction leaves it, if it has met it; asks no table."""
        log = self._logs.get(scope)
        return None if log is None else log.known(aid)

    def mark(self) -> tuple[int, int]:
        """Grows with each thing written. Author states in hand count as written."""
        states = sum(len(log.states) for log in self._logs.values())
        return len(self.changes) + self._rows_written, states

    def flush(self) -> None:
        """Write back what a finished job left in memory."""
        for log in self._logs.values():
            if log.states:
                self._rows_written += 1
                log.flush()

"""Read snapshots as context managers."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from mesh.store.live import LiveLog
from mesh.store.log import LmdbLog, Tables


class Reading:
    """A read snapshot of one durable scope.

    Args:
        begin: begins a read transaction.
        end: told when it is over, with the exception that leaves the block.
    """

    __slots__ = ("_begin", "_end", "_scope", "_tables", "_txn")

    def __init__(
        self,
        scope: str,
        tables: Tables,
        begin: Callable[[], Any],
        end: Callable[[BaseException | None], None],
    ) -> None:
        self._scope = scope
        self._tables = tables
        self._begin = begin
        self._end = end

    def __enter__(self) -> LmdbLog:
        self._txn = self._begin()
        return LmdbLog(self._txn, self._tables, self._scope)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.abort()
        self._end(value)


class ReadingLive:
    """The live scope, in the same form."""

    __slots__ = ("_log",)

    def __init__(self, log: LiveLog) -> None:
        self._log = log

    def __enter__(self) -> LiveLog:
        return self._log

    def __exit__(self, *_: object) -> None:
        pass

"""Watches: who wants to know which paths changed.

A watch is never a queue of events. It holds the set of paths under its prefix that changed since it last
looked, and its owner reads the present state of those. A slow watcher therefore costs at most PATHS_MAX
paths, and skips states that nobody saw; the newest is never missed. Too many: the set is dropped and the
watcher told to read everything anew ("rescan").

Each scope counts its rounds of changes and keeps the last few thousand in RAM. A cursor (epoch, round)
resumes from there; one that is older, or of another epoch, begins with a rescan. An epoch is one opening of
a store: what was changed while nobody kept rounds cannot be told.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

import msgspec
import trio

from mesh.core.record import SCOPES, Record
from mesh.errors import UsageError

# Where users' keys and messages are: most changes, and of use to few listeners.
USER_DATA = ("kv/", "topic/")
PATHS_MAX = 10_000
RING_PATHS_MAX = 65_536


class Change(msgspec.Struct, frozen=True, gc=False):
    """One slot was written, or dropped: then `record` is None and `hlc` is that of the dropped record."""

    scope: str
    path: str
    kind: int
    aid: bytes
    hlc: int
    record: Record | None

    @property
    def op(self) -> int | None:
        """What the new record says (see `Op`); None when the slot was dropped."""
        return None if self.record is None else self.record.op


class Cursor(NamedTuple):
    """A place in the rounds of one scope; `str()` and `parse` carry it over the wire."""

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"

    @staticmethod
    def parse(text: str) -> Cursor:
        """The inverse of `str`.

        Raises:
            UsageError: it was not made by us.
        """
        epoch, dot, number = text.partition(".")
        if not (dot and number.isascii() and number.isdigit() and len(text) <= 64):
            raise UsageError(f"cursor {text[:64]!r} is malformed", "use one that a watch gave")
        return Cursor(epoch, int(number))


class Seen(msgspec.Struct, frozen=True):
    """What a watch gives: paths to read again, ascending; with `rescan`, read everything under the prefix."""

    cursor: Cursor
    paths: list[str]
    rescan: bool


class Watch:
    """A stream of `Seen`. Close it (it is a context manager), or it is kept for ever."""

    def __init__(self, rounds: Rounds, prefix: str, paths_max: int) -> None:
        self.prefix = prefix
        self._rounds = rounds
        self._paths_max = paths_max
        self._dirty: set[str] = set()
        self._rescan = False
        self._closed = False
        self._wake = trio.Event()

    def mark(self, path: str) -> None:
        """A path under the prefix changed."""
        if not self._rescan:
            self._dirty.add(path)
            if len(self._dirty) > self._paths_max:
                self.mark_all()
                return
        self._wake.set()

    def mark_all(self) -> None:
        """Everything may have changed."""
        self._dirty.clear()
        self._rescan = True
        self._wake.set()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Seen:
        await trio.lowlevel.checkpoint()
        while not (self._dirty or self._rescan or self._closed):
            self._wake = trio.Event()
            await self._wake.wait()
        if self._closed:
            raise StopAsyncIteration
        seen = Seen(self._rounds.cursor, sorted(self._dirty), self._rescan)
        self._dirty.clear()
        self._rescan = False
        return seen

    @property
    def cursor(self) -> Cursor:
        """Where the scope is now."""
        return self._rounds.cursor

    def close(self) -> None:
        """End the stream; a waiting reader sees it end."""
        self._closed = True
        self._wake.set()
        self._rounds.remove(self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Rounds:
    """The rounds and watches of one scope.

    Args:
        rounds_max: rounds a cursor can go back.
    """

    def __init__(self, epoch: str, rounds_max: int) -> None:
        self._epoch = epoch
        self._number = 0
        self._resumable = 0  # cursors at or after this number can be resumed
        self._rounds_max = rounds_max
        self._kept: deque[tuple[int, tuple[str, ...]]] = deque()
        self._kept_paths = 0
        self._watches: dict[str, list[Watch]] = {}
        self._lengths: list[int] = []

    @property
    def cursor(self) -> Cursor:
        return Cursor(self._epoch, self._number)

    def watch(self, prefix: str, cursor: Cursor | None, paths_max: int) -> Watch:
        """A new watch; with a cursor it begins with what changed since."""
        watch = Watch(self, prefix, paths_max)
        self._watches.setdefault(prefix, []).append(watch)
        self._lengths = sorted({len(known) for known in self._watches})
        if cursor is not None:
            self._resume(watch, cursor)
        return watch

    def _resume(self, watch: Watch, cursor: Cursor) -> None:
        if cursor.epoch != self._epoch or not self._resumable <= cursor.number <= self._number:
            watch.mark_all()
            return
        for number, paths in reversed(self._kept):
            if number <= cursor.number:
                break
            for path in paths:
                if path.startswith(watch.prefix):
                    watch.mark(path)

    def remove(self, watch: Watch) -> None:
        """Forget a closed watch."""
        same = self._watches.get(watch.prefix, [])
        if watch in same:
            same.remove(watch)
        if not same and self._watches.pop(watch.prefix, None) is not None:
            self._lengths = sorted({len(known) for known in self._watches})

    def changed(self, paths: Iterable[str]) -> None:
        """One round: wake the watches of these paths."""
        distinct = tuple(dict.fromkeys(paths))
        if not distinct:
            return
        self._number += 1
        self._keep(distinct)
        if not self._watches:
            return
        for path in distinct:
            for length in self._lengths:
                for watch in self._watches.get(path[:length], ()) if length <= len(path) else ():
                    watch.mark(path)

    def all_changed(self) -> None:
        """What may be seen changed (a policy, a removal): every watch reads anew, older cursors too."""
        self._number += 1
        self._kept.clear()
        self._kept_paths = 0
        self._resumable = self._number
        for watches in self._watches.values():
            for watch in watches:
                watch.mark_all()

    def _keep(self, paths: tuple[str, ...]) -> None:
        self._kept.append((self._number, paths))
        self._kept_paths += len(paths)
        while self._kept and (len(self._kept) > self._rounds_max or self._kept_paths > RING_PATHS_MAX):
            number, gone = self._kept.popleft()
            self._kept_paths -= len(gone)
            self._resumable = number


def new_rounds(generation: bytes, rounds_max: int) -> dict[str, Rounds]:
    """Rounds for each scope, under a fresh epoch that names the store's generation."""
    epoch = generation[:4].hex() + os.urandom(4).hex()
    return {scope: Rounds(epoch, rounds_max) for scope in SCOPES}

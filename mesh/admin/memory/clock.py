"""Time, stamps and the identity of the features in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from mesh.core.clock import HybridClock

ID = "12D3KooWAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAaaa1"


def iso(unix_s: float) -> str:
    """A time as the API writes it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Clock:
    """Wall time, and strictly growing stamps."""

    def __init__(self, wall_s: Callable[[], float] | None = None) -> None:
        self.wall_s = wall_s or time.time  # noqa: TID251 - there is no mesh clock here
        self._hybrid = HybridClock()

    def now(self) -> str:
        """The time as the API writes it."""
        return iso(self.wall_s())

    def stamp(self) -> str:
        """A new hlc."""
        return str(self._hybrid.send(int(self.wall_s() * 1000)))

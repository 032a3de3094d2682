"""What happened to services: a bounded ring that can be watched from a place in it.

As with events, a watcher holds a place and no queue; one that fell behind the ring is told to look anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum

import msgspec
import trio

from mesh.core.health import Health
from mesh.core.registry import Instance, Service
from mesh.errors import UsageError

RING_MAX = 4096


class Kind(StrEnum):
    """What happened. LOST: the owner's node went away; ALIVE: it is back; EXPIRED: away for the TTL."""

    REGISTERED = "registered"
    UPDATED = "updated"
    DEREGISTERED = "deregistered"
    HEALTH = "health"
    LOST = "lost"
    ALIVE = "alive"
    EXPIRED = "expired"


class Moved(msgspec.Struct, frozen=True):
    """One change; `number` counts from 1 in this life of the process."""

    number: int
    at_ms: int
    kind: Kind
    service: Service
    was: Health | None = None
    health: Health | None = None
    why: str = ""


class Beats:
    """Whose heartbeats came since one watch looked; never longer than the list of owners."""

    def __init__(self, among: list[Beats]) -> None:
        self.aids: dict[bytes, None] = {}
        self._among = among

    def take(self) -> list[bytes]:
        """Those that came, which are told then."""
        found = list(self.aids)
        self.aids.clear()
        return found

    def close(self) -> None:
        """Note no more."""
        if self in self._among:
            self._among.remove(self)


class Changes:
    """The ring.

    Args:
        now_ms: mesh time.
    """

    def __init__(self, now_ms: Callable[[], int], ring_max: int = RING_MAX) -> None:
        self._now_ms = now_ms
        self._ring: deque[Moved] = deque(maxlen=ring_max)
        self._life = f"{now_ms():x}"
        self._count = 0
        self._news = trio.Event()
        self._beating: list[Beats] = []
        self.listeners: list[Callable[[Moved], None]] = []

    def add(
        self,
        kind: Kind,
        service: Service,
        *,
        was: Health | None = None,
        health: Health | None = None,
        why: str = "",
    ) -> None:
        """Something happened."""
        self._count += 1
        moved = Moved(self._count, self._now_ms(), kind, service, was, health, why)
        self._ring.append(moved)
        self._tell()
        for listener in self.listeners:
            listener(moved)

    @property
    def place(self) -> int:
        """How many there were so far."""
        return self._count

    def since(self, place: int) -> list[Moved] | None:
        """Those after a place; None when some of them are no longer kept."""
        missing = self._count - place
        if missing > len(self._ring):
            return None
        return list(self._ring)[len(self._ring) - missing :] if missing else []

    async def news(self, place: int, beats: Beats | None = None) -> None:
        """Wait until there is something after a place, or a heartbeat to tell."""
        while self._count <= place and not (beats is not None and beats.aids):
            await self._news.wait()

    def beats(self) -> Beats:
        """Note heartbeats from now on; close it."""
        found = Beats(self._beating)
        self._beating.append(found)
        return found

    def beat(self, aid: bytes) -> None:
        """An owner's lease came: the heartbeat of all its services."""
        for each in self._beating:
            each.aids[aid] = None
        if self._beating:
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    def cursor(self, place: int) -> str:
        """A place as watchers carry it."""
        return f"{self._life}.{place}"

    def parse(self, cursor: str) -> int | None:
        """The place of a cursor; None when it is of an earlier life.

        Raises:
            UsageError: it is malformed.
        """
        life, dot, number = cursor.partition(".")
        if not (dot and number.isascii() and number.isdigit() and len(cursor) <= 64):
            raise UsageError(f"cursor {cursor[:64]!r} is malformed", "use the `cursor` of a change")
        return min(int(number), self._count) if life == self._life else None


def moved_between(
    before: Mapping[str, Iterable[Instance]], after: Mapping[str, Iterable[Instance]]
) -> Iterator[tuple[Kind, Service]]:
    """What happened between two of a zone's summaries, by id.

    A summary has those that can be called, and of many the best: one that it names no more is lost, whatever
    the reason, and one that it names newly is registered as far as this zone knows.
    """
    old = {each.service.id: each for listed in before.values() for each in listed}
    new = {each.service.id: each for listed in after.values() for each in listed}
    for id_ in sorted({*old, *new}):
        was, now = old.get(id_), new.get(id_)
        there, here = was is not None and was.alive, now is not None and now.alive
        if now is not None and here and was is None:
            yield Kind.REGISTERED, now.service
        elif now is not None and was is not None and there != here:
            yield Kind.ALIVE if here else Kind.LOST, now.service
        elif now is not None and was is not None and here and was.service != now.service:
            yield Kind.UPDATED, now.service
        elif now is None and was is not None and there:
            yield Kind.LOST, was.service

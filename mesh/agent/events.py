"""What happened, as this node saw it: a bounded ring that can be listed and watched.

    node_registered                   a card came in for the first time: node id, location, time
    member_alive, _suspect, _dead, _left, _removed
    network_changed, conflict, alarm.<kind>, and what other features tell

A watcher holds a place in the ring and no queue of its own; one that falls behind the ring is told how many
it missed. The id of an event names this life of the process too, so a cursor from an earlier life is known
for what it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import trio

from mesh.agent.words import iso
from mesh.core.vitals import StateChanged
from mesh.errors import UsageError
from mesh.identity.keys import peer_id_of

RING_MAX = 2000
MESSAGE_CHARS_MAX = 500


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event; `number` counts from 1 in this life of the process."""

    number: int
    at_ms: int
    type: str
    node: str | None
    name: str | None
    message: str
    data: dict[str, Any]


class Events:
    """The feature `events` of the admin API.

    Args:
        now_ms: mesh time.
        public_of: key of an aid, or None.
        name_of: name of an aid, or "".
        card_of: the newest node card of an aid.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        public_of: Callable[[bytes], bytes | None],
        name_of: Callable[[bytes], str],
        card_of: Callable[[bytes], Mapping[str, Any]] = lambda aid: {},
        *,
        ring_max: int = RING_MAX,
    ) -> None:
        self._now_ms = now_ms
        self._public_of = public_of
        self._name_of = name_of
        self._card_of = card_of
        self._ring: deque[Event] = deque(maxlen=ring_max)
        self._life = f"{now_ms():x}"
        self._count = 0
        self._news = trio.Event()
        self._primed = False
        self._registered: set[bytes] = set()

    # -- what happens -----------------------------------------------------------------------------------

    def tell(self, type: str, message: str, *, aid: bytes | None = None, **data: Any) -> None:
        """Add an event; `aid` is the node it is about."""
        public = None if aid is None else self._public_of(aid)
        node = None if aid is None else (peer_id_of(public) if public else aid.hex())
        name = (self._name_of(aid) or None) if aid is not None else None
        self._count += 1
        self._ring.append(
            Event(self._count, self._now_ms(), type, node, name, message[:MESSAGE_CHARS_MAX], data)
        )
        news, self._news = self._news, trio.Event()
        news.set()

    def members_changed(self, joined: Sequence[bytes], gone: Sequence[bytes]) -> None:
        """Cards came in, or members were removed. The first call only tells who was known before."""
        for aid in joined:
            if self._primed and aid not in self._registered:
                self._tell_registered(aid)
            self._registered.add(aid)
        self._primed = True
        for aid in gone:
            self._registered.discard(aid)
            self.tell("member_removed", "is no longer a member", aid=aid)

    def _tell_registered(self, aid: bytes) -> None:
        public = self._public_of(aid)
        self.tell(
            "node_registered",
            "registered",
            aid=aid,
            node_id=peer_id_of(public) if public else aid.hex(),
            location=self._card_of(aid).get("location"),
            time=iso(self._now_ms()),
        )

    def state_changed(self, change: StateChanged) -> None:
        """Liveness came to another view of a member."""
        message = f"{change.old.value} -> {change.new.value}"
        if change.why:
            message += f": {change.why}"
        seen_by = [peer_id_of(public) for aid in change.seen_by if (public := self._public_of(aid))]
        self.tell(
            f"member_{change.new.value}", message, aid=change.aid, was=change.old.value, seen_by=seen_by
        )

    def alarm(self, kind: str, aid: bytes, text: str) -> None:
        """Something an operator should know."""
        self.tell(f"alarm.{kind}", text, aid=aid)

    # -- who asks ---------------------------------------------------------------------------------------

    async def list(
        self, *, last_s: float | None, type: str | None, node: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """The newest `limit` that match, oldest first. `type` may end in `*`."""
        await trio.lowlevel.checkpoint()
        since_ms = 0 if last_s is None else self._now_ms() - last_s * 1000
        found: list[dict[str, Any]] = []
        for event in reversed(self._ring):
            if event.at_ms < since_ms or len(found) >= limit:
                break
            if _matches(event, type, node):
                found.append(self._show(event))
        return found[::-1]

    async def watch(
        self, *, type: str | None, node: str | None, cursor: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """New ones as they happen; with a cursor (an event's `id`), those after it first if still kept."""
        seen = self._count if cursor is None else self._place(cursor)
        while True:
            news = self._news
            lost = self._count - len(self._ring) - seen
            if lost > 0:
                seen += lost
                yield self._missed(seen, lost)
            for event in (
                list(self._ring)[len(self._ring) - (self._count - seen) :] if seen < self._count else []
            ):
                seen = event.number
                if _matches(event, type, node):
                    yield self._show(event)
            if news is self._news:
                await news.wait()

    def _place(self, cursor: str) -> int:
        """How many events were seen at a cursor; 0 when it is of an earlier life."""
        life, dot, number = cursor.partition(".")
        if not (dot and number.isascii() and number.isdigit() and len(cursor) <= 64):
            raise UsageError(f"cursor {cursor[:64]!r} is malformed", "use the `id` of an event")
        return min(int(number), self._count) if life == self._life else 0

    def _missed(self, number: int, count: int) -> dict[str, Any]:
        event = Event(
            number,
            self._now_ms(),
            "events_missed",
            None,
            None,
            f"{count} events are no longer kept",
            {"count": count},
        )
        return self._show(event)

    def _show(self, event: Event) -> dict[str, Any]:
        return {
            "id": f"{self._life}.{event.number}",
            "time": iso(event.at_ms),
            "type": event.type,
            "node": event.node,
            "name": event.name,
            "message": event.message,
            "data": event.data,
        }


def _matches(event: Event, type: str | None, node: str | None) -> bool:
    return (type is None or fnmatchcase(event.type, type)) and (node is None or event.node == node)

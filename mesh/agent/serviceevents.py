"""What happens to services, as events of the node: singly when it is a few, in one sentence when it is many.

A node that dies takes all its services with it, and a member may register hundreds at once: told singly they
would push everything else out of the ring of events. `meshctl service watch` has each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mesh.agent.changes import Changes, Kind, Moved

FEW = 4
NAMED = 16
WAIT_S = 0.05


class ServiceEvents:
    """Tells changes as events, those of one kind and owner that come together as one.

    Args:
        tell: adds an event, see `mesh.agent.events.Events.tell`.
    """

    def __init__(self, changes: Changes, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._waiting: dict[tuple[Kind, bytes], list[Moved]] = {}
        self._counts: dict[tuple[Kind, bytes], int] = {}
        self._news = trio.Event()
        changes.listeners.append(self._note)

    def _note(self, moved: Moved) -> None:
        key = (moved.kind, moved.service.owner)
        held = self._waiting.setdefault(key, [])
        self._counts[key] = self._counts.get(key, 0) + 1
        if len(held) < NAMED:
            held.append(moved)
        self._news.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._news.wait()
            await trio.sleep(WAIT_S)
            self._news = trio.Event()
            waiting, self._waiting = self._waiting, {}
            counts, self._counts = self._counts, {}
            for (kind, owner), moved in waiting.items():
                if counts[kind, owner] <= FEW:
                    for each in moved:
                        self._one(each)
                else:
                    self._many(kind, owner, moved, counts[kind, owner])

    def _one(self, moved: Moved) -> None:
        service = moved.service
        text = f"{service.name} {service.version}"
        if moved.was is not None and moved.health is not None:
            text += f": {moved.was.word} -> {moved.health.word}"
        if moved.why:
            text += f": {moved.why}"
        self._tell(
            f"service_{moved.kind}",
            text,
            aid=service.owner,
            services=[service.id],
            names=[service.name],
            count=1,
        )

    def _many(self, kind: Kind, owner: bytes, moved: list[Moved], count: int) -> None:
        names = list(dict.fromkeys(each.service.name for each in moved))
        more = f", and {count - len(moved)} more" if count > len(moved) else ""
        self._tell(
            f"service_{kind}",
            f"{count} services: {', '.join(names)}{more}",
            aid=owner,
            services=[each.service.id for each in moved],
            names=names,
            count=count,
        )

"""Which neighbours hold an author up to which stamp on their disk, and waiting for that."""

from __future__ import annotations

from collections.abc import Callable

import trio

Key = tuple[str, bytes]
KEYS_PER_LINK_MAX = 16_384  # a neighbour may announce authors that nobody knows


class Holders:
    """What each link has announced, and those who wait."""

    def __init__(self) -> None:
        self._announced: dict[bytes, dict[Key, int]] = {}
        self._waiting: dict[Key, list[tuple[int, set[bytes], trio.Event, int]]] = {}

    def link_up(self, link: bytes) -> None:
        self._announced[link] = {}

    def link_down(self, link: bytes) -> None:
        self._announced.pop(link, None)

    def heard(self, link: bytes, key: Key, head: int) -> None:
        """A link announced to hold an author up to a head."""
        announced = self._announced.get(link)
        if announced is not None and (key in announced or len(announced) < KEYS_PER_LINK_MAX):
            announced[key] = max(head, announced.get(key, 0))
        for hlc, holders, done, count in self._waiting.get(key, ()):
            if head >= hlc:
                holders.add(link)
                if len(holders) >= count:
                    done.set()

    def told(self, key: Key, hlc: int) -> set[bytes]:
        """The linked neighbours that have announced to hold an author up to `hlc`."""
        return {link for link, heads in self._announced.items() if heads.get(key, 0) >= hlc}

    async def wait(self, key: Key, hlc: int, count: int, timeout_s: float, ask: Callable[[], bool]) -> int:
        """Wait until so many hold it, if `ask` finds anybody to ask; returns how many do in time."""
        done, holders = trio.Event(), set[bytes]()
        entry = (hlc, holders, done, count)
        self._waiting.setdefault(key, []).append(entry)
        try:
            if ask():
                with trio.move_on_after(max(0.0, timeout_s)):
                    await done.wait()
        finally:
            self._waiting[key].remove(entry)
            if not self._waiting[key]:
                del self._waiting[key]
        return len(holders)

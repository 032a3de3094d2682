"""An instance that is to be changed in place: its service goes first, and calls under way may finish.

Until then the supervisor is told to keep what runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio

from mesh.core.claims import Seat
from mesh.runtimes.base import Launch


class Turnover:
    """See the module.

    Args:
        withdraw: ends the service of an instance; returns whether it had one.
        spawn: starts a task.
        want: tell the supervisor anew what is to run.
        linger_s: between the end of the service and the stop of the instance.
    """

    def __init__(
        self,
        withdraw: Callable[[Seat], Awaitable[bool]],
        spawn: Callable[[Callable[[Seat], Awaitable[object]], Seat], None],
        want: Callable[[], None],
        linger_s: float,
    ) -> None:
        self._withdraw = withdraw
        self._spawn = spawn
        self._want = want
        self._linger_s = linger_s
        self._told: dict[Seat, Launch] = {}
        self._leaving: set[Seat] = set()

    def gently(self, wanted: Mapping[Seat, Launch]) -> list[Launch]:
        """What to tell the supervisor: of an instance that is to be another, the present one for a moment."""
        told = {}
        for seat, launch in wanted.items():
            held = self._told.get(seat)
            if held is None or held.digest == launch.digest:
                told[seat] = launch
                continue
            told[seat] = held
            if seat not in self._leaving:
                self._leaving.add(seat)
                self._spawn(self._leave, seat)
        self._told = told
        return [told[seat] for seat in sorted(told)]

    async def _leave(self, seat: Seat) -> None:
        if await self._withdraw(seat):
            await trio.sleep(self._linger_s)
        self._leaving.discard(seat)
        self._told.pop(seat, None)
        self._want()

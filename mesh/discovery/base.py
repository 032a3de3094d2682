"""The words of this room: what a finder is and what it finds.

A finder runs until it is cancelled and reports addresses at which a member may be; whether one is, the
handshake shows. Reports repeat: who asked forgets nothing by hearing twice. A finder that cannot work
raises, the others go on; trouble with one name or one interface is kept in `troubles` and goes on too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import trio


class Found(NamedTuple):
    """Somebody may be at `address` (a multiaddr without /p2p); `public` is the key expected, or None."""

    finder: str
    address: str
    public: bytes | None


OnFound: TypeAlias = Callable[[Found], None]


class Finder(Protocol):
    """One way to find first peers.

    Attributes:
        name: as in the configuration and in `troubles`.
        troubles: what cannot be asked at the moment (a name, an interface) -> why.
    """

    name: str
    troubles: dict[str, str]

    async def run(self, found: OnFound) -> None:
        """Report until cancelled.

        Raises:
            MeshError: this finder cannot work here at all.
        """
        ...

    def poke(self) -> None:
        """Look again now: no link is up, or the network changed."""
        ...


class Bell:
    """Rung by `poke`, waited for by a finder."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """End the wait that is under way, or the next one."""
        self._rung.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until rung or out of time; says whether it was rung."""
        with trio.move_on_after(max(0.0, timeout_s)):
            await self._rung.wait()
        rung = self._rung.is_set()
        if rung:
            self._rung = trio.Event()
        return rung

"""Finders that need not look: the seeds one was told, and the members known from before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mesh.discovery.base import Bell, Found, OnFound
from mesh.errors import ConfigError, MeshError, UsageError
from mesh.net.address import parse

REPEAT_S = 60.0
BOOK_MAX = 50


class Seeds:
    """Addresses from the configuration or an invite.

    Raises:
        ConfigError: one of them is malformed.
    """

    name = "seeds"

    def __init__(self, seeds: Sequence[str]) -> None:
        self.troubles: dict[str, str] = {}
        self._bell = Bell()
        try:
            self._found = [_found(self.name, seed) for seed in seeds]
        except UsageError as error:
            raise ConfigError(f"seed: {error.message}", error.hint) from None

    async def run(self, found: OnFound) -> None:
        """Report every seed, again each minute and when poked."""
        while True:
            for seed in self._found:
                found(seed)
            await self._bell.wait(REPEAT_S)

    def poke(self) -> None:
        self._bell.ring()


class AddressBook:
    """Members met before, from the store.

    Args:
        entries: (public key, multiaddr), most recently met first; called at each round.
    """

    name = "address_book"

    def __init__(self, entries: Callable[[], Iterable[tuple[bytes, str]]]) -> None:
        self.troubles: dict[str, str] = {}
        self._bell = Bell()
        self._entries = entries

    async def run(self, found: OnFound) -> None:
        """Report the newest entries, again each minute and when poked."""
        while True:
            for _, (public, address) in zip(range(BOOK_MAX), self._entries(), strict=False):
                try:
                    found(Found(self.name, _found(self.name, address).address, public))
                except MeshError as error:
                    self.troubles = {address[:80]: error.message}
            await self._bell.wait(REPEAT_S)

    def poke(self) -> None:
        self._bell.ring()


def _found(name: str, text: str) -> Found:
    public = parse(text).public
    address = text if public is None else text.rpartition("/p2p/")[0]
    return Found(name, address, public)

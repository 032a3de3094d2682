"""All finders of a node at once: each fails alone, is started again, and is reported by name."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import trio

from mesh.discovery import interfaces
from mesh.discovery.base import Finder, Found, OnFound
from mesh.errors import ConfigError, MeshError

log = logging.getLogger(__name__)

NAMES = ("seeds", "dns", "address_book", "mdns")
BACKOFF_S = (1.0, 5.0, 30.0, 120.0)


def check_names(names: Iterable[str]) -> None:
    """Refuse a finder that does not exist.

    Raises:
        ConfigError: naming it and the nearest that does.
    """
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
            raise ConfigError(f"there is no finder {name[:40]!r}", hint)


class _State(msgspec.Struct):
    """How one finder fares."""

    running: bool = False
    error: str = ""
    found: int = 0
    found_at: float | None = None


class Finders:
    """Runs finders.

    Args:
        finders: with different names.
        on_network: called after interfaces or addresses of this machine changed.
    """

    def __init__(self, finders: Sequence[Finder], on_network: Callable[[], None] = lambda: None) -> None:
        check_names(finder.name for finder in finders)
        self._finders = list(finders)
        self._on_network = on_network
        self._states = {finder.name: _State() for finder in finders}

    async def run(self, found: OnFound) -> None:
        """Let every finder report until cancelled. A finder's failure is kept and it is tried again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interfaces.watch, self._network_changed)
            for finder in self._finders:
                nursery.start_soon(self._keep_up, finder, found)

    def poke(self) -> None:
        """Let every finder look again."""
        for finder in self._finders:
            finder.poke()

    def report(self, now: float) -> list[dict[str, Any]]:
        """Per finder: name, state (running, failed), error, what it has trouble with, finds and their age."""
        return [
            {
                "finder": finder.name,
                "state": "running" if state.running else "failed",
                "error": state.error,
                "troubles": dict(finder.troubles),
                "found": state.found,
                "found_s": None if state.found_at is None else round(now - state.found_at, 3),
            }
            for finder in self._finders
            for state in (self._states[finder.name],)
        ]

    def _network_changed(self) -> None:
        log.info("network changed")
        self._on_network()
        self.poke()

    async def _keep_up(self, finder: Finder, found: OnFound) -> None:
        state = self._states[finder.name]

        def count(one: Found) -> None:
            state.found += 1
            state.found_at = trio.current_time()
            found(one)

        tries = 0
        while True:
            state.running = True
            try:
                await finder.run(count)
                state.error = "ended"
            except MeshError as error:
                state.error = error.message
                log.warning("finder failed", extra={"finder": finder.name, "error": error.message})
            except Exception as error:
                # One finder's bug must not take the others, or the agent, with it.
                state.error = f"{type(error).__name__}: {error}"
                log.exception("finder crashed", extra={"finder": finder.name})
            state.running = False
            await trio.sleep(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)])
            tries += 1

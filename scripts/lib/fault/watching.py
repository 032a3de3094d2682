"""Who believed what of whom, and when: the event streams of all agents, read on one clock.

An observer's stream ends with its process; the watch opens it again, and then asks for the members once, so
that nothing between is missed for long. Only changes after the watch began count.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fault.field import Agent
from mesh.errors import MeshError

STATES = ("alive", "suspect", "dead", "left", "removed")


class Seen(NamedTuple):
    """One change of mind."""

    at_s: float
    by: str
    about: str
    state: str


class Watch:
    """Reads the events of agents until closed."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.seen: list[Seen] = []
        self.alarms: list[tuple[str, str, str]] = []
        self.believed: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._streams: dict[str, Any] = {}
        self._ready = {agent.name: threading.Event() for agent in agents}
        self._threads = [
            threading.Thread(target=self._follow, args=(agent,), daemon=True) for agent in agents
        ]
        for thread in self._threads:
            thread.start()
        for ready in self._ready.values():
            ready.wait(30)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ended.set()
        for stream in list(self._streams.values()):
            stream.close()

    def _follow(self, agent: Agent) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(MeshError, OSError, ValueError):
                self._read(agent)
            self._ended.wait(0.05)

    def _read(self, agent: Agent) -> None:
        with agent.client() as client, client.watch_events() as stream:
            self._streams[agent.name] = stream
            for row in client.members():
                known = (agent.name, row["name"]) in self.believed
                self._note(agent.name, row["name"], row["state"], quiet=not known)
            self._ready[agent.name].set()
            for line in stream:
                self._line(agent.name, line)

    def _line(self, by: str, line: dict[str, Any]) -> None:
        kind, _, word = line["type"].partition("_")
        if kind == "member" and word in STATES and line["name"]:
            self._note(by, line["name"], word)
        elif line["type"].startswith("alarm."):
            self.alarms.append((by, line["type"][6:], line["message"]))

    def _note(self, by: str, about: str, state: str, *, quiet: bool = False) -> None:
        with self._lock:
            if self.believed.get((by, about)) == state:
                return
            self.believed[by, about] = state
            if not quiet:
                self.seen.append(Seen(time.monotonic(), by, about, state))

    def first(self, by: str, about: str, state: str, since_s: float) -> float | None:
        """When an observer first came to a view, after a moment."""
        for each in list(self.seen):
            if (each.by, each.about, each.state) == (by, about, state) and each.at_s >= since_s:
                return each.at_s
        return None

    def all_believe(self, by: Iterable[str], about: Iterable[str], state: str) -> bool:
        names = list(about)
        return all(self.believed.get((one, other)) == state for one in by for other in names if one != other)

    def count(self, state: str, *, not_about: Iterable[str] = (), since_s: float = 0.0) -> int:
        """How often an observer came to a state of a member that nothing was done to."""
        touched = set(not_about)
        return sum(
            each.state == state
            and each.about not in touched
            and each.by not in touched
            and each.at_s >= since_s
            for each in list(self.seen)
        )

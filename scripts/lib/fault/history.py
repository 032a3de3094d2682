"""Writers through the admin sockets, the history of what was acknowledged, and the judge.

Writers put keys of their own, count in shared counters, and add to sets. A write is acknowledged when the
call returned, unknown when it failed: it may or may not be there. Afterwards every acknowledged key has its
value at every agent, every counter shows at least the acknowledged and at most those and the unknown, every
set holds what was added.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fault.field import Agent
from mesh.client import Client
from mesh.errors import MeshError

SET_MEMBERS_MAX = 100
PREFIX = "fault/"


class History:
    """What writers were told."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.counted: Counter[str] = Counter()
        self.maybe: Counter[str] = Counter()
        self.members: dict[str, set[str]] = {}
        self.acknowledged = 0
        self.unknown = 0
        self.gap_s = 0.0
        self.begun_since_mark = 0
        self._marked_at = float("inf")
        self._lock = threading.Lock()

    def put(self, client: Client, key: str, value: Any) -> None:
        self._told(lambda: client.put(PREFIX + key, value))
        with self._lock:
            self.values[PREFIX + key] = value

    def count(self, client: Client, key: str) -> None:
        try:
            self._told(lambda: client.counter_add(PREFIX + key))
        except MeshError:
            with self._lock:
                self.maybe[PREFIX + key] += 1
            raise
        with self._lock:
            self.counted[PREFIX + key] += 1

    def add(self, client: Client, key: str, member: str) -> None:
        self._told(lambda: client.set_change(PREFIX + key, add=[member]))
        with self._lock:
            self.members.setdefault(PREFIX + key, set()).add(member)

    def _told(self, write: Any) -> None:
        begun = time.monotonic()
        try:
            write()
        except MeshError:
            with self._lock:
                self.unknown += 1
            raise
        with self._lock:
            self.acknowledged += 1
            self.begun_since_mark += begun >= self._marked_at

    def mark(self) -> None:
        """From now on `begun_since_mark` counts the acknowledged writes that begin after this."""
        with self._lock:
            self.begun_since_mark, self._marked_at = 0, time.monotonic()

    def above(self, count: int) -> bool:
        """Whether more than so many writes were acknowledged."""
        return self.acknowledged > count

    def forget(self) -> None:
        """Judge no more what was judged; the counts of acknowledged and unknown stay."""
        self.values, self.counted, self.maybe, self.members = {}, Counter(), Counter(), {}

    def lost(self, agent: Agent) -> list[str]:
        """What was acknowledged and is not to be seen at an agent, each as a sentence."""
        with agent.client() as client:
            held = {row["key"]: row["value"] for row in client.export(PREFIX)}
        wrong = [
            f"{key} is {held.get(key)!r}, not {value!r}"
            for key, value in self.values.items()
            if held.get(key) != value
        ]
        for key, least in self.counted.items():
            total = held.get(key, 0)
            if not least <= total <= least + self.maybe[key]:
                wrong.append(f"{key} counts {total}, of {least} and perhaps {self.maybe[key]}")
        for key, members in self.members.items():
            if gone := members - set(held.get(key, ())):
                wrong.append(f"{key} lacks {len(gone)}")
        return [f"{agent.name}: {sentence}" for sentence in wrong]


class Writers:
    """One thread per agent that writes at a rate, going on through the agent's falls.

    Args:
        each_per_s: writes a second of each thread; 0: as fast as it is answered.
        alike: an agent may be named several times, for several threads of its own.
    """

    def __init__(
        self, history: History, agents: Sequence[Agent], each_per_s: float, tag: str, *, alike: bool = False
    ) -> None:
        self.history = history
        self._pause_s = 1 / each_per_s if each_per_s else 0.0
        self._tag = tag
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._write,
                args=(agent, f"{agent.name}.{number}" if alike else agent.name),
                daemon=True,
            )
            for number, agent in enumerate(agents)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _write(self, agent: Agent, name: str) -> None:
        number, due, last = 0, time.monotonic(), time.monotonic()
        with agent.client(timeout_s=10.0) as client:
            while not self._ended.is_set():
                number += 1
                try:
                    self._one(client, name, number)
                except MeshError:
                    self._ended.wait(0.02)
                    continue
                now = time.monotonic()
                self.history.gap_s = max(self.history.gap_s, now - last)
                last = now
                due = max(due + self._pause_s, now - 1.0)
                if due > now:
                    self._ended.wait(due - now)

    def _one(self, client: Client, name: str, number: int) -> None:
        where = f"{self._tag}/{name}"
        if number % 10 == 1:
            self.history.count(client, f"{self._tag}/hits")
        elif number % 10 == 2:
            self.history.add(client, f"{where}/set{number // SET_MEMBERS_MAX}", str(number))
        else:
            self.history.put(client, f"{where}/{number}", f"value {number}")

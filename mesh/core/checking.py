"""When checks run, and what comes of their results: the machine behind the health of a node's own services.

    set services ──▶ waiting ──due──▶ Run ──Finished──▶ Gauge ──▶ Changed (the worst of a service's checks)
                        ▲                       │
                        └── interval ± 10 % ────┘

Each check has its own time, so none waits for another; at most `running_max` run at once, and those beyond
wait in the order in which they were due. The first run comes within a second, and while a check's health is
unknown it is repeated every second (or interval, if shorter): a new service is not unknown for a minute.

A check that the program reports itself runs nothing: it falls due when the TTL has passed without a report.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

import msgspec

from mesh.core.checks import TTL, Check
from mesh.core.health import Gauge, Health, Outcome, Result, overall, why

JITTER = 0.1
EAGER_S = 1.0
FOREVER = float("inf")


# --- events ---------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True):
    """Base of what happened."""


class Offered(Event, frozen=True):
    """A service is offered from now on, with these checks. Those that it had before stand as they did."""

    id: str
    checks: tuple[Check, ...]
    ttl_s: float


class Withdrawn(Event, frozen=True):
    """A service is not offered any more."""

    id: str


class Finished(Event, frozen=True):
    """A run ended. `run` is the one that was asked for."""

    run: Run
    outcome: Outcome


class Reported(Event, frozen=True):
    """The program reported itself."""

    id: str
    outcome: Outcome


# --- actions --------------------------------------------------------------------------------------


class Action(msgspec.Struct, frozen=True):
    """Base of what is to be done."""


class Run(Action, frozen=True):
    """Try a check now, and answer with Finished, whatever happens. `number` tells runs apart."""

    id: str
    index: int
    number: int
    check: Check


class Changed(Action, frozen=True):
    """A service has another health. `why`: the output of the check that decided."""

    id: str
    health: Health
    why: str


class Silent(Action, frozen=True):
    """A program has not reported for its service's TTL."""

    id: str


# --- the machine ----------------------------------------------------------------------------------


class _Entry(msgspec.Struct):
    gauges: list[Gauge]
    ttl_s: float
    health: Health
    runs: dict[int, int] = {}


class Checking:
    """The checks of one node.

    Args:
        running_max: at once.
    """

    def __init__(self, rng: random.Random, *, running_max: int = 64) -> None:
        self._rng = rng
        self._running_max = running_max
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, int, str, int]] = []
        self._running: dict[int, Run] = {}
        self._number = 0

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event in."""
        out: list[Action] = []
        match event:
            case Offered():
                self._offer(event, now, out)
            case Withdrawn(id=id_):
                self._withdraw(id_)
            case Finished():
                self._finish(event, now, out)
            case Reported():
                self._report(event, now, out)
        self._start(now, out)
        return out

    def tick(self, now: float) -> list[Action]:
        """Run what is due."""
        out: list[Action] = []
        self._start(now, out)
        return out

    def deadline(self) -> float:
        """When `tick` is to be called."""
        if not self._due or len(self._running) >= self._running_max:
            return FOREVER
        return self._due[0][0]

    # -- what people see ------------------------------------------------------------------------------

    def gauges(self, id_: str) -> Sequence[Gauge]:
        """The checks of a service, as they stand."""
        entry = self._entries.get(id_)
        return tuple(entry.gauges) if entry is not None else ()

    def health(self, id_: str) -> Health | None:
        """Of one service; None when it is not offered."""
        entry = self._entries.get(id_)
        return entry.health if entry is not None else None

    @property
    def services(self) -> Mapping[str, object]:
        """What is offered, by id."""
        return self._entries

    # -- inside ---------------------------------------------------------------------------------------

    def _offer(self, event: Offered, now: float, out: list[Action]) -> None:
        before = self._entries.get(event.id)
        self._withdraw(event.id)
        known = before.gauges if before is not None else []
        gauges = [next((it for it in known if it.check == check), Gauge(check)) for check in event.checks]
        entry = _Entry(gauges, event.ttl_s, overall(gauges))
        self._entries[event.id] = entry
        if before is None or before.health != entry.health:
            out.append(Changed(event.id, entry.health, why(gauges)))
        for index, check in enumerate(event.checks):
            if check.kind == TTL:
                self._push(now + event.ttl_s, event.id, index)
            else:
                self._push(now + self._rng.uniform(0, min(EAGER_S, check.interval_s)), event.id, index)

    def _withdraw(self, id_: str) -> None:
        if self._entries.pop(id_, None) is not None:
            self._due = [item for item in self._due if item[2] != id_]
            heapify(self._due)

    def _push(self, at: float, id_: str, index: int) -> None:
        self._number += 1
        self._entries[id_].runs[index] = self._number
        heappush(self._due, (at, self._number, id_, index))

    def _start(self, now: float, out: list[Action]) -> None:
        while self._due and self._due[0][0] <= now and len(self._running) < self._running_max:
            _, number, id_, index = heappop(self._due)
            entry = self._entries[id_]
            if entry.runs.get(index) != number:
                continue  # a report came since
            check = entry.gauges[index].check
            if check.kind == TTL:
                out.append(Silent(id_))
                text = f"no report for {entry.ttl_s:g} s"
                self._count(id_, index, Outcome(Result.FAIL, text), now, out)
                continue
            run = self._running[number] = Run(id_, index, number, check)
            out.append(run)

    def _finish(self, event: Finished, now: float, out: list[Action]) -> None:
        run = event.run
        if self._running.pop(run.number, None) is None:
            return
        entry = self._entries.get(run.id)
        if entry is None or entry.runs.get(run.index) != run.number:
            return  # withdrawn, or offered anew, while it ran
        self._count(run.id, run.index, event.outcome, now, out)
        gauge = entry.gauges[run.index]
        interval_s = gauge.check.interval_s
        if gauge.health == Health.UNKNOWN:
            interval_s = min(interval_s, EAGER_S)
        wait_s = interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER) - event.outcome.took_s
        self._push(now + max(0.0, wait_s), run.id, run.index)

    def _report(self, event: Reported, now: float, out: list[Action]) -> None:
        entry = self._entries.get(event.id)
        for index, gauge in enumerate(entry.gauges if entry is not None else ()):
            if gauge.check.kind == TTL and entry is not None:
                self._count(event.id, index, event.outcome, now, out)
                self._push(now + entry.ttl_s, event.id, index)

    def _count(self, id_: str, index: int, outcome: Outcome, now: float, out: list[Action]) -> None:
        entry = self._entries[id_]
        entry.gauges[index].take(outcome, now)
        health = overall(entry.gauges)
        said = why(entry.gauges)
        if health != entry.health:
            entry.health = health
            out.append(Changed(id_, health, said))

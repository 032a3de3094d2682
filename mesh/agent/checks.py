"""Runs the checks of this node's own services, and tells the others what they say.

The machine (`core/checking.py`) decides when; each run is a task of its own (`agent/probes.py` does it). What
comes of them is one record, `health/<aid>` in scope live: said at once when a service's health changes, and
again every RENEW_S. It has no word on services that are plainly healthy, so one without checks adds nothing
to it and costs none; only the first after the start is said anyway, against what a former life said.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio

from mesh.agent.author import Statement
from mesh.agent.drive import Drive
from mesh.agent.lasting import lasting, sparing
from mesh.core.checking import Changed, Checking, Finished, Offered, Reported, Run, Silent, Withdrawn
from mesh.core.checks import COMMAND, Check
from mesh.core.health import HEALTH_PREFIX, Gauge, Health, Outcome, Result, Word, words_value
from mesh.core.record import Kind, Op
from mesh.core.registry import Service

RENEW_S = 30.0
TTL_MS = 120_000
GAP_S = 0.05
# Of very many new services the words are told together: each record holds those of all.
AT_ONCE_MAX = 64

Probe = Callable[[Check], Awaitable[Outcome]]


class Checks:
    """See the module.

    Args:
        say: publishes statements of the live scope.
        probe: tries one check; never raises.
        running_max: checks at once; of commands at most `commands_max`.

    Attributes:
        on_silent: told the id of a service whose program has not reported for its TTL.
    """

    def __init__(
        self,
        me: bytes,
        say: Callable[[Sequence[Statement]], object],
        probe: Probe,
        now_ms: Callable[[], int],
        rng: random.Random,
        *,
        running_max: int,
        commands_max: int,
    ) -> None:
        self._path = HEALTH_PREFIX + me.hex()
        self._say = say
        self._probe = probe
        self._now_ms = now_ms
        self._machine = Checking(rng, running_max=running_max)
        self._drive = Drive(self._machine, self._perform)
        self._commands = trio.CapacityLimiter(commands_max)
        self._due: list[Run] = []
        self._work = trio.Event()
        self._words: dict[str, Word] = {}
        self._checked: set[str] = set()
        self._spoken = False
        self._turns: dict[str, int] = {}
        self._news = trio.Event()
        self.on_silent: list[Callable[[str], None]] = []

    def offer(self, id_: str, checks: tuple[Check, ...], ttl_s: float) -> None:
        """Check a service from now on; its health is on its way before the service itself is."""
        (self._checked.add if checks else self._checked.discard)(id_)
        self._drive.handle(Offered(id_, checks, ttl_s))
        if len(self._words) > AT_ONCE_MAX:
            self._news.set()
        elif checks:
            self._publish()

    def withdraw(self, id_: str) -> None:
        """Check it no more."""
        self._drive.handle(Withdrawn(id_))
        self._checked.discard(id_)
        self._turns.pop(id_, None)
        if self._words.pop(id_, None) is not None:
            self._news.set()

    def report(self, id_: str, result: Result, output: str) -> None:
        """The program of a service reports itself."""
        self._drive.handle(Reported(id_, Outcome(result, output)))

    def turn(self, service: Service) -> Service:
        """One of our services with its endpoints in the order to try: by turns, those that fail last."""
        if len(service.endpoints) < 2:
            return service
        failing = {
            (gauge.check.host, gauge.check.port)
            for gauge in self._machine.gauges(service.id)
            if gauge.health in (Health.UNHEALTHY, Health.ERROR)
        }
        last = [each for each in service.endpoints if (each.host, each.port) in failing]
        well = [each for each in service.endpoints if each not in last]
        turn = self._turns[service.id] = self._turns.get(service.id, -1) + 1
        at = turn % max(1, len(well))
        return msgspec.structs.replace(service, endpoints=(*well[at:], *well[:at], *last))

    def gauges(self, id_: str) -> Sequence[Gauge]:
        """The checks of a service as they stand."""
        return self._machine.gauges(id_)

    async def run(self) -> None:
        """Check and tell, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, self._drive.run)
            nursery.start_soon(lasting, self._tell)
            while True:
                await self._work.wait()
                self._work = trio.Event()
                for run in self._due:
                    nursery.start_soon(sparing, self._try, run)
                self._due = []

    def _perform(self, action: Any) -> None:
        match action:
            case Run():
                self._due.append(action)
                self._work.set()
            case Changed(id=id_, health=health, why=why):
                had = self._words.pop(id_, None)
                if health != Health.HEALTHY:
                    self._words[id_] = Word(health, self._now_ms(), why)
                if had is not None or id_ in self._words or not self._spoken:
                    self._news.set()
            case Silent(id=id_):
                for listener in self.on_silent:
                    listener(id_)

    async def _try(self, run: Run) -> None:
        if run.check.kind == COMMAND:
            async with self._commands:
                outcome = await self._probe(run.check)
        else:
            outcome = await self._probe(run.check)
        self._drive.handle(Finished(run, outcome))

    async def _tell(self) -> None:
        while True:
            with trio.move_on_after(RENEW_S if self._checked or self._words else float("inf")):
                await self._news.wait()
            self._news = trio.Event()
            self._publish()
            await trio.sleep(GAP_S)

    def _publish(self) -> None:
        self._spoken = True
        value = words_value(self._words)
        self._say([Statement(self._path, Kind.ALL, value, Op.PUT, TTL_MS)])

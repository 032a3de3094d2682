"""The voters and the contenders of `mesh/sim/locks.py`: real rules, simulated disks, clocks and pauses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.core import handover, locks, quorum, voters
from mesh.core.handover import Procedure
from mesh.core.locks import Ask, Config, Contender, Finished, Held, Look, Lost
from mesh.core.quorum import Answer, Cell, Change, Message, Outcome
from mesh.core.voters import Term, Voters, judge

if TYPE_CHECKING:
    from mesh.sim.locks import Locks

LOCK = "lock"


class Rules(msgspec.Struct, frozen=True):
    """The rules in force; a test replaces one."""

    contender: type[Contender] = Contender
    changed: Callable[[Ask, Any], Any] = locks.changed
    vote: Callable[[Cell, Message], tuple[Cell, Answer]] = quorum.vote
    hand_over: Callable[[Voters, Voters | None], Procedure] = handover.hand_over
    disk_first: bool = True
    seats: bool = True


class Weather(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How bad it is."""

    ttl_s: float = 2.0
    loss: float = 0.05
    drift: float = 0.01
    contenders: int = 3
    voters: int = 3
    spares: int = 2
    pause_every_s: float = 8.0
    crash_every_s: float = 12.0
    voter_crash_every_s: float = 10.0
    disk_loss_every_s: float = 30.0
    patience_s: float = 0.7


class Voter:
    """A node that votes: memory over a disk that is written a little later."""

    def __init__(self, sim: Locks, aid: bytes) -> None:
        self.sim, self.aid = sim, aid
        self.life = 0
        self.up = True
        self.known: Voters | None = None
        self.written_at = 0.0
        self._blank()

    def _blank(self) -> None:
        self.seat = self.sim.rng.randbytes(16)
        self.term: Term | None = None
        self.cells: dict[tuple[bytes, str], Cell] = {}
        self.disk: tuple[Term | None, dict[tuple[bytes, str], Cell]] = (None, {})

    def crash(self, disk_too: bool) -> None:
        self.life += 1
        self.up = False
        self.term, self.cells = self.disk[0], dict(self.disk[1])
        if disk_too:
            old = self.seat
            self._blank()
            self.sim.counts["disks lost"] += 1
            if not self.sim.rules.seats:
                self.seat = old
        self.sim.world.after(self.sim.rng.uniform(0.1, 2), self._start)

    def _start(self) -> None:
        self.up = True

    def receive(
        self, set_id: bytes, seat: bytes, register: str, message: Message, reply: Callable[[Answer], None]
    ) -> None:
        if not self.up:
            return
        verdict = judge(self.term, self.known, self.aid, self.seat, set_id, seat)
        if isinstance(verdict, str):
            reply(quorum.Barred(verdict))
            return
        cell, answer = self.sim.rules.vote(self.cells.get((set_id, register), Cell()), message)
        self.term, self.cells[set_id, register] = verdict, cell
        self._persist(lambda: reply(answer))

    def freeze(self, gen: int, set_id: bytes, seat: bytes, reply: Callable[[Any], None]) -> None:
        if not self.up or seat != self.seat:
            return
        term = voters.freeze(self.term, gen, set_id)
        if term is None:
            return
        self.term = term
        cells = {name: cell for (held, name), cell in self.cells.items() if held == set_id}
        self._persist(lambda: reply(cells))

    def _persist(self, then: Callable[[], None]) -> None:
        life, written = self.life, (self.term, dict(self.cells))

        def on_disk() -> None:
            if self.life == life:
                self.disk = written
                if self.sim.rules.disk_first:
                    then()

        self.written_at = max(self.written_at, self.sim.world.now) + self.sim.rng.uniform(0.001, 0.03)
        self.sim.world.at(self.written_at, on_disk)
        if not self.sim.rules.disk_first:
            then()


class Client:
    """A node that wants the lock again and again, and writes to the file server while it holds it."""

    def __init__(self, sim: Locks, aid: bytes) -> None:
        self.sim, self.aid = sim, aid
        rng = sim.rng
        self.rate = 1 + rng.uniform(-sim.weather.drift, sim.weather.drift)
        self.offset = rng.uniform(0, 1000)
        self.paused_until = -math.inf
        self.life = 0
        self.begin()

    def clock(self) -> float:
        return self.offset + self.sim.world.now * self.rate

    @property
    def running(self) -> bool:
        return self.sim.world.now >= self.paused_until

    def begin(self) -> None:
        self.life += 1
        config = Config(ttl_s=self.sim.weather.ttl_s)
        session = self.sim.rng.randbytes(16)
        self.machine = self.sim.rules.contender(self.aid, session, config, self.sim.rng)
        self._tick(self.life)

    def soon(self, delay_s: float, call: Callable[[], None]) -> None:
        """Run in this process: not while it is paused, and not after it crashed."""
        life = self.life

        def run() -> None:
            if self.life != life:
                return
            if not self.running:
                self.sim.world.at(self.paused_until, run)
            else:
                call()

        self.sim.world.after(delay_s, run)

    def _tick(self, life: int) -> None:
        if life != self.life:
            return
        self._act(self.machine.tick(self.clock()))
        deadline = self.machine.deadline()
        if deadline < math.inf:
            wait_s = max(0.001, (deadline - self.clock()) / self.rate)
            self.soon(min(wait_s, 1.0), lambda: self._tick(life))
        else:
            self.soon(0.05, lambda: self._tick(life))

    def _feed(self, event: locks.Event) -> None:
        self._act(self.machine.handle(event, self.clock()))

    def _act(self, actions: list[locks.Action]) -> None:
        for action in actions:
            if isinstance(action, Ask):
                change = self._change(action)
                self.sim.propose(self.sim.believed(self.aid), LOCK, change, self._answer(action), self)
            elif isinstance(action, Look):
                self.sim.look(self.sim.believed(self.aid), lambda found: self._feed(found), self)
            elif isinstance(action, Held):
                self.sim.granted(self, action)
            elif isinstance(action, Lost):
                self.sim.counts["lost"] += 1
                self.soon(self.sim.rng.uniform(0, 0.5), self.begin)

    def _change(self, ask: Ask) -> Change:
        return lambda value: self.sim.rules.changed(ask, value)

    def _answer(self, ask: Ask) -> Callable[[Outcome], None]:
        return lambda outcome: self._feed(Finished(ask, outcome))

    def use(self) -> None:
        """Write if we hold the lock; a pause may fall between the two."""
        if not self.machine.holds(self.clock()):
            return
        token = self.machine.token
        if self.sim.rng.random() < 0.1:
            self.paused_until = self.sim.world.now + self.sim.rng.uniform(0, 3 * self.sim.weather.ttl_s)
        self.soon(0, lambda: self.sim.write(token))
        if self.sim.rng.random() < 0.1:
            self._act(self.machine.release(self.clock()))
            self.soon(self.sim.rng.uniform(0, 0.5), self.begin)
        else:
            self.soon(self.sim.rng.uniform(0.01, 0.6), self.use)

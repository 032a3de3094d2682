"""A quorum and its contenders under everything that goes wrong: loss, delays, pauses, crashes, lost disks.

Voters keep their cells on disks that take a while; a crash loses what was not written. Contenders have clocks
of their own that run a little fast or slow, are paused for longer than a lease, and crash. Now and then a
voter's disk is lost, and admins, sometimes two at once, replace it. A file server stands for the resource: it
remembers the largest token it saw and refuses smaller ones.

`Locks.troubles` lists what must never be: two that hold at one moment, a token that does not grow, a stale
write that was let through. `Locks.history` is for a checker of linearizability. The same seed gives the same
run; rules can be left out, to see that the simulator notices.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from mesh.core import quorum
from mesh.core.handover import Announce, Copy, Freeze, Procedure, Run, unless_there
from mesh.core.locks import Held, Looked
from mesh.core.quorum import (
    Accept,
    Answer,
    Ballot,
    Change,
    Chosen,
    Message,
    NoQuorum,
    Outcome,
    Overtaken,
    Promise,
    Round,
    Send,
)
from mesh.core.voters import FROZEN, LOST, Seat, Voters
from mesh.sim.voting import LOCK, Client, Rules, Voter, Weather
from mesh.sim.world import World


class Op(NamedTuple):
    """One change of the register; see `mesh/sim/linear.py`."""

    called: float
    returned: float
    before: Any
    after: Any


def _plain(value: Any) -> Any:
    """A value that can be compared and hashed."""
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


class Locks:
    """One run."""

    def __init__(self, seed: int, rules: Rules | None = None, weather: Weather | None = None) -> None:
        self.rng = random.Random(seed)
        self.rules, self.weather = rules or Rules(), weather or Weather()
        self.world = World()
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.history: list[Op] = []
        self.open: dict[Ballot, tuple[float, list[Any]]] = {}
        self.largest = self.granted_last = 0
        self.cut: set[bytes] = set()
        aids = [bytes([number]) * 16 for number in range(self.weather.voters + self.weather.spares)]
        self.voters = {aid: Voter(self, aid) for aid in aids}
        first = Voters(1, tuple(Seat(aid, self.voters[aid].seat) for aid in aids[: self.weather.voters]))
        self.record = first
        self.views: dict[bytes, Voters] = {}
        for voter in self.voters.values():
            voter.known = first
        self.clients = [Client(self, bytes([100 + number]) * 16) for number in range(self.weather.contenders)]
        self._trouble_ahead()

    def run(self, until_s: float) -> Locks:
        """Let it happen; rounds that are under way at the end are left open."""
        self.world.run(until_s)
        self.history += [Op(called, math.inf, *seen) for called, seen in self.open.values() if seen]
        self.open.clear()
        return self

    # -- what goes wrong ----------------------------------------------------------------------------------

    def _trouble_ahead(self) -> None:
        weather = self.weather
        self._again(weather.pause_every_s, self._pause)
        self._again(weather.crash_every_s, self._crash)
        self._again(weather.voter_crash_every_s, lambda: self._any_voter().crash(disk_too=False))
        self._again(weather.disk_loss_every_s, self._lose_disk)
        self._again(6.0, self._cut_off)

    def _again(self, every_s: float, call: Callable[[], None]) -> None:
        def run() -> None:
            call()
            self._again(every_s, call)

        self.world.after(self.rng.expovariate(1 / every_s), run)

    def _any_voter(self) -> Voter:
        return self.voters[self.rng.choice(self.record.aids)]

    def _pause(self) -> None:
        client = self.rng.choice(self.clients)
        client.paused_until = self.world.now + self.rng.uniform(0, 3 * self.weather.ttl_s)

    def _crash(self) -> None:
        client = self.rng.choice(self.clients)
        self.counts["crashes"] += 1
        client.begin()

    def _cut_off(self) -> None:
        """A few nodes, voters and clients, are not reached for a while."""
        everyone = [*self.voters, *(client.aid for client in self.clients)]
        self.cut = set(self.rng.sample(everyone, self.rng.randrange(0, 4)))
        self.world.after(self.rng.uniform(0.5, 4), lambda: self.cut.clear())

    def _lose_disk(self) -> None:
        """One disk at a time: nothing is promised about more; then it is replaced, by one admin or two."""
        sound = [seat for seat in self.record.seats if self.voters[seat.aid].seat == seat.seat]
        if len(sound) < len(self.record.seats) or self.record.next is not None:
            return
        voter = self._any_voter()
        voter.crash(disk_too=True)
        for _ in range(self.rng.choice((1, 2))):
            self.world.after(self.rng.uniform(0.5, 5), lambda: self._replace(voter.aid))

    # -- the network --------------------------------------------------------------------------------------

    def _send(self, source: bytes, target: bytes, call: Callable[[], None]) -> None:
        for _ in range(2 if self.rng.random() < 0.02 else 1):
            if self.rng.random() < self.weather.loss or {source, target} & self.cut:
                continue
            slow = self.rng.random() < 0.02
            self.world.after(self.rng.uniform(0.2, 3) if slow else self.rng.uniform(0.001, 0.02), call)

    def believed(self, aid: bytes) -> Voters:
        """The record as a node knows it."""
        return self.views.get(aid, self.record)

    def announce(self, voters: Voters) -> None:
        """The record spreads; each node learns it in its own time."""
        stale = voters.gen < self.record.gen or (voters.gen == self.record.gen and voters.next is None)
        if stale or (voters.gen == self.record.gen and self.record.next is not None):
            return
        before, self.record = self.record, voters
        for client in self.clients:
            self.views[client.aid] = self.views.get(client.aid, before)
            self._learn(client.aid, voters)
        for voter in self.voters.values():
            self.world.after(self.rng.uniform(0, 0.5), partial(self._tell, voter, voters))

    def _learn(self, aid: bytes, voters: Voters) -> None:
        def learned() -> None:
            if voters.gen >= self.views[aid].gen:
                self.views[aid] = voters

        self.world.after(self.rng.uniform(0, 2), learned)

    def _tell(self, voter: Voter, voters: Voters) -> None:
        if voter.known is None or voters.gen >= voter.known.gen:
            voter.known = voters

    # -- rounds -------------------------------------------------------------------------------------------

    def propose(
        self, voters: Voters, register: str, change: Change, done: Callable[[Outcome], None], by: Any
    ) -> None:
        """Run rounds until one is neither overtaken nor without a majority, or patience ends."""
        source = getattr(by, "aid", b"admin")
        started, number = self.world.now, [1]

        def attempt() -> None:
            called, ends = self.world.now, [False]
            seen: list[Any] = []

            def noted(value: Any) -> Any:
                following = change(value)
                seen[:] = [_plain(value), _plain(following)]
                return following

            ballot = Ballot(number[0], source + self.rng.randbytes(8))
            round_ = Round(voters.aids, ballot, noted)
            if isinstance(by, Client):
                self.open[ballot] = called, seen

            def act(actions: list[quorum.Action]) -> None:
                for action in actions:
                    if isinstance(action, Send):
                        send(action.to, action.message)
                    elif not ends[0]:
                        ends[0] = True
                        self._note(ballot, action)
                        finish(action)

            def send(to: bytes, message: Message) -> None:
                seat = voters.seat_of(to) or b""
                accepting = isinstance(message, Accept)

                def answer(given: Answer) -> None:
                    heard = lambda: act(round_.answered(to, given, accepting=accepting))  # noqa: E731
                    self._send(to, source, lambda: by.soon(0, heard))

                arrive = lambda: self.voters[to].receive(voters.id, seat, register, message, answer)  # noqa: E731
                self._send(source, to, arrive)

            def finish(outcome: Outcome) -> None:
                if isinstance(outcome, Overtaken) and self.world.now < started + self.weather.patience_s:
                    number[0] = outcome.number + 1
                    by.soon(self.rng.uniform(0.01, 0.1), attempt)
                else:
                    done(outcome)

            act(round_.begin())
            by.soon(self.weather.patience_s, lambda: act(round_.expired()))

        attempt()

    def _note(self, ballot: Ballot, outcome: Outcome) -> None:
        """A client's round ended."""
        called, seen = self.open.pop(ballot, (0.0, []))
        if not seen:
            return
        if isinstance(outcome, Chosen):
            self.history.append(Op(called, self.world.now, *seen))
        elif isinstance(outcome, Overtaken | NoQuorum) and outcome.open:
            self.history.append(Op(called, math.inf, *seen))

    def look(self, voters: Voters, done: Callable[[Looked], None], by: Client) -> None:
        answers: dict[bytes, Promise] = {}
        ends = [False]

        def end(found: Looked) -> None:
            if not ends[0]:
                ends[0] = True
                done(found)

        def heard(voter: bytes, given: Answer) -> None:
            if isinstance(given, Promise):
                answers[voter] = given
            if len(answers) > len(voters.seats) // 2:
                end(Looked(quorum.latest(list(answers.values())).value))

        for seat in voters.seats:

            def answer(given: Answer, voter: bytes = seat.aid) -> None:
                self._send(voter, by.aid, lambda: by.soon(0, lambda: heard(voter, given)))

            def arrive(seat: Seat = seat, answer: Callable[[Answer], None] = answer) -> None:
                self.voters[seat.aid].receive(voters.id, seat.seat, LOCK, quorum.Look(), answer)

            self._send(by.aid, seat.aid, arrive)
        by.soon(self.weather.patience_s, lambda: end(Looked(None, known=False)))

    # -- admins -------------------------------------------------------------------------------------------

    def _replace(self, lost: bytes) -> None:
        present = self.record
        if all(self.voters[seat.aid].seat == seat.seat for seat in present.seats) and present.next is None:
            return
        others = [aid for aid in self.voters if aid not in present.aids]
        substitute = self.rng.choice([lost, *others]) if lost in present.aids else None
        wanted = None
        if substitute is not None:
            aids = [substitute if aid == lost else aid for aid in present.aids]
            wanted = Voters(present.gen + 1, tuple(Seat(aid, self.voters[aid].seat) for aid in aids))
        if wanted is None and present.next is None:
            return
        Admin(self, self.rules.hand_over(present, wanted)).go(None)

    # -- what must never be -------------------------------------------------------------------------------

    def granted(self, client: Client, held: Held) -> None:
        """A client believes that it holds the lock."""
        others = [each for each in self.clients if each is not client and each.running]
        if any(each.machine.holds(each.clock()) for each in others):
            self.troubles.append(f"{self.world.now:.2f}: two hold at one moment")
        fresh = getattr(client, "told", None) != (client.life, held.token)
        if fresh:
            client.told = (client.life, held.token)  # type: ignore[attr-defined]
            self.counts["granted"] += 1
            if held.token <= self.granted_last:
                self.troubles.append(f"{self.world.now:.2f}: token {held.token} after {self.granted_last}")
            self.granted_last = max(self.granted_last, held.token)
            client.use()

    def write(self, token: int) -> None:
        """The file server."""
        self.counts["writes" if token >= self.largest else "stale writes refused"] += 1
        self.largest = max(self.largest, token)


class Admin:
    """One that replaces voters; it tries each step until it is done, or gives up."""

    def __init__(self, sim: Locks, procedure: Procedure) -> None:
        self.sim, self.procedure = sim, procedure
        self.aid = b"admin"

    def soon(self, delay_s: float, call: Callable[[], None]) -> None:
        self.sim.world.after(delay_s, call)

    def go(self, answer: Any) -> None:
        try:
            step = self.procedure.send(answer)
        except StopIteration:
            self.sim.counts["replacements"] += 1
            return
        if isinstance(step, Announce):
            self.sim.announce(step.voters)
            self.soon(self.sim.rng.uniform(0, 0.3), lambda: self.go(None))
        elif isinstance(step, Freeze):
            self._freeze(step, {})
        elif isinstance(step, Copy):
            self._copy(step, sorted(step.values))
        else:
            self._run(step, 20)

    def _copy(self, step: Copy, left: list[str]) -> None:
        """One register after the other."""
        if not left:
            self.go(None)
            return
        run = Run(step.voters, left[0], unless_there(step.values[left[0]]))
        self._run(run, 20, lambda value: self._copy(step, left[1:]))

    def _run(self, step: Run, left: int, then: Callable[[Any], None] | None = None) -> None:
        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Chosen):
                (then or self.go)(outcome.value)
            elif left and not _in_vain(outcome):
                self.soon(0.2, lambda: self._run(step, left - 1, then))

        self.sim.propose(step.voters, step.register, step.change, done, self)

    def _freeze(self, step: Freeze, cells: dict[bytes, Any], left: int = 20) -> None:
        if len(cells) > len(step.voters.seats) // 2:
            self.go(list(cells.values()))
            return
        if not left:
            return
        for seat in step.voters.seats:

            def frozen(found: Any, voter: bytes = seat.aid) -> None:
                self.sim._send(voter, self.aid, lambda: cells.setdefault(voter, found))

            def arrive(seat: Seat = seat, frozen: Callable[[Any], None] = frozen) -> None:
                self.sim.voters[seat.aid].freeze(step.voters.gen, step.voters.id, seat.seat, frozen)

            self.sim._send(self.aid, seat.aid, arrive)
        self.soon(0.3, lambda: self._freeze(step, cells, left - 1))


def _in_vain(outcome: Outcome) -> bool:
    """Whether trying again is of no use: the set has handed over."""
    return isinstance(outcome, NoQuorum) and {FROZEN, LOST} >= set(outcome.barred) > set()

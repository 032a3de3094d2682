"""What can happen to a simulated mesh, and how it is done.

A scenario's faults are expanded by the seed into a plan: a list of blows, each at one time to named nodes.
The plan is plain data, so a failure can be replayed from it, and made smaller by leaving blows out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from mesh.core.lease import Evidence
from mesh.core.record import MESH
from mesh.core.vitals import Accuse
from mesh.sim.fleet import Fleet
from mesh.sim.model.misbehave import Forger, Misbehaviour, Omitter
from mesh.sim.scenario import Fault, Scenario
from mesh.wire import messages

DAY_MS = 24 * 3_600_000
DAY_S = 0.5
RESTART_S = 0.2
ACCUSED_EVERY_S = 2.0
SETTLE_NODES_MAX = 100  # beyond, asking everybody about everybody after every change costs too much


class Blow(msgspec.Struct, frozen=True):
    """One thing that happens. `value` is the rate, offset in seconds, days or age in seconds."""

    at_s: float
    what: str
    nodes: tuple[int, ...] = ()
    for_s: float = 0.0
    value: float = 0.0


class Kind(msgspec.Struct, frozen=True):
    """A fault with a name: what it does, which numbers it needs, how many it hits unless told."""

    does: Callable[[Hand, Blow], None]
    summary: str
    needs: tuple[str, ...] = ()
    count: int = 1


def plan(scenario: Scenario, seed: int) -> list[Blow]:
    """The blows of a run, in their order."""
    rng = random.Random(f"plan/{seed}")
    blows = [
        _blow(scenario, fault, fault.at_s + fault.every_s * turn, rng)
        for fault in scenario.fault
        for turn in range(fault.times)
    ]
    return sorted(blows, key=lambda blow: blow.at_s)


def _blow(scenario: Scenario, fault: Fault, at_s: float, rng: random.Random) -> Blow:
    count = scenario.mesh.nodes
    everyone = range(count)
    if fault.nodes is not None:
        chosen: Sequence[int] = fault.nodes
    elif fault.zone is not None:
        chosen = [number for number in everyone if number % scenario.mesh.zones == fault.zone]
    elif fault.share is not None:
        chosen = rng.sample(everyone, round(fault.share * count))
    elif fault.count is not None or KINDS[fault.what].count:
        chosen = rng.sample(everyone, min(count, fault.count or KINDS[fault.what].count))
    else:
        chosen = ()
    value = next(
        (float(v) for v in (fault.rate, fault.offset_s, fault.days, fault.age_s) if v is not None), 0.0
    )
    return Blow(round(at_s, 3), fault.what, tuple(sorted(chosen)), fault.for_s, value)


class Hand:
    """Deals the blows of a plan to a fleet.

    Attributes:
        touched: nodes that something was done to, so far.
    """

    def __init__(self, fleet: Fleet, blows: Sequence[Blow], seed: int) -> None:
        self.fleet = fleet
        self.touched: set[int] = set()
        self.omitting = False
        self.over = False
        self.rng = random.Random(f"hand/{seed}")
        begin = fleet.world.now
        for blow in blows:
            fleet.world.at(begin + blow.at_s, lambda blow=blow: self._deal(blow))  # type: ignore[misc]

    def _deal(self, blow: Blow) -> None:
        if not self.over:
            named = ",".join(map(str, blow.nodes[:12])) + ("…" if len(blow.nodes) > 12 else "")
            self.fleet.trace("fault", -1, f"{blow.what} [{named}] for {blow.for_s:g} s, {blow.value:g}")
            self.touched.update(blow.nodes)
            KINDS[blow.what].does(self, blow)
            self.fleet.stir()

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Undo something, unless the run has been set right before."""

        def then() -> None:
            if not self.over:
                call()
                self.fleet.stir()

        self.fleet.world.after(delay_s, then)

    def set_right(self) -> None:
        """Stop all faults: everything is healed, everybody runs, clocks are right."""
        self.over = True
        fleet = self.fleet
        fleet.trace("fault", -1, "all over")
        fleet.heal()
        fleet.net.loss = 0.0
        fleet.net.lossy.clear()
        for node in fleet.nodes:
            node.skew_ms, node.spoil = 0, None
            if node.frozen:
                fleet.resume(node.number)
        fleet.start([node.number for node in fleet.nodes if node.machine is None])

    # -- the troubles -----------------------------------------------------------------------------------

    def down(self, blow: Blow, *, power_cut: bool = False) -> None:
        """The process dies, and starts again after a while if one is given."""
        for number in blow.nodes:
            if self.fleet.nodes[number].machine is not None:
                (self.fleet.power_cut if power_cut else self.fleet.kill)(number)
        if blow.for_s:
            self.later(blow.for_s, lambda: self.up(blow.nodes))

    def up(self, numbers: Sequence[int]) -> None:
        """Processes start, if they do not run."""
        self.fleet.start([number for number in numbers if self.fleet.nodes[number].machine is None])

    def freeze(self, blow: Blow) -> None:
        """Processes stand still."""
        for number in blow.nodes:
            node = self.fleet.nodes[number]
            if node.machine is not None and not node.frozen:
                self.fleet.freeze(number)
                if blow.for_s:
                    self.later(blow.for_s, lambda number=number: self._wake(number))  # type: ignore[misc]

    def _wake(self, number: int) -> None:
        if self.fleet.nodes[number].frozen:
            self.fleet.resume(number)

    def stall(self, blow: Blow) -> None:
        """Short standstills, each of its own length."""
        for number in blow.nodes:
            length = min(self.rng.expovariate(1 / max(blow.for_s, 0.01)), 4 * blow.for_s)
            self.freeze(Blow(blow.at_s, "freeze", (number,), max(length, 0.001)))

    def cut(self, blow: Blow) -> None:
        """The nodes on one side, all others on the other."""
        others = [number for number in range(len(self.fleet.nodes)) if number not in set(blow.nodes)]
        pairs = [(a, b) for a in blow.nodes for b in others]
        self._cut([*pairs, *((b, a) for a, b in pairs)], blow.for_s)
        if len(self.fleet.nodes) <= SETTLE_NODES_MAX:
            self.fleet.split_at = self.fleet.world.now

    def one_way(self, blow: Blow) -> None:
        """From each node, one link it holds lets nothing through in one direction."""
        pairs = []
        for number in blow.nodes:
            peers = sorted(self.fleet.nodes[number].pipes)
            if peers:
                pairs.append((number, self.rng.choice(peers)))
        self._cut(pairs, blow.for_s)

    def _cut(self, pairs: list[tuple[int, int]], for_s: float) -> None:
        fresh = [pair for pair in pairs if pair not in self.fleet.net.cut]
        self.fleet.net.cut.update(dict.fromkeys(fresh))
        if for_s:
            self.later(for_s, lambda: self.fleet.net.mend(fresh))

    def loss(self, blow: Blow) -> None:
        """Packets are lost, of some nodes or of all."""
        net = self.fleet.net
        if blow.nodes:
            net.lossy.update(dict.fromkeys(blow.nodes, blow.value))
        else:
            net.loss = blow.value
        if blow.for_s:
            self.later(blow.for_s, lambda: self._no_loss(blow))

    def _no_loss(self, blow: Blow) -> None:
        for number in blow.nodes:
            self.fleet.net.lossy.pop(number, None)
        if not blow.nodes:
            self.fleet.net.loss = 0.0

    def disk_lost(self, blow: Blow) -> None:
        """The process dies and its disk is empty when it comes back."""
        for number in blow.nodes:
            if self.fleet.nodes[number].machine is not None:
                self.fleet.kill(number)
            self.fleet.lose_disk(number)
        self.later(blow.for_s or RESTART_S, lambda: self.up(blow.nodes))

    def set_back(self, blow: Blow) -> None:
        """A backup is made; `value` seconds later the node is killed and starts on it."""
        for number in blow.nodes:
            node = self.fleet.nodes[number]
            if node.machine is not None:
                image = node.disk.image()
                self.later(blow.value, lambda number=number, image=image: self._restore(number, image, blow))  # type: ignore[misc]

    def _restore(self, number: int, image: object, blow: Blow) -> None:
        if self.fleet.nodes[number].machine is not None:
            self.fleet.kill(number)
        self.fleet.set_back(number, image)  # type: ignore[arg-type]
        self.later(blow.for_s or RESTART_S, lambda: self.up((number,)))

    def clock(self, blow: Blow) -> None:
        """Wall clocks are wrong by so many seconds, half of them the other way."""
        for turn, number in enumerate(blow.nodes):
            self.fleet.nodes[number].skew_ms = int(blow.value * 1000) * (-1 if turn % 2 else 1)
        if blow.for_s:
            self.later(blow.for_s, lambda: self._clocks_right(blow.nodes))

    def _clocks_right(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.fleet.nodes[number].skew_ms = 0

    def away(self, blow: Blow) -> None:
        """Nodes are off for days; every day the others do their daily duties.

        The calendar turns a day every half second: wall clocks jump, all alike, while timers that count
        seconds do not, so that years fit into minutes.
        """
        self.down(Blow(blow.at_s, "power-cut", blow.nodes), power_cut=True)
        for day in range(int(blow.value)):
            self.later(DAY_S * (day + 1), self._day)
        self.later(DAY_S * (blow.value + 1), lambda: self.up(blow.nodes))

    def _day(self) -> None:
        self.fleet.calendar_ms += DAY_MS
        for node in self.fleet.running():
            if node.replica is not None:
                node.replica.sweep()
                node.replica.collect()

    def lie(self, blow: Blow, how: type[Misbehaviour]) -> None:
        """Relays leave records out of what they send and say nothing of it, or make things up."""
        self.omitting = True
        for number in blow.nodes:
            self.fleet.nodes[number].spoil = _spoiling(how(), random.Random(self.rng.random()))
        if blow.for_s:
            self.later(blow.for_s, lambda: self._honest(blow.nodes))

    def accuse(self, blow: Blow) -> None:
        """A member accuses its neighbours again and again, whatever it hears of them."""
        for number in blow.nodes:
            self._accuse(number, self.fleet.world.now + (blow.for_s or float("inf")))

    def _accuse(self, number: int, until: float) -> None:
        node = self.fleet.nodes[number]
        if self.fleet.world.now > until:
            return
        if node.machine is not None and not node.frozen:
            for aid in node.machine.board.monitors(node.aid):
                inc = node.machine.board.members[aid].inc
                node.deeds.do(Accuse(aid, inc, Evidence.SILENT, ttl_s=30.0))
        self.later(ACCUSED_EVERY_S, lambda: self._accuse(number, until))

    def _honest(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.fleet.nodes[number].spoil = None


def _spoiling(liar: Misbehaviour, rng: random.Random) -> Callable[[bytes], bytes]:
    def spoil(body: bytes) -> bytes:
        message = messages.decode(body)
        if not isinstance(message, messages.Delta) or message.scope != MESH:
            return body
        return messages.encode(liar.spoil(message, rng))  # type: ignore[arg-type]

    return spoil


KINDS: dict[str, Kind] = {
    "kill": Kind(Hand.down, "kill -9; starts again after for_s, if given"),
    "power-cut": Kind(
        lambda hand, blow: hand.down(blow, power_cut=True),
        "the computer goes, and what was not committed",
    ),
    "freeze": Kind(Hand.freeze, "SIGSTOP, and SIGCONT after for_s", ("for_s",)),
    "stall": Kind(Hand.stall, "a busy processor: stands still for about for_s", ("for_s",)),
    "split": Kind(Hand.cut, "these nodes are cut off from all others"),
    "one-way": Kind(Hand.one_way, "one link of each node lets nothing through in one direction"),
    "loss": Kind(Hand.loss, "packets are lost at `rate`; of all unless nodes are named", ("rate",), 0),
    "disk-lost": Kind(Hand.disk_lost, "killed; the disk is empty when it comes back"),
    "set-back": Kind(Hand.set_back, "killed age_s later, and set back to this moment", ("age_s",)),
    "clock": Kind(Hand.clock, "wall clocks wrong by offset_s, every other one behind", ("offset_s",)),
    "away": Kind(Hand.away, "off for so many days, while the others collect every day", ("days",)),
    "accuse": Kind(Hand.accuse, "accuses its neighbours every other second, whatever it hears of them"),
    "omit": Kind(lambda hand, blow: hand.lie(blow, Omitter), "relays leave records out of what they send"),
    "forge": Kind(
        lambda hand, blow: hand.lie(blow, Forger), "relays say anything that can be said without a key"
    ),
}

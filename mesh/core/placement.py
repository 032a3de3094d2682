"""Placement: which instances this node takes, keeps, and gives up. Each node decides for itself alone.

Every node holds the same table (`seating.py`) and comes to the same order of nodes for a seat
(`candidates.py`), so nobody has to be asked. What follows is one node's part.

    an empty seat      the node at place i of the order waits i x stagger and claims it if it is still empty.
                       The first one need not wait, and by the time the second would move it has heard of the
                       first one's claim. A node without room, or barred, stays silent and is passed over
    two claims         one that runs before one that does not; then as the workload says:
                           keep_replacement   the higher epoch (the newer owner)
                           keep_original      the node that had the seat first
                           best_score         the better score
                           longest_running    the older
                       ties by epoch, score, id. All others stop: after a split exactly one stays
    an owner dies      its claim holds the seat for as long as the workload is patient, then the seat is empty
    an owner returns   with what still runs it takes part in the rule above; with what does not, only where
                       nobody took over: else its claim holds nothing, and is taken back as soon as it knows.
                       keep_original takes the work back once the node has been up for recovery_after
    a better node      by weight, not by dice (best_score: by score), 1.25 times for 10 min, takes over: it
                       claims `over` the owner, starts, and when its own runs the epochs end the old one
    failures           three in 15 min, and the node gives the seat up and is asked last for 30 min, if there
                       is another node for it; else it goes on trying
    drain, unfit       the claim says `drain`, which holds nothing: another node claims, and when its instance
                       runs, or after 30 s, the old one stops
    mode exclusive     nothing is claimed before the voters gave the lease; the token is the epoch. Whoever
                       loses the lease stops at once
    mode pinned        a claim holds until its node is removed; replicas "each": nobody competes

An honest owner yields only to what it can explain: a claim of another node against one of ours that runs is
passed over, and told of, unless since our own claim we were restarted or accused or had said `drain`, that
node was away, or it takes over by the rule. So a member that claims everything displaces nothing that runs.

Before `Settled` a node only goes on with what still runs here, and starts what is pinned to it.
`holding.py` has the part about seats of our own, `rivals.py` that about two claims for one.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.candidates import Candidate
from mesh.core.claims import Claim, Seat, Stage
from mesh.core.holding import Desk, Holding
from mesh.core.placing import (
    Action,
    AnyEvent,
    ClaimsSaid,
    Config,
    Doubted,
    Found,
    RulesSaid,
    SecretsSaid,
    Settled,
    SitesSaid,
    SpecsSaid,
    StandingSaid,
    Tell,
)
from mesh.core.rivals import Rivals
from mesh.core.seating import NEVER, Held, Seating, Spec

SHORT_AT_ONCE = 256
LOOKS_AT_ONCE, LOOKS_EVERY_S = 64, 0.05


class Placement:
    """The machine of one node.

    Args:
        me: our own aid.
        life_ms: mesh time at which this agent started; names its present life.
    """

    def __init__(self, config: Config, me: bytes, life_ms: int) -> None:
        self.config = config
        self.me = me
        self.table = self.make_table(life_ms)
        self.desk = Desk(life_ms)
        self.rivals = self.make_rivals(me)
        self.own = Holding(config, me, life_ms, self.table, self.rivals, self.desk)
        self._short: dict[Seat, float] = {}
        self._plans: dict[str, dict[Seat, list[Candidate]]] = {}
        self._better: dict[Seat, float] = {}
        self._unplaced: set[Seat] = set()
        self._swept = 0.0
        self._round: list[str] = []

    def make_table(self, life_ms: int) -> Seating:
        """The table; apart so that a simulation can exchange it."""
        return Seating(life_ms)

    def make_rivals(self, me: bytes) -> Rivals:
        """The part that judges two claims for one seat; apart likewise."""
        return Rivals(self.table, me, self.desk.now_ms)

    def at(self, now: float, now_ms: int) -> None:
        """Set the mesh time that belongs to `now`; before `handle` and `tick`, now and then."""
        self.desk.set_clock(now, now_ms)

    # -- events -----------------------------------------------------------------------------------------

    def handle(self, event: AnyEvent, now: float) -> list[Action]:
        """Take in what happened."""
        for seat in self._touched(event, now):
            self._look(seat, now)
        return self.desk.flush()

    def _touched(self, event: AnyEvent, now: float) -> Iterable[Seat]:
        """Put an event into the table; returns the seats to look at."""
        table = self.table
        match event:
            case SpecsSaid(specs=specs):
                return self._a_few(self._specs(specs), now)
            case ClaimsSaid(claims=claims):
                return self._claims(claims, now)
            case SitesSaid(sites=sites):
                moved = [aid for aid in sorted(sites) if table.set_site(aid, sites[aid])]
                seats = {seat for aid in moved for seat in table.seats_of.get(aid, ())}
                return sorted({*self._replanned(own=self.me in sites), *seats})
            case StandingSaid(aid=aid, standing=standing):
                if not table.set_standing(aid, standing, now):
                    return ()
                self.rivals.stood(aid, standing, now)
                return [*self._replanned(own=False), *sorted(table.seats_of.get(aid, ()))]
            case RulesSaid(rules=rules):
                table.set_rules(rules)
                return self._replanned(own=True)
            case SecretsSaid(secrets=secrets):
                table.set_secrets(secrets)
                return self._replanned(own=True)
            case Settled():
                self.own.settled = True
                self._short = dict.fromkeys(self._short, now)
                return self._a_few([seat for name in sorted(table.specs) for seat in self._all(name)], now)
            case Found(seats=seats):
                self.own.found = seats
                return sorted(seats | table.seats_of.get(self.me, set()))
            case Doubted():
                self.rivals.doubted(now)
                return ()
            case _:
                return self.own.handle(event, now)

    def _a_few(self, seats: list[Seat], now: float) -> list[Seat]:
        """So many of these seats now, the others soon, slice by slice: nothing else waits for all of them."""
        for place in range(LOOKS_AT_ONCE, len(seats)):
            self.desk.wake(seats[place], now + place // LOOKS_AT_ONCE * LOOKS_EVERY_S)
        return seats[:LOOKS_AT_ONCE]

    def _specs(self, specs: dict[str, Spec | None]) -> list[Seat]:
        seats: set[Seat] = set()
        for name in sorted(specs):
            seats |= set(self._all(name))
            self.table.set_spec(name, specs[name])
            seats |= set(self._all(name))
            self._plans.pop(name, None)
        return sorted({*seats, *self.own.waiting()})

    def _all(self, name: str) -> list[Seat]:
        """The seats of a workload, our own place in it among them when it is on each node."""
        spec = self.table.specs.get(name)
        own = [Seat(name, 0)] if spec is not None and spec.workload.each else []
        return sorted({*self.table.seats(name), *own})

    def _claims(self, claims: Iterable[tuple[bytes, Seat, Claim | None]], now: float) -> list[Seat]:
        seats, up = set(), set()
        for aid, seat, claim in claims:
            self.table.set_claim(aid, seat, claim)
            if aid == self.me and claim is not None:
                self.own.remember(seat, now)
            seats.add(seat)
            if claim is not None and claim.st == Stage.RUN:
                up.add(seat.name)
        return sorted(seats.union(self.own.waiting(up)))

    def _replanned(self, *, own: bool) -> list[Seat]:
        """Places changed: orders are made anew. Of many empty seats the rest is looked at by the sweep."""
        self._plans.clear()
        seats = set(list(self._short)[:SHORT_AT_ONCE])
        if own:
            seats |= self.table.seats_of.get(self.me, set())
            seats |= {Seat(name, 0) for name, spec in self.table.specs.items() if spec.workload.each}
        return sorted(seats)

    # -- one seat ---------------------------------------------------------------------------------------

    def _look(self, seat: Seat, now: float) -> None:
        """Bring one seat in line with what is known."""
        if self.own.stopping(seat):
            return
        spec, claim = self.table.wanted(seat), self.own.claim(seat)
        if claim is not None and claim.st == Stage.BAR and claim.until_ms <= self.desk.now_ms(now):
            self.own.put(seat, None)
            claim = None
        if spec is None:
            self._filled(seat)
            if claim is not None:
                self.own.stop(seat, "is not wanted any more")
        elif claim is not None and claim.st != Stage.BAR:
            self._filled(seat)
            self.own.keep(seat, spec, claim, now)
        elif spec.workload.each:
            if self.own.settled and not self.own.why_not(seat):
                self.own.take(seat, now)
        else:
            self._fill(seat, spec, now)

    def _filled(self, seat: Seat) -> None:
        self._short.pop(seat, None)
        self._unplaced.discard(seat)
        self._plans.get(seat.name, {}).pop(seat, None)

    def _fill(self, seat: Seat, spec: Spec, now: float) -> None:
        """A seat that is not ours: claim it when it is empty and our turn."""
        holders = self.table.holders(seat, now)
        if holders:
            self._filled(seat)
            until = min(self.table.held_until(seat, held.aid, now) for held in holders)
            if until < NEVER:
                self.desk.wake(seat, until)
            return
        first = self._short.setdefault(seat, now)
        if not self.own.settled:
            return
        order = self._order(seat, now)
        place = next((place for place, it in enumerate(order) if it.aid == self.me), None)
        if place is None:
            if not order and seat not in self._unplaced:
                self._unplaced.add(seat)
                self.desk.do(Tell("unplaced", seat, "no node can run it"))
            return
        due = first + place * self.config.stagger_s
        if now < due:
            self.desk.wake(seat, due)
        elif not self.own.why_not(seat):
            if spec.workload.mode == "exclusive":
                self.own.ask(seat, spec, now)
            else:
                self.own.take(seat, now)
                self._filled(seat)

    def _order(self, seat: Seat, now: float) -> list[Candidate]:
        plans = self._plans.get(seat.name)
        if plans is None or seat not in plans:
            short = [it for it in self.table.seats(seat.name) if it in self._short]
            plans = self.table.plan(seat.name, short, now, self.desk.now_ms(now))
            self._plans[seat.name] = plans
        return plans.get(seat, [])

    # -- time -------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` is wanted next."""
        first = self.desk.first()
        return min(first, self._swept + 1.0) if self.own.settled and self.table.specs else first

    def tick(self, now: float) -> list[Action]:
        """Look at what is due; once a second at a sixtieth of all workloads."""
        for seat in self.desk.due(now):
            self._look(seat, now)
        if self.own.settled and now >= self._swept + 1.0:
            self._swept = now
            self._sweep(now)
        return self.desk.flush()

    def _sweep(self, now: float) -> None:
        """A slice of the rebalancing, and of whatever nothing else woke."""
        if not self._round:
            self._round = sorted(self.table.specs, reverse=True)
        for _ in range(1 + int(len(self.table.specs) / self.config.rebalance_s)):
            if not self._round:
                break
            name = self._round.pop()
            self._plans.pop(name, None)
            for seat in self._all(name):
                self._look(seat, now)
                self._rebalance(seat, now)

    def _rebalance(self, seat: Seat, now: float) -> None:
        """Take a running instance over if we are the better place, and have been for long enough."""
        spec = self.table.wanted(seat)
        if spec is None or self.own.claim(seat) is not None:
            return
        if spec.workload.mode != "available" or spec.workload.each:
            return
        holders = self.table.holders(seat, now)
        if len(holders) != 1 or not self.table.runs(holders[0].aid, holders[0].claim):
            return
        held = holders[0]
        if spec.workload.reconcile == "keep_original" and held.claim.origin == self.me:
            better, enough = True, self.own.up_s(now) >= spec.workload.recovery_after_s
        else:
            better = self.rivals.better(seat, spec, held.aid, self.config.better)
            since = self._better.setdefault(seat, now) if better else now
            enough = now - since >= self.config.better_for_s
        if not better:
            self._better.pop(seat, None)
        elif enough and not self.own.why_not(seat) and self._first(seat, held, now):
            self._better.pop(seat, None)
            self.own.take(seat, now, over=held.aid)

    def _first(self, seat: Seat, held: Held, now: float) -> bool:
        """Whether no other node should rather take it over."""
        if held.claim.origin == self.me:
            return True
        plan = self.table.plan(seat.name, [seat], now, self.desk.now_ms(now))[seat]
        rest = [it.aid for it in plan if it.aid != held.aid]
        return bool(rest) and rest[0] == self.me

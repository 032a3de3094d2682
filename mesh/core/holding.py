"""The seats that this node has taken: keeping, starting, draining, yielding, giving up. See `placement.py`.

What it does is put on a desk, in order: a claim is on disk before the instance that it is for is started.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Set

import msgspec

from mesh.core.claims import WHY_CHARS_MAX, Claim, Seat, Stage
from mesh.core.placing import (
    Acquire,
    Action,
    AnyEvent,
    Config,
    Ended,
    Failed,
    Leased,
    Ran,
    Release,
    Run,
    Say,
    Stop,
    Stopped,
    Tell,
    Unleased,
)
from mesh.core.rivals import Rivals
from mesh.core.seating import NEVER, Held, Seating, Spec

KEEPING = (Stage.CLAIM, Stage.RUN)
# A node that leaves the mesh does not wait for as long as one that is drained.
AWAY_S = 5.0


class Desk:
    """What is to be done, what is to be looked at when, and the mesh time."""

    def __init__(self, now_ms: int) -> None:
        self._clock = (0.0, now_ms)
        self._due: list[tuple[float, Seat]] = []
        self._out: list[Action] = []

    def set_clock(self, now: float, now_ms: int) -> None:
        """The mesh time that belongs to `now`."""
        self._clock = (now, now_ms)

    def now_ms(self, now: float) -> int:
        """Mesh time."""
        return self._clock[1] + int((now - self._clock[0]) * 1000)

    def do(self, *actions: Action) -> None:
        """Add to what is to be done."""
        self._out += actions

    def flush(self) -> list[Action]:
        """Take all that is to be done."""
        out, self._out = self._out, []
        return out

    def wake(self, seat: Seat, at: float) -> None:
        """Look at a seat again at this time."""
        heapq.heappush(self._due, (at, seat))

    def first(self) -> float:
        """When something is due."""
        return self._due[0][0] if self._due else NEVER

    def due(self, now: float) -> list[Seat]:
        """Take the seats that are due, each once."""
        found = set()
        while self._due and self._due[0][0] <= now:
            found.add(heapq.heappop(self._due)[1])
        return sorted(found)


class Mine(msgspec.Struct):
    """What we do about a seat of ours, beside what our claim says.

    Attributes:
        launched: (gen, epoch) of the `Run` that was said last, or None.
        stopping: why it is being stopped, "" when it is not.
        fails: when it failed lately.
        since: when the present stage began, by our clock.
        leased: token of the lease, 0 without.
        barred: it is being stopped because it failed too often here.
    """

    launched: tuple[int, int] | None = None
    stopping: str = ""
    fails: deque[float] = msgspec.field(default_factory=deque)
    since: float = 0.0
    leased: int = 0
    barred: bool = False


class Holding:
    """Our own seats.

    Attributes:
        settled: empty seats may be claimed, and ours given up for others.
        found: seats whose instance still ran when the agent started.
    """

    def __init__(
        self, config: Config, me: bytes, life_ms: int, table: Seating, rivals: Rivals, desk: Desk
    ) -> None:
        self.settled = False
        self.found: frozenset[Seat] = frozenset()
        self._config = config
        self._me = me
        self._life_ms = life_ms
        self._table = table
        self._rivals = rivals
        self._desk = desk
        self._mine: dict[Seat, Mine] = {}
        self._asking: dict[Seat, float] = {}

    def claim(self, seat: Seat) -> Claim | None:
        """What we say about a seat."""
        return self._table.claims.get(seat, {}).get(self._me)

    def stopping(self, seat: Seat) -> bool:
        """Whether our instance is being stopped: nothing is done about the seat before it is."""
        mine = self._mine.get(seat)
        return mine is not None and bool(mine.stopping)

    def waiting(self, names: Set[str] | None = None) -> list[Seat]:
        """Our seats that do not run yet; with names, those of workloads that depend on one of these."""
        found = []
        for seat, mine in self._mine.items():
            spec = self._table.specs.get(seat.name)
            if mine.launched is not None or spec is None:
                continue
            if names is None or not names.isdisjoint(spec.workload.depends):
                found.append(seat)
        return found

    def remember(self, seat: Seat, now: float) -> None:
        """The store holds a claim of ours from an earlier life."""
        self._mine.setdefault(seat, Mine(since=now))

    def up_s(self, now: float) -> float:
        """How long this agent has been up."""
        return (self._desk.now_ms(now) - self._life_ms) / 1000

    def why_not(self, seat: Seat) -> str:
        """Why we cannot take a seat at this moment, or ""."""
        return self._table.why_not(seat.name, self._me) or self._table.why_crowded(seat.name, self._me)

    # -- events -----------------------------------------------------------------------------------------

    def handle(self, event: AnyEvent, now: float) -> Iterable[Seat]:
        """What became of an instance of ours; returns the seats to look at."""
        assert isinstance(event, Ran | Failed | Ended | Stopped | Leased | Unleased)
        seat = event.seat
        mine, claim = self._mine.get(seat), self.claim(seat)
        match event:
            case Leased(token=token):
                self._asking.pop(seat, None)
                self.take(seat, now, token=token)
            case Unleased(why=why, again_s=again_s):
                self._asking[seat] = now + again_s
                self._desk.wake(seat, now + again_s)
                if mine is not None and (mine.leased or seat in self.found):
                    mine.leased = 0
                    self.stop(seat, f"there is no lease: {why}")
            case Stopped():
                self._gone(seat, now)
            case Ran() if mine is not None and claim is not None and claim.st in KEEPING:
                self._stage(seat, now, Stage.RUN)
            case Failed() if mine is not None and claim is not None:
                self._failed(event, mine, claim, now)
            case Ended(why=why) if mine is not None and claim is not None and claim.st in KEEPING:
                self._stage(seat, now, Stage.DONE, why)
            case _:
                pass
        return (seat,)

    def _failed(self, event: Failed, mine: Mine, claim: Claim, now: float) -> None:
        seat, why = event.seat, event.why
        if claim.st not in KEEPING or mine.stopping:
            return
        mine.fails.append(now)
        while mine.fails[0] < now - self._config.fail_window_s or len(mine.fails) > self._config.fails:
            mine.fails.popleft()
        self._explain(seat, claim, why, now)
        spec, enough = self._table.wanted(seat), event.fatal or len(mine.fails) >= self._config.fails
        if spec is None or not enough or stays(spec):
            return
        plan = self._table.plan(seat.name, [seat], now, self._desk.now_ms(now))[seat]
        if any(it.aid != self._me and it.late <= 2 for it in plan):
            mine.barred = True
            self.stop(seat, why)
            self._desk.do(Tell("barred", seat, f"given up here: {why}", (self._me,)))

    # -- a seat of ours ---------------------------------------------------------------------------------

    def keep(self, seat: Seat, spec: Spec, claim: Claim, now: float) -> None:
        """Keep it, drain it, or yield it."""
        mine = self._mine.setdefault(seat, Mine(since=now))
        rivals = self._others(seat, spec, mine, now)
        if claim.st == Stage.DONE:
            if claim.gen != spec.gen:
                self._stage(seat, now, Stage.CLAIM)
                self._launch(seat, spec, mine, now)
            return
        why = self._why_leave(seat, spec)
        if claim.st == Stage.DRAIN:
            if why or rivals:
                self._leave(seat, claim, mine, rivals, now)
                return
            self._stage(seat, now, Stage.RUN if self._runs(seat) else Stage.CLAIM)
        elif why:
            self._stage(seat, now, Stage.DRAIN, why)
            self._leave(seat, claim, mine, rivals, now)
            return
        winner, tells = self._rivals.yields_to(seat, claim, rivals, now)
        self._desk.do(*tells)
        if winner is not None and self.settled:
            self.stop(seat, "another node has it")
        elif self._overtaken(seat, claim, rivals):
            if self.settled:  # the other one is not there, but an empty seat is anybody's
                self.stop(seat, "another node had it later")
        elif claim.over and claim.st == Stage.CLAIM and now >= mine.since + self._config.takeover_s:
            self.stop(seat, "it did not start in time to take over")
        else:
            self._launch(seat, spec, mine, now)

    def _overtaken(self, seat: Seat, claim: Claim, rivals: list[Held]) -> bool:
        """Whether an earlier life of ours had the seat, but somebody else had it later."""
        earlier = claim.life != self._life_ms and seat not in self.found
        return earlier and any(held.claim.epoch > claim.epoch for held in rivals)

    def _others(self, seat: Seat, spec: Spec, mine: Mine, now: float) -> list[Held]:
        """Whose claims stand against ours. Nobody's where each has its own, or where the voters decide."""
        if spec.workload.each or mine.leased:
            return []
        return [held for held in self._table.holders(seat, now) if held.aid != self._me]

    def _why_leave(self, seat: Seat, spec: Spec) -> str:
        """Why this is no place for it any more, or ""."""
        pinned = spec.workload.mode == "pinned" and self._runs(seat)
        if pinned and not self._table.avoided(spec.workload, self._me):
            return ""
        if why := self._table.why_unfit(seat.name, self._me):
            return why
        drained = self._table.sites[self._me].offer.st == "drain"
        return "the node is drained" if drained and not stays(spec) else ""

    def _runs(self, seat: Seat) -> bool:
        claim = self.claim(seat)
        return claim is not None and self._table.runs(self._me, claim)

    def _leave(self, seat: Seat, claim: Claim, mine: Mine, rivals: list[Held], now: float) -> None:
        """Draining: stop when another one runs, or after a while."""
        away = self._table.sites[self._me].offer.st == "away" if self._me in self._table.sites else False
        until = mine.since + (AWAY_S if away else self._config.drain_s)
        replaced = any(self._table.runs(held.aid, held.claim) for held in rivals)
        alone = seat.name in self._table.specs and self._table.specs[seat.name].workload.each
        if replaced or alone or now >= until or mine.leased or not self._runs(seat):
            self.stop(seat, claim.why or "the node is drained")
        else:
            self._desk.wake(seat, until)

    def _launch(self, seat: Seat, spec: Spec, mine: Mine, now: float) -> None:
        """Have it run by the present spec, once it may."""
        claim, workload, found = self.claim(seat), spec.workload, seat in self.found
        assert claim is not None
        if not (self.settled or found or workload.mode == "pinned"):
            return
        if workload.mode == "exclusive" and not mine.leased:
            self.ask(seat, spec, now)
            return
        missing = [name for name in workload.depends if not self._table.running(name)]
        if missing and mine.launched is None and not found:
            self._explain(seat, claim, f"waits for {', '.join(missing)}", now)
            return
        if mine.launched == (spec.gen, claim.epoch) and claim.life == self._life_ms:
            return
        if claim.life != self._life_ms or claim.gen != spec.gen:
            claim = self._anew(seat, spec, claim, found, now)
        mine.launched = (spec.gen, claim.epoch)
        self._desk.do(Run(seat, spec.gen, claim.epoch))

    def _anew(self, seat: Seat, spec: Spec, claim: Claim, found: bool, now: float) -> Claim:
        """Our claim by the present spec and in this life; above others' epochs if its instance is gone."""
        others = [held.epoch for aid, held in self._table.claims[seat].items() if aid != self._me]
        epoch = claim.epoch
        if not found and claim.life != self._life_ms and max(others, default=0) >= epoch:
            epoch = self._table.epoch_after(seat, self._desk.now_ms(now))
        st = claim.st if found and claim.life != self._life_ms else Stage.CLAIM
        fresh = msgspec.structs.replace(claim, gen=spec.gen, epoch=epoch, st=st, why="", life=self._life_ms)
        self._mine[seat].since = now
        self.put(seat, fresh)
        return fresh

    def ask(self, seat: Seat, spec: Spec, now: float) -> None:
        """Ask the voters for the lease, unless we are asking or were told to wait."""
        if self._asking.get(seat, 0.0) <= now:
            self._asking[seat] = NEVER
            self._desk.do(Acquire(seat, spec.workload.voters))

    def take(self, seat: Seat, now: float, *, token: int = 0, over: bytes = b"") -> None:
        """Claim a seat and start its instance."""
        spec = self._table.wanted(seat)
        if spec is None:
            if token:
                self._desk.do(Release(seat))
            return
        known = self._table.claims.get(seat, {}).values()
        before = max(known, key=lambda claim: claim.epoch, default=None)
        now_ms = self._desk.now_ms(now)
        origin = before.origin if before is not None and before.origin else self._me
        epoch = token or self._table.epoch_after(seat, now_ms)
        mine = self._mine.setdefault(seat, Mine())
        mine.since, mine.leased, mine.launched = now, token, None
        self.put(seat, Claim(spec.gen, epoch, Stage.CLAIM, now_ms, self._life_ms, origin, over))
        self._rivals.claimed(seat, now)
        self._desk.do(self._taken(seat, over))
        if over:
            self._desk.wake(seat, now + self._config.takeover_s)
        self._launch(seat, spec, mine, now)

    def _taken(self, seat: Seat, over: bytes) -> Tell:
        """What is told of it: a failover, when the last owner is not there any more."""
        claims = self._table.claims[seat]
        others = [aid for aid in sorted(claims) if aid != self._me and claims[aid].st in KEEPING]
        last = max(others, key=lambda aid: claims[aid].epoch, default=b"")
        if over:
            return Tell("placed", seat, "took it over", (over,))
        if last and self._table.standing(last) != "alive":
            return Tell("failover", seat, "took it over from a node that is gone", (last,))
        return Tell("placed", seat, "took it")

    # -- what we say ------------------------------------------------------------------------------------

    def put(self, seat: Seat, claim: Claim | None) -> None:
        """Say a claim, or take it back."""
        self._table.set_claim(self._me, seat, claim)
        self._desk.do(Say(seat, claim))

    def _stage(self, seat: Seat, now: float, st: Stage, why: str = "") -> None:
        """Say how far our claim is."""
        claim, mine = self.claim(seat), self._mine[seat]
        assert claim is not None
        if claim.st == st and claim.why == why:
            return
        since_ms = claim.since_ms
        if claim.st != st:
            mine.since, since_ms = now, self._desk.now_ms(now)
        if st == Stage.DRAIN:
            self._rivals.invited(seat)
        why = why[:WHY_CHARS_MAX]
        self.put(seat, msgspec.structs.replace(claim, st=st, since_ms=since_ms, why=why))

    def _explain(self, seat: Seat, claim: Claim, why: str, now: float) -> None:
        """Add to our claim why it does not run."""
        if claim.why != why:
            self._stage(seat, now, claim.st, why)

    def stop(self, seat: Seat, why: str) -> None:
        """Stop our instance, and then give the seat back."""
        mine = self._mine.setdefault(seat, Mine())
        if not mine.stopping:
            mine.stopping = why
            self._desk.do(Stop(seat, why))

    def _gone(self, seat: Seat, now: float) -> None:
        """Our instance is stopped: give the seat back, or say that it failed here."""
        mine, claim = self._mine.pop(seat, None), self.claim(seat)
        if mine is None:
            return
        if mine.leased:
            self._desk.do(Release(seat))
        self.found -= {seat}
        self._desk.do(*self._rivals.released(seat, now))
        if claim is None:
            return
        if not mine.barred:
            self.put(seat, None)
            return
        now_ms = self._desk.now_ms(now)
        self.put(
            seat,
            msgspec.structs.replace(
                claim,
                st=Stage.BAR,
                why=mine.stopping[:WHY_CHARS_MAX],
                since_ms=now_ms,
                until_ms=now_ms + int(self._config.bar_s * 1000),
            ),
        )


def stays(spec: Spec) -> bool:
    """Whether its instances never leave the node that has them."""
    return spec.workload.each or spec.workload.mode == "pinned"

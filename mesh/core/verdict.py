"""Who is alive: the fold of leases and accusations into states, with the timers that a verdict needs.

`liveness.py` tells the rules. The board never looks at links or probes; it is told who was heard, and it
answers who is whose neighbour. All times are the machine's own (its lateness already taken off).
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from mesh.core.clock import unix_ms_of
from mesh.core.lease import SLEEP_MS_MAX, Evidence, Lease, Status
from mesh.core.member import DEATHS_KEPT, FOREVER, NEVER, Charge, Member
from mesh.core.rings import K_ONE_ZONE, Overlay, Place
from mesh.core.vitals import GONE_FOR_NOW, Action, LivenessConfig, State, StateChanged

LEASES_PER_SECOND_MAX = 33
# An accusation names an incarnation its accuser has seen, so it is never far above the one we know.
INC_JUMP_MAX = 1 << 16
CHARGES_MAX = 64
SMALL_ZONE = 2 * K_ONE_ZONE + 2
MOVE_S = 10.0
ABLE = (State.REGISTERING, State.ALIVE)  # neither dead nor accused


class Board:
    """Members, states and rings as seen by one node.

    Attributes:
        moved: set when somebody died, rose, came or went; whoever keeps links clears it.
    """

    def __init__(self, config: LivenessConfig, me: bytes, place: Place, mesh_id: bytes) -> None:
        self.config = config
        self.me = me
        self._slowness = 0
        self.moved = True
        self.members: dict[bytes, Member] = {}
        self._near = Overlay(mesh_id)  # not dead: who is linked
        self._settled = Overlay(mesh_id)  # not dead for settle_s: who is monitor
        self._full = Overlay(mesh_id)  # everybody: where sides of a split find each other
        self._leaving: dict[bytes, float] = {}  # dead, still in _settled, until when
        self._open: dict[bytes, None] = {}  # members with charges
        self._lapses: list[tuple[float, bytes]] = []  # one entry per member, never later than the truth
        self.stirred: dict[bytes, None] = {}  # of those, whom to judge again
        self._due: float | None = None
        self._recheck = FOREVER
        self._several = False
        self._zone = place.zone
        self._zone_members = 0
        self.join(me, place, 0.0)

    @property
    def slowness(self) -> int:
        """H of the rules, 0 to 8; the machine sets it before every call."""
        return self._slowness

    @slowness.setter
    def slowness(self, value: int) -> None:
        if value != self._slowness:
            self._slowness, self._due = value, None

    # --- the table ---

    def join(self, aid: bytes, place: Place, t: float) -> None:
        """Take a card in, or the new place of a known member."""
        member = self.members.get(aid)
        moved = member is not None and member.place.zone != place.zone and aid != self.me
        if moved:
            self.remove(aid)
            member = None
        if member is None:
            member = Member(aid, place, State.REGISTERING, t, t)
            if moved:
                member.asleep_until = t + MOVE_S  # it starts anew there, and its goodbye is for its old zone
            self.members[aid] = member
            self._zone_members += not self.remote(member)
            if aid == self.me:
                member.state = State.ALIVE
            elif not self.remote(member):
                heappush(self._lapses, (self._lapse(member), aid))
        elif member.place == place:
            return
        member.place = place
        self._full.set(aid, place)
        if member.state not in GONE_FOR_NOW:
            self._near.set(aid, place)
        if member.state not in GONE_FOR_NOW or aid in self._leaving:
            self._settled.set(aid, place)
        self.stir_all()

    def remove(self, aid: bytes) -> None:
        """Forget a member whose card is gone."""
        if aid == self.me or aid not in self.members:
            return
        self._zone_members -= not self.remote(self.members.pop(aid))
        self._leaving.pop(aid, None)
        self._open.pop(aid, None)
        for overlay in (self._near, self._settled, self._full):
            overlay.remove(aid)
        for member in self.members.values():
            member.charges.pop(aid, None)
        self._lapses = [entry for entry in self._lapses if entry[1] != aid]
        heapify(self._lapses)
        self.stirred.pop(aid, None)
        self.stir_all()

    def stir_all(self) -> None:
        """Judge every accused member again at the next `settle`."""
        self.moved, self._due = True, None
        self.stirred.update(self._open)

    def _stir_around(self, aid: bytes) -> None:
        """A change of one member may decide about those it is neighbour of, and about itself.

        About all, where it makes the zone a full mesh or changes the number of rings.
        """
        self._due = None
        several = len(self._near.zones()) > 1
        if self._near.ring_size(self._zone) <= SMALL_ZONE or several != self._several:
            self._several = several
            self.stirred.update(self._open)
        elif self._open:
            for near in (aid, *self._near.zone_neighbours(aid, self.members[aid].place), *self.monitors(aid)):
                if near in self._open:
                    self.stirred[near] = None

    def gateways(self, zone: str) -> list[bytes]:
        """The members that speak for a zone, rank 1 first; dead ones are passed over."""
        return self._near.gateways(zone)

    def remote(self, member: Member) -> bool:
        """Whether a member lives in another zone, so that its gateways judge it and we do not."""
        return member.place.zone != self._zone

    def wanted(self) -> tuple[bytes, ...]:
        """Whom we should hold links with, ascending."""
        return self._near.neighbours(self.me)

    def lost(self) -> list[bytes]:
        """The dead who would be our neighbours if nobody were dead, ascending."""
        return [aid for aid in self._full.neighbours(self.me) if self.members[aid].state == State.DEAD]

    def monitors(self, subject: bytes) -> tuple[bytes, ...]:
        """Whose accusations of the subject a verdict needs, ascending."""
        return self._settled.zone_neighbours(subject, self.members[subject].place)

    def may_accuse(self, accuser: bytes, subject: bytes) -> bool:
        """Whether somebody neighbours the subject, in the repaired rings or in the settled ones."""
        return accuser in self._near.zone_neighbours(subject) or accuser in self.monitors(subject)

    def lease_s(self) -> float:
        """T: at most 33 renewals per second in the zone."""
        return max(self.config.lease_s, self._zone_members / LEASES_PER_SECOND_MAX)

    # --- what arrives ---

    def heard(self, aid: bytes, t: float) -> None:
        """Something came from a member directly."""
        member = self.members.get(aid)
        if member is not None:
            member.heard = t

    def lease(self, aid: bytes, lease: Lease, hlc: int, t: float, out: list[Action]) -> None:
        """A member's own word arrived; older ones than we hold are ignored."""
        member = self.members[aid]
        if hlc <= member.hlc or self.remote(member) or aid == self.me:
            return
        member.hlc, member.fresh, member.lease = hlc, t, lease
        if lease.inc > member.inc:
            member.inc = lease.inc
            member.charges = {a: c for a, c in member.charges.items() if c.inc >= lease.inc}
            member.held = None
        if aid in self._open:
            self.stirred[aid] = self._due = None
        member.asleep_until = NEVER
        if lease.st == Status.SLEEP and lease.until_ms is not None:
            member.asleep_until = t + min(max(lease.until_ms - unix_ms_of(hlc), 0), SLEEP_MS_MAX) / 1000
        if lease.st == Status.LEFT:
            if lease.inc >= member.inc and member.state != State.LEFT:
                self._end(member, State.LEFT, "left", (), t, out)
        elif self._revives(member, lease, t):
            why = "refuted" if member.state == State.DEAD else "lease"
            if member.state == State.DEAD:
                member.charges = {a: c for a, c in member.charges.items() if c.inc > member.dead_inc}
            self._rise(member, why, t, out)
        if self.stirred:
            self.settle(t, out)

    def _revives(self, member: Member, lease: Lease, t: float) -> bool:
        if member.state == State.REGISTERING:
            return True
        if member.state == State.LEFT:
            return lease.inc > member.dead_inc
        if member.state != State.DEAD or not (lease.steady or member.why == Evidence.GONE):
            return False
        lapsed = member.why == "lease" or t - member.since >= self.config.lease_factor * self.lease_s()
        return lapsed or lease.inc > member.dead_inc

    def accuse(self, subject: bytes, accuser: bytes, charge: Charge, t: float, out: list[Action]) -> None:
        """A member's accusation of another (or ours) arrived; it replaces that accuser's one before."""
        member = self.members[subject]
        if accuser == subject or accuser not in self.members or self.remote(member):
            return
        if member.hlc and charge.inc > member.inc + INC_JUMP_MAX:
            return
        if len(member.charges) >= CHARGES_MAX and accuser not in member.charges:
            strangers = [a for a in sorted(member.charges) if not self.may_accuse(a, subject)]
            if not strangers:
                return
            del member.charges[strangers[0]]
        if member.charges.get(accuser) == charge:
            return
        member.charges = {**member.charges, accuser: charge}
        self._open[subject] = self.stirred[subject] = self._due = None
        self._recheck = min(self._recheck, t + self.config.interval_s / 2)
        self.settle(t, out)

    def withdraw(self, subject: bytes, accuser: bytes, t: float, out: list[Action]) -> None:
        """An accusation was taken back, or has expired."""
        member = self.members[subject]
        if accuser in member.charges:
            member.charges = {a: c for a, c in member.charges.items() if a != accuser}
            self.stirred[subject] = self._due = None
            self.settle(t, out)

    def report(self, aid: bytes, state: State, t: float, out: list[Action]) -> None:
        """The state of a member of another zone, by that zone's gateway.

        One that has begun anew has not heard of all its members yet, and knows less of those than we do.
        """
        if not self.is_news(aid, state):
            return
        member = self.members[aid]
        if state in GONE_FOR_NOW:
            self._end(member, state, "summary", (), t, out)
        else:
            self._rise(member, "summary", t, out, state)

    def is_news(self, aid: bytes, state: State) -> bool:
        """Whether a report changes anything here; most of what a gateway says of its zone does not."""
        member = self.members.get(aid)
        return (
            member is not None
            and member.state != state
            and state != State.REGISTERING
            and self.remote(member)
        )

    def rewound(self, top: int) -> None:
        """Our clock was ahead: leases above `top`, of others whose clocks were too, are not the newest."""
        for member in self.members.values():
            if member.hlc > top:
                member.hlc = 0

    def force_out(self, aid: bytes, inc: int, t: float, out: list[Action]) -> None:
        """An operator's word turns a dead member into one that has left."""
        member = self.members.get(aid)
        if member is not None and member.state == State.DEAD and member.inc <= inc:
            self._end(member, State.LEFT, "forced", (), t, out)

    # --- judging ---

    def tick(self, t: float, out: list[Action]) -> None:
        """Let time pass: expired leases, verdicts that were held long enough, rings that settle."""
        if not self.stirred and t < self.due():
            return
        while self._lapses and self._lapses[0][0] <= t:
            _, aid = heappop(self._lapses)
            member = self.members[aid]
            lapse = self._lapse(member)
            if lapse <= t and member.state not in GONE_FOR_NOW and not self.remote(member):
                member.dead_inc = member.inc
                self._end(member, State.DEAD, "lease", (), t, out)
            heappush(self._lapses, (lapse if lapse > t else t + self.lease_s(), aid))
        for aid in [aid for aid, until in self._leaving.items() if until <= t]:
            del self._leaving[aid]
            self._stir_around(aid)
            self._settled.remove(aid)
        if self._recheck <= t:  # accusations of sleepers begin to count with time alone
            self.stirred.update(self._open)
            self._recheck = t + self.config.interval_s / 2 if self._open else FOREVER
        confirm_s = self._confirm_s()
        for aid in self._open:
            held = self.members[aid].held
            if held is not None and held + confirm_s <= t:
                self.stirred[aid] = None
        self._due = None
        self.settle(t, out)

    def due(self) -> float:
        """When `tick` next has something to do (perhaps)."""
        if self._due is None:
            self._due = self._find_due()
        return self._due

    def _find_due(self) -> float:
        times = [self._recheck]
        times += [self._lapses[0][0]] if self._lapses else []
        times += self._leaving.values()
        held = [
            member.held for member in map(self.members.__getitem__, self._open) if member.held is not None
        ]
        if held:
            times.append(min(held) + self._confirm_s())
        return min(times)

    def settle(self, t: float, out: list[Action]) -> None:
        """Judge every accused member until nothing changes: one verdict may decide another."""
        while self.stirred:
            stirred, self.stirred = sorted(self.stirred), {}
            self._due = None
            for aid in stirred:
                member = self.members[aid]
                if member.state not in GONE_FOR_NOW:
                    self._judge(member, t, out)
                if not member.charges:
                    self._open.pop(aid, None)

    def _judge(self, member: Member, t: float, out: list[Action]) -> None:
        counted = self._counted(member) if t >= member.asleep_until else {}
        if not counted:
            member.held = None
            if member.state == State.SUSPECT:
                self._change(member, State.ALIVE, "cleared", (), t, out)
            return
        seen_by = tuple(sorted(counted))
        if member.state != State.SUSPECT:
            self._change(member, State.SUSPECT, "accused", seen_by, t, out)
        inc = max(member.inc, min(charge.inc for charge in counted.values()))
        gone = sum(charge.evidence == Evidence.GONE for charge in counted.values())
        living = sum(self.members[a].state not in GONE_FOR_NOW for a in self.monitors(member.aid))
        if gone >= max(1, min(2, living)):
            member.dead_inc = inc
            self._end(member, State.DEAD, Evidence.GONE, seen_by, t, out)
        elif len(counted) < self.need(member):
            member.held = None
        else:
            member.held = t if member.held is None else member.held
            if t >= member.held + self._confirm_s():
                member.dead_inc = inc
                self._end(member, State.DEAD, Evidence.SILENT, seen_by, t, out)

    def _counted(self, member: Member) -> dict[bytes, Charge]:
        """Accusations of the present incarnation (or one we have not heard of yet) by living neighbours."""
        return {
            accuser: charge
            for accuser, charge in member.charges.items()
            if charge.inc >= member.inc
            and self.members[accuser].state not in GONE_FOR_NOW
            and self.may_accuse(accuser, member.aid)
        }

    def need(self, member: Member) -> int:
        """How many accusers make a verdict: two, unless fewer monitors are able to speak."""
        states = [self.members[aid].state for aid in self.monitors(member.aid)]
        return max(1, min(2, sum(state in ABLE for state in states)))

    def _confirm_s(self) -> float:
        return self.config.confirm_s * (1 + self.slowness)

    def _lapse(self, member: Member) -> float:
        """When a member's lease runs out, as far as we know now."""
        return max(
            member.fresh + self.config.lease_factor * self.lease_s(),
            member.heard + 3 * self.config.interval_s,
            member.asleep_until,
        )

    # --- states ---

    def _end(
        self, member: Member, state: State, why: str, seen_by: tuple[bytes, ...], t: float, out: list[Action]
    ) -> None:
        if state == State.LEFT:
            member.dead_inc = member.inc
        else:
            member.deaths = (*member.deaths, t)[-DEATHS_KEPT:]
        if member.state not in GONE_FOR_NOW:
            self._leaving[member.aid] = t + self.config.settle_s
        self._near.remove(member.aid)
        self._change(member, state, why, seen_by, t, out)

    def _rise(
        self, member: Member, why: str, t: float, out: list[Action], state: State = State.ALIVE
    ) -> None:
        self._leaving.pop(member.aid, None)
        member.risen = t
        self._near.set(member.aid, member.place)
        self._settled.set(member.aid, member.place)
        self._change(member, state, why, (), t, out)

    def _change(
        self, member: Member, state: State, why: str, seen_by: tuple[bytes, ...], t: float, out: list[Action]
    ) -> None:
        if (member.state in GONE_FOR_NOW) != (state in GONE_FOR_NOW):
            self.moved = True
        out.append(StateChanged(member.aid, member.state, state, str(why), seen_by))
        member.state, member.since, member.held = state, t, None
        member.why, member.seen_by = str(why), seen_by
        self._stir_around(member.aid)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

"""Membership: who is alive, decided by everyone alike from leases, accusations and a member's own word.

    registering ──lease──▶ alive ◀──refuted, withdrawn── suspect
                             │ └──────accusation───────────▲ │
                             │ lease ran out               │ │ enough accusers, for long enough
                             ▼                             │ ▼
                            dead ──own newer record──▶ alive  dead          own word ──▶ left

SWIM's parts (Das et al. 2002) on a fixed neighbourhood instead of random probing, with Lifeguard's self
doubt (Dadgar et al., arXiv 1707.00788) and Rapid's several observers (Suresh et al. 2018).

Probing. Every wanted link (`rings.py`) is pinged by its lower id with a small sealed datagram if nothing
was heard on it for 3/4 of the interval; any frame or datagram counts, and the higher id pings if it hears
nothing for 5/4. Silence on a stream alone proves little: under 20 % loss a healthy one stalls for seconds.
From the first miss the stream is pinged too, and where datagrams do not pass it carries all pings. After
3 misses two other neighbours are asked and the member is redialled once, under one deadline of two misses.
Any yes: no accusation, and no question for 5 intervals. Else it is accused of being `silent`.

A link that the peer ended (end of file) is redialled at once, and again while that brings neither an answer
nor a refusal and nothing is heard: a process that is killed may keep its port for seconds. If the host
refuses at an address that worked before, the agent is `gone`. That is evidence of another kind: no slowness
of ours can fake it. Which address works is known early: the first ping goes when the link comes up.

Verdicts. Accusations count by neighbours of the member that are not dead, for its present incarnation.
min(2, monitors not dead) with `gone` are a verdict at once. `need` of any kind, standing for the confirm
time × (1 + H), are one too; need is 2, or fewer if fewer monitors are able to speak. No new lease for 3 T
and nothing heard directly for 3 intervals is the last resort: all monitors may be beyond a partition.
A verdict ends only by the member's own record: a newer incarnation (a newer lease, if the lease had run
out or 3 T have passed), from a steady loop unless it was `gone`.

Refuting. Only a member raises its incarnation. Seeing itself accused it publishes the accused one + 1, at
once, and again when its loop is steady. An incarnation is on disk before it is used.

Self doubt. A call later than `miss` means our own loop stood still: that time is taken off every timer
before anything is judged, so a frozen node wakes with the opinions it fell asleep with, and it accuses
nobody of silence for an interval and a miss. H is its worst lateness of the last 10 s in halves of a
second, at most 8. A node of whose more than two links over half miss accuses nobody while it hears
nothing at all: it is the one cut off. While it hears something, it may speak: that is a split.

Finding back. The dead who would be our neighbours if nobody were dead are pinged on, and while over half of
our links miss, 4 random members too. A datagram from a dead or unlinked member: dial at once.

One liar. What others say never raises the incarnation we hold of a member, else a liar could make every
honest accusation stale. One who accuses a member and all its other monitors would be the only judge left,
but each of them refutes within `miss`, long before the confirm time, which then begins anew.
"""

from __future__ import annotations

import random
from collections import deque

from mesh.core.lease import INCARNATION_MAX, Lease, Status
from mesh.core.link import STALL_S
from mesh.core.member import NEVER, Charge
from mesh.core.prober import Prober
from mesh.core.rings import Place
from mesh.core.verdict import INC_JUMP_MAX, Board
from mesh.core.views import LinkView, MemberView, link_views, member_views
from mesh.core.vitals import (
    AccusationArrived,
    AccusationWithdrawn,
    Action,
    DatagramHeard,
    Event,
    ForcedOut,
    FrameHeard,
    LeaseArrived,
    LinkDown,
    LinkUp,
    LivenessConfig,
    LoopLate,
    MembersChanged,
    PersistIncarnation,
    PublishLease,
    RedialFinished,
    RemoteReported,
    Rewound,
    State,
    StatusSet,
)

HEARTBEAT_S = 1.0
UNSTEADY_LATE_S = 1.0
UNSTEADY_FOR_S = 2.0
LATE_WINDOW_S = 10.0
LATE_UNIT_S = 0.5
SLOWNESS_MAX = 8
ORPHANS_MAX = 1024


class Liveness:
    """The machine of one node. Feed it events; perform its actions in their order; call `tick` at `deadline`.

    Args:
        config: numbers of the profile.
        me: own aid.
        mesh_id: 16 bytes.
        place: own zone and duties.
        rng: dice, seeded by the caller.
        incarnation: the last one on disk; the first tick uses the one after it.
        now: monotonic seconds.

    Attributes:
        missed_s: time in which our loop stood still; the machine's own time is `now` less this.
    """

    def __init__(
        self,
        config: LivenessConfig,
        me: bytes,
        mesh_id: bytes,
        place: Place,
        rng: random.Random,
        incarnation: int,
        now: float,
    ) -> None:
        self.config = config
        self.me = me
        self.board = self.make_board(place, mesh_id)
        self.prober = self.make_prober(rng)
        self.incarnation = incarnation
        self._rng = rng
        self.status = Status.UP
        self._until_ms: int | None = None
        self.missed_s = 0.0
        self._due = now
        self._parts_due = NEVER  # of board, prober, lease and refutation, on the machine's own clock
        self._late: deque[tuple[float, float]] = deque(maxlen=64)
        self._unsteady_until = NEVER
        self._said_steady = True
        self._lease_at = 0.0
        self._refute_above: int | None = incarnation
        self._refuted_at = NEVER
        self._refuted_unsteady = False
        self._orphans: dict[tuple[bytes, bytes], Event] = {}

    def make_board(self, place: Place, mesh_id: bytes) -> Board:
        """The part that judges; apart so that a simulation can exchange it."""
        return Board(self.config, self.me, place, mesh_id)

    def make_prober(self, rng: random.Random) -> Prober:
        """The part that probes; apart so that a simulation can exchange it."""
        return Prober(self.config, self.board, rng)

    # --- the machine ---

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event in."""
        out: list[Action] = []
        t = self._enter(now)
        self._handle(event, t, now, out)
        return self._leave(t, now, out)

    def frame(self, aid: bytes, now: float) -> bool:
        """A frame without a probe came from a member.

        Returns:
            Whether that was all: no doubt was open about it and nothing is due, the usual case by far. If
            not, it is to be given to `handle`.
        """
        if now > self._due or self._late or self._refute_above is not None or not self._said_steady:
            return False
        t = now - self.missed_s
        if self.board.moved or t >= self._parts_due or not self.prober.calmly_heard(aid, t):
            return False
        self._due = self._beat_at(t, now)
        return True

    def tick(self, now: float) -> list[Action]:
        """Let time pass."""
        out: list[Action] = []
        if self._idles(now):
            self._due = self._beat_at(now - self.missed_s, now)
            return out
        t = self._enter(now)
        self.board.tick(t, out)
        self.prober.tick(t, out)
        return self._leave(t, now, out)

    def _idles(self, now: float) -> bool:
        """Whether a tick is the heartbeat alone: we are in time, and nobody is due or missed."""
        if self._late or now - self._due > self.config.miss_s / 4 or now - self.missed_s >= self._parts_due:
            return False
        open_ = self.board.moved or self._refute_above is not None or not self._said_steady
        return not open_ and not (self.prober.missed and self.prober.missing()[0])

    def deadline(self) -> float:
        """When `tick` must be called at the latest; calls after it are counted as lateness."""
        return self._due

    def _enter(self, now: float) -> float:
        late = now - self._due
        if late > 0:
            self._take_off(late, now)
        if self._late:
            self.board.slowness = self.slowness(now)
        return now - self.missed_s

    def _take_off(self, late: float, now: float) -> None:
        if late > self.config.miss_s:
            self.missed_s += late
        self._doubt(late, now - self.missed_s, now)

    def _doubt(self, late: float, t: float, now: float) -> None:
        if late > self.config.miss_s / 4:
            self._late.append((now, late))
        if late > self.config.miss_s:
            self.prober.mute_until = t + self.config.interval_s + self.config.miss_s
        if late > STALL_S:
            self.prober.stood_still(t)
        if late > UNSTEADY_LATE_S:
            self._unsteady_until = now + UNSTEADY_FOR_S
            self._lease_at = min(self._lease_at, t)

    def slowness(self, now: float) -> int:
        """H: the worst lateness of our own loop in the last 10 s, in halves of a second, at most 8."""
        while self._late and self._late[0][0] < now - LATE_WINDOW_S:
            self._late.popleft()
        worst = max((late for _, late in self._late), default=0.0)
        return min(SLOWNESS_MAX, int(worst / LATE_UNIT_S))

    def steady(self, now: float) -> bool:
        """Whether the loop was never more than 1 s late in the last 2 s."""
        return now >= self._unsteady_until

    def _leave(self, t: float, now: float, out: list[Action]) -> list[Action]:
        board = self.board
        if board.stirred:
            board.settle(t, out)
        if board.moved:
            board.moved = False
            self.prober.retarget(t, out)
            board.settle(t, out)
        if t >= self._lease_at or self._refute_above is not None or not self._said_steady:
            self._speak(t, now, out)
        self._due = self._next_due(t, now)
        return out

    def _next_due(self, t: float, now: float) -> float:
        parts, probes = self.board.due(), self.prober.due()
        if probes < parts:
            parts = probes
        if self._lease_at < parts:
            parts = self._lease_at
        if self._refute_above is not None:
            parts = min(parts, self._refuted_at + self.config.miss_s)
        self._parts_due = parts
        due = self._beat_at(t, now)
        return due if self._said_steady else max(min(due, self._unsteady_until), now)

    def _beat_at(self, t: float, now: float) -> float:
        """When the heartbeat or a part is due; the microsecond keeps rounding from waking us just before."""
        parts, beat = self._parts_due, t + HEARTBEAT_S
        due = (parts if parts < beat else beat) + self.missed_s + 1e-6
        return due if due > now else now

    # --- own voice ---

    def _speak(self, t: float, now: float, out: list[Action]) -> None:
        """Refute, renew the lease, and say so when the loop is steady again."""
        if self._refute_above is not None and t >= self._refuted_at + self.config.miss_s:
            self._raise(self._refute_above, t, now, out)
        elif not self._said_steady and self.steady(now):
            if self._refuted_unsteady:
                self._raise(self.incarnation, t, now, out)
            else:
                self._publish(t, now, out, urgent=True)
        elif t >= self._lease_at:
            self._publish(t, now, out, urgent=False)

    def _raise(self, above: int, t: float, now: float, out: list[Action]) -> None:
        self.incarnation = max(self.incarnation, above) + 1
        self._refute_above, self._refuted_at = None, t
        self._refuted_unsteady = not self.steady(now)
        out.append(PersistIncarnation(self.incarnation))
        self._publish(t, now, out, urgent=True)

    def _publish(self, t: float, now: float, out: list[Action], *, urgent: bool) -> None:
        self._said_steady = self.steady(now)
        lease = Lease(self.incarnation, self.status, self._until_ms, self._said_steady)
        out.append(PublishLease(lease, urgent, self.config.lease_factor * self.board.lease_s()))
        self._lease_at = t + self.board.lease_s() * (0.9 + 0.2 * self._rng.random())

    # --- events ---

    def _handle(self, event: Event, t: float, now: float, out: list[Action]) -> None:
        if type(event) is LeaseArrived:
            self._lease(event, t, out)
        elif type(event) is DatagramHeard or type(event) is FrameHeard:
            if self._other(event.aid):
                self.prober.heard(event.aid, event.probe, type(event) is FrameHeard, t, out)
        else:
            self._handle_rarer(event, t, now, out)

    def _handle_rarer(self, event: Event, t: float, now: float, out: list[Action]) -> None:
        match event:
            case AccusationArrived() | AccusationWithdrawn():
                self._accusation(event, t, out)
            case LinkUp(aid):
                if self._other(aid):
                    self.prober.link_up(aid, t, out)
            case LinkDown(aid, eof):
                self.prober.link_down(aid, eof, t)
            case RedialFinished(aid, result):
                if self._other(aid):
                    self.prober.redialled(aid, result, t, out)
            case MembersChanged():
                self._change_members(event, t, now, out)
            case StatusSet(st, until_ms):
                self.status, self._until_ms = st, until_ms
                self._publish(t, now, out, urgent=True)
            case LoopLate(seconds):
                self._doubt(seconds, t, now)
            case RemoteReported(aid, state):
                self.board.report(aid, state, t, out)
            case Rewound(top):
                self.board.rewound(top)
            case ForcedOut(aid, inc):
                if aid == self.me:
                    self._accused(inc)
                else:
                    self.board.force_out(aid, inc, t, out)
            case _:
                raise AssertionError(event)

    def _other(self, aid: bytes) -> bool:
        return aid != self.me and aid in self.board.members

    def _change_members(self, event: MembersChanged, t: float, now: float, out: list[Action]) -> None:
        for aid in event.removed:
            self.board.remove(aid)
            self._orphans = {key: held for key, held in self._orphans.items() if key[0] != aid}
        for aid, place in event.joined:
            self.board.join(aid, place, t)
        for aid, _ in event.joined:
            for key in [key for key in self._orphans if aid in key]:
                self._handle(self._orphans.pop(key), t, now, out)

    # A record about a member whose card has not come yet waits for it.

    def _lease(self, event: LeaseArrived, t: float, out: list[Action]) -> None:
        aid = event.aid
        if aid not in self.board.members:
            self._keep(aid, aid, event)
        elif aid != self.me:
            self.board.lease(aid, event.lease, event.hlc, t, out)
            self.prober.refuted(aid, t)

    def _accusation(self, event: Event, t: float, out: list[Action]) -> None:
        match event:
            case AccusationArrived(subject, accuser, inc, evidence):
                if subject not in self.board.members or accuser not in self.board.members:
                    self._keep(subject, accuser, event)
                elif subject == self.me:
                    self._accused(inc)
                elif accuser != self.me:
                    self.board.accuse(subject, accuser, Charge(inc, evidence), t, out)
            case AccusationWithdrawn(subject, accuser):
                self._orphans.pop((subject, accuser), None)
                if subject in self.board.members and self.me not in (subject, accuser):
                    self.board.withdraw(subject, accuser, t, out)

    def _keep(self, subject: bytes, author: bytes, event: Event) -> None:
        self._orphans[subject, author] = event
        if len(self._orphans) > ORPHANS_MAX:
            del self._orphans[next(iter(self._orphans))]

    def _accused(self, inc: int) -> None:
        """Somebody speaks against our present incarnation: it will be raised, at most once per `miss`."""
        if self.status in (Status.LEFT, Status.SLEEP) or inc < self.incarnation:
            return
        if inc <= min(self.incarnation + INC_JUMP_MAX, INCARNATION_MAX - INC_JUMP_MAX):
            self._refute_above = max(self._refute_above or 0, inc)

    # --- views ---

    def members(self, now: float) -> list[MemberView]:
        """Every member as we see it, ascending by aid; ourselves included."""
        own = Lease(self.incarnation, self.status, self._until_ms, self.steady(now))
        return member_views(self.board, own, now - self.missed_s)

    def links(self, now: float) -> list[LinkView]:
        """Every link we hold, want or look for, ascending by aid."""
        return link_views(self.prober.links, now - self.missed_s)

    def state(self, aid: bytes) -> State | None:
        """The state of one member, or None if it is none."""
        member = self.board.members.get(aid)
        return member.state if member else None

    def wanted(self) -> tuple[bytes, ...]:
        """Whom we should hold links with, ascending."""
        return self.board.wanted()

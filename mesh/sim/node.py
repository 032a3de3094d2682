"""One simulated agent: the real machines with a simulated shell, and checks that never sleep."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.core import lease as words
from mesh.core.liveness import Liveness
from mesh.core.record import LIVE, Op, Record
from mesh.core.rings import Place
from mesh.core.vitals import (
    GONE_FOR_NOW,
    AccusationArrived,
    AccusationWithdrawn,
    Action,
    DatagramHeard,
    DialResult,
    Event,
    FrameHeard,
    LeaseArrived,
    LinkDown,
    LinkUp,
    MembersChanged,
    RedialFinished,
    State,
)
from mesh.sim.deeds import Deeds
from mesh.sim.network import Pipe
from mesh.sim.parts import Organ
from mesh.sim.replica import Greeting, Replica
from mesh.sim.timekeeper import PING_S, Timekeeper
from mesh.sim.witness import Witness
from mesh.wire.messages import Ping, Pong

if TYPE_CHECKING:
    from mesh.sim.fleet import Fleet

WALL_BASE_MS = 1_800_000_000_000
INBOX_DATAGRAMS_MAX = 200
FRAMES = (bytes, Ping, Pong)


class Node:
    """An agent: it may be killed, frozen, restarted. Only its `disk` survives its process.

    Attributes:
        machine: None while the process is dead; `replica` likewise.
        pipes: by peer number, the held stream we send on. Two that dial each other at once make two streams,
            and each end may prefer another, so we listen on all.
        time, witness, deeds: of this life.
        spoil: what a dishonest relay does to the frames it sends, or None.
    """

    def __init__(self, fleet: Fleet, aid: bytes, place: Place, seed: int) -> None:
        self.fleet, self.aid, self.place = fleet, aid, place
        self.number = fleet.net.add(self, place.zone)
        self.disk = fleet.new_disk(self.number, aid, place)
        self.skew_ms = 0
        self.machine: Liveness | None = None
        self.replica: Replica | None = None
        self.time = Timekeeper(self)
        self.witness = Witness(self)
        self.deeds = Deeds(self)
        self.organs: list[Organ] = []
        self.pipes: dict[int, Pipe] = {}
        self._pipes: list[Pipe] = []
        self.frozen = False
        self.started_at = self.resumed_at = float("-inf")
        self.spoil: Callable[[bytes], bytes] | None = None
        self._seed = seed
        self._lives = 0
        self._inbox: list[Callable[[], None]] = []
        self._inbox_datagrams = 0
        self._wake_at = float("inf")
        self._dialling: dict[int, None] = {}

    # --- life and death ---

    def start(self, members: tuple[tuple[bytes, Place], ...]) -> None:
        """A new process on the same disk, knowing these cards."""
        if self.machine is not None:
            return
        self._lives += 1
        if not self.fleet.parts.keeps_incarnation:
            self.disk.incarnation = 0
        self.fleet.checks.opens(self.number, self.aid, self.disk.incarnation)
        rng = random.Random(f"{self._seed}/{self.number}/{self._lives}")
        self.time, self.witness, self.deeds = Timekeeper(self), Witness(self), Deeds(self)
        self.machine = self.fleet.build(self, rng)
        self.replica = Replica(self, rng)
        self.organs = [build(self) for build in self.fleet.parts.organs]
        self.pipes, self._pipes, self._dialling = {}, [], {}
        self.frozen, self._inbox = False, []
        net = self.fleet.net
        net.listening[self.number], net.powered[self.number] = True, True
        net.frozen[self.number] = False
        self.started_at = self.resumed_at = self.fleet.world.now
        self.time.start(PING_S * rng.uniform(0.8, 1.2))
        self.feed(MembersChanged(members))

    def stop(self, *, power_cut: bool) -> None:
        """The process dies. Its kernel ends the streams, unless the power went too."""
        self.machine = self.replica = None
        self._lives += 1
        self.frozen, self._inbox, self.organs = False, [], []
        net = self.fleet.net
        net.listening[self.number] = False
        net.frozen[self.number] = False
        net.powered[self.number] = not power_cut
        for pipe in self._pipes:
            if power_cut:
                self.fleet.orphans.append((self.number, pipe))
            else:
                pipe.end(self.number, graceful=False)
        self.pipes, self._pipes = {}, []

    def freeze(self) -> None:
        """The process stands still (SIGSTOP); the kernel goes on."""
        self.frozen = self.fleet.net.frozen[self.number] = True

    def resume(self) -> None:
        """The process goes on, with all that has piled up."""
        if self.machine is None:
            return
        self.frozen = self.fleet.net.frozen[self.number] = False
        self.resumed_at = self.fleet.world.now
        self.witness.woken()
        inbox, self._inbox, self._inbox_datagrams = self._inbox, [], 0
        for call in inbox:
            call()
        self._wake_at = float("inf")
        self._tick()

    def wall_ms(self) -> int:
        """This node's own wall clock."""
        return WALL_BASE_MS + self.fleet.calendar_ms + int(self.fleet.world.now * 1000) + self.skew_ms

    def now_ms(self) -> int:
        """Mesh time as this node knows it."""
        return self.time.clock.now_ms(self.wall_ms())

    def _when_awake(self, call: Callable[[], None]) -> None:
        if self.machine is None:
            return
        if self.frozen:
            self._inbox.append(call)
        else:
            call()

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Run a call after a while, in this life of the process only, and not while it is frozen."""
        life = self._lives

        def due() -> None:
            if life == self._lives:
                if self.frozen:
                    self._inbox.append(call)
                else:
                    call()

        self.fleet.world.after(delay_s, due)

    # --- what the network brings ---

    def hello(self) -> Greeting | None:
        """What our hello says now."""
        return self.replica.greeting() if self.replica is not None else None

    def on_datagram(self, source: int, payload: Any) -> None:
        if self.frozen:
            self._inbox_datagrams += 1
            if self._inbox_datagrams > INBOX_DATAGRAMS_MAX:
                return
        heard = DatagramHeard(self.fleet.nodes[source].aid, payload)
        if self.frozen:
            self._inbox.append(lambda: self.feed(heard))
        else:
            self.feed(heard)

    def on_frames(self, pipe: Pipe, payloads: list[Any]) -> None:
        if self.frozen:
            self._inbox.append(lambda: self.on_frames(pipe, payloads))
            return
        machine = self.machine
        if machine is None:
            return
        peer = pipe.dialler if pipe.listener == self.number else pipe.listener
        aid = self.fleet.nodes[peer].aid
        if type(payloads[0]) in FRAMES or any(type(payload) in FRAMES for payload in payloads):
            if machine.frame(aid, self.fleet.world.now):
                self.witness.idles()
                if machine.deadline() < self._wake_at:
                    self._arm()
            else:
                self.feed(FrameHeard(aid))
        for payload in payloads:
            if not pipe.open or peer not in self.pipes or self.replica is None:
                return
            if type(payload) is bytes:
                self.replica.frame(aid, payload)
            elif isinstance(payload, Ping):
                self.time.asked(peer, payload)
            elif isinstance(payload, Pong):
                self.time.answered(peer, aid, payload)
            else:
                self.feed(FrameHeard(aid, payload))

    def on_writable(self, pipe: Pipe) -> None:
        aid = self.fleet.nodes[pipe.other(self.number)].aid
        self._when_awake(lambda: self.replica.pump(aid) if self.replica is not None else None)

    def on_end(self, pipe: Pipe, graceful: bool) -> None:
        self._when_awake(lambda: self._end(pipe, graceful))

    def _end(self, pipe: Pipe, graceful: bool) -> None:
        peer = pipe.other(self.number)
        pipe.open = False
        if self.pipes.get(peer) is pipe:
            self._drop(peer, eof=not graceful)

    def _drop(self, peer: int, *, eof: bool) -> None:
        del self.pipes[peer]
        self.time.forget(peer)
        aid = self.fleet.nodes[peer].aid
        if self.replica is not None:
            self.replica.link_down(aid)
        self.feed(LinkDown(aid, eof=eof))

    def on_pipe(self, pipe: Pipe, hello: Any) -> None:
        """A handshake is through; the pipe takes the place of any other."""
        self._when_awake(lambda: self._pipe_up(pipe, hello))

    def _pipe_up(self, pipe: Pipe, hello: Greeting) -> None:
        peer = pipe.other(self.number)
        if not pipe.open or self.replica is None:
            return
        self.pipes[peer] = pipe
        self._pipes = [held for held in self._pipes if held.open]
        self._pipes.append(pipe)
        aid = self.fleet.nodes[peer].aid
        self.replica.link_up(aid, peer, hello, first=pipe.dialler == self.number)
        self.feed(LinkUp(aid))
        self.time.ask(peer)

    # --- records ---

    def is_urgent(self, rec: Record) -> bool:
        """Whether a live record is flooded: an accusation, or a lease that refutes one."""
        if rec.path != self.fleet.lease_paths.get(rec.aid):
            return rec.path.startswith(words.PATH_PREFIX)
        member = self.machine.board.members.get(rec.aid) if self.machine is not None else None
        inc = rec.val.get("inc") if isinstance(rec.val, dict) else None
        return member is not None and isinstance(inc, int) and inc > member.inc

    def stored(self, scope: str, records: list[Record], link: bytes | None) -> None:
        """Records were stored."""
        if scope == LIVE:
            for rec in records:
                if rec.path.startswith(words.PATH_PREFIX):
                    self._vital(rec)
        else:
            self.fleet.gauges.arrived(self, scope, records, link)
        for organ in self.organs:
            organ.stored(scope, records)
        if self.organs:
            self._arm()

    def _vital(self, rec: Record) -> None:
        own = rec.path == self.fleet.lease_paths.get(rec.aid)
        subject = rec.aid if own else words.subject_of(rec.path)
        if rec.op != Op.PUT:
            self.feed(AccusationWithdrawn(subject, rec.aid))
        elif subject == rec.aid:
            lease = self.fleet.post.lease(rec)
            self.fleet.checks.believes(self.number, subject, lease.inc)
            self.feed(LeaseArrived(subject, lease, rec.hlc))
        else:
            charge = words.decode_accusation(rec.val)
            if subject == self.aid:
                self.witness.accusation(charge.inc)
            self.feed(AccusationArrived(subject, rec.aid, charge.inc, charge.evidence))
            assert rec.ttl is not None
            self.later(rec.ttl / 1000, lambda: self._expire(rec))

    def _expire(self, rec: Record) -> None:
        if self.replica is not None and self.replica.live.get(rec.slot) == rec:
            self.feed(AccusationWithdrawn(words.subject_of(rec.path), rec.aid))

    # --- the loop ---

    def feed(self, event: Event) -> None:
        """Give the machine an event and do what it says."""
        if self.machine is not None:
            self._perform(self.machine.handle(event, self.fleet.world.now))

    def _wake(self, due: float) -> None:
        if due == self._wake_at:  # else an earlier one has taken its place, and the chain goes on from there
            self._wake_at = float("inf")
            self._tick()

    def _tick(self) -> None:
        if self.machine is None or self.frozen:
            return
        now = self.fleet.world.now
        for organ in self.organs:
            if organ.deadline() <= now:
                organ.tick(now)
        if self.machine is not None and self.machine.deadline() <= now:
            self._perform(self.machine.tick(now))
        else:
            self._arm()

    def _arm(self) -> None:
        if self.machine is None:
            return
        due = self.machine.deadline()
        for organ in self.organs:
            wanted = organ.deadline()
            if wanted < due:
                due = wanted
        if due < self._wake_at:
            self._wake_at = due
            self.fleet.world.at(due, partial(self._wake, due))

    def _perform(self, actions: list[Action]) -> None:
        if actions:
            self.witness.acts(actions)
            for action in actions:
                if self.machine is not None:
                    self.deeds.do(action)
        else:
            self.witness.idles()
        self._arm()

    def dial(self, peer: int, deadline_s: float, report_to: bytes | None, *, replace: bool) -> None:
        """Dial a peer; `report_to` is the member whose redial it is, or None."""
        if report_to is None:
            if peer in self._dialling:
                return
            self._dialling[peer] = None
        life = self._lives

        def done(result: str, hello: Any) -> None:
            if life == self._lives:
                self._when_awake(lambda: self._dialled(peer, result, hello, report_to, replace))

        self.fleet.net.dial(self.number, peer, deadline_s, done)

    def _dialled(
        self, peer: int, result: str, hello: Greeting | None, report_to: bytes | None, replace: bool
    ) -> None:
        if report_to is None:
            self._dialling.pop(peer, None)
        if hello is not None and self.replica is not None and (replace or peer not in self.pipes):
            self._pipe_up(Pipe(self.fleet.net, self.number, peer, self.replica.greeting()), hello)
        if report_to is not None:
            self.feed(RedialFinished(report_to, DialResult(result)))

    def close(self, peer: int) -> None:
        """End the link with a peer."""
        pipe = self.pipes.get(peer)
        if pipe is not None:
            pipe.end(self.number, graceful=True)
            self._drop(peer, eof=False)

    def close_all(self) -> None:
        """End every link; those that are wanted are dialled again."""
        for peer in list(self.pipes):
            self.close(peer)

    # --- questions ---

    def sees(self, aid: bytes) -> State:
        """The state of a member as this node sees it."""
        assert self.machine is not None
        state = self.machine.state(aid)
        assert state is not None
        return state

    def near(self, other: Node) -> bool:
        """Whether another lives in the same zone, so that live records are shared with it."""
        return other.place.zone == self.place.zone

    def agrees(self, other: Node, *, reachable: bool) -> bool:
        """Whether this node sees another as it is: alive if it runs and is reachable, else gone.

        Members of other zones are their gateways' business.
        """
        if not self.near(other):
            return True
        state = self.sees(other.aid)
        if reachable and other.machine is not None and not other.frozen:
            return state == State.ALIVE
        return state in GONE_FOR_NOW

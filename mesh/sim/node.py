"""One simulated agent: the real liveness machine with a simulated shell, and checks that never sleep."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mesh.core.lease import Accusation, Lease
from mesh.core.liveness import Liveness
from mesh.core.rings import Place
from mesh.core.vitals import (
    GONE_FOR_NOW,
    AccusationArrived,
    AccusationWithdrawn,
    Accuse,
    Action,
    CloseLink,
    DatagramHeard,
    DialNow,
    DialResult,
    Event,
    FrameHeard,
    LeaseArrived,
    LinkDown,
    LinkUp,
    MembersChanged,
    PersistIncarnation,
    PublishLease,
    Redial,
    RedialFinished,
    SendDatagram,
    SendFrame,
    State,
    StateChanged,
    Withdraw,
    decode_probe,
    encode_probe,
)
from mesh.sim.gossip import Gossip, Rec
from mesh.sim.network import Pipe

if TYPE_CHECKING:
    from mesh.sim.fleet import Fleet

DIAL_DEADLINE_S = 5.0
WALL_BASE_MS = 1_760_000_000_000
INBOX_DATAGRAMS_MAX = 200
ACTIONS_AT_ONCE_MAX = 2_000


class Node:
    """An agent: it may be killed, frozen, restarted. Only `disk_inc` survives its process.

    Attributes:
        machine: None while the process is dead.
        pipes: by peer number, the held stream we send on. Two that dial each other at once make two streams,
            and each end may prefer another, so we listen on all.
        view: states as announced by StateChanged, which must agree with the machine's.
    """

    def __init__(self, fleet: Fleet, aid: bytes, place: Place, seed: int) -> None:
        self.fleet, self.aid, self.place = fleet, aid, place
        self.number = fleet.net.add(self)
        self.disk_inc = 0
        self.skew_ms = 0
        self.machine: Liveness | None = None
        self.gossip: Gossip | None = None
        self.pipes: dict[int, Pipe] = {}
        self._pipes: list[Pipe] = []
        self.view: dict[bytes, State] = {}
        self.frozen = False
        self.resumed_at = float("-inf")
        self._seed = seed
        self._lives = 0
        self._inbox: list[Callable[[], None]] = []
        self._inbox_datagrams = 0
        self._wake_at = float("inf")
        self._dialling: dict[int, None] = {}
        self._at_once = (0.0, 0)

    # --- life and death ---

    def start(self, members: tuple[tuple[bytes, Place], ...]) -> None:
        """A new process on the same disk, knowing these cards."""
        self._lives += 1
        rng = random.Random(f"{self._seed}/{self.number}/{self._lives}")
        self.machine = self.fleet.build(self, rng)
        self.gossip = Gossip(self.number, self._later, self._admit, self.wall_ms)
        self.gossip.resume_after(self.wall_ms() << 16)
        self.pipes, self._pipes, self.view, self._dialling = {}, [], {}, {}
        self.frozen, self._inbox = False, []
        net = self.fleet.net
        net.listening[self.number], net.powered[self.number] = True, True
        net.frozen[self.number] = False
        self.feed(MembersChanged(members))

    def stop(self, *, power_cut: bool) -> None:
        """The process dies. Its kernel ends the streams, unless the power went too."""
        self.machine = self.gossip = None
        self.frozen, self._inbox = False, []
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
        self.frozen = self.fleet.net.frozen[self.number] = False
        self.resumed_at = self.fleet.world.now
        inbox, self._inbox, self._inbox_datagrams = self._inbox, [], 0
        for call in inbox:
            call()
        self._wake()

    def wall_ms(self) -> int:
        """This node's own wall clock."""
        return WALL_BASE_MS + int(self.fleet.world.now * 1000) + self.skew_ms

    def _when_awake(self, call: Callable[[], None]) -> None:
        if self.machine is None:
            return
        if self.frozen:
            self._inbox.append(call)
        else:
            call()

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        life = self._lives
        self.fleet.world.after(delay_s, lambda: self._when_awake(call) if life == self._lives else None)

    # --- what the network brings ---

    def on_datagram(self, source: int, payload: Any) -> None:
        if self.frozen:
            self._inbox_datagrams += 1
            if self._inbox_datagrams > INBOX_DATAGRAMS_MAX:
                return
        aid = self.fleet.nodes[source].aid
        self._when_awake(lambda: self.feed(DatagramHeard(aid, decode_probe(payload))))

    def on_frame(self, pipe: Pipe, payload: Any) -> None:
        self._when_awake(lambda: self._frame(pipe, payload))

    def _frame(self, pipe: Pipe, payload: Any) -> None:
        peer = pipe.other(self.number)
        if not pipe.open or peer not in self.pipes or self.gossip is None:
            return
        aid = self.fleet.nodes[peer].aid
        if isinstance(payload, bytes):
            self.feed(FrameHeard(aid, decode_probe(payload)))
        else:
            self.feed(FrameHeard(aid))
            self.gossip.receive(peer, payload)

    def on_end(self, pipe: Pipe, graceful: bool) -> None:
        self._when_awake(lambda: self._end(pipe, graceful))

    def _end(self, pipe: Pipe, graceful: bool) -> None:
        peer = pipe.other(self.number)
        pipe.open = False
        if self.pipes.get(peer) is not pipe:
            return
        del self.pipes[peer]
        if self.gossip is not None:
            self.gossip.link_down(peer)
        self.feed(LinkDown(self.fleet.nodes[peer].aid, eof=not graceful))

    def on_pipe(self, pipe: Pipe) -> None:
        """A handshake is through; the pipe takes the place of any other."""
        self._when_awake(lambda: self._pipe_up(pipe))

    def _pipe_up(self, pipe: Pipe) -> None:
        peer = pipe.other(self.number)
        if not pipe.open or self.gossip is None:
            return
        self.pipes[peer] = pipe
        self._pipes = [held for held in self._pipes if held.open]
        self._pipes.append(pipe)
        if self.near(self.fleet.nodes[peer]):
            self.gossip.link_up(pipe)
        self.feed(LinkUp(self.fleet.nodes[peer].aid))

    def _admit(self, rec: Rec) -> None:
        if rec.value is None:
            self.feed(AccusationWithdrawn(rec.subject, rec.author))
        elif isinstance(rec.value, Lease):
            self.feed(LeaseArrived(rec.subject, rec.value, rec.hlc))
        else:
            self.feed(AccusationArrived(rec.subject, rec.author, rec.value.inc, rec.value.evidence))
            self._later(rec.ttl_ms / 1000, lambda: self._expire(rec))

    def _expire(self, rec: Rec) -> None:
        if self.gossip is not None and self.gossip.slots.get((rec.subject, rec.author)) == rec:
            del self.gossip.slots[rec.subject, rec.author]
            self.feed(AccusationWithdrawn(rec.subject, rec.author))

    # --- the loop ---

    def feed(self, event: Event) -> None:
        """Give the machine an event and do what it says."""
        if self.machine is not None:
            self._perform(self.machine.handle(event, self.fleet.world.now))

    def _wake(self) -> None:
        self._wake_at = float("inf")
        if self.machine is None or self.frozen:
            return
        if self.machine.deadline() <= self.fleet.world.now:
            self._perform(self.machine.tick(self.fleet.world.now))
        else:
            self._arm()

    def _arm(self) -> None:
        if self.machine is None:
            return
        due = self.machine.deadline()
        if due < self._wake_at:
            self._wake_at = due
            self.fleet.world.at(due, self._wake)

    def _perform(self, actions: list[Action]) -> None:
        self._check(actions)
        for action in actions:
            if self.machine is not None:
                self._do(action)
        self._arm()

    def _do(self, action: Action) -> None:
        match action:
            case SendDatagram(aid, probe):
                payload = encode_probe(probe)
                self.fleet.net.datagram(self.number, self.fleet.number[aid], payload, len(payload))
            case SendFrame(aid, probe):
                pipe = self.pipes.get(self.fleet.number[aid])
                if pipe is not None:
                    payload = encode_probe(probe)
                    pipe.send(self.number, payload, len(payload))
            case Redial(aid, deadline_s):
                self._dial(self.fleet.number[aid], deadline_s, aid, replace=True)
            case DialNow(aid, replace):
                self._dial(self.fleet.number[aid], DIAL_DEADLINE_S, None, replace=replace)
            case CloseLink(aid, _):
                self._close(self.fleet.number[aid])
            case PersistIncarnation(inc):
                assert inc > self.disk_inc, (inc, self.disk_inc)
                self.disk_inc = inc
            case StateChanged():
                self._note(action)
            case _:
                self._write(action)

    def _write(self, action: Action) -> None:
        assert self.gossip is not None
        match action:
            case PublishLease(lease, urgent, ttl_s):
                assert lease.inc == self.disk_inc, (lease.inc, self.disk_inc)
                self.gossip.write(self.aid, self.aid, lease, int(ttl_s * 1000), urgent=urgent)
            case Accuse(subject, inc, evidence, ttl_s):
                charge, ttl_ms = Accusation(inc, evidence), int(ttl_s * 1000)
                self.gossip.write(subject, self.aid, charge, ttl_ms, urgent=self.fleet.flood)
            case Withdraw(subject, ttl_s):
                self.gossip.write(subject, self.aid, None, int(ttl_s * 1000), urgent=self.fleet.flood)
            case _:
                raise AssertionError(action)

    def _dial(self, peer: int, deadline_s: float, report_to: bytes | None, *, replace: bool) -> None:
        if report_to is None:
            if peer in self._dialling:
                return
            self._dialling[peer] = None
        life = self._lives

        def done(result: str) -> None:
            if life == self._lives:
                self._when_awake(lambda: self._dialled(peer, result, report_to, replace))

        self.fleet.net.dial(self.number, peer, deadline_s, done)

    def _dialled(self, peer: int, result: str, report_to: bytes | None, replace: bool) -> None:
        if report_to is None:
            self._dialling.pop(peer, None)
        if result == "ok" and (replace or peer not in self.pipes):
            self._pipe_up(Pipe(self.fleet.net, self.number, peer))
        if report_to is not None:
            self.feed(RedialFinished(report_to, DialResult(result)))

    def _close(self, peer: int) -> None:
        pipe = self.pipes.pop(peer, None)
        if pipe is not None:
            pipe.end(self.number, graceful=True)
            if self.gossip is not None:
                self.gossip.link_down(peer)
            self.feed(LinkDown(self.fleet.nodes[peer].aid, eof=False))

    # --- checks ---

    def _note(self, action: StateChanged) -> None:
        old = self.view.get(action.aid, State.REGISTERING)
        assert old == action.old, (old, action)
        assert action.new != action.old, action
        assert action.aid != self.aid, action
        assert action.new != State.REGISTERING, action
        self.view[action.aid] = action.new
        self.fleet.note(self, action)

    def _check(self, actions: list[Action]) -> None:
        machine, now = self.machine, self.fleet.world.now
        assert machine is not None
        at, count = self._at_once
        count = count + len(actions) + 1 if at == now else 0
        self._at_once = now, count
        assert count < ACTIONS_AT_ONCE_MAX * max(1, len(self.fleet.nodes) / 32), "the machine spins"
        assert machine.deadline() >= now, (machine.deadline(), now)
        assert machine.deadline() <= now + 1.001
        assert len(machine.prober.links) <= 64 + len(self.pipes)
        for earlier, later in pairwise(actions):
            if isinstance(later, PublishLease) and later.lease.inc != self.disk_inc:
                assert earlier == PersistIncarnation(later.lease.inc), actions

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

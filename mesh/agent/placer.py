"""Carries out what `core/placement.py` decides: says claims, has instances started and stopped, holds leases.

Actions are carried out one after the other by one task, in their order: a claim is on disk before the
instance that it is for is started. Claims that are said together share a commit.

The order of an end is: deregister the service, let connections that stand finish for a moment, stop the
instance, and only then take the claim back.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import trio

from mesh.agent.author import Statement
from mesh.agent.beside import Beside
from mesh.agent.clocked import Clocked
from mesh.agent.drive import Drive
from mesh.agent.events import Events
from mesh.agent.exposing import Exposed
from mesh.agent.insist import attempt, insist
from mesh.agent.instances import Status
from mesh.agent.lasting import lasting, sparing
from mesh.agent.launching import launch_of, seat_named
from mesh.agent.leases import Leases
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.offering import Offering
from mesh.agent.orders import Orders
from mesh.agent.ports import Ports
from mesh.agent.secret import Secrets
from mesh.agent.sites import Sites
from mesh.agent.supervisor import Supervisor
from mesh.agent.table import Table
from mesh.agent.tenure import Tenure
from mesh.agent.turnover import Turnover
from mesh.agent.twice import Twice
from mesh.core import placing
from mesh.core.bluegreen import COLOURS
from mesh.core.claims import Claim, Seat, claim_path, decode_claim, encode, seat_of
from mesh.core.clock import unix_ms_of
from mesh.core.placement import Placement
from mesh.core.placing import AnyEvent, ClaimsSaid
from mesh.core.record import MESH, Kind, Op, Record
from mesh.core.rivals import Overlap
from mesh.core.seating import Spec
from mesh.core.secret import Readers
from mesh.core.vitals import StateChanged
from mesh.core.workload import CLAIM_PREFIX, LEASE_S
from mesh.errors import MeshError, PeerError
from mesh.runtimes.base import Launch
from mesh.store.store import Change

log = logging.getLogger(__name__)

SETTLE_S, SETTLE_S_MAX = 1.0, 10.0
LINGER_S = 0.3
MOVE_S, LEAVE_S = 8.0, 30.0


class Placer:
    """Placement on one node.

    Attributes:
        runs: (gen, epoch) of each instance that is to run here.
    """

    def __init__(
        self,
        node: Node,
        table: Table,
        members: Members,
        events: Events,
        offered: Offering,
        leases: Leases,
        supervisor: Supervisor,
        orders: Orders,
        secrets: Secrets,
    ) -> None:
        self._node = node
        self._table = table
        self._events = events
        self.name_of = table.name_of
        self.supervisor = supervisor
        self.orders = orders
        self._secrets = secrets
        self._readers: dict[str, Readers] = {}
        self.sites = Sites(node, table, members, supervisor.kinds(), self.give)
        self.machine = Placement(placing.Config(), node.me, self.sites.life_ms)
        self._drive = Drive(Clocked(self.machine, node.now_ms), self._queue)
        self.exposed = Exposed(offered, self._ready)
        self.runs: dict[Seat, tuple[int, int]] = {}
        self._ports = Ports(node)
        self._turnover = Turnover(self.exposed.remove, self._spawn, self._want, LINGER_S)
        self.beside = Beside(orders, self.exposed, self._expose_as, self._spawn, self._want, LINGER_S)
        self.twice = Twice(node)
        self._todo: deque[placing.Action] = deque()
        self._news = trio.Event()
        self._tenure = Tenure(node, leases, supervisor, self.dyed, self.give)
        self._stopping: set[Seat] = set()
        self._over: set[Seat] = set()
        self._started = False
        self._incarnation = node.vitality.machine.incarnation
        self._linked = trio.Event()
        self._heard_at = trio.current_time()
        node.store.add_listener(self._changed)
        node.on_state.append(self._state_changed)
        node.on_members.append(self._members_changed)
        node.on_link.append(lambda session: self._met())
        supervisor.on_change.append(self._supervised)
        orders.on_change.append(self._ordered)
        secrets.on_change.append(self._sealed)

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self.supervisor.run)
            await attempt(self._nursery, self.sites.say)
            self._started = True
            self._load()
            self._want()
            task_status.started()
            self._nursery.start_soon(self._drive.run)
            self._nursery.start_soon(self._work)
            self._nursery.start_soon(self._settle)
            self._nursery.start_soon(lasting, self.exposed.run)
            self._nursery.start_soon(lasting, self.twice.run)
            await lasting(self.sites.keep_fresh)

    def _load(self) -> None:
        """Everything that the store holds, and what still runs here."""
        self.sites.load()
        self.give(placing.RulesSaid(self.orders.rules()))
        self._sealed()
        self.give(placing.SpecsSaid(dict(self.orders.specs())))
        claims = self._claims_below("")
        mine = {seat: claim for aid, seat, claim in claims if aid == self._node.me and claim is not None}
        there = {seat_named(running.instance): running.over for running in self.supervisor.adopted()}
        here = {seat for seat in mine if self.dyed(seat) in there}
        over = {seat for seat in here if there[self.dyed(seat)]}
        jobs = {name for name, spec in self.orders.specs().items() if spec.workload.restart != "always"}
        self._over = {seat for seat in over if seat.name in jobs}
        self.runs |= {seat: (mine[seat].gen, mine[seat].epoch) for seat in here - over | self._over}
        self.give(placing.Found(frozenset(here - over)))
        self.give(ClaimsSaid(tuple(claims)))
        self._secrets.look()

    def _claims_below(self, owner: str) -> list[tuple[bytes, Seat, Claim | None]]:
        """What the store holds of a node's claims, or of all."""
        with self._node.store.read(MESH) as slots:
            prefix = f"{CLAIM_PREFIX}{owner}"
            records = [rec for path in slots.paths(prefix) for rec in slots.slots(path)]
        return [claimed for rec in records if (claimed := self._claim_of(rec)) is not None]

    async def _settle(self) -> None:
        """Wait until what the others know has come in; for a while only, if nobody is in reach."""
        if any(aid != self._node.me for aid in self._node.directory.members()):
            with trio.move_on_after(self._node.config.workloads.alone_s):
                if not self._node.links.sessions:
                    await self._linked.wait()
            with trio.move_on_after(SETTLE_S_MAX):
                while self._node.links.sessions and trio.current_time() < self._heard_at + SETTLE_S:
                    await trio.sleep_until(self._heard_at + SETTLE_S)
        self.give(placing.Settled())

    async def leave(self) -> None:
        """This node leaves the mesh: its work goes elsewhere first, and nothing is left running."""
        await self.sites.close()
        with trio.move_on_after(MOVE_S):
            while self.runs:
                await trio.sleep(0.05)
        await self.supervisor.close(LEAVE_S)

    @staticmethod
    def now() -> float:
        """The clock of placement."""
        return trio.current_time()

    def _met(self) -> None:
        self._linked.set()
        self._heard_at = trio.current_time()

    # -- what comes in ----------------------------------------------------------------------------------

    def give(self, event: AnyEvent) -> None:
        """An event for placement."""
        if self._started:
            self._drive.handle(event)

    def _changed(self, changes: list[Change]) -> None:
        if any(change.scope == MESH and change.aid != self._node.me for change in changes):
            self._heard_at = trio.current_time()
        if not self._started:
            return
        self.sites.changed(changes)
        if any(change.path.startswith("order/") for change in changes):
            self._nursery.start_soon(sparing, self.sites.say_changes)
        claims = []
        for change in changes:
            if change.scope == MESH and change.path.startswith(CLAIM_PREFIX) and change.aid != self._node.me:
                found = self._claim_at(change)
                if found is not None:
                    claims.append(found)
        if claims:
            self._doubt()
            self.give(ClaimsSaid(tuple(claims)))

    def _claim_at(self, change: Change) -> tuple[bytes, Seat, Claim | None] | None:
        if change.record is not None:
            return self._claim_of(change.record)
        try:
            aid, seat = seat_of(change.path)
        except PeerError:
            return None
        return (aid, seat, None) if aid == change.aid else None

    def _claim_of(self, rec: Record) -> tuple[bytes, Seat, Claim | None] | None:
        """What a record at `claim/` says, if it counts."""
        try:
            aid, seat = seat_of(rec.path)
            if aid != rec.aid or rec.kind != Kind.ALL:
                return None
            counts = rec.op == Op.PUT and self._node.view.counts(rec)
            return aid, seat, decode_claim(rec.val, unix_ms_of(rec.hlc)) if counts else None
        except PeerError as error:
            self._node.alarm("claim", rec.aid, error.message)
            return None

    def _doubt(self) -> None:
        """Our incarnation rises when somebody took us for dead."""
        now = self._node.vitality.machine.incarnation
        if now != self._incarnation:
            self._incarnation = now
            self.give(placing.Doubted())

    def _state_changed(self, change: StateChanged) -> None:
        if self._started:
            self._doubt()
            self.sites.state_changed(change)

    def _members_changed(self, joined: list[bytes], gone: list[bytes]) -> None:
        if self._started:
            self.sites.members_changed(joined, gone)
            claims = [
                each for aid in joined if aid != self._node.me for each in self._claims_below(aid.hex())
            ]
            if claims:
                self.give(ClaimsSaid(tuple(claims)))

    def _ordered(self, specs: dict[str, Spec | None], rules: bool) -> None:
        if rules:
            self.give(placing.RulesSaid(self.orders.rules()))
        if specs:
            self.give(placing.SpecsSaid(specs))
            self._news.set()  # what is to run beside may be another

    def _sealed(self) -> None:
        """It may be others who can open a secret."""
        if self._started and (found := self._secrets.readers()) != self._readers:
            self._readers = found
            self.give(placing.SecretsSaid(found))

    def _supervised(self, status: Status) -> None:
        """What became of an instance here."""
        named = seat_named(status.instance)
        if named is None:
            return
        seat = named.dyed("")
        wanted, spec = self.runs.get(seat), self.orders.specs().get(seat.name)
        if status.state == "gone" and seat in self._stopping:
            self._stopped(seat)
        elif spec is not None and spec.colour != named.colour:
            self.beside.supervised(named, status)
        elif wanted is None or status.epoch != wanted[1] or seat in self._stopping:
            return
        elif status.state == "running":
            self._expose(seat)
        elif status.state == "backoff" and seat in self._over:
            self.runs.pop(seat)  # it ended before our start, and may be somebody else's by now
            self._want()
        elif status.state == "backoff":
            self._nursery.start_soon(insist, self.exposed.remove, named)
            if not status.lapsed:  # without a lease nothing is told of the node by an end
                self.give(placing.Failed(seat, status.message))
        elif status.state == "exited" or (
            status.state == "failed"
            and spec is not None
            and spec.workload.restart == "never"
            and (status.starts or status.lapsed)
        ):
            self.give(placing.Ended(seat, status.message))
        elif status.state == "failed":
            self.give(placing.Failed(seat, status.message, fatal=True))

    def _expose(self, seat: Seat) -> None:
        spec = self.orders.specs().get(seat.name)
        if spec is not None:
            self._expose_as(seat.dyed(spec.colour), spec)

    def _expose_as(self, seat: Seat, spec: Spec) -> None:
        self.exposed.add(seat, spec.workload, spec.gen, self._ports_of(seat, spec))

    def _spawn(self, task: Callable[[Seat], Awaitable[object]], seat: Seat) -> None:
        self._nursery.start_soon(task, seat)

    def _ready(self, seat: Seat) -> None:
        """It runs, and its checks have passed."""
        if seat == self.dyed(seat):
            self.give(placing.Ran(seat.dyed("")))

    def dyed(self, seat: Seat) -> Seat:
        """A seat in the colour of what holds it."""
        spec = self.orders.specs().get(seat.name)
        return seat.dyed(spec.colour) if spec is not None else seat

    # -- what goes out ----------------------------------------------------------------------------------

    def _queue(self, action: placing.Action) -> None:
        self._todo.append(action)
        self._news.set()

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._todo:
                if isinstance(self._todo[0], placing.Say):
                    await self._say()
                else:
                    self._act(self._todo.popleft())
            self._want()

    async def _say(self) -> None:
        """All claims at the head of the queue in one commit; what follows them waits for it."""
        batch: dict[Seat, Claim | None] = {}
        while self._todo and isinstance(action := self._todo[0], placing.Say | placing.Tell):
            self._todo.popleft()
            if isinstance(action, placing.Tell):
                self._tell(action)
            else:
                batch[action.seat] = action.claim
        statements = [
            Statement(claim_path(self._node.me, seat), Kind.ALL, None, Op.DEL)
            if claim is None
            else Statement(claim_path(self._node.me, seat), Kind.ALL, encode(claim))
            for seat, claim in batch.items()
        ]
        try:
            await self._node.author.say(MESH, lambda _: statements)
        except MeshError as error:
            self._node.alarm("workloads", self._node.me, f"claims cannot be said: {error.message}")

    def _act(self, action: placing.Action) -> None:
        match action:
            case placing.Run(seat=seat, gen=gen, epoch=epoch):
                dyed = self.dyed(seat)
                status, before = self.supervisor.state(str(dyed)), self.runs.get(seat)
                self.runs[seat] = (gen, epoch)
                self._over.discard(seat)
                same = before == (gen, epoch) or self.beside.risen(dyed, gen, epoch)
                if same and status is not None:
                    self._supervised(status)  # it runs like this already, and nothing will tell us again
            case placing.Stop(seat=seat, why=why):
                self._nursery.start_soon(self._stop, seat, why)
            case placing.Acquire(seat=seat, voters=voters):
                spec = self.orders.specs().get(seat.name)
                lease_s = spec.workload.lease_s if spec is not None else LEASE_S
                self._nursery.start_soon(self._tenure.hold, seat, voters, lease_s)
            case placing.Release(seat=seat):
                self._nursery.start_soon(insist, self._tenure.release, seat)
            case placing.Tell():
                self._tell(action)
            case _:
                raise AssertionError(action)

    def _tell(self, tell: placing.Tell) -> None:
        seat, names = tell.seat, [self._table.name_of(aid) for aid in tell.nodes]
        text = f"{seat}: {tell.text}" + (f" ({', '.join(names)})" if names else "")
        if tell.kind == "duplicate":
            self.twice.told(Overlap(self._node.now_ms(), seat, tell.nodes, tell.seconds))
            text += f" for {tell.seconds:.1f} s"
        log.info("%s", text)
        aid = tell.nodes[0] if tell.nodes else self._node.me
        self._events.tell(
            f"workload_{tell.kind}",
            text,
            aid=aid,
            workload=seat.name,
            instance=str(seat),
            seconds=tell.seconds,
        )

    # -- instances --------------------------------------------------------------------------------------

    def _want(self) -> None:
        """Tell the supervisor what is to run here."""
        launches = {}
        for seat in sorted(self.runs):
            spec = self.orders.specs().get(seat.name)
            if spec is not None:
                dyed = seat.dyed(spec.colour)
                launches[dyed] = self._launch(dyed, spec, self.runs[seat][1])
        for seat, (spec, epoch) in self.beside.launches(self.runs).items():
            launches[seat] = self._launch(seat, spec, epoch)
        self.supervisor.want(self._turnover.gently(launches))

    def _launch(self, seat: Seat, spec: Spec, epoch: int) -> Launch:
        ports, until_s = self._ports_of(seat, spec), self._tenure.until(seat.dyed(""))
        return launch_of(seat, spec, epoch, ports, self._node.home.name, until_boot_s=until_s)

    async def _stop(self, seat: Seat, why: str) -> None:
        log.info("%s stops: %s", seat, why)
        if any([await self.exposed.remove(seat.dyed(colour)) for colour in COLOURS]):
            await trio.sleep(LINGER_S)
        self.runs.pop(seat, None)
        self._stopping.add(seat)
        self._want()
        self._stopped(seat)

    def _stopped(self, seat: Seat) -> None:
        """Give it back once nothing of it is there, in whatever colour."""
        if seat in self._stopping and all(
            self.supervisor.state(str(seat.dyed(colour))) is None for colour in COLOURS
        ):
            self._stopping.discard(seat)
            self.give(placing.Stopped(seat))

    def _ports_of(self, seat: Seat, spec: Spec) -> Mapping[str, int]:
        found, news = self._ports.of(seat, spec.workload)
        if news:
            kept = [seat.dyed(colour) for seat in self.runs for colour in COLOURS]
            self._nursery.start_soon(insist, self._ports.keep, kept)
        return found

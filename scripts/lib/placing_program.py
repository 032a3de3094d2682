"""One agent in a mesh with many workloads: `placing_program.py FOLDER NODES WORKLOADS IDLE_S DEATHS`.

The agent is whole: its node with a real store, all features, the records of everybody in it, each signed by
its author; there is one workload for each instance, spread over all nodes, a share on the agent itself. Two
things are not there: a network, so what the other nodes say is given to the store and to liveness as a link's
records are, and processes: its instances are started by a runtime that only says that they run.

Nothing happens for IDLE_S: for what an idle agent costs, and because a node that is up for less than a minute
takes nothing that others may. Then nodes die one after the other, each by the word of all its monitors, as it
follows a `kill -9`. `decided` is the time from the verdict to the end of all that it makes the agent do at
once, `claimed` to what it claims being on the disk, `heard` what it takes to hear that others claimed
the rest. Prints a line of JSON.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import trio

from mesh.agent.card import member_path
from mesh.agent.features import Features
from mesh.agent.node import Node
from mesh.config import Config, Discovery, Membership, Metrics, Store, Workloads
from mesh.core import lease, record, sync
from mesh.core.claims import Claim, Offer, Seat, Stage, claim_path, encode, offer_path
from mesh.core.record import LIVE, MESH, Kind, Record
from mesh.core.vitals import State, StateChanged
from mesh.core.workload import CLAIM_PREFIX, PREFIX
from mesh.identity import certs, home
from mesh.identity.keys import NodeKey
from mesh.net.base import Admission
from mesh.net.memory import MemoryHost, Switchboard
from mesh.observe.logs import Faults
from mesh.runtimes import process
from mesh.runtimes.base import Exit, Launch, Line, Usage
from mesh.store.store import Change, Txn
from mesh.store.store import Store as Disk

SPEC = {"command": ["/bin/sleep", "100000"], "recovery_after_s": 0}
CPU, MEMORY = 128.0, 512 << 30
AGE_MS = 3_600_000
QUIET_S = 3600.0
CALM_S = 0.5
CONFIG = Config(
    store=Store(map_bytes=256 << 20, ballast_bytes=0),
    discovery=Discovery(mdns=False),
    # Nobody is there to be probed, and nobody renews a lease: only what is said counts.
    membership=Membership(profile="local", probe_interval_s=QUIET_S, lease_s=QUIET_S),
    metrics=Metrics(interval_s=QUIET_S),
    workloads=Workloads(max_instances=0, cpu_cores=CPU, memory_bytes=MEMORY, alone_s=0.1),
)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Mute:
    """An instance that runs for ever."""

    over, notes = False, ()

    def __init__(self, launch: Launch) -> None:
        self.instance, self.epoch, self.digest = launch.instance, launch.epoch, launch.digest
        self._end = trio.Event()

    async def wait(self) -> Exit:
        await self._end.wait()
        return Exit(code=0, asked=True)

    async def stop(self, grace_s: float | None = None) -> Exit:
        self._end.set()
        return Exit(code=0, asked=True)

    async def usage(self, *, storage: bool = False) -> Usage:
        return Usage()

    def renew(self, deadline_s: float) -> None:
        """It has no deadline."""


class Mutes:
    """A runtime that starts nothing."""

    def __init__(self, *_: object) -> None:
        pass

    async def start(self, launch: Launch) -> Mute:
        return Mute(launch)

    async def adopt(self) -> list[Mute]:
        return []

    async def logs(self, instance: str, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
        for line in list[Line]():
            yield line

    async def forget(self, instance: str, *, keep_data: bool) -> None:
        """Nothing is left of it."""


class Voice:
    """A member as far as it speaks: it signs what it says, each time a little later."""

    def __init__(self, made: home.Home, key: NodeKey) -> None:
        self.key, self.aid = key, key.aid
        self._mesh_id = made.mesh.mesh_id
        self._hlc = 0

    def sign(self, at_ms: int, scope: str, path: str, value: Any, kind: Kind = Kind.ALL) -> Record:
        self._hlc = max(self._hlc + 1, at_ms << 16)
        tag = record.scope_tag(scope, certs.DEFAULT_ZONE)
        return record.sign(
            self.key.secret,
            self._mesh_id,
            tag,
            path=path,
            kind=kind,
            hlc=self._hlc,
            ttl=int(QUIET_S * 1000) if scope == LIVE else None,
            val=value,
        )

    def chain(self, made: home.Home, name: str, now_ms: int) -> bytes:
        """Its certificate, by the first admin."""
        assert made.authority is not None
        return certs.issue(
            made.key,
            made.authority.data,
            made.mesh,
            public=self.key.public,
            name=name,
            nbf_ms=now_ms,
            exp_ms=now_ms + certs.DAY_MS,
        )


class Mesh:
    """The mesh as it was an hour before: the first node is the one that will be measured.

    Args:
        count: nodes, the first among them.
    """

    def __init__(self, folder: Path, count: int, workloads: int) -> None:
        self.begun_ms = wall_ms() - AGE_MS
        self.home = home.create_mesh(folder / "n0", "n0", "bench", now_ms=self.begun_ms)
        keys = [NodeKey.from_seed(number.to_bytes(32, "big")) for number in range(1, count)]
        self.voices = [Voice(self.home, key) for key in (self.home.key, *keys)]
        self.seats = [Seat(f"w{number:05}", 0) for number in range(workloads)]

    def claim(self, owner: Voice, epoch: int) -> Claim:
        """One that runs."""
        return Claim(1, epoch, Stage.RUN, self.begun_ms, self.begun_ms, owner.aid)

    def records(self, number: int) -> list[Record]:
        """What a node has said."""
        voice = self.voices[number]
        sign = partial(voice.sign, self.begun_ms, MESH)
        said = []
        if number == 0:
            for seat in self.seats:
                value = {"gen": 1, "at": self.begun_ms, "spec": {"name": seat.name, **SPEC}}
                said.append(sign(PREFIX + seat.name, value, Kind.REG))
        else:
            card = {"cpu_cores": CPU, "memory_bytes": MEMORY}
            chain = voice.chain(self.home, f"n{number}", self.begun_ms)
            said.append(sign(member_path(voice.aid), {"cert": chain, "addr": [], "card": card}))
            offer = encode(Offer(self.begun_ms, runtimes=("process",), cpu=CPU, memory=float(MEMORY)))
            said.append(sign(offer_path(voice.aid), offer))
        claim = encode(self.claim(voice, self.begun_ms // 1000))
        said += [sign(claim_path(voice.aid, seat), claim) for seat in self.seats[number :: len(self.voices)]]
        return said

    async def fill(self) -> None:
        """Put it all into the store of the first node."""
        made = self.home
        disk = Disk.open(made.store, mesh_id=made.mesh.mesh_id, zone=made.cert.zone, settings=CONFIG.store)
        async with trio.open_nursery() as nursery:
            await nursery.start(disk.run)
            for number in range(len(self.voices)):
                await disk.write(partial(write_all, self.records(number)))
            nursery.cancel_scope.cancel()
        disk.close()


def write_all(records: Sequence[Record], txn: Txn) -> Generator[None, None, None]:
    """Others' records, whose signatures were verified, into the log of the mesh, in order."""
    for number, rec in enumerate(records, 1):
        sync.write(txn.log(MESH), rec)
        if number % 16 == 0:
            yield


class Agent:
    """The agent under the measurement, and what the others say to it."""

    def __init__(self, mesh: Mesh, node: Node, features: Features) -> None:
        self.mesh, self.node = mesh, node
        self.placer = features.placed.placer
        self._verdict_at = self._decided_at = self._claimed_at = 0.0
        self._spent_s, self._claims = 0.0, 0
        node.on_state.insert(0, self._judged)
        node.on_state.append(self._decided)
        node.store.add_listener(self._committed)

    def _judged(self, change: StateChanged) -> None:
        if change.new == State.DEAD:
            self._claimed_at = 0.0
            self._verdict_at, self._spent_s = time.perf_counter(), -time.thread_time()

    def _decided(self, change: StateChanged) -> None:
        if change.new == State.DEAD:
            self._decided_at, self._spent_s = time.perf_counter(), self._spent_s + time.thread_time()

    def _committed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.aid == self.node.me and change.path.startswith(CLAIM_PREFIX):
                self._claims += 1
                self._claimed_at = self._claimed_at or time.perf_counter()

    def runs(self) -> int:
        """Instances that run here, by our own word."""
        machine = self.placer.machine
        seats = machine.table.seats_of.get(self.node.me, ())
        return sum(machine.table.runs(self.node.me, machine.table.claims[it][self.node.me]) for it in seats)

    async def quiet(self) -> None:
        """Wait until it has nothing to say."""
        said = -1
        while said != (said := self._claims):
            await trio.sleep(CALM_S)

    def hear_all(self) -> None:
        """A lease of everybody."""
        for voice in self.mesh.voices[1:]:
            up = lease.encode_lease(lease.Lease(1, lease.Status.UP))
            self.node.store.write_live([voice.sign(wall_ms(), LIVE, lease.path_of(voice.aid), up)])

    async def lose(self, victim: Voice) -> dict[str, float]:
        """One dies."""
        board = self.node.vitality.machine.board
        before = self.runs()
        seats = sorted(self.placer.machine.table.seats_of[victim.aid])
        charge = lease.encode_accusation(lease.Accusation(1, lease.Evidence.GONE))
        for voice in self.mesh.voices[1:]:
            if voice.aid in board.monitors(victim.aid):
                rec = voice.sign(wall_ms(), LIVE, lease.path_of(victim.aid), charge)
                self.node.store.write_live([rec])
        while board.members[victim.aid].state != State.DEAD:
            await trio.sleep(0.001)
        await self.quiet()
        heard_s = await self._others_claim(seats)
        await self.quiet()
        return {
            "seats": len(seats),
            "taken": self.runs() - before,
            "decided_ms": (self._decided_at - self._verdict_at) * 1000,
            "processor_ms": self._spent_s * 1000,
            "claimed_ms": (self._claimed_at - self._verdict_at) * 1000,
            "heard_ms": heard_s * 1000,
        }

    async def _others_claim(self, seats: Sequence[Seat]) -> float:
        """The rest of the seats is claimed by the others in turn; processor seconds that hearing it takes."""
        table, now_ms = self.placer.machine.table, wall_ms()
        alive = [voice for voice in self.mesh.voices[1:] if table.standing(voice.aid) == "alive"]
        said: dict[bytes, list[Record]] = {voice.aid: [] for voice in alive}
        for number, seat in enumerate(seats):
            if self.node.me not in table.claims[seat]:
                voice = alive[number % len(alive)]
                claim = encode(self.mesh.claim(voice, now_ms // 1000))
                said[voice.aid].append(voice.sign(now_ms, MESH, claim_path(voice.aid, seat), claim))
        begun = time.process_time()
        for records in said.values():
            await self.node.store.write(partial(write_all, records))
        return time.process_time() - begun


async def measure(folder: Path, nodes: int, workloads: int, idle_s: float, deaths: int) -> dict[str, Any]:
    """All figures of one run."""
    mesh = Mesh(folder, nodes, workloads)
    await mesh.fill()
    process.Processes = Mutes  # type: ignore[assignment, misc]
    board = Switchboard(random.Random(1))
    begun = time.process_time()
    node = Node(mesh.home, CONFIG, lambda node: (MemoryHost(board, node.key, gate=no_one), None))
    features = Features(node, Silence())
    agent = Agent(mesh, node, features)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        await nursery.start(features.run)
        started_s = time.process_time() - begun
        gc.freeze()
        agent.hear_all()
        while agent.runs() < len(mesh.seats[::nodes]):
            await trio.sleep(0.05)
        begun, spent = time.perf_counter(), time.process_time()
        await trio.sleep(max(0.0, idle_s))
        idle = (time.process_time() - spent) / (time.perf_counter() - begun) * 100
        running = agent.runs()
        rounds = [await agent.lose(victim) for victim in strangers(agent)[:deaths]]
        nursery.cancel_scope.cancel()
    mib = psutil.Process().memory_info().rss / 2**20
    return {"started_s": started_s, "running": running, "idle": idle, "mib": mib, "deaths": rounds}


def strangers(agent: Agent) -> list[Voice]:
    """Those whose death others judge: we have no links, and would have to see it ourselves."""
    board = agent.node.vitality.machine.board
    return [voice for voice in agent.mesh.voices[1:] if agent.node.me not in board.monitors(voice.aid)]


def no_one(public: bytes, ip: str) -> Admission:
    """There is nobody to come."""
    return Admission.REFUSED


class Silence:
    """Where the agent logs to."""

    level, recent, faults = "error", list[str](), Faults()

    def set_level(self, level: str) -> str:
        return self.level


if __name__ == "__main__":
    words = sys.argv[1:]
    sizes = Path(words[0]), int(words[1]), int(words[2]), float(words[3]), int(words[4])
    print(json.dumps(trio.run(measure, *sizes)), flush=True)

"""Members come, do what members do, leave and are removed: a node keeps the removal and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from growth import grown, sizes
from nodes import Village, until

from mesh.agent.author import Statement
from mesh.agent.card import member_path
from mesh.agent.features import Features
from mesh.agent.node import Node
from mesh.config import Membership
from mesh.core import lease, record, sync, tidings
from mesh.core.claims import Claim, Offer, Seat, Stage, claim_path, encode, offer_path
from mesh.core.record import LIVE, MESH, ZONE, Kind, Record
from mesh.core.registry import parse, path_of, value_of
from mesh.core.vitals import State
from mesh.identity import certs
from mesh.identity.keys import NodeKey
from mesh.observe.logs import Faults
from mesh.store.store import Txn

WARM, MORE = 4, 12
TTL_MS = 600_000
# What a removal is: it counts for ever, so that a removed key never comes back (`core/evidence.py`).
KEPT = ("node.directory.evidence.", "node.directory._found.")
BOUNDED = (
    "features.events._ring",
    "features._traffic._registry.changes._ring",
    "features.offered.registry.changes._ring",
    "node.links.fail",  # and what was dialled in vain lately
    "node.spread._unknown",
    "node.spread.machine.digests[]._shares",  # 256 buckets
    "node.spread.machine.links[].open",  # of these in each scope
    "node.store.live._slots[].val",  # whom we saw a moment ago
)


class Logs:
    level, recent = "error", list[str]()

    def __init__(self) -> None:
        self.faults = Faults()

    def set_level(self, level: str) -> str:
        return self.level


class Guest:
    """A member as far as others see it: what it says, given to a node as if a link had brought it."""

    def __init__(self, host: Node, number: int) -> None:
        self.node = host
        self.key = NodeKey.from_seed(number.to_bytes(32, "big"))
        self.aid, self.name = self.key.aid, f"guest{number}"
        self._hlc = 0
        now_ms = host.now_ms()
        assert host.home.authority is not None
        self.chain = certs.issue(
            host.key,
            host.home.authority.data,
            host.home.mesh,
            public=self.key.public,
            name=self.name,
            nbf_ms=now_ms,
            exp_ms=now_ms + 60 * certs.DAY_MS,
        )

    def _sign(self, scope: str, path: str, value: Any, kind: int = Kind.ALL) -> Record:
        self._hlc = max(self._hlc + 1, self.node.now_ms() << 16)
        return record.sign(
            self.key.secret,
            self.node.mesh_id,
            record.scope_tag(scope, self.node.zone),
            path=path,
            kind=kind,
            hlc=self._hlc,
            ttl=TTL_MS if scope == LIVE else None,
            val=value,
        )

    async def come(self) -> None:
        """Its card, an offer, a claim, a service, a value, a counter; then its lease and whom it sees."""
        life = self.node.now_ms()
        service = parse({"name": "web", "port": 80}).service(self.key.public, self.node.zone)
        card = {"cert": self.chain, "addr": [], "card": {"cpu_cores": 4.0}}
        claim = Claim(1, 1, Stage.RUN, life, life, self.aid)
        await self._give(MESH, self._sign(MESH, member_path(self.aid), card))
        await self._give(
            MESH,
            self._sign(MESH, offer_path(self.aid), encode(Offer(life, runtimes=("process",)))),
            self._sign(MESH, claim_path(self.aid, Seat("web", 0)), encode(claim)),
            self._sign(MESH, "kv/shared", self.name, Kind.REG),
            self._sign(MESH, "counter/visits", [1, 0], Kind.CTR),
        )
        await self._give(ZONE, self._sign(ZONE, path_of(service), value_of(service)))
        self.says(lease.Status.UP)
        self._live(f"sight/{self.aid.hex()}", {self.node.me: 100})

    async def _give(self, scope: str, *records: Record) -> None:
        def job(txn: Txn) -> None:
            for rec in records:
                sync.write(txn.log(scope), rec)

        await self.node.store.write(job)
        self._told(scope)

    def _told(self, scope: str) -> None:
        state = self.node.store.author(scope, self.aid)
        self.node.spread.drive.handle(tidings.Applied(None, scope, self.aid, state, dirty=True))

    def _live(self, path: str, value: Any) -> None:
        self.node.store.write_live([self._sign(LIVE, path, value)])
        self._told(LIVE)

    def says(self, status: lease.Status) -> None:
        self._live(lease.path_of(self.aid), lease.encode_lease(lease.Lease(1, status)))


class Houses:
    """Two linked nodes; guests come to the first, which is an admin and has all features."""

    def __init__(self, nodes: list[Node], features: Features) -> None:
        self.nodes, self.features = nodes, features
        self._count = 0

    async def entertain(self, count: int) -> None:
        """So many guests are there together, and then no more."""
        first, second = self.nodes
        guests = []
        for _ in range(count):
            self._count += 1
            guests.append(Guest(first, self._count))
            await guests[-1].come()
        everyone = {guest.aid for guest in guests}
        await until(lambda: everyone <= _members(first) & _members(second))
        for guest in guests:
            await self.features.members.label(guest.key.peer_id, {"room": "blue"})
            guest.says(lease.Status.LEFT)
        await until(lambda: everyone <= _members(first, State.LEFT))
        for guest in guests:
            await self.features.certs.remove(guest.aid, "the visit is over")
        await until(lambda: all(not everyone & _authors(node) for node in self.nodes))
        await until(lambda: _roots(first) == _roots(second))

    def sizes(self) -> list[Any]:
        first, second = self.nodes
        return [sizes(node=first, features=self.features), sizes(node=second)]


def _members(node: Node, state: State | None = None) -> set[bytes]:
    found = node.vitality.machine.board.members
    return {aid for aid, member in found.items() if state in (None, member.state)}


def _authors(node: Node) -> set[bytes]:
    found: set[bytes] = set()
    for scope in (MESH, ZONE):
        with node.store.read(scope) as slots:
            found |= {aid for aid, _ in slots.authors()}
        found |= set(node.spread.machine.heads[scope])
    return found


def _roots(node: Node) -> list[bytes]:
    return [node.spread.machine.root(scope) for scope in (MESH, ZONE)]


@pytest.fixture
async def houses(village: Village, nursery: trio.Nursery) -> Houses:
    # Guests answer no probe, and are not to be missed.
    quiet = Membership(profile="local", probe_interval_s=3600.0, lease_s=600.0)
    village.config = msgspec.structs.replace(village.config, membership=quiet)
    nodes = await village.settle(2)
    features = Features(nodes[0], Logs())
    await nursery.start(features.run)
    order = {"gen": 1, "at": 1, "spec": {"name": "web", "command": ["/bin/true"], "selector": "none=here"}}
    await nodes[0].author.say(MESH, lambda _: [Statement("wl/web", Kind.REG, order)])
    return Houses(nodes, features)


def _counted(path: str) -> bool:
    return not path.startswith((*KEPT, *BOUNDED)) and not path.endswith(".counts")


async def test_what_is_kept_of_members_that_were_removed_is_their_removal(houses: Houses) -> None:
    await houses.entertain(WARM)
    before = houses.sizes()
    await houses.entertain(MORE)
    with trio.move_on_after(60):  # what is under way is no leak
        while any(_leaks(houses, before)):
            await trio.sleep(0.5)
    assert _leaks(houses, before) == [[], []]
    for node in houses.nodes:
        assert _authors(node) == {each.me for each in houses.nodes}
        assert len(node.directory.evidence.removals) == WARM + MORE


def _leaks(houses: Houses, before: list[Any]) -> list[list[str]]:
    found = zip(before, houses.sizes(), strict=True)
    return [list(filter(_counted, grown(old, new, by=MORE))) for old, new in found]

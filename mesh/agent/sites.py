"""Nodes as places for workloads: everybody's offer, card, labels and standing, as placement is told of them.

An offer is a record at `offer/<aid>` that each node says at its start and when it is cordoned or drained. It
holds what the device's own configuration lets run (`[workloads]`), which has the last word there.

A node that finds itself doubled closes its own offer, so that all come to the same order: nothing new runs
there while its key is seen in two processes, or while another that was let in before it and is up has its
name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from mesh.agent.author import Statement
from mesh.agent.forks import CLONE
from mesh.agent.insist import insist
from mesh.agent.lasting import sparing
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.table import Table
from mesh.core.candidates import Site
from mesh.core.claims import OFFER_PREFIX, Offer, decode_offer, encode, offer_path, owner_of_offer
from mesh.core.lease import Status
from mesh.core.log import Log
from mesh.core.placing import AnyEvent, SitesSaid, StandingSaid
from mesh.core.record import MESH, Kind, Op
from mesh.core.seating import Standing
from mesh.core.vitals import State, StateChanged
from mesh.errors import PeerError
from mesh.store.store import Change

REFRESH_S = 30.0
ABOUT = (OFFER_PREFIX, "member/", "order/")
STANDINGS: dict[State, Standing] = {
    State.ALIVE: "alive",
    State.SUSPECT: "alive",
    State.DEAD: "dead",
    State.LEFT: "gone",
    State.REGISTERING: "unknown",
}
CARD_WORDS = ("region", "site", "provider", "kind", "arch")


class Sites:
    """What placement knows of nodes.

    Args:
        kinds: the runtimes that this node has.
        give: takes events for placement.

    Attributes:
        life_ms: names this life of the agent.
    """

    def __init__(
        self,
        node: Node,
        table: Table,
        members: Members,
        kinds: tuple[str, ...],
        give: Callable[[AnyEvent], None],
    ) -> None:
        self._kinds = kinds
        self._closed = False
        self._node = node
        self._table = table
        self._members = members
        self._give = give
        self._offers: dict[bytes, Offer] = {}
        self._regions: dict[str, str] = {}
        self._said: dict[bytes, Site] = {}
        held = self._stored(node.me)
        self.life_ms = max(node.now_ms(), held.life + 1 if held is not None else 0)
        self._offers[node.me] = self._own()
        node.on_alarm.append(self._alarmed)

    # -- our own ----------------------------------------------------------------------------------------

    def _own(self) -> Offer:
        settings = self._node.config.workloads
        return Offer(
            self.life_ms,
            self._status() if settings.enabled and not self._closed else "away",
            self._kinds,
            settings.users,
            settings.dirs,
            settings.max_instances,
            settings.cpu_cores,
            float(settings.memory_bytes),
            float(settings.storage_bytes),
        )

    def _status(self) -> str:
        status = self._node.vitality.status[0]
        return str(status) if status in (Status.CORDON, Status.DRAIN) else self._doubled() or "up"

    def _doubled(self) -> str:
        """In which way this node is not the only one of its kind, or ""."""
        node, directory = self._node, self._node.directory
        if (CLONE, node.me) in node.alarms:
            return "clone"
        namesakes = directory.names().get(node.home.cert.name, [])
        if len(namesakes) < 2 or node.me not in namesakes:
            return ""
        first = min(
            (aid for aid in namesakes if aid in self._table.present()),
            key=lambda aid: (directory.standing(aid).stamp, aid),
        )
        return "" if first == node.me else "namesake"

    async def say(self) -> None:
        """Publish our offer if it is not what the store holds already."""
        offer = self._own()
        value, path = encode(offer), offer_path(self._node.me)

        def build(slots: Log) -> list[Statement]:
            held = [rec for rec in slots.slots(path) if rec.aid == self._node.me and rec.op == Op.PUT]
            return [] if held and held[0].val == value else [Statement(path, Kind.ALL, value)]

        await self._node.author.say(MESH, build)

    async def close(self) -> None:
        """Offer nothing any more."""
        self._closed = True
        if self._note():
            await self.say()

    async def say_changes(self) -> None:
        """Publish our offer when an order or the configuration has changed it."""
        if self._note():
            await insist(self.say)

    def _note(self) -> bool:
        """Whether our offer is another one than before; if so placement knows it from here on."""
        if self._own() == self._offers.get(self._node.me):
            return False
        self._offers[self._node.me] = self._own()
        self._say_sites([self._node.me])
        return True

    # -- everybody's ------------------------------------------------------------------------------------

    def offer(self, aid: bytes) -> Offer | None:
        """What a node offers."""
        return self._offers.get(aid)

    def load(self) -> None:
        """Tell placement everything the store and liveness know now."""
        with self._node.store.read(MESH) as slots:
            paths = list(slots.paths(OFFER_PREFIX))
        for path in paths:
            self._take(path)
        known = {*self._offers, *self._node.directory.members(), self._node.me}
        self._say_sites(known)
        self._give(StandingSaid(self._node.me, "alive"))
        views = self._node.vitality.machine.board.members
        for aid in sorted(known - {self._node.me}):
            member = views.get(aid)
            self._give(StandingSaid(aid, STANDINGS[member.state] if member is not None else "gone"))

    def _stored(self, aid: bytes) -> Offer | None:
        with self._node.store.read(MESH) as slots:
            records = [rec for rec in slots.slots(offer_path(aid)) if rec.aid == aid and rec.op == Op.PUT]
        try:
            return decode_offer(records[0].val) if records and self._node.view.counts(records[0]) else None
        except PeerError as error:
            self._node.alarm("offer", aid, error.message)
            return None

    def _take(self, path: str) -> bytes | None:
        try:
            aid = owner_of_offer(path)
        except PeerError:
            return None
        if aid != self._node.me:
            offer = self._stored(aid)
            if offer is None:
                self._offers.pop(aid, None)
            else:
                self._offers[aid] = offer
        return aid

    def changed(self, changes: Iterable[Change]) -> None:
        """The store changed."""
        aids = set()
        for change in changes:
            if change.scope == MESH and change.path.startswith(ABOUT):
                if change.path.startswith(OFFER_PREFIX):
                    aid = self._take(change.path)
                else:
                    aid = _aid_in(change.path)
                if aid is not None:
                    aids.add(aid)
        if aids:
            self._say_sites(aids)

    def members_changed(self, joined: Iterable[bytes], gone: Iterable[bytes]) -> None:
        """The member table moved. What a new member says may have come before it was known as one."""
        for aid in joined:
            self._take(offer_path(aid))
        self._say_sites(joined)
        for aid in gone:
            self._give(StandingSaid(aid, "gone"))
        for aid in joined:
            member = self._node.vitality.machine.board.members.get(aid)
            state = member.state if member is not None else State.REGISTERING
            self._give(StandingSaid(aid, "alive" if aid == self._node.me else STANDINGS[state]))
            self._met(aid)

    def _met(self, aid: bytes) -> None:
        """A member came, went or fell: one that has our name may close our offer, or open it."""
        if self._table.name_of(aid) == self._node.home.cert.name:
            self._node.nursery.start_soon(sparing, self.say_changes)

    def state_changed(self, change: StateChanged) -> None:
        """Liveness has another view of a member."""
        if change.aid != self._node.me:
            self._say_sites([change.aid])
            self._give(StandingSaid(change.aid, STANDINGS[change.new]))
            self._met(change.aid)

    def _alarmed(self, kind: str, aid: bytes, text: str) -> None:
        if kind == CLONE and aid == self._node.me:
            self._node.nursery.start_soon(sparing, self.say_changes)

    def _say_sites(self, aids: Iterable[bytes]) -> None:
        found: dict[bytes, Site | None] = {}
        for aid in sorted(aids):
            site = self._site(aid)
            if site != self._said.get(aid):
                found[aid] = site
            if site is None:
                self._said.pop(aid, None)
            else:
                self._said[aid] = site
        if found:
            self._give(SitesSaid(found))

    async def keep_fresh(self) -> None:
        """Look again now and then, until cancelled."""
        while True:
            await trio.sleep(REFRESH_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Tell what nobody said: a node has not flapped for long enough, ours is doubled or no longer."""
        self._say_sites(list(self._said))
        await self.say_changes()

    def _site(self, aid: bytes) -> Site | None:
        offer, card = self._offers.get(aid), self._members.card_of(aid)
        labels = dict(self._table.labels_of(aid))
        if offer is None or not labels:
            return None
        words = {word: card[word] for word in CARD_WORDS if isinstance(card.get(word), str) and card[word]}
        labels = {**words, **labels}
        if labels.get("region"):
            self._regions.setdefault(labels["zone"], labels["region"])
        return Site(
            aid,
            offer,
            labels,
            frozenset(card.get("capabilities", ())),
            float(card.get("cpu_cores", 0.0)),
            float(card.get("memory_bytes", 0)),
            float(card.get("storage_bytes", 0)),
            float(card.get("base_latency_ms", 0.0)),
            self._flapping(aid),
            self._regions,
        )

    def _flapping(self, aid: bytes) -> bool:
        board = self._node.vitality.machine.board
        member = board.members.get(aid)
        return (
            aid != self._node.me and member is not None and member.flapping(board.config, trio.current_time())
        )


def _aid_in(path: str) -> bytes | None:
    try:
        return bytes.fromhex(path.partition("/")[2])
    except ValueError:
        return None

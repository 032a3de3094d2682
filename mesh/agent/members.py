"""The feature `members`: who is in the mesh as this node sees it, and the operator's orders about them.

An order about a node is a record `order/<aid>` {drain, cordon, labels, left} that admins (and the node for
itself) write. It is replicated state like any other, so it reaches a node that is away when it returns, and
nobody has to be reachable for it to be given. `left` names the incarnation that is declared to have left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from mesh.agent.author import Statement
from mesh.agent.certs import ORDER, Certs
from mesh.agent.node import Node
from mesh.agent.paths import SHOWN, Paths
from mesh.agent.words import iso, rounded
from mesh.core import folds, vitals
from mesh.core.card import check_card
from mesh.core.judgement import Verdict
from mesh.core.lease import Status
from mesh.core.log import Log
from mesh.core.record import MESH, Kind
from mesh.core.views import MemberView
from mesh.errors import Conflict, Denied, UsageError
from mesh.identity.home import check_labels
from mesh.store.store import Change

Json = dict[str, Any]
Rows = list[Json]

EXPIRY_WARN_MS = 14 * 86_400_000
WATCH_S = 0.2


class Members(Paths):
    """See `mesh.admin.features.Members`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._certs: Certs
        self._left: dict[bytes, int] = {}
        self._labels: dict[bytes, dict[str, str]] = {}
        self._moved = trio.Event()
        node.on_state.append(self._state_changed)
        node.on_members.append(lambda joined, gone: self._obey_all())
        node.store.add_listener(self._changed, user_data=False)
        self.left = trio.Event()
        self.before_leaving: list[Callable[[], Awaitable[None]]] = []

    def use(self, certificates: Certs) -> None:
        """Who removes nodes and moves them between zones."""
        self._certs = certificates

    async def forget(self, node: str) -> Json:
        return await self._certs.forget(node)

    async def prune(self, *, older_than_s: float, dry_run: bool) -> Rows:
        return await self._certs.prune(older_than_s=older_than_s, dry_run=dry_run)

    async def move_zone(self, node: str, zone: str) -> Json:
        await self._certs.move_zone(node, zone)
        return self._member(self._view(self._aid(node)))

    def start(self) -> None:
        """Obey the orders that the store holds."""
        self._obey_all()

    # -- orders -----------------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        orders = {change.path for change in changes if change.scope == MESH and change.path.startswith(ORDER)}
        for path in sorted(orders):
            self._obey(path)
        for change in changes:
            if change.scope == MESH and change.record is not None and change.path.startswith("member/"):
                self._judge_card(change.aid)
        if orders or any(change.path.startswith(("member/", "sight/")) for change in changes):
            self._move()

    def _obey_all(self) -> None:
        with self._node.store.read(MESH) as slots:
            paths = list(slots.paths(ORDER))
        for path in paths:
            self._obey(path)

    def _order(self, slots: Log, aid: bytes) -> Json:
        directory = self._node.directory
        admitted = []
        for rec in slots.slots(ORDER + aid.hex()):
            cert = directory.certificate(rec.aid)
            if rec.kind == Kind.REG and cert is not None and (cert.is_admin or rec.aid == aid):
                admitted.append(rec)
        best = folds.register(admitted, self._node.now_ms())
        return best.val if best is not None and isinstance(best.val, dict) else {}

    def _obey(self, path: str) -> None:
        try:
            aid = bytes.fromhex(path.removeprefix(ORDER))
        except ValueError:
            return
        with self._node.store.read(MESH) as slots:
            order = self._order(slots, aid)
        labels = order.get("labels")
        self._labels[aid] = _texts(labels) if isinstance(labels, dict) else {}
        if not self._labels[aid]:
            del self._labels[aid]
        if aid == self._node.me:
            self._obey_own(order)
        left = order.get("left")
        if isinstance(left, int) and not isinstance(left, bool):
            self._left[aid] = left
            self._node.vitality.drive.handle(vitals.ForcedOut(aid, left))
        else:
            self._left.pop(aid, None)

    def _state_changed(self, change: vitals.StateChanged) -> None:
        """A verdict may come after the order that it has left: after a restart of ours it does."""
        if change.new == vitals.State.DEAD and change.aid in self._left:
            self._node.vitality.drive.handle(vitals.ForcedOut(change.aid, self._left[change.aid]))
        self._move()

    def _obey_own(self, order: Json) -> None:
        wanted = Status.DRAIN if order.get("drain") else Status.CORDON if order.get("cordon") else Status.UP
        present = self._node.vitality.status[0]
        if present != wanted and present in (Status.UP, Status.DRAIN, Status.CORDON):
            self._node.vitality.set_status(wanted)

    async def _give(self, node: str, **changes: Any) -> Json:
        """Change the order about a node.

        Raises:
            Denied: neither our own node nor is this node an admin.
        """
        aid = self._aid(node)
        me = self._node.directory.certificate(self._node.me)
        if aid != self._node.me and not (me is not None and me.is_admin):
            raise Denied(
                f"{self._node.home.name} may not order {self.name_of(aid)}", "run this on an admin node"
            )

        def build(slots: Log) -> list[Statement]:
            order = {**self._order(slots, aid), **changes}
            return [Statement(ORDER + aid.hex(), Kind.REG, order)]

        await self._node.author.say(MESH, build)
        return self._member(self._view(aid))

    async def drain(self, node: str) -> Json:
        return await self._give(node, drain=True)

    async def undrain(self, node: str) -> Json:
        return await self._give(node, drain=False)

    async def cordon(self, node: str) -> Json:
        return await self._give(node, cordon=True)

    async def uncordon(self, node: str) -> Json:
        return await self._give(node, cordon=False)

    async def label(self, node: str, labels: Mapping[str, str | None]) -> Json:
        aid = self._aid(node)
        merged: dict[str, str | None] = {**self._labels.get(aid, {}), **labels}
        check_labels({name: value for name, value in merged.items() if value is not None})
        # A label that the card carries is taken away by an empty text; what was only ordered just goes.
        kept = {name: value or "" for name, value in merged.items()}
        return await self._give(node, labels=kept)

    async def force_leave(self, node: str) -> Json:
        view = self._view(self._aid(node))
        if view.state not in (vitals.State.DEAD, vitals.State.LEFT):
            raise Conflict(
                f"{self.name_of(view.aid)} is {view.state}, only a dead node can be declared to have left",
                "to end a live one, run `meshctl leave` there, or remove it with `meshctl cert revoke`",
            )
        return await self._give(node, left=view.incarnation)

    async def leave(self) -> Json:
        """Leave the mesh for good; the agent stops after the answer is out."""
        for ending in self.before_leaving:
            await ending()
        self._node.vitality.set_status(Status.LEFT)
        with trio.move_on_after(1.0):
            await self._node.flush()
        self.left.set()
        return {"id": self._node.key.peer_id, "name": self._node.home.name}

    # -- views ------------------------------------------------------------------------------------------

    def names(self) -> Sequence[tuple[str, str]]:
        known = self._node.directory.known()
        return [(it.cert.peer_id, it.cert.name) for it in known.values() if it.cert is not None]

    def card_of(self, aid: bytes) -> Json:
        """The card a member published last, {} without one that is sound."""
        card = self._node.cards.get(aid, {}).get("card")
        return card if isinstance(card, dict) and not self._fault(card) else {}

    def _fault(self, card: object) -> str:
        """What is wrong with a card, "" if nothing is."""
        try:
            check_card(card)
        except UsageError as error:
            return error.message
        return ""

    def _judge_card(self, aid: bytes) -> None:
        """A card that breaks the rules enters nobody's view, and the field is named."""
        if fault := self._fault(self._node.cards.get(aid, {}).get("card", {})):
            self._node.alarm("card", aid, fault)

    def _views(self) -> dict[bytes, MemberView]:
        return {view.aid: view for view in self._node.vitality.machine.members(trio.current_time())}

    def _view(self, aid: bytes) -> MemberView:
        return self._views().get(aid) or MemberView(
            aid, vitals.State.REGISTERING, 0, 0.0, "", (), None, None, None, False, ()
        )

    async def list(self) -> Rows:
        return self.rows()

    def rows(self) -> Rows:
        """`shapes.Member` of everyone known, by name and id."""
        views = self._views()
        known = self._node.directory.known()
        shown = {aid for aid, it in known.items() if it.verdict in SHOWN} | {self._node.me}
        rows = [self._member(views.get(aid) or self._view(aid)) for aid in shown]
        return sorted(rows, key=lambda row: (row["name"], row["id"]))

    def _member(self, view: MemberView) -> Json:
        node, aid = self._node, view.aid
        standing = node.directory.standing(aid)
        cert = node.home.cert if standing.cert is None and aid == node.me else standing.cert
        assert cert is not None
        value = node.cards.get(aid, {})
        card = self.card_of(aid)
        session = node.links.sessions.get(aid)
        rtt = self._rtt_ms(aid)
        addresses = value.get("addr")
        software = card.get("software")
        heard = [age for age in (view.heard_age_s, view.lease_age_s) if age is not None]
        return {
            "id": cert.peer_id,
            "name": cert.name,
            "state": self._state(view, standing.verdict),
            "incarnation": view.incarnation,
            "addresses": [a for a in addresses if isinstance(a, str)] if isinstance(addresses, list) else [],
            "labels": self.labels_of(aid),
            "zone": cert.zone,
            "tier": cert.tier or _text(card.get("tier")) or "device",
            "roles": list(cert.roles),
            "rtt_ms": 0.0 if aid == node.me else rounded(rtt),
            "last_seen_s": 0.0 if aid == node.me else rounded(min(heard, default=None), 1),
            "state_s": rounded(min(view.since_s, trio.current_time() - node.started_at), 1),
            "software": session.hello.software if session is not None else _text(software),
            "flags": self._flags(view, standing.verdict, cert.name),
            "certificate_expires": iso(standing.until_ms or cert.exp_ms),
        }

    def labels_of(self, aid: bytes) -> dict[str, str]:
        """A member's labels: its own word, then what was ordered; empty ones are gone."""
        own = self.card_of(aid).get("labels")
        merged = {**(_texts(own) if isinstance(own, dict) else {}), **self._labels.get(aid, {})}
        return {name: merged[name] for name in sorted(merged) if merged[name]}

    def _state(self, view: MemberView, verdict: Verdict) -> str:
        if view.aid == self._node.me:
            if verdict not in SHOWN:
                return "registering"
            return "left" if self._node.vitality.status[0] == Status.LEFT else "alive"
        return "quarantined" if verdict == Verdict.FORKED else str(view.state)

    def _flags(self, view: MemberView, verdict: Verdict, name: str) -> Sequence[str]:
        node = self._node
        flags = ["self"] if view.aid == node.me else []
        own = node.vitality.status[0] if view.aid == node.me else None
        status = own or (view.lease.st if view.lease is not None else Status.UP)
        if status in (Status.DRAIN, Status.CORDON, Status.SLEEP):
            flags.append(str(status))
        if view.flapping:
            flags.append("flapping")
        if view.state == vitals.State.DEAD and len(view.seen_by) == 1:
            flags.append("one-witness")
        if len(node.directory.names().get(name, ())) > 1:
            flags.append("duplicate-name")
        if verdict == Verdict.FORKED or ("clone", view.aid) in node.alarms:
            flags.append("clone")
        left_ms = node.directory.standing(view.aid).until_ms - node.now_ms()
        if verdict in SHOWN and left_ms < EXPIRY_WARN_MS:
            flags.append("expired" if left_ms < 0 else "expiring")
        return flags

    async def show(self, node: str) -> Json:
        aid = self._aid(node)
        view = self._view(aid)
        row = self._member(view)
        links = await self.links()
        row["card"] = self.card_of(aid)
        row["certificate"] = self._certs.row(aid)
        row["links"] = [link for link in links if link["id"] == row["id"]]
        board = self._node.vitality.machine.board
        monitors = board.monitors(aid) if aid in board.members else ()
        row["monitors"] = [self._id(each) for each in monitors]
        row["accused_by"] = [self._id(each) for each in view.accusers]
        return row

    # -- watching ---------------------------------------------------------------------------------------

    def _move(self) -> None:
        self._moved.set()

    async def watch(self) -> AsyncIterator[Json]:
        known: dict[str, Json] = {}
        for row in self.rows():
            known[row["id"]] = row
            yield {"change": "present", "time": iso(self._node.now_ms()), "member": row}
        yield {"change": "ready", "time": iso(self._node.now_ms()), "member": None}
        while True:
            with trio.move_on_after(WATCH_S * 10):
                await self._moved.wait()
            self._moved = trio.Event()
            rows = {row["id"]: row for row in self.rows()}
            for change in _differences(known, rows):
                yield {**change, "time": iso(self._node.now_ms())}
            known = rows
            await trio.sleep(WATCH_S)


def _differences(old: Mapping[str, Json], new: Mapping[str, Json]) -> Rows:
    """What changed between two lists of members, but for ages and round trips."""
    changes: Rows = [{"change": "added", "member": new[id]} for id in sorted(new.keys() - old.keys())]
    for id in sorted(new.keys() & old.keys()):
        if _steady(new[id]) != _steady(old[id]):
            changes.append({"change": "changed", "member": new[id]})
    return changes + [{"change": "removed", "member": old[id]} for id in sorted(old.keys() - new.keys())]


def _steady(row: Json) -> Json:
    return {name: row[name] for name in row if name not in ("rtt_ms", "last_seen_s", "state_s")}


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 128 else ""


def _texts(value: Mapping[Any, Any]) -> dict[str, str]:
    return {k: v for k, v in list(value.items())[:64] if isinstance(k, str) and isinstance(v, str)}

"""The world of one run: time, links, dice, and the bookkeeping of what was acknowledged."""

from __future__ import annotations

import random
from collections.abc import Callable

from mesh.core import folds, sync, tally
from mesh.core.collect import Statement
from mesh.core.record import LIVE, MESH, ZONE, Kind, Op, Record, SlotKey
from mesh.sim.model.misbehave import Misbehaviour
from mesh.sim.model.node import Node
from mesh.sim.model.replica import KEPT_SCOPES, Backup, Replica
from mesh.sim.model.rules import Odds, Policy
from mesh.sim.model.truth import Event, Place, Truth
from mesh.sim.model.wire import Message, Notary, aid_of

NODES = 6
ZONES = ("a", "a", "a", "a", "b", "b")
START_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000
AHEAD_MS = 10 * 365 * DAY_MS
IN_FLIGHT_MAX = 300


class World:
    """Six nodes and everything between them.

    Args:
        policy: the rules they play by.
        odds: how the dice are weighted.
        tracing: keep a line per event.
    """

    def __init__(self, seed: int, policy: Policy, odds: Odds, *, tracing: bool = False) -> None:
        self.rng = random.Random(seed)
        self.policy = policy
        self.odds = odds
        self.tracing = tracing
        self.lines: list[str] = []
        self.notary = Notary()
        self.truth = Truth()
        self.true_ms = START_MS
        self.loss = self.rng.choice(odds.loss)
        self.group = [0] * NODES
        self.in_flight: list[tuple[int, int, Message]] = []
        self.backups: dict[int, Backup] = {}
        self.forgotten: dict[tuple[int, Place], int] = {}
        self.tainted: set[int] = set()
        self.rewritten: set[int] = set()
        self.robbed: str | None = None
        self.liar: int | None = None
        aids = [aid_of(index) for index in range(NODES)]
        admins = frozenset(aids[:2])
        self.nodes = [
            Node(self, index, aids[index], ZONES[index], admins, self.rng.randint(-25_000, 25_000))
            for index in range(NODES)
        ]
        self.index_of = {node.aid: node.index for node in self.nodes}
        self.misbehaviour: dict[int, Misbehaviour] = {}
        self.lies = False
        self.advance(0)
        for node in self.nodes:
            node.renew(self.true_ms + self.rng.randint(10, 200) * DAY_MS)

    def trace(self, text: Callable[[], str]) -> None:
        """Note a line when tracing."""
        if self.tracing:
            self.lines.append(text())

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.true_ms += ms
        for node in self.nodes:
            node.true_ms = self.true_ms

    # -- links ------------------------------------------------------------------------------------------

    def connected(self, left: Replica, right: Replica) -> bool:
        """Whether two nodes can talk now."""
        return (
            left.alive
            and right.alive
            and left.online
            and right.online
            and self.group[left.index] == self.group[right.index]
            and left.aid not in right.removed
            and right.aid not in left.removed
        )

    def shares(self, left: Replica, right: Replica, scope: str) -> bool:
        """Whether two nodes both replicate a scope."""
        return scope == MESH or left.zone == right.zone

    def same_zone(self, node: Replica, aid: bytes) -> bool:
        """Whether another node is in this one's zone."""
        return self.nodes[self.index_of[aid]].zone == node.zone

    def neighbours(self, node: Replica) -> list[int]:
        """Some nodes in reach, in random order."""
        found = [other.index for other in self.nodes if other is not node and self.connected(node, other)]
        self.rng.shuffle(found)
        return found[: self.rng.randint(0, 3)]

    def send(self, sender: Replica, to: int, message: Message) -> None:
        """Put a message on its way, if it is not lost."""
        other = self.nodes[to]
        scope = message.listing.scope if hasattr(message, "listing") else message.scope
        if not self.connected(sender, other) or not self.shares(sender, other, scope):
            return
        if self.rng.random() < self.loss or len(self.in_flight) >= IN_FLIGHT_MAX:
            return
        bad = self.misbehaviour.get(sender.index)
        if bad is not None:
            message = bad.spoil(message, self.rng)
        self.in_flight.append((sender.index, to, message))

    def deliver(self, count: int) -> None:
        """Deliver some messages: links in any order, each link in its own."""
        for _ in range(count):
            if not self.in_flight:
                return
            at = 0
            if self.rng.random() < 0.4:
                link = self.in_flight[self.rng.randrange(len(self.in_flight))][:2]
                at = next(i for i, flying in enumerate(self.in_flight) if flying[:2] == link)
            sender, to, message = self.in_flight.pop(at)
            if self.connected(self.nodes[sender], self.nodes[to]):
                self.nodes[to].handle(sender, message, self.part_bytes())

    def part_bytes(self) -> int:
        """How much goes into one part: often very little, so that parts matter."""
        return self.rng.choice((150, 600, 2500, 1 << 18))

    def call(self, node: Replica, to: int, scope: str, since: int) -> list[sync.Part] | None:
        """All parts of a peer's answer to `want` about the asker itself; None when the link failed."""
        other = self.nodes[to]
        if not self.connected(node, other) or not self.shares(node, other, scope):
            return None
        if self.rng.random() < self.loss:
            return None
        parts = []
        after = None
        while after is None or after.more:
            after = sync.serve(other.logs[scope], node.aid, since, bytes_max=2500, after=after)
            parts.append(after)
        bad = self.misbehaviour.get(to)
        return parts if bad is None else [bad.spoil_part(part, self.rng) for part in parts]

    def compare(self, left: Node, right: Node) -> None:
        """Two neighbours tell each other their heads."""
        for scope in (MESH, ZONE, LIVE):
            if self.connected(left, right) and self.shares(left, right, scope):
                heads = left.heads(scope)
                right.compare(left.index, scope, [head for head in heads if self._told()])
                heads = right.heads(scope)
                left.compare(right.index, scope, [head for head in heads if self._told()])

    def _told(self) -> bool:
        return self.loss == 0.0 or self.rng.random() >= self.loss

    def company(self, node: Replica, scope: str) -> bool:
        """Whether another member replicates a scope, as far as the node knows."""
        return any(
            self.shares(node, other, scope) and not other.dead and other.aid not in node.removed
            for other in self.nodes
            if other is not node
        )

    def nonce(self) -> int:
        """What a store draws when it is opened."""
        return self.rng.randrange(1 << 16)

    # -- signatures and truth ---------------------------------------------------------------------------

    def opened(self, aid: bytes, tag: bytes, body: bytes, sig: bytes) -> Record:
        """Verify and parse a record."""
        return self.notary.open(aid, tag, body, sig)

    def signed(self, aid: bytes, tag: bytes, hlc: int, say: Statement) -> Record:
        """Sign a statement."""
        return self.notary.sign(aid, tag, hlc, say)

    def said(
        self, node: Replica, scope: str, rec: Record, source: bytes | None, *, moved: bool = True
    ) -> None:
        """A node is about to store an own statement; `source` is whose records it says again, `moved` whether
        its stamp may be another than the first time."""
        if not rec.path.startswith("kv/") or rec.kind == Kind.CTR or not node.counts(rec):
            return
        place = (node.place(scope), rec.path, rec.kind)
        if rec.op == Op.VOID:
            self._withdrawn(node, scope, place, rec)
            return
        if source is None:
            self._acknowledged(node, scope, place, rec)
        else:
            event = self._again(node, scope, place, rec, source)
            if event is not None:
                self.truth.same(place, rec, event, moved=moved)
                if source != node.aid:
                    self._said_for_another(node, scope, rec, event, source)
        self.learned(node, scope, [rec])

    def deceived(self, node: Replica, scope: str) -> None:
        """A node collects while a bad relay hides from it a value that its author still has.

        It cannot know that its own delete of that value is still needed, and the author may not have seen it
        yet: then the value may come back. That is the known limit of collection without agreement.
        """
        for place, events in self.truth.places.items() if self.misbehaviour else ():
            known = node.known.get(place, 0) if place[0] == node.place(scope) else 0
            for event in events:
                if known & event.bit and event.aid != node.aid and event.op == Op.PUT:
                    slot = SlotKey(place[1], place[2], event.aid)
                    theirs = self.nodes[self.index_of[event.aid]].logs[scope].get(slot)
                    if theirs is not None and self.truth.of(place[0], theirs) is event:
                        event.exempt = event.exempt or node.logs[scope].get(slot) != theirs

    def dropped_own(self, peer: int, node: Replica, scope: str, records: list[Record]) -> None:
        """A restored node took a reset of its own log that did not name these, while a bad relay was about.

        It cannot tell what it deleted after the backup from what the relay kept from the peer it asked.
        """
        for rec in records if self.lies else ():
            event = self.truth.of(node.place(scope), rec)
            if event is not None:
                event.optional = event.exempt = True

    def doubtful(self, node: Replica) -> bool:
        """Whether nothing is promised for what a node says now: it is removed, over quota on purpose, or a
        bad relay of its own records."""
        return node.index in self.tainted or node.index == self.liar or node.index in self.misbehaviour

    def _withdrawn(self, node: Replica, scope: str, place: Place, rec: Record) -> None:
        """A void; of a copy said for a removed author it withdraws only the copy.

        One that is said by a removed author that does not know it yet lets go of the deletes that had beaten
        its value, while its remover has said that value again: then it may come back.
        """
        mine = node.logs[scope].get(SlotKey(rec.path, rec.kind, node.aid))
        event = self.truth.of(place[0], mine) if mine is not None else None
        seen = 0
        if mine is not None and event is not None and event.aid == node.aid:
            seen = self.truth.closure(place[0], [mine], rec.kind)
            event.exempt = event.exempt or node.index in self.tainted
        withdrawal = self.truth.new(place, rec, seen)
        withdrawal.optional = self.doubtful(node)
        self.learned(node, scope, [rec])

    def fence_passed(self, node: Replica, scope: str) -> None:
        """A node has been open for a day and was answered: what nobody told it until now, it may delete, and
        what that had replaced in its slot stands again, also where others have relied on it and collected.
        """
        if self.policy.fenced:
            for place, events in self.truth.places.items():
                if place[0] == node.place(scope):
                    own = self.truth.said.get((place, node.aid), 0)
                    forgotten = own & ~node.known.get(place, 0)
                    if not forgotten:
                        continue
                    self.truth.forgive(place, forgotten)
                    under = 0
                    for event in events:
                        under |= event.seen if event.bit & forgotten else 0
                    for event in events:
                        event.exempt = event.exempt or bool(event.bit & own & under & ~forgotten)
            for (place, aid), used in self.truth.counters.items():
                if aid == node.aid and place[0] == node.place(scope):
                    mine = node.logs[scope].get(SlotKey(place[1], Kind.CTR, aid))
                    used.optional |= used.said & ~folds.totals(mine)[0]

    def _acknowledged(self, node: Replica, scope: str, place: Place, rec: Record) -> None:
        slots = list(node.logs[scope].slots(rec.path)) if rec.kind != Kind.LOG else []
        if rec.kind == Kind.ALL:
            slots = [old for old in slots if old.aid == node.aid]
        seen = self.truth.closure(place[0], slots, rec.kind)
        event = self.truth.new(place, rec, seen)
        self.truth.forgive(place, self.forgotten.get((node.index, place), 0) & ~seen)
        event.optional, event.exempt = self.doubtful(node), node.index == self.liar
        self.trace(lambda: f"  said {event} at {node.index} seen {seen:b}")

    def _again(self, node: Replica, scope: str, place: Place, rec: Record, source: bytes) -> Event | None:
        if rec.op == Op.PUT and isinstance(rec.val, int):
            return self.truth.at(place, rec.stamp, rec.val)
        held = [old for old in node.logs[scope].slots(rec.path) if old.kind == rec.kind]
        mine = next((old for old in held if old.aid == source), None)
        return self.truth.of(place[0], mine) if mine is not None else self.truth.at(place, rec.stamp, None)

    def _said_for_another(self, node: Replica, scope: str, rec: Record, event: Event, gone: bytes) -> None:
        """An admin's slot holds one value: its own, still visible there, and the other's share it. What had
        replaced the other's without the admin knowing was concurrent with what the admin says."""
        known = node.known.get(event.place, 0)
        if any(w.seen & event.bit and not known & w.bit for w in self.truth.places[event.place]):
            event.exempt = True
        slots = node.slots(scope, rec.path, rec.kind)
        mine = next((old for old in slots if old.aid == node.aid), None)
        if mine is not None and folds.speaks(mine) and not folds.covered(mine, slots):
            for old in slots:
                one = self.truth.of(node.place(scope), old) if old.aid in (node.aid, gone) else None
                if one is not None:
                    one.optional = one.exempt = True

    def stored(self, node: Replica, sender: int, scope: str, old: Record, new: Record) -> None:
        """A replica replaced a counter record: increments overwritten by a relay's copy cannot be saved."""
        if new.kind == Kind.CTR and sender != self.index_of[new.aid]:
            gone = folds.totals(old)[0] & ~folds.totals(new)[0]
            if gone and new.path.startswith("kv/"):
                place = (node.place(scope), new.path, Kind.CTR)
                self.truth.counters[place, new.aid].optional |= gone

    def learned(self, node: Replica, scope: str, records: list[Record]) -> None:
        """A replica stored records: it knows what they state and what that had seen."""
        place = node.place(scope)
        for rec in records:
            event = self.truth.of(place, rec)
            if event is not None:
                node.known[event.place] = node.known.get(event.place, 0) | event.bit | event.seen

    def taken_away(self, node: Replica, scope: str, records: list[Record]) -> None:
        """A reset made a replica drop these: that may be no more than their author said it collected."""
        for rec in records:
            author = self.nodes[self.index_of[rec.aid]]
            honest = author.index not in self.rewritten and author.index not in self.tainted
            if honest and rec.hlc > author.logs[scope].author(rec.aid).floor and not self.robbed:
                what = f"{rec.path} @{rec.hlc} of {author.index}"
                self.robbed = f"a reset took away what was never collected at {node.index}: {what}"

    def losing(self, node: Replica, left: Backup | Replica | None) -> None:
        """A store is about to be lost (or set back to `left`): what only it knew cannot be saved."""
        others: list[Backup | Replica] = [
            other
            for other in self.nodes
            if other is not node and not other.dead and other.index not in self.tainted
        ]
        if left is not None:
            others.append(left)
        for place, mask in sorted(node.known.items()):
            for other in others:
                mask &= ~other.known.get(place, 0)
            self.truth.forgive(place, mask)
            if mask:
                self.trace(lambda place=place, mask=mask: f"  may be lost: {place} {mask:b}")  # type: ignore[misc]
        for scope in KEPT_SCOPES:
            logs = [other.logs[scope] for other in others if scope == MESH or other.zone == node.zone]
            for rec in node.logs[scope].since(node.aid, 0):
                if not any(log.get(rec.slot) for log in logs):
                    self._lost_with(node, scope, rec)
            for (place, aid), used in self.truth.counters.items():
                if place[0] == node.place(scope):
                    slot = SlotKey(place[1], Kind.CTR, aid)
                    bits = folds.totals(node.logs[scope].get(slot))[0]
                    for other in others:
                        if other.zone == node.zone or scope == MESH:
                            bits &= ~self._told_by(node, other, scope, slot)
                    used.optional |= bits

    def _told_by(self, node: Replica, other: Backup | Replica, scope: str, slot: SlotKey) -> int:
        """The counts that another store can give back to one that is lost: of an author that is being removed
        only an admin can, or who holds what an admin noted. Others drop it when they hear."""
        log = other.logs[scope]
        bits = 0
        for path in log.paths(f"removed/{slot.aid.hex()}"):
            for rec in log.slots(path):
                bits |= tally.notes(rec.val).get(slot.path, (0, 0))[0]
        ordinary = isinstance(other, Replica) and other.aid not in node.admins
        if ordinary and node.aid in node.admins and self.index_of[slot.aid] in self.tainted:
            return bits
        return bits | folds.totals(log.get(slot))[0]

    def _lost_with(self, node: Replica, scope: str, rec: Record) -> None:
        """A record that only this store held: what it said for a removed author goes with it."""
        copy = self.truth.of(node.place(scope), rec)
        if copy is not None and copy.aid != node.aid:
            copy.optional = True
        if rec.path.startswith("removed/"):
            gone = bytes.fromhex(rec.path.split("/")[1])
            for (place, aid), used in self.truth.counters.items():
                if aid == gone and place[0] == node.place(scope):
                    used.optional |= folds.totals_of(rec.val.get("counters", {}).get(place[1]))[0]

    def forget(self, node: Replica, left: Backup) -> None:
        """A node forgets its own writes after a backup: a later one in the same slot replaces them unseen."""
        for place, mask in node.known.items():
            own = sum(event.bit for event in self.truth.places[place] if event.aid == node.aid)
            gone = own & mask & ~left.known.get(place, 0)
            key = (node.index, place)
            self.forgotten[key] = self.forgotten.get(key, 0) | gone

    def orphaned(self) -> None:
        """Whether no admin is left that could say again what the removed ones decided: then it is lost."""
        if not all(admin.dead or admin.index in self.tainted for admin in self.nodes[:2]):
            return
        gone = {self.nodes[index].aid for index in self.tainted}
        for event in self.truth.events:
            event.optional = event.optional or event.aid in gone
        for (_, aid), used in self.truth.counters.items():
            if aid in gone:
                used.optional |= used.said

    def _beaten(self, remover: Replica, event: Event) -> bool:
        """Whether a register's statement is not what a remover says again: another one counts there."""
        scope, path, kind = event.place
        if kind != Kind.REG:
            return False
        best = folds.winner(remover.read(scope[0], path, kind)) if scope == remover.place(scope[0]) else None
        return best is None or best.stamp != event.stamp

    def taint(self, node: Replica, remover: Replica) -> None:
        """A node is being removed: what the remover does not know of it need not survive.

        If the remover was removed itself and does not know, it is the other admin that must know.
        """
        if remover.index in self.tainted and self.nodes[1 - remover.index].alive:
            remover = self.nodes[1 - remover.index]
        self.losing(node, remover)
        self.tainted.add(node.index)
        self.orphaned()
        for place, events in self.truth.places.items():
            known = remover.known.get(place, 0)
            for event in events:
                if event.aid == node.aid and (
                    place[2] in (Kind.ALL, Kind.LOG) or not known & event.bit or self._beaten(remover, event)
                ):
                    event.optional = True
        for scope in KEPT_SCOPES:
            for rec in node.logs[scope].since(node.aid, 0):
                copy = self.truth.of(node.place(scope), rec)
                known = remover.known.get(copy.place, 0) if copy is not None else 0
                if copy is not None and (not known & copy.bit or self._beaten(remover, copy)):
                    copy.optional = True
        for (place, aid), used in self.truth.counters.items():
            if aid == node.aid:
                scope = place[0][0]
                known = 0
                if place[0] == remover.place(scope):
                    slots = remover.logs[scope].slots(place[1])
                    known = max((folds.totals(rec)[0] for rec in slots if rec.aid == aid), default=0)
                used.optional |= used.said & ~known

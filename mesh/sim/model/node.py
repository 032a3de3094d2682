"""One node of the model: the shell around the pure rules, as thin as it can be.

What a real agent does with LMDB, streams and tasks happens here in RAM and at once; every decision is the
real code's. Wrong variants of a rule come in as a `Policy`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from mesh.core import sync
from mesh.core.clock import HybridClock
from mesh.core.collect import (
    Statement,
    answer_strays,
    drop_removed,
    plan_removal,
    voids_before_drop,
)
from mesh.core.fence import Fence
from mesh.core.floors import member_path
from mesh.core.memory import MemoryLog
from mesh.core.receive import Outcome, ResetParts
from mesh.core.record import LIVE, MESH, Kind, Record, SlotKey
from mesh.core.removal import tell
from mesh.core.rewind import rewind
from mesh.errors import PeerError
from mesh.sim.model.replica import KEPT_SCOPES, Backup, Replica, clone
from mesh.sim.model.wire import Answering, Message, Pull, Want
from mesh.wire.messages import Delta, Listing


def removed_path(aid: bytes) -> str:
    return f"removed/{aid.hex()}"


class Node(Replica):
    """A replica that takes, gives, recovers and has duties."""

    # -- taking -----------------------------------------------------------------------------------------

    def take(self, sender: int, delta: Delta) -> None:
        """A delta from a neighbour."""
        scope, aid = delta.scope, delta.aid
        key = (sender, scope, aid)
        try:
            records = [self.world.opened(aid, self.tags[scope], body, sig) for body, sig in delta.records]
        except PeerError:
            return
        if delta.pull:
            asked = self.asked.pop(key, set())
            records = [rec for rec in records if rec.hlc in asked]
        self._learn(scope, aid, records)
        if aid not in self.until:
            if scope == MESH and delta.since > 0 and not delta.more:
                self.world.send(self, sender, Want(MESH, aid, 0))
            return
        parts = self.resets.setdefault(key, ResetParts()) if delta.reset else None
        log = self.logs[scope]
        policy = self.world.policy
        old = {rec.slot: log.get(rec.slot) for rec in records if rec.kind == Kind.CTR}
        mine = {rec.slot: rec for rec in log.since(aid, 0)} if delta.reset else {}
        outcome = sync.receive(
            log,
            delta,
            records,
            now_ms=self.now_ms,
            limits=self.limits(aid),
            reset_part=parts,
            me=self.aid,
            judge=policy.judge if scope != LIVE else None,
        )
        self.world.trace(
            lambda: (
                f"  {self.index} took from {sender} {scope} {aid.hex()[:4]} {delta.since}..{delta.upto}"
                f"{' reset' if delta.reset else ''}{' pull' if delta.pull else ''}"
                f" stored {[(r.path, r.hlc, r.op) for r in outcome.stored]} dropped {len(outcome.dropped)}"
                f" head {outcome.head} floor {outcome.state.floor} want {outcome.want} {outcome.refused}"
            )
        )
        for rec in outcome.stored:
            before = old.get(rec.slot)
            if before is not None:
                self.world.stored(self, sender, scope, before, rec)
        self.world.learned(self, scope, outcome.stored)
        gone = [mine[slot] for slot in outcome.dropped if slot in mine and log.get(slot) is None]
        self.world.taken_away(self, scope, gone)
        self._after(sender, scope, delta, outcome)

    def _learn(self, scope: str, aid: bytes, records: Sequence[Record]) -> None:
        if scope == MESH:
            path = member_path(aid)
            for rec in records:
                if rec.path == path and rec.kind == Kind.ALL and isinstance(rec.val, dict):
                    self.until[aid] = max(rec.val["until"], self.until.get(aid, 0))

    def _after(self, sender: int, scope: str, delta: Delta, outcome: Outcome) -> None:
        clock = self.live_clock if scope == LIVE else self.clock
        for rec in outcome.stored:
            clock.receive(rec.hlc)
        if outcome.own is not None:
            self._own(sender, scope, outcome.own)
        if outcome.want is not None:
            self.world.send(self, sender, Want(scope, delta.aid, outcome.want))
        better = sync.correction(scope, outcome)
        if better is not None:
            self.world.send(self, sender, better)
        onward = self.world.policy.passed_on(delta, outcome, self.tags[scope])
        if onward is not None and outcome.stored:
            for peer in self.world.neighbours(self):
                if peer != sender:
                    self.world.send(self, peer, onward)
        if scope == MESH:
            for rec in outcome.stored:
                self.notice(rec)

    def _own(self, sender: int, scope: str, own: sync.Own) -> None:
        trusted = self.fences[scope].trusted(own, self.now_ms)
        strays = sync.Own([], [rec for rec in own.strays if rec not in trusted])
        if strays.strays and self.fences[scope].passed(self.now_ms):
            self.world.fence_passed(self, scope)
        if strays.strays and self.world.policy.answers_strays:
            self.say(scope, answer_strays(self.logs[scope], strays, self.now_ms), source=self.aid)
        if trusted:
            self.contact(sender, scope, since=0)
        if own.unknown:
            self.contact(sender, scope, since=own.since(self.logs[scope].author(self.aid).floor))

    def notice(self, rec: Record) -> None:
        """React to a removal."""
        if rec.path.startswith("removed/") and rec.aid in self.admins:
            gone = bytes.fromhex(rec.path.split("/")[1])
            if gone == self.aid:
                self.halted = True
            elif gone not in self.removed:
                self._drop(gone)

    def _drop(self, gone: bytes) -> None:
        self.world.trace(lambda: f"  {self.index} drops removed {gone.hex()[:4]}")
        for scope in KEPT_SCOPES:
            if self.aid in self.admins:
                self._speak_for(gone, scope)
            voids = voids_before_drop(self.logs[scope], self.aid, gone, self.counts)
            self.say(scope, voids, burial=True)
            drop_removed(self.logs[scope], gone, admin=gone in self.admins)
        drop_removed(self.logs[LIVE], gone, admin=False)
        self.removed.add(gone)

    def _speak_for(self, gone: bytes, scope: str, *, removing: bool = False) -> None:
        """As an admin: say again what an author decided here, before it is dropped."""
        plan = plan_removal(self.logs[scope], self.aid, gone, self.now_ms, self.counts)
        self.say(scope, plan.statements, source=gone, burial=True)
        for number, counters in enumerate(plan.counters or [{}] if removing else plan.counters):
            name = removed_path(gone) + (f"/{number}" if number else "")
            self.say(scope, [Statement(name, Kind.ALL, {"counters": counters})], burial=True)
        self.say(scope, tell(self.logs[scope], gone, self.aid), burial=True)

    # -- the fence --------------------------------------------------------------------------------------

    def contact(self, peer: int, scope: str, since: int | None = None) -> bool:
        """Ask a peer for our own log before anything newer than the fence is announced to it."""
        key = (peer, scope)
        if since is None and (key in self.checked or not self.world.policy.fenced):
            return True
        if not self.certified():
            return False
        fence, log = self.fences[scope], self.logs[scope]
        parts = self.world.call(self, peer, scope, fence.hlc if since is None else min(since, fence.hlc))
        if parts is None:
            return False
        records = [rec for part in parts for rec in part.records]
        for rec in records:
            self.clock.receive(rec.hlc)
        if not self.world.policy.fenced:
            fence = Fence(head=log.author(self.aid).head)
        before = {rec.hlc: rec for rec in log.since(self.aid, 0)}
        says = fence.recover(log, self.aid, records, reset=parts[0].reset, now_ms=self.now_ms)
        if says:
            self.world.trace(lambda: f"  {self.index} recovers from {peer}: {says}")
        self._learn(scope, self.aid, records)
        back = [rec for rec in log.since(self.aid, 0) if rec.hlc not in before]
        self.world.learned(self, scope, back)
        self.world.dropped_own(
            peer, self, scope, [rec for hlc, rec in before.items() if not log.at(self.aid, hlc)]
        )
        self.say(scope, says, source=self.aid)
        if scope == MESH:
            for rec in back:
                self.notice(rec)
            if log.get(SlotKey(member_path(self.aid), Kind.ALL, self.aid)) is None:
                self.renew(self.until[self.aid])
        self.checked.add(key)
        return True

    def announces(self, peer: int, scope: str, aid: bytes) -> bool:
        """Whether this author's log may be shown to a peer now."""
        return aid != self.aid or scope == LIVE or self.contact(peer, scope)

    # -- giving -----------------------------------------------------------------------------------------

    def push(self, peer: int, scope: str, aid: bytes, bytes_max: int, since: int | None = None) -> None:
        """Send what a peer lacks of an author, one part at a time."""
        key = (peer, scope, aid)
        if not self.announces(peer, scope, aid):
            return
        log = self.logs[scope]
        if since is not None:
            self.sending.pop(key, None)
        after = self.sending.pop(key, None)
        start = since if since is not None else self.sent.get(key, 0)
        part = sync.serve(
            log, aid, start, bytes_max=bytes_max, after=after, now_ms=self.now_ms, live=scope == LIVE
        )
        if part.more:
            self.sending[key] = part
        self.sent[key] = max(part.upto, self.sent.get(key, 0))
        if part.records or part.reset:
            self.world.send(self, peer, sync.delta_of(scope, aid, part))

    def handle(self, sender: int, message: Message, bytes_max: int) -> None:
        """Any message from a neighbour."""
        match message:
            case Delta():
                self.take(sender, message)
            case Want(scope=scope, aid=aid, since=since):
                self.push(sender, scope, aid, bytes_max, since)
                for _ in range(100):
                    if (sender, scope, aid) not in self.sending:
                        break
                    self.push(sender, scope, aid, bytes_max)
            case Listing():
                self._listed(sender, message, answer=True)
            case Answering(listing=listing):
                self._listed(sender, listing, answer=False)
            case Pull(scope=scope, aid=aid, hlcs=hlcs, head=head):
                log = self.logs[scope]
                if log.author(aid).head == head and self.announces(sender, scope, aid):
                    self.world.send(self, sender, sync.serve_pull(log, scope, aid, hlcs, head))

    def _listed(self, sender: int, listing: Listing, *, answer: bool) -> None:
        scope, aid = listing.scope, listing.aid
        log = self.logs[scope]
        if log.author(aid).head != listing.head:
            return
        missing = sync.missing(log, listing)
        if missing:
            self.asked[sender, scope, aid] = set(missing)
            self.world.send(self, sender, Pull(scope, aid, missing, listing.head))
        if answer:
            for mine in sync.listings(log, scope, aid):
                self.world.send(self, sender, Answering(mine))

    def compare(self, peer: int, scope: str, heads: Sequence[tuple[bytes, int, int]]) -> None:
        """A peer's heads: want what it has more of, list where fingerprints part."""
        log = self.logs[scope]
        for aid, head, fp in heads:
            mine = log.author(aid)
            if head > mine.head:
                if aid == self.aid and scope != LIVE:
                    self.contact(peer, scope, since=mine.floor)
                else:
                    self.world.send(self, peer, Want(scope, aid, mine.head))
            elif head == mine.head and scope != LIVE and fp != mine.fp:
                for listing in sync.listings(log, scope, aid):
                    self.world.send(self, peer, listing)

    # -- duties and troubles ----------------------------------------------------------------------------

    def collect(self) -> int:
        """The daily duty; returns how many statements it took."""
        count = 0
        for scope in KEPT_SCOPES:
            policy, fence = self.world.policy, self.fences[scope]
            if not self.world.company(self, scope):
                fence.alone()
            if policy.fenced and not fence.passed(self.now_ms):
                continue
            self.world.fence_passed(self, scope)
            self.world.deceived(self, scope)
            collector = policy.collector(
                removed=self.removed.__contains__, unheard=lambda log, gone: bool(self.unheard(log, gone))
            )
            says = collector.plan(self.logs[scope], self.aid, self.now_ms, self.counts)
            if self.aid in self.admins:
                for gone in sorted(self.removed):
                    says += tell(self.logs[scope], gone, self.aid)
            if says:
                self.world.trace(lambda: f"  {self.index} collects in {scope} by {fence}: {says}")  # noqa: B023
            count += len(self.say(scope, says, source=self.aid, moved=False))
        return count

    def sweep(self) -> None:
        """Drop what is past its ttl for good."""
        for scope, log in self.logs.items():
            sync.sweep(log, self.now_ms, live=scope == LIVE)

    def lease(self) -> None:
        """Renew the slot in the live scope."""
        self.say(LIVE, [Statement(f"node/{self.aid.hex()}", Kind.ALL, {"up": 1}, ttl=45_000)])

    def remove(self, gone: bytes) -> None:
        """As an admin: remove an author for ever."""
        if gone not in self.removed and self.certified():
            for scope in KEPT_SCOPES:
                self._speak_for(gone, scope, removing=True)
            self._drop(gone)

    def restart(self) -> None:
        """The process starts again on the same store; what was in RAM is gone."""
        self.logs[LIVE] = MemoryLog(fingerprints=False)
        self.forget_links()
        for scope in KEPT_SCOPES:
            if self.fences[scope].passed(self.now_ms):
                self.world.fence_passed(self, scope)
            self.fences[scope] = Fence.opened(
                self.logs[scope], self.aid, self.fences[scope], self.now_ms, self.world.nonce()
            )

    def restore(self, backup: Backup) -> None:
        """The store is set back to a backup."""
        for scope in KEPT_SCOPES:
            self.logs[scope] = clone(backup.logs[scope])
        self.fences = copy.deepcopy(backup.fences)
        self.known = dict(backup.known)
        self.clock = HybridClock(backup.clock_last)
        self.live_clock = HybridClock(self.live_clock.last)
        self.reread()
        self.restart()

    def reread(self) -> None:
        """Certificates and removals as the store has them."""
        log = self.logs[MESH]
        self.until = {}
        self.removed = set()
        for path in log.paths("member/"):
            for rec in log.slots(path):
                self._learn(MESH, rec.aid, [rec])
        for path in log.paths("removed/"):
            if any(rec.aid in self.admins for rec in log.slots(path)):
                self.removed.add(bytes.fromhex(path.split("/")[1]))

    def correct_clock(self, offset_ms: int) -> None:
        """The clock, ahead until now, is set right."""
        self.offset_ms = offset_ms
        says = {scope: rewind(self.logs[scope], self.aid, self.now_ms) for scope in KEPT_SCOPES}
        left = [
            log.newest(aid) for scope in KEPT_SCOPES for log in [self.logs[scope]] for aid, _ in log.authors()
        ]
        self.clock.last = max(left, default=0)
        self.logs[LIVE] = MemoryLog(fingerprints=False)
        self.live_clock.last = self.clock.last
        for scope in KEPT_SCOPES:
            self.fences[scope].rewound(self.logs[scope], self.aid, self.now_ms)
            self.say(scope, says[scope], source=self.aid)

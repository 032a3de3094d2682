"""What a node of the model remembers, and how it speaks and reads: logs, clock, fences, certificates."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from mesh.core import sync
from mesh.core.clock import HybridClock, unix_ms_of
from mesh.core.collect import Statement
from mesh.core.fence import Fence
from mesh.core.floors import GRACE_MS, member_path
from mesh.core.log import Log
from mesh.core.memory import MemoryLog
from mesh.core.receive import ResetParts
from mesh.core.record import LIVE, MESH, ZONE, Kind, Record, SlotKey, scope_tag
from mesh.core.removal import heard
from mesh.sim.model.rules import Context
from mesh.sim.model.truth import Place

KEPT_SCOPES = (MESH, ZONE)
QUOTA_SLOTS = 24


class Backup:
    """A copy of a store: logs, fences, clock ceiling."""

    def __init__(self, node: Replica) -> None:
        self.zone = node.zone
        self.known = dict(node.known)
        self.logs = {scope: clone(node.logs[scope]) for scope in KEPT_SCOPES}
        self.fences = copy.deepcopy(node.fences)
        self.clock_last = node.clock.last


def clone(log: MemoryLog) -> MemoryLog:
    """An independent copy of a log."""
    twin = MemoryLog()
    for aid, state in log.authors():
        for rec in log.since(aid, 0):
            twin.put(rec)
        twin.set_marks(aid, head=state.head, floor=state.floor)
    return twin


class Replica:
    """One replica.

    Args:
        offset_ms: its clock's error.
    """

    def __init__(
        self, world: Context, index: int, aid: bytes, zone: str, admins: frozenset[bytes], offset_ms: int
    ) -> None:
        self.world = world
        self.index = index
        self.aid = aid
        self.zone = zone
        self.admins = admins
        self.offset_ms = offset_ms
        self.true_ms = 0
        self.online = True
        self.dead = False
        self.halted = False
        self.logs = {MESH: MemoryLog(), ZONE: MemoryLog(), LIVE: MemoryLog(fingerprints=False)}
        self.tags = {scope: scope_tag(scope, zone) for scope in (MESH, ZONE, LIVE)}
        self.clock = HybridClock()
        self.live_clock = HybridClock()
        self.fences = {scope: Fence() for scope in KEPT_SCOPES}
        self.until: dict[bytes, int] = {}
        self.removed: set[bytes] = set()
        self.known: dict[Place, int] = {}
        self.forget_links()

    def forget_links(self) -> None:
        """Everything that lives only as long as the process."""
        self.checked: set[tuple[int, str]] = set()
        self.sent: dict[tuple[int, str, bytes], int] = {}
        self.resets: dict[tuple[int, str, bytes], ResetParts] = {}
        self.asked: dict[tuple[int, str, bytes], set[int]] = {}
        self.sending: dict[tuple[int, str, bytes], sync.Part] = {}

    @property
    def now_ms(self) -> int:
        return self.true_ms + self.offset_ms

    @property
    def alive(self) -> bool:
        return not self.dead and not self.halted

    def place(self, scope: str) -> str:
        """The scope with its zone, as the oracle names it."""
        return scope if scope == MESH else scope + self.zone

    # -- saying -----------------------------------------------------------------------------------------

    def certified(self) -> bool:
        """Whether our certificate covers what we would say now."""
        until = self.until.get(self.aid, 0)
        return unix_ms_of(max(self.clock.last + 1, 0)) <= until and self.now_ms <= until

    def say(
        self,
        scope: str,
        statements: Sequence[Statement],
        *,
        quota: bool = False,
        source: bytes | None = None,
        moved: bool = True,
        burial: bool = False,
    ) -> list[Record]:
        """Write own statements; what the quota or the certificate forbids is left out.

        Args:
            source: whose records are said again, for the oracle.
            moved: whether their stamps may be others than the first time, for the oracle.
            burial: it belongs to a removal: said also when our certificate has run out, because afterwards
                the author's slots are gone. Others take it once we have a new one.
        """
        out = []
        clock = self.live_clock if scope == LIVE else self.clock
        log = self.logs[scope]
        for say in statements:
            if not burial and not self.certified() and say.path != member_path(self.aid):
                continue
            if scope in self.fences and source is None:
                say = self.fences[scope].counted(log, self.aid, say)
            rec = self.world.signed(self.aid, self.tags[scope], clock.send(self.now_ms), say)
            limits = self.limits(self.aid) if quota else None
            before = log.get(rec.slot)
            if say.kind != Kind.LOG and before is not None and before.aid != self.aid:
                raise AssertionError("a slot has one writer")
            if scope != LIVE:
                self.world.said(self, scope, rec, source, moved=moved)
            if sync.write(log, rec, limits=limits).refused is None:
                out.append(rec)
        return out

    def unheard(self, log: Log, gone: bytes) -> list[bytes]:
        """The admins that have not told in this scope that they dropped a removed author."""
        others = self.admins - self.removed - {gone}
        zone = log is self.logs[ZONE]
        near = [aid for aid in others if not zone or self.world.same_zone(self, aid)]
        return [aid for aid in near if not heard(log, gone, aid)]

    def refuses(self, scope: str, path: str, kind: int) -> bool:
        """Whether the own quota would refuse a new slot."""
        limits = self.limits(self.aid)
        slot = SlotKey(path, kind, self.aid)
        log = self.logs[scope]
        full = limits.slots_max is not None and log.author(self.aid).count >= limits.slots_max
        return full and log.get(slot) is None

    def renew(self, until_ms: int) -> None:
        """Publish a certificate; a renewal never ends before what it replaces.

        Else records in between, which some replicas took, are refused by those that know only the renewal.
        """
        until_ms = max(until_ms, self.until.get(self.aid, 0))
        self.until[self.aid] = until_ms
        self.say(MESH, [Statement(member_path(self.aid), Kind.ALL, {"until": until_ms})])

    def read(self, scope: str, path: str, kind: int) -> list[Record]:
        """The slots of a path as this node's rules read them."""
        return self.world.policy.readable(self.slots(scope, path, kind), self.now_ms)

    def slots(self, scope: str, path: str, kind: int) -> list[Record]:
        """The slots of a path whose authors have the right."""
        return [rec for rec in self.logs[scope].slots(path) if rec.kind == kind and self.counts(rec)]

    def counts(self, rec: Record) -> bool:
        """Whether the policy lets a record count."""
        return rec.path != "kv/ro" or rec.aid in self.admins

    def limits(self, aid: bytes) -> sync.Limits:
        """What is accepted of an author."""
        admin = aid in self.admins
        return sync.Limits(
            slots_max=None if admin else QUOTA_SLOTS,
            until_ms=self.until.get(aid, 0),
            removed=aid in self.removed,
            admin=admin,
        )

    def heads(self, scope: str) -> list[tuple[bytes, int, int]]:
        """What this node announces."""
        return [(aid, state.head, state.fp) for aid, state in self.logs[scope].authors()]

    def dump(self, scope: str, now_ms: int) -> dict[bytes, Any]:
        """What must be byte-identical on all replicas."""
        log = self.logs[scope]
        out: dict[bytes, Any] = {}
        for aid, state in log.authors():
            slots = [
                (rec.slot, rec.hlc, rec.sig)
                for rec in log.since(aid, 0)
                if rec.kind != Kind.LOG or rec.hlc == log.newest(aid) or not _old(rec, now_ms)
            ]
            if slots or state.head:
                out[aid] = (state.head, state.floor, sorted(slots))
        return out


def _old(rec: Record, now_ms: int) -> bool:
    return (rec.expiry_ms or 0) + GRACE_MS <= now_ms

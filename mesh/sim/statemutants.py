"""Rules of the replicated state broken on purpose, for the mutation yard: one or more for each invariant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mesh.core import sync
from mesh.core.clock import hlc_of
from mesh.core.collect import KEEP_MS, Collector, May, Statement, Survey, everything
from mesh.core.dissemination import Dissemination
from mesh.core.floors import apply_floor
from mesh.core.log import Log
from mesh.core.neighbour import Neighbour
from mesh.core.receive import Outcome
from mesh.core.record import LIVE, Kind, Op, Record
from mesh.core.tidings import Action, Applied, Key, Wakeup
from mesh.sim.model import variants
from mesh.sim.parts import Parts
from mesh.sim.reads import Reads
from mesh.wire import messages
from mesh.wire.messages import Delta


def takes_the_last(log: Log, delta: Delta, records: Sequence[Record], **more: Any) -> Outcome:
    """What comes last is right, also when it is older."""
    outcome = sync.receive(log, delta, records, **more)
    for rec in records if delta.scope != LIVE else ():
        held = log.get(rec.slot)
        if held is not None and held.hlc > rec.hlc and held.aid != more.get("me"):
            log.put(rec)
    return outcome


def floors_by_the_clock(log: Log, delta: Delta, records: Sequence[Record], **more: Any) -> Outcome:
    """What is a day old is below the floor, whether its author says so or not."""
    outcome = sync.receive(log, delta, records, **more)
    state, floor = log.author(delta.aid), hlc_of(more["now_ms"] - KEEP_MS)
    if delta.scope != LIVE and state.floor < floor <= state.head:
        log.set_marks(delta.aid, head=state.head, floor=floor)
    return outcome


class _PlainNeighbour(Neighbour):
    def serve(self, log: Log, key: Key, bytes_max: int) -> sync.Part:
        return msgspec.structs.replace(super().serve(log, key, bytes_max), reset=False)


class ServesPlainly(Dissemination):
    """Answers from below a floor as if nothing had been collected."""

    def make_neighbour(self, scopes: Iterable[str], now: float, compare_at: float) -> Neighbour:
        return _PlainNeighbour(scopes, now, compare_at)


class CollectsForOthers(Collector):
    """Forgets the deletes of others too, when they are old by its own clock."""

    def plan(
        self, log: Log, me: bytes, now_ms: int, may: May = everything, survey: Survey | None = None
    ) -> list[Statement]:
        for aid, _ in list(log.authors()):
            if aid != me:
                apply_floor(log, aid, hlc_of(now_ms - KEEP_MS))
        return super().plan(log, me, now_ms, may, survey)


class NeverLists(Dissemination):
    """Believes that equal heads are enough."""

    def _maybe_list(self, name: bytes, link: Neighbour, key: Key, now: float) -> None:
        return


class QueuesRecords(Dissemination):
    """Keeps the frames that a link is to be sent, not the names of those who have something to say."""

    def _mark(
        self, name: bytes, link: Neighbour, key: Key, before: int, event: Applied, out: list[Action]
    ) -> None:
        super()._mark(name, link, key, before, event, out)
        if key[0] != LIVE and link.dirty.get(key, 0) is None:
            with self._read(key[0]) as log:
                part = link.serve(log, key, self.config.part_bytes)
            link.passing.append(messages.encode(sync.delta_of(key[0], key[1], part)))
            link.sent[key] = part.upto
            del link.dirty[key]


class Echoes(Dissemination):
    """Passes on what comes again, too."""

    def _duplicate(
        self, link: Neighbour, name: bytes, key: Key, pushed: bool, now: float, out: list[Action]
    ) -> None:
        for other, near in self.links.items():
            if other != name and key[0] in near.scopes:
                near.sent[key] = 0
                near.dirty.setdefault(key, None)
                out.append(Wakeup(other))


class ReadsByPlace(Reads):
    """The last slot counts, wherever it comes from."""

    def shown(self, path: str, slots: Sequence[Record], kind: int, now_ms: int) -> list[Record]:
        if kind != Kind.REG:
            return super().shown(path, slots, kind, now_ms)
        said = [rec for rec in slots if rec.op != Op.VOID]
        return said[-1:] if said and said[-1].op == Op.PUT and not said[-1].expired(now_ms) else []


class ReadsOnce(Reads):
    """Remembers what it has read, and asks again only when there are other slots."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], list[Record]] = {}

    def shown(self, path: str, slots: Sequence[Record], kind: int, now_ms: int) -> list[Record]:
        key = (path, kind, len({rec.slot for rec in slots}))
        if key not in self._known:
            self._known[key] = super().shown(path, slots, kind, now_ms)
        return self._known[key]


class ExpiredIsAbsent(Reads):
    """What has expired is as if it had never been said."""

    def shown(self, path: str, slots: Sequence[Record], kind: int, now_ms: int) -> list[Record]:
        return super().shown(path, [rec for rec in slots if not rec.expired(now_ms)], kind, now_ms)


class Broken(msgspec.Struct, frozen=True):
    """One broken rule: the invariant that it breaks, and the scenario in which it is hunted."""

    summary: str
    scenario: str
    parts: Parts
    quick: bool = True


BROKEN: dict[str, Broken] = {
    "never-verifies": Broken("looks at no signature (I1)", "liars", Parts(verifies=False)),
    "last-arrival-wins": Broken("what comes last is right (I3)", "liars", Parts(receive=takes_the_last)),
    "trusts-upto": Broken("heads by a relay's word (I4)", "liars", Parts(judge=variants.TrustsUpto.judge)),
    "trusts-reset": Broken("resets by a relay's word (I7)", "liars", Parts(judge=variants.TrustsFloor.judge)),
    "floors-by-clock": Broken(
        "floors without their author (I5)", "away-30", Parts(receive=floors_by_the_clock)
    ),
    "serves-plainly": Broken("no resets below a floor (I6)", "away-30", Parts(dissemination=ServesPlainly)),
    "collects-for-others": Broken(
        "forgets what others deleted (I7)", "away-30", Parts(collector=CollectsForOthers)
    ),
    "collects-unasked": Broken(
        "collects without re-issue or void (I7)",
        "away-30",
        Parts(collector=variants.CollectsWithoutReissue.collector),
    ),
    "never-lists": Broken("equal heads are enough (I8)", "left-out", Parts(dissemination=NeverLists)),
    "reads-by-place": Broken("reads the last slot (I9)", "quick", Parts(reads=ReadsByPlace)),
    "reads-once": Broken("remembers what it read (I9)", "quick", Parts(reads=ReadsOnce)),
    "expired-is-absent": Broken(
        "what expired was never said (I10)", "expiring", Parts(reads=ExpiredIsAbsent)
    ),
    "echoes": Broken("what comes again is passed on again", "quick", Parts(dissemination=Echoes)),
    "impatient": Broken(
        "asks at once for what it has to refuse", "clocks", Parts(patient=False), quick=False
    ),
    "queues-records": Broken(
        "a queue of frames for each link (I11)", "slow-line", Parts(dissemination=QueuesRecords)
    ),
    "deaf-to-streams": Broken(
        "writes into a stream that is full (I11)", "slow-line", Parts(heeds_streams=False)
    ),
}

"""What really happened: every acknowledged write with all it had seen, kept by brute force.

A write (an event) knows the closure of events at its path that its writer's replica held. From that follows,
without any protocol, what may and what must be visible at the end:

    replaced   an event seen by a later one that counts must not be visible
    lost       a multi-value put that nobody saw, and the newest reg statement, must be visible
    counters   increments are distinct powers of two, so the bits of a total name exactly what it includes

An event is `optional` when nothing could have saved it: its only holder died or was set back, or its author
was removed before the remover knew of it. Then it may be there or not, and what it replaced likewise.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core import folds
from mesh.core.record import Kind, Op, Record

Place = tuple[str, str, int]
"""(scope with its zone, path, kind)."""


class Event:
    """One acknowledged statement. `seen` is a bit mask over the events of its place."""

    __slots__ = ("aid", "bit", "exempt", "expiry_ms", "number", "op", "optional", "place", "seen", "stamp")

    def __init__(self, place: Place, number: int, bit: int, rec: Record, seen: int) -> None:
        self.place = place
        self.number = number
        self.bit = bit
        self.aid = rec.aid
        self.op = rec.op
        self.stamp = rec.stamp
        self.expiry_ms = rec.expiry_ms
        self.seen = seen
        self.optional = False
        self.exempt = False

    def value(self, now_ms: int) -> bool:
        """Whether it is a put that has not expired."""
        return self.op == Op.PUT and (self.expiry_ms is None or self.expiry_ms > now_ms)

    def __repr__(self) -> str:
        flags = ("?" if self.optional else "") + ("!" if self.exempt else "")
        return f"#{self.number}{flags}({self.aid.hex()[:4]} {self.place[1]} op{self.op} @{self.stamp})"


class Increments:
    """The increments of one author's counter: bits given out, and bits that may be missing."""

    __slots__ = ("optional", "said")

    def __init__(self) -> None:
        self.said = 0
        self.optional = 0


class Truth:
    """All acknowledged writes of one run."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.places: dict[Place, list[Event]] = {}
        self.said: dict[tuple[Place, bytes], int] = {}
        self._of: dict[tuple[Place, bytes, int, bool], Event] = {}
        self.counters: dict[tuple[Place, bytes], Increments] = {}

    # -- recording --------------------------------------------------------------------------------------

    def new(self, place: Place, rec: Record, seen: int) -> Event:
        """An acknowledged write."""
        here = self.places.setdefault(place, [])
        event = Event(place, len(self.events), 1 << len(here), rec, seen)
        here.append(event)
        self.events.append(event)
        self.said[place, rec.aid] = self.said.get((place, rec.aid), 0) | event.bit
        self._of[place, rec.aid, rec.stamp, rec.op == Op.VOID] = event
        return event

    def same(self, place: Place, rec: Record, event: Event, *, moved: bool = True) -> None:
        """A record that says an event again.

        Args:
            moved: its stamp may be another: a clock was set right, or a lost record came back below it.
        """
        self._of[place, rec.aid, rec.stamp, rec.op == Op.VOID] = event
        if moved:
            event.stamp = rec.stamp

    def of(self, scope: str, rec: Record) -> Event | None:
        """The event a record states."""
        return self._of.get(((scope, rec.path, rec.kind), rec.aid, rec.stamp, rec.op == Op.VOID))

    def at(self, place: Place, stamp: int, value: object) -> Event | None:
        """The event at a place by its number (the value of a put) or its stamp (a delete)."""
        if isinstance(value, int) and 0 <= value < len(self.events):
            return self.events[value]
        return next((event for event in self.places.get(place, ()) if event.stamp == stamp), None)

    def closure(self, scope: str, records: Iterable[Record], kind: int) -> int:
        """Mask of all events that a replica with these slots of one path has ever known there."""
        mask = 0
        for rec in records:
            if rec.kind == kind:
                event = self.of(scope, rec)
                if event is not None:
                    mask |= event.bit | event.seen
        return mask

    def increment(self, place: Place, aid: bytes) -> int | None:
        """The next distinct power of two for an author's counter; None when 60 are used up."""
        used = self.counters.setdefault((place, aid), Increments())
        bit = used.said + 1
        if bit.bit_length() > 60:
            return None
        used.said |= bit
        return bit

    def forgive(self, place: Place, mask: int) -> None:
        """Nothing could have saved these events."""
        for event in self.places.get(place, ()):
            if event.bit & mask:
                event.optional = True

    # -- judging ----------------------------------------------------------------------------------------

    def problems(self, scope: str, paths: dict[str, list[Record]], now_ms: int) -> list[str]:
        """What is wrong with a replica's final slots ({path: records}, filtered by the policy)."""
        out: list[str] = []
        for place, events in sorted(self.places.items()):
            if place[0] != scope:
                continue
            records = [rec for rec in paths.get(place[1], ()) if rec.kind == place[2]]
            shown = {
                event.number: event
                for rec in self._shown(place[2], records, now_ms)
                if (event := self.of(scope, rec)) is not None
            }
            out += self._replaced(events, shown)
            out += self._lost(place[2], events, shown, now_ms)
        return out

    def _shown(self, kind: int, records: list[Record], now_ms: int) -> list[Record]:
        """Values that users see: those of a reg's conflicts too, behind its value."""
        match kind:
            case Kind.REG:
                best = folds.register(records, now_ms)
                others = folds.visible(records, Kind.REG) if best is not None else []
                beside = [rec for rec in others if folds.live(rec, now_ms) and rec != best]
                return [] if best is None else [best, *beside]
            case Kind.MV:
                return folds.siblings(records, now_ms)
            case Kind.LOG:
                return folds.entries(records, now_ms)
            case _:
                return list(folds.everyone(records, now_ms).values())

    def _replaced(self, events: list[Event], shown: dict[int, Event]) -> list[str]:
        out = []
        shaky = 0  # what an optional event had replaced may have given way to it before it was lost
        for event in events:
            shaky |= event.bit | event.seen if event.optional else 0
        for event in events:
            own = self.said[event.place, event.aid]
            if event.op == Op.VOID and event.seen & own & shaky:
                shaky |= event.bit
            if event.op == Op.VOID and event.place[2] == Kind.REG:  # withdrawn for what may be lost since
                beaten = any(w.optional and w.stamp > event.stamp and w.aid != event.aid for w in events)
                shaky |= event.bit | event.seen & own if beaten else 0
        for event in shown.values():
            by = [w for w in events if w.seen & event.bit and not w.bit & shaky]
            if by and not event.exempt and event.place[2] != Kind.LOG:
                out.append(f"resurrected: {event} is visible though {by[0]} had replaced it")
        return out

    def _lost(self, kind: int, events: list[Event], shown: dict[int, Event], now_ms: int) -> list[str]:
        if kind == Kind.REG:
            return self._lost_register(events, shown, now_ms)
        spoken = [event for event in events if event.op != Op.VOID]
        seen = 0
        for event in spoken:
            seen |= event.seen if kind != Kind.LOG else 0
        return [
            f"lost: {event} is not visible and nobody replaced it"
            for event in spoken
            if event.value(now_ms)
            and not (event.optional or event.exempt or event.bit & seen or event.number in shown)
        ]

    def _lost_register(self, events: list[Event], shown: dict[int, Event], now_ms: int) -> list[str]:
        spoken = [event for event in events if event.op != Op.VOID]
        firm = [event for event in spoken if not event.optional]
        if not firm:
            return []
        best = max(firm, key=lambda event: (event.stamp, event.aid))
        above = [event for event in spoken if event.optional and event.stamp >= best.stamp]
        if best.exempt:
            return []
        if best.value(now_ms) and not above and next(iter(shown), None) != best.number:
            return [f"lost: {best} is the newest and not visible"]
        if not best.value(now_ms) or any(event.optional for event in spoken):
            return []  # what an optional delete beat may be gone with it
        out = []
        for event in firm:
            unseen = not any(w.seen & event.bit for w in spoken)
            kept = all(w.op == Op.PUT and w.expiry_ms is None for w in spoken if w.stamp >= event.stamp)
            if unseen and kept and not event.exempt and event.number not in shown:
                out.append(f"lost: {event} is beaten by {best}, which had not seen it, and not shown")
        return out

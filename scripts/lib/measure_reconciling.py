"""The measurement of `scripts/bench` about finding differences: our machines beside a range trie.

Both sides work on the same sets. Ours are two `Dissemination` machines of the agent with logs that really
hold every record, talking in real frames until nothing is left to say; signatures are random bytes, because
judging them is the same work whatever found the record. A key has one of AUTHORS writers.

    heads      d new records, by few writers (20) or by many (1,000, or d): the usual case
    listing    d records that a relay left out below equal heads, of 20 writers: the rare one

Beside them range-based set reconciliation (Meyer, arXiv 2212.13567) over 16-byte ids, as a 16-way trie with
sums as fingerprints: what peers use that keep no heads. It needs more bytes for more keys and as much again
for scattered differences; ours does not depend on the number of keys until a listing is needed.
"""

import argparse
import functools
import gc
import hashlib
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from figures import Figures, ratios

AUTHORS = 1000
FEW = 20
SIZES = (10_000, 100_000, 1_000_000)
DIFFERENCES = (1, 10, 100, 1_000, 20_000)
WIDTH, LEAF = 16, 16
ID_BYTES = 16
BEFORE_MS = 1_700_000_000_000
LISTED = 100
PUBLISHED = {(100_000, 10): 10.3, (100_000, 1_000): 444.0, (1_000_000, 1_000): 894.0}


class Side:
    """One replica: a log, and the machine that speaks for it."""

    def __init__(self, name: bytes, log: Any, rng: random.Random) -> None:
        from mesh.core.dissemination import Dissemination

        self.name, self.log = name, log
        self.machine = Dissemination(name, "m", lambda scope: nullcontext(log), rng)
        self.find_s = self.rest_s = 0.0
        self.find_bytes = self.rest_bytes = 0
        self.frames: list[bytes] = []

    def meet(self, other: "Side", now: float, *, asks: bool) -> None:
        """A link to the other side stands; the first question is ours, or the other's."""
        from mesh.core import tidings

        begun = time.process_time()
        self.machine.handle(tidings.LinkUp(other.name, {"m": other.machine.root("m")}, asks), now)
        self.pull(other)
        self.find_s += time.process_time() - begun

    def pull(self, other: "Side") -> None:
        """Take what is to be sent to the other side."""
        self.frames += self.machine.pull(other.name)

    def part(self, other: "Side", now: float) -> None:
        """The link ends."""
        from mesh.core import tidings

        self.machine.handle(tidings.LinkDown(other.name), now)

    def take(self, body: bytes, other: "Side", now: float) -> None:
        """A frame of the other side."""
        from mesh.core import tidings
        from mesh.wire import messages

        begun = time.process_time()
        message = messages.decode(body)
        assert message is not None
        if isinstance(message, messages.Delta):
            self._delta(message, body, other, now)
            self.pull(other)
            self.rest_s += time.process_time() - begun
            self.rest_bytes += len(body)
            return
        self.machine.handle(tidings.Received(other.name, message), now)
        self.pull(other)
        self.find_s += time.process_time() - begun
        self.find_bytes += len(body)

    def _delta(self, delta: Any, body: bytes, other: "Side", now: float) -> None:
        from mesh.core import record, sync, tidings

        records = [record.parse(delta.aid, body, sig) for body, sig in delta.records]
        event = tidings.DeltaVerified(other.name, delta, records, body)
        for action in self.machine.handle(event, now):
            if isinstance(action, tidings.Apply):
                outcome = sync.receive(self.log, action.delta, action.records, now_ms=BEFORE_MS * 2)
                applied = tidings.Applied(
                    other.name,
                    "m",
                    delta.aid,
                    outcome.state,
                    delta.upto,
                    outcome.want,
                    dirty=outcome.mark_dirty,
                )
                self.machine.handle(applied, now)


class Pair:
    """Two equal replicas of `count` keys, of which one goes ahead, again and again."""

    def __init__(self, count: int) -> None:
        from mesh.core.memory import MemoryLog

        self._rng = random.Random(count)
        self.authors = [self._rng.randbytes(ID_BYTES) for _ in range(AUTHORS)]
        self._clock = BEFORE_MS << 16
        self.count = count
        self.now = 1000.0
        self._asker = 0
        logs = (MemoryLog(), MemoryLog())
        for number in range(count):
            rec = self.record(self.authors[number % AUTHORS], number)
            for log in logs:
                log.put(rec)
        for aid in self.authors:
            for log in logs:
                log.set_marks(aid, head=log.newest(aid), floor=0)
        self.behind = Side(b"behind".ljust(16), logs[0], self._rng)
        self.ahead = Side(b"ahead".ljust(16), logs[1], self._rng)

    def record(self, aid: bytes, number: int) -> Any:
        """A record of a key, stamped after all before it."""
        from mesh.core.record import Kind, Op, Record
        from mesh.wire import codec

        self._clock += 1 << 16
        path, kind, hlc, op, value = f"kv/load/{number}", int(Kind.REG), self._clock, int(Op.PUT), "x" * 120
        body = codec.encode([path, kind, hlc, op, None, value])
        return Record(aid, path, kind, hlc, op, None, value, None, None, self._rng.randbytes(64), body)

    def write(self, count: int, writers: int) -> None:
        """One side takes so many new writes: keys of so many writers, written again."""
        from mesh.core import sync
        from mesh.core.tidings import Applied

        chosen = self._rng.sample(range(AUTHORS), writers)
        for number in range(count):
            author = chosen[number % writers]
            key = (author + AUTHORS * self._rng.randrange(self.count // AUTHORS)) % self.count
            sync.write(self.ahead.log, self.record(self.authors[author], key))
        for author in chosen:
            aid = self.authors[author]
            self.ahead.machine.handle(Applied(None, "m", aid, self.ahead.log.author(aid)), self.now)

    def omit(self, count: int, writers: int) -> None:
        """One side loses records below its heads, as if a relay had never passed them on."""
        from mesh.core.tidings import Applied

        for author in self._rng.sample(range(AUTHORS), writers):
            aid = self.authors[author]
            held = list(self.behind.log.since(aid, 0))[:-1]
            for rec in self._rng.sample(held, min(count // writers, len(held))):
                self.behind.log.drop(rec.slot)
            self.behind.machine.handle(Applied(None, "m", aid, self.behind.log.author(aid)), self.now)

    def meet(self) -> dict[str, float]:
        """Let the two talk until nothing is left to say; bytes and time of finding, and with the records.

        They take turns in asking first.
        """
        sides = (self.behind, self.ahead)
        for side in sides:
            side.find_s = side.rest_s = 0.0
            side.find_bytes = side.rest_bytes = 0
        self.now += 1000.0  # nothing was listed or compared lately
        self._asker = 1 - self._asker
        self.behind.meet(self.ahead, self.now, asks=self._asker == 0)
        self.ahead.meet(self.behind, self.now, asks=self._asker == 1)
        self._talk()
        for side, other in (sides, sides[::-1]):
            side.part(other, self.now)
        if self.behind.machine.root("m") != self.ahead.machine.root("m"):
            raise AssertionError("the two do not agree after all was said")
        return {
            "find_kib": sum(side.find_bytes for side in sides) / 1024,
            "find_ms": sum(side.find_s for side in sides) * 1000,
            "all_kib": sum(side.find_bytes + side.rest_bytes for side in sides) / 1024,
            "all_ms": sum(side.find_s + side.rest_s for side in sides) * 1000,
        }

    def _talk(self) -> None:
        from mesh.core.tidings import Wakeup

        pairs = ((self.behind, self.ahead), (self.ahead, self.behind))
        for _ in range(100_000):
            moved = False
            for side, other in pairs:
                while side.frames:
                    moved = True
                    frames, side.frames = side.frames, []
                    for body in frames:
                        other.take(body, side, self.now)
                    side.pull(other)
            if moved:
                continue
            self.now += 0.2  # repairs are due a moment later
            actions = [action for side, _ in pairs for action in side.machine.tick(self.now)]
            for side, other in pairs:
                side.pull(other)
            if not any(side.frames for side, _ in pairs) and not any(isinstance(a, Wakeup) for a in actions):
                return


# -- the range trie -----------------------------------------------------------------------------------------


class Ranges:
    """A sorted set of ids with sums over every range of it."""

    def __init__(self, ids: Sequence[bytes]) -> None:
        self.ids = sorted(ids)
        self.sums = [0]
        for one in self.ids:
            self.sums.append(self.sums[-1] + int.from_bytes(one, "big"))

    def part(self, low: bytes, high: bytes) -> tuple[int, int]:
        """Where a range of ids begins and ends."""
        return bisect_left(self.ids, low), bisect_left(self.ids, high)

    def print_of(self, begin: int, end: int) -> bytes:
        """The fingerprint of a range."""
        total = (self.sums[end] - self.sums[begin]) % (1 << 128)
        return hashlib.blake2b(total.to_bytes(16, "big"), digest_size=16).digest()


def reconcile_ranges(one: Ranges, other: Ranges) -> tuple[int, int, int]:
    """Bytes of both sides, ids found and round trips, until every range is equal or listed."""
    sent = found = trips = 0
    top = b"\xff" * ID_BYTES + b"\xff"
    todo = [(b"", top)]
    asker, answerer = one, other
    while todo:
        trips += 1
        following = []
        for low, high in todo:
            begin, end = asker.part(low, high)
            sent += ID_BYTES + 16  # its upper bound and its fingerprint
            there = answerer.part(low, high)
            if asker.print_of(begin, end) == answerer.print_of(*there):
                continue
            if min(end - begin, there[1] - there[0]) <= LEAF:
                sent += ID_BYTES * (end - begin + there[1] - there[0])
                mine, theirs = asker.ids[begin:end], answerer.ids[slice(*there)]
                found += len(set(mine) ^ set(theirs))
                continue
            bounds = [answerer.ids[there[0] + (there[1] - there[0]) * n // WIDTH] for n in range(1, WIDTH)]
            following += list(zip([low, *bounds], [*bounds, high], strict=True))
        todo, asker, answerer = following, answerer, asker
    return sent, found, (trips + 1) // 2


@functools.lru_cache(1)
def _everything(count: int) -> tuple[list[bytes], Ranges]:
    """So many ids, and the trie of them all."""
    rng = random.Random(count)
    ids = [rng.randbytes(ID_BYTES) for _ in range(count)]
    return ids, Ranges(ids)


def _ranges(count: int, differing: int) -> tuple[float, float]:
    """KiB and milliseconds of processor time for `differing` ids that only one side has."""
    ids, other = _everything(count)
    one = Ranges(ids[differing:])
    begun = time.process_time()
    sent, found, _ = reconcile_ranges(one, other)
    spent = (time.process_time() - begun) * 1000
    assert found == differing, (found, differing)
    return sent / 1024, spent


# -- measuring ----------------------------------------------------------------------------------------------


def reconciling(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """Finding 1 to 20,000 differences in 10,000 to 1,000,000 keys: bytes and time of both sides together.

    Beside a range trie over ids in the same run. One process, no network.
    """
    figures.configuration(
        "reconciling, ours", f"two dissemination machines, {AUTHORS} writers, records of about 250 B in RAM"
    )
    figures.configuration(
        "reconciling, range trie", f"{WIDTH}-way over sorted ids of {ID_BYTES} B, leaves of {LEAF} ids"
    )
    gc.disable()  # it would walk a million records again and again, which has nothing to do with finding
    try:
        for count in options.keys or SIZES:
            _measure(figures, count)
    finally:
        gc.enable()
        _everything.cache_clear()


def _measure(figures: Figures, count: int) -> None:
    pair = Pair(count)
    for differing in DIFFERENCES:
        if differing <= count // 2:
            _compare(figures, pair, differing)
    pair.omit(LISTED, FEW)
    found = pair.meet()
    name = f"{LISTED} of {count:,} keys left out by a relay, of {FEW} writers"
    figures.add(f"{name}: bytes to find them", [found["find_kib"]], "KiB", "")
    figures.add(f"{name}: processor time", [found["find_ms"]], "ms", "")


def _compare(figures: Figures, pair: Pair, differing: int) -> None:
    trie = [_ranges(pair.count, differing) for _ in range(1 if pair.count > 100_000 else 3)]
    peer = f"range trie {trie[0][0]:.1f} KiB"
    if published := PUBLISHED.get((pair.count, differing)):
        peer += f", measured elsewhere {published:g} KiB"
    for writers in sorted({min(differing, FEW), min(differing, AUTHORS)}):
        found = []
        for _ in range(4):
            pair.write(differing, writers)
            found.append(pair.meet())
        name = f"{differing:,} of {pair.count:,} keys, {writers:,} writer{'s' if writers > 1 else ''}"
        asked = (pair.count, differing, writers) == (1_000_000, 1_000, FEW)
        sizes, times = [one["find_kib"] for one in found], [one["find_ms"] for one in found]
        figures.add(
            f"{name}: bytes to find them",
            sizes,
            "KiB",
            "<= 10" if asked else "",
            peer,
            series=f"bytes to find differences by differences: {pair.count:,} keys, {_who(writers)}",
            at=differing,
        )
        figures.add(f"{name}: processor time", times, "ms", "<= 100" if asked else "", _milliseconds(trie))
        figures.add(f"{name}: with the records, bytes", [one["all_kib"] for one in found], "KiB", "")
        figures.add(f"{name}: with the records, time", [one["all_ms"] for one in found], "ms", "")
        shares = ratios(sizes, [trie[0][0]] * len(sizes))
        figures.add(f"{name}: of the range trie's bytes", shares, "times", "")
    figures.add(
        f"range trie: {differing:,} of {pair.count:,} ids",
        [size for size, _ in trie],
        "KiB",
        "",
        series=f"bytes to find differences by differences: {pair.count:,} ids, range trie",
        at=differing,
    )


def _who(writers: int) -> str:
    return f"up to {FEW if writers <= FEW else AUTHORS:,} writers"


def _milliseconds(trie: Sequence[tuple[float, float]]) -> str:
    return f"range trie {min(time_ for _, time_ in trie):.1f} ms"


MEASUREMENTS: dict[str, Callable[[Figures, Path, argparse.Namespace], None]] = {"reconciling": reconciling}

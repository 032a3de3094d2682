"""What must hold at every moment, and what is demanded in the end; a breach ends the run with its name.

The checks know what no node knows: every record that was really signed, the newest of each author, the
highest floor and incarnation it ever said. So a head, a floor or an incarnation that a replica believes can
be held against the truth whenever it moves.

    authorship    a stored record is one that its author signed (I1)
    stamps        an author's stamps grow strictly in each scope (I2)
    merge         a slot only ever takes the larger (hlc, H(sig)) (I3)
    heads         no head is above the newest stamp of its author; what survives below it is held (I4)
    floors        floor <= head, and no floor but the author's own word (I5)
    resets        below a floor only resets are served, with its proof (I6; `lookout.py`)
    collection    only the author collects, after re-issue and void (I7; `collection.py`)
    listings      equal heads and unequal fingerprints of a quiet author lead to a listing (I8; `lookout.py`)
    reading       a reading is a function of slots and time; what has expired reads as deleted (I9, I10;
                  `reads.py`)
    storms        no frame of records leaves by one link again and again (`lookout.py`)
    queues        nothing that waits for a link grows with the load (I11; `lookout.py`)
    incarnation   only the subject raises it, it never falls, and it is on disk before it is used
    refutation    an accused node that is awake answers with an incarnation above the accusation, in time, and
                  nothing less ends a verdict
    accusers      a verdict stands on members that really accused, and on two where two are able to speak
    verdict       nobody calls a healthy member dead (where the scenario allows none)
    views         what a machine announces agrees with what it answers, and it neither spins nor oversleeps
    agreement     the faults over, all see all as they are, within the bound (liveness)
    identical     the faults over, all replicas of a scope are equal, within the bound
    lost          an acknowledged write is there unless a write that saw it replaced it
    resurrected   nothing that was replaced or deleted is visible again
    expected      a figure of the scenario's [expect] was missed
"""

from __future__ import annotations

from mesh.core.lease import PATH_PREFIX, subject_of
from mesh.core.record import Record, signature_hash


class Violation(AssertionError):
    """A rule was broken.

    Attributes:
        check: its name, one of those above.
    """

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.text = text


class Checks:
    """The truth of one run, as far as single moments can be held against it."""

    def __init__(self) -> None:
        self._signed: dict[bytes, bytes] = {}
        self._last: dict[tuple[bytes, bytes], int] = {}
        self._newest: dict[tuple[bytes, bytes], int] = {}
        self._floors: dict[tuple[bytes, bytes], int] = {}
        self.incarnations: dict[bytes, int] = {}
        self._highest: dict[bytes, int] = {}
        self.kept: dict[tuple[bytes, bytes], set[int]] = {}
        self.twice: set[tuple[bytes, bytes, int]] = set()
        self._accused: set[tuple[bytes, bytes]] = set()
        self._issued: dict[tuple[bytes, bytes], dict[int, bytes]] = {}

    def fail(self, check: str, text: str) -> None:
        """A rule was broken.

        Raises:
            Violation: always.
        """
        raise Violation(check, text)

    def signed(self, tag: bytes, rec: Record, floor: int) -> None:
        """An author signs: its stamps must grow. `floor` is what the record says of it, else 0."""
        key = (tag, rec.aid)
        if rec.hlc <= self._last.get(key, 0):
            self.fail("stamps", f"{rec.aid.hex()[:8]} issues {rec.hlc} after {self._last[key]}")
        self._last[key] = rec.hlc
        self._newest[key] = max(rec.hlc, self._newest.get(key, 0))
        self._signed[rec.sig] = rec.body
        if rec.path.startswith(PATH_PREFIX):
            self._accused.add((rec.aid, subject_of(rec.path)))
        else:
            issued = self._issued.setdefault(key, {})
            if issued.setdefault(rec.hlc, rec.sig) != rec.sig:
                self.twice.add((*key, rec.hlc))
        if floor:
            self._floors[key] = max(floor, self._floors.get(key, 0))

    def floor(self, tag: bytes, aid: bytes) -> int:
        """The highest floor that an author has said."""
        return self._floors.get((tag, aid), 0)

    def set_back(self, tag: bytes, aid: bytes, newest: int) -> None:
        """A store was lost or set back, or its clock corrected: stamps may come again above what is left."""
        self._last[tag, aid] = newest

    def stored(self, number: int, held: Record | None, rec: Record) -> None:
        """A replica stores a record in the place of another."""
        if self._signed.get(rec.sig) != rec.body:
            self.fail(
                "authorship", f"node {number} stores {rec.path} @{rec.hlc}, which its author never signed"
            )
        if held is None or held.hlc < rec.hlc:
            return
        if held.hlc > rec.hlc or signature_hash(held.sig) >= signature_hash(rec.sig):
            self.fail("merge", f"node {number} replaces {held.path} @{held.hlc} by @{rec.hlc}")

    def marked(self, number: int, tag: bytes, aid: bytes, head: int, floor: int) -> None:
        """A replica moves a head or a floor."""
        newest = self._newest.get((tag, aid), 0)
        if head > newest:
            self.fail("heads", f"node {number} claims {aid.hex()[:8]} up to {head}, newest is {newest}")
        if floor and (floor > head or floor > self._floors.get((tag, aid), 0)):
            self.fail("floors", f"node {number} has floor {floor} of {aid.hex()[:8]}, head {head}")

    def opens(self, number: int, aid: bytes, on_disk: int) -> None:
        """A new process finds an incarnation on its disk."""
        if on_disk < self.incarnations.get(aid, 0):
            self.fail("incarnation", f"node {number} starts at {on_disk} after {self.incarnations[aid]}")

    def persists(self, number: int, before: int, inc: int) -> None:
        """A node writes an incarnation to its disk."""
        if inc <= before:
            self.fail("incarnation", f"node {number} persists {inc} after {before}")

    def uses(self, number: int, aid: bytes, on_disk: int, inc: int) -> None:
        """A node publishes an incarnation."""
        if inc != on_disk:
            self.fail("incarnation", f"node {number} uses {inc}, on its disk is {on_disk}")
        if inc < self.incarnations.get(aid, 0):
            self.fail("incarnation", f"node {number} is back at {inc} after {self.incarnations[aid]}")
        self.incarnations[aid] = inc
        self._highest[aid] = max(inc, self._highest.get(aid, 0))

    def verdict(self, number: int, subject: bytes, accusers: tuple[bytes, ...], able: int) -> None:
        """A node takes accusations for a verdict; so many monitors could have spoken, as it saw them."""
        who = f"node {number} calls {subject.hex()[:8]} dead"
        false = [aid for aid in accusers if aid == subject or (aid, subject) not in self._accused]
        if false:
            self.fail("accusers", f"{who} by {false[0].hex()[:8]}, who never said so")
        if len(set(accusers)) < min(2, able):
            self.fail("accusers", f"{who} by {len(set(accusers))}, and {able} could speak")

    def believes(self, number: int, aid: bytes, inc: int) -> None:
        """A node holds an incarnation of another."""
        highest = self._highest.get(aid, 0)
        if inc > highest:
            self.fail("incarnation", f"node {number} holds {inc} of {aid.hex()[:8]}, highest is {highest}")

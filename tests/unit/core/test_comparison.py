"""Two replicas that differ find out where: one asks, the other answers, the first tells.

Two real machines over real logs; the test carries, loses or alters the frames between them. What the records
say decides nothing here, so their signatures are only random bytes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

import msgspec
import pytest

from mesh.core import comparison, record, sync, tidings
from mesh.core.dissemination import Dissemination
from mesh.core.memory import MemoryLog
from mesh.core.record import MESH, Kind, Op, Record
from mesh.wire import codec, messages
from mesh.wire.messages import Delta, Heads, Message, Root

NOW_MS = 1_800_000_000_000
BEGIN = NOW_MS << 16
PATIENCE_S = tidings.Config().want_timeout_s
Alter = Callable[[Message], Message | None]


class Side:
    """One replica, and what it has sent that is still on its way."""

    def __init__(self, name: bytes, seed: int) -> None:
        self.name = name.ljust(16)
        self.log = MemoryLog()
        self.machine = Dissemination(self.name, [MESH], lambda _: nullcontext(self.log), random.Random(seed))
        self.sent: list[Message] = []
        self.alter: Alter = lambda message: message

    def hold(self, records: list[Record], head: int) -> None:
        """Have these records of an author."""
        for rec in records:
            self.log.put(rec)
        aid = records[0].aid
        self.log.set_marks(aid, head=head, floor=0)

    def held(self) -> set[tuple[bytes, int]]:
        return {(aid, rec.hlc) for aid, _ in self.log.authors() for rec in self.log.since(aid, 0)}

    def heads(self) -> dict[bytes, int]:
        return {aid: state.head for aid, state in self.log.authors()}

    def take(self, body: bytes, link: bytes, now: float) -> None:
        message = messages.decode(body)
        assert message is not None
        if not isinstance(message, Delta):
            self.machine.handle(tidings.Received(link, message), now)
            return
        records = [record.parse(message.aid, *wire) for wire in message.records]
        for action in self.machine.handle(tidings.DeltaVerified(link, message, records, body), now):
            if isinstance(action, tidings.Apply):
                self.apply(action, now)

    def apply(self, action: tidings.Apply, now: float) -> None:
        delta = action.delta
        outcome = sync.receive(self.log, delta, action.records, now_ms=NOW_MS * 2, me=self.name)
        applied = tidings.Applied(
            action.link,
            MESH,
            delta.aid,
            outcome.state,
            delta.upto,
            outcome.want,
            dirty=outcome.mark_dirty,
        )
        self.machine.handle(applied, now)


class Pair:
    """Two sides that share some history and not all, by a seed."""

    def __init__(self, seed: int, authors: int = 40, alike: float = 0.3) -> None:
        self.rng = random.Random(seed)
        self.left, self.right = Side(b"left", 1), Side(b"right", 2)
        self.now = 100.0
        self.way: deque[tuple[Side, Side, bytes]] = deque()
        self.delivered = 0
        for _ in range(authors):
            self._author(alike)
        self.reload()

    def reload(self) -> None:
        """The logs were changed under the machines."""
        for side in (self.left, self.right):
            side.machine.reload()
        self.everything = self.left.held() | self.right.held()

    def _author(self, alike: float) -> None:
        aid = bytes([self.rng.randrange(24)]) + self.rng.randbytes(15)
        log = [self._record(aid, number) for number in range(self.rng.randint(2, 6))]
        sides = [self.left, self.right]
        self.rng.shuffle(sides)
        for side in sides:
            side.hold(log, log[-1].hlc)
        if self.rng.random() < alike:
            return
        first = sides[0]
        if self.rng.random() < 0.3:  # a relay left something out
            for side in sides if self.rng.random() < 0.5 else [first]:
                side.log.drop(self.rng.choice(log[:-1]).slot)
            return
        kept = self.rng.randrange(len(log))
        for rec in log[kept:]:
            first.log.drop(rec.slot)
        first.log.set_marks(aid, head=log[kept - 1].hlc if kept else 0, floor=0)

    def _record(self, aid: bytes, number: int) -> Record:
        hlc, path = BEGIN + self.rng.randrange(1 << 20) + (number << 24), f"kv/{number}"
        body = codec.encode([path, int(Kind.REG), hlc, int(Op.PUT), None, number])
        return Record(
            aid, path, Kind.REG, hlc, Op.PUT, None, number, None, None, self.rng.randbytes(64), body
        )

    def link(self, left_asks: bool, right_asks: bool) -> None:
        for me, other, asks in (
            (self.left, self.right, left_asks),
            (self.right, self.left, right_asks),
        ):
            me.machine.handle(
                tidings.LinkUp(other.name, {MESH: other.machine.root(MESH)}, asks=asks), self.now
            )

    def cut(self) -> None:
        self.way.clear()
        for me, other in ((self.left, self.right), (self.right, self.left)):
            me.machine.handle(tidings.LinkDown(other.name), self.now)

    def talk(self, seconds: float, frames_max: int | None = None) -> None:
        """Carry frames and let time pass; stops early when so many were carried."""
        end = self.now + seconds
        while True:
            self._pull()
            while self.way:
                if frames_max is not None and self.delivered >= frames_max:
                    return
                self._deliver()
                self._pull()
            due = min(side.machine.deadline() for side in (self.left, self.right))
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for side in (self.left, self.right):
                side.machine.tick(self.now)

    def _pull(self) -> None:
        for me, other in ((self.left, self.right), (self.right, self.left)):
            for body in me.machine.pull(other.name):
                message = messages.decode(body)
                assert message is not None
                altered = me.alter(message)
                if altered is not None:
                    me.sent.append(altered)
                    self.way.append((me, other, messages.encode(altered)))

    def _deliver(self) -> None:
        me, other, body = self.way.popleft()
        self.delivered += 1
        other.take(body, me.name, self.now)

    def agreed(self) -> bool:
        assert self.left.held() <= self.everything
        same = self.left.machine.root(MESH) == self.right.machine.root(MESH)
        return same and self.left.held() == self.right.held() == self.everything


def entries(side: Side) -> list[bytes]:
    return [aid for message in side.sent if isinstance(message, Heads) for aid, _, _ in message.heads]


def without_promises(message: Message) -> Message:
    """As versions before spoke."""
    if isinstance(message, Root):
        return msgspec.structs.replace(message, tells=False)
    if isinstance(message, Heads):
        return msgspec.structs.replace(message, buckets=b"")
    return message


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("asks", [(True, False), (False, True), (True, True), (False, False)])
def test_whoever_asks_both_end_with_everything(seed: int, asks: tuple[bool, bool]) -> None:
    pair = Pair(seed)
    assert not pair.agreed()
    pair.link(*asks)
    pair.talk(100)
    assert pair.agreed()


@pytest.mark.parametrize("asks", [(True, False), (False, True), (True, True)])
def test_without_holes_one_question_is_enough(asks: tuple[bool, bool]) -> None:
    for seed in range(5):
        pair = Pair(seed)
        for aid in sorted({aid for aid, _ in pair.everything}):
            left, right = pair.left.log, pair.right.log
            if left.author(aid).head == right.author(aid).head:  # nothing is to be left out below a head
                for rec in [*left.since(aid, 0), *right.since(aid, 0)]:
                    left.put(rec)
                    right.put(rec)
        pair.reload()
        pair.link(*asks)
        pair.talk(1)
        assert pair.agreed()


def test_a_head_crosses_both_ways_only_if_it_differs() -> None:
    pair = Pair(1, authors=300, alike=1)
    ahead = sorted({aid for aid, _ in pair.everything})[:5]
    for aid in ahead:
        rec = pair._record(aid, 9)
        pair.left.hold([rec], rec.hlc)
    pair.reload()
    pair.link(True, False)
    pair.talk(1)
    assert pair.agreed()
    questions = [one for one in pair.left.sent + pair.right.sent if isinstance(one, Root) and one.buckets]
    assert len(questions) == 1
    assert entries(pair.left) == ahead
    assert set(ahead) <= set(entries(pair.right))


@pytest.mark.parametrize("seed", range(3))
def test_a_link_that_falls_at_any_frame_is_made_good_by_the_next(seed: int) -> None:
    for frames in range(1, 30):
        pair = Pair(seed)
        pair.link(True, False)
        pair.talk(10, frames_max=frames)
        pair.cut()
        pair.link(frames % 2 == 0, frames % 2 == 1)
        pair.talk(100)
        assert pair.agreed()


@pytest.mark.parametrize("seed", range(8))
def test_frames_that_are_lost_are_made_good(seed: int) -> None:
    pair = Pair(seed)
    begin, dice = pair.now, random.Random(seed)

    def loses(message: Message) -> Message | None:
        return None if pair.now < begin + 40 and dice.random() < 0.4 else message

    pair.left.alter = pair.right.alter = loses
    pair.link(seed % 2 == 0, seed % 2 == 1)
    pair.talk(200)
    assert pair.agreed()


@pytest.mark.parametrize("asks", [True, False])
def test_a_neighbour_that_promises_nothing_is_answered_and_asked(asks: bool) -> None:
    for seed in range(5):
        pair = Pair(seed)
        pair.left.alter = pair.right.alter = without_promises  # nor does it understand any
        pair.link(asks, True)  # those before asked at every link
        pair.talk(1)
        assert pair.left.heads() == pair.right.heads()
        pair.talk(100)
        assert pair.agreed()


def test_a_neighbour_that_does_not_ask_is_asked_after_a_while() -> None:
    pair = Pair(3)
    pair.right.alter = lambda message: None if isinstance(message, Root) else message
    pair.link(False, True)
    pair.talk(PATIENCE_S / 2)
    assert not pair.agreed()
    pair.talk(PATIENCE_S)
    assert pair.left.heads() == pair.right.heads()


def test_a_neighbour_that_does_not_tell_is_asked_after_a_while() -> None:
    pair = Pair(3)

    def keeps_to_itself(message: Message) -> Message | None:
        return None if isinstance(message, Heads) and message.reply and not message.buckets else message

    pair.right.alter = keeps_to_itself
    pair.link(False, True)
    pair.talk(PATIENCE_S / 2)
    assert pair.left.heads() != pair.right.heads()
    pair.talk(PATIENCE_S)
    assert pair.left.heads() == pair.right.heads()


def test_a_bucket_with_too_many_authors_for_a_frame_is_asked_for_from_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparison, "BUCKET_ENTRIES_MAX", 2)
    for seed in range(5):
        pair = Pair(seed)
        pair.link(True, False)
        pair.talk(1)
        assert pair.left.heads() == pair.right.heads()
        pair.talk(100)
        assert pair.agreed()


def test_nobody_is_told_who_was_not_asked_or_answers_twice() -> None:
    pair = Pair(1)
    machine, peer = pair.left.machine, pair.right.name
    answer = tidings.Received(peer, Heads(MESH, [], True, False, bytes(range(256))))
    pair.link(False, False)
    machine.pull(peer)
    machine.handle(answer, pair.now)
    assert machine.pull(peer) == []
    machine.handle(tidings.Received(peer, Root(MESH, bytes(16))), pair.now)
    machine.handle(answer, pair.now)
    told = [messages.decode(body) for body in machine.pull(peer)]
    assert [type(message) for message in told] == [Root, Heads]
    machine.handle(answer, pair.now)
    assert machine.pull(peer) == []

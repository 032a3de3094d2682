"""Statements spread over links: trees form, holes heal, digests find what was lost.

The bench is a row of real machines over real logs; links are lists of frames that the test delivers, loses
or holds back. Signatures are real.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from nacl.bindings import crypto_sign_seed_keypair

from mesh.core import dissemination as core
from mesh.core import record, sync, tidings
from mesh.core.clock import HybridClock
from mesh.core.memory import MemoryLog
from mesh.core.record import MESH, Kind
from mesh.wire import messages
from mesh.wire.messages import Delta

MESH_ID = b"m" * 16
NOW_MS = 1_800_000_000_000


class Peer:
    """One machine with its log; `publics` stands for a directory everyone agrees on."""

    def __init__(self, bench: Bench, number: int) -> None:
        self.bench = bench
        public, self.secret = crypto_sign_seed_keypair(bytes([number]) * 32)
        self.aid = public[:16]
        self.public = public
        self.log = MemoryLog()
        self.clock = HybridClock()
        self.machine = core.Dissemination(self.aid, [MESH], self.read, random.Random(number))
        self.received = 0
        self.slow_disk = False
        self.waiting: dict[bytes, deque[tidings.Apply]] = {}

    @contextmanager
    def read(self, scope: str) -> Iterator[MemoryLog]:
        yield self.log

    def say(self, path: str, val: object) -> None:
        rec = record.sign(
            self.secret, MESH_ID, b"m", path=path, kind=Kind.REG, hlc=self.clock.send(NOW_MS), val=val
        )
        outcome = sync.write(self.log, rec)
        self.event(tidings.Applied(None, MESH, self.aid, outcome.state))

    def event(self, event: tidings.Event) -> None:
        self.perform(self.machine.handle(event, self.bench.now))

    def perform(self, actions: list[tidings.Action]) -> None:
        for action in actions:
            if isinstance(action, tidings.Apply) and self.slow_disk:
                self.waiting.setdefault(action.link, deque()).append(action)
            elif isinstance(action, tidings.Apply):
                self.apply(action)

    def apply(self, action: tidings.Apply) -> None:
        delta = action.delta
        outcome = sync.receive(self.log, delta, action.records, now_ms=NOW_MS, me=self.aid)
        self.event(
            tidings.Applied(
                action.link,
                MESH,
                delta.aid,
                outcome.state,
                delta.upto,
                outcome.want,
                dirty=outcome.mark_dirty,
            )
        )

    def frame(self, sender: bytes, body: bytes) -> None:
        message = messages.decode(body)
        if isinstance(message, Delta):
            self.received += len(message.records)
            public = self.bench.publics[message.aid]
            for wire in message.records:
                assert record.verify(public, MESH_ID, b"m", *wire)
            records = [record.parse(message.aid, *wire) for wire in message.records]
            self.event(tidings.DeltaVerified(sender, message, records, body))
        else:
            assert message is not None
            self.event(tidings.Received(sender, message))


class Bench:
    """Peers, links that keep order, and time."""

    def __init__(self, count: int, edges: list[tuple[int, int]]) -> None:
        self.now = 0.0
        self.peers = [Peer(self, number) for number in range(count)]
        self.by_aid = {peer.aid: peer for peer in self.peers}
        self.publics = {peer.aid: peer.public for peer in self.peers}
        self.edges: set[tuple[bytes, bytes]] = set()
        self.frames: deque[tuple[bytes, bytes, bytes]] = deque()
        self.lose = 0.0
        self.rng = random.Random(count)
        for a, b in edges:
            self.link(a, b)

    def link(self, a: int, b: int) -> None:
        left, right = self.peers[a], self.peers[b]
        for me, other in ((left, right), (right, left)):
            self.edges.add((me.aid, other.aid))
            me.event(tidings.LinkUp(other.aid, {MESH: other.machine.root(MESH)}))

    def cut(self, a: int, b: int) -> None:
        left, right = self.peers[a], self.peers[b]
        for me, other in ((left, right), (right, left)):
            self.edges.discard((me.aid, other.aid))
            me.event(tidings.LinkDown(other.aid))
        self.frames = deque(frame for frame in self.frames if (frame[0], frame[1]) in self.edges)

    def exchange(self) -> None:
        """Pull and deliver until nobody has anything to send."""
        for _ in range(10_000):
            for source, target in sorted(self.edges):
                for body in self.by_aid[source].machine.pull(target):
                    if self.rng.random() >= self.lose:
                        self.frames.append((source, target, body))
            if not self.frames:
                return
            source, target, body = self.frames.popleft()
            self.by_aid[target].frame(source, body)
        raise AssertionError("the frames never end")

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.1)
            for peer in self.peers:
                if peer.machine.deadline() <= self.now:
                    peer.perform(peer.machine.tick(self.now))
            self.exchange()

    def agree(self) -> bool:
        return len({peer.machine.root(MESH) for peer in self.peers}) == 1


def ring(count: int, chords: int = 2) -> list[tuple[int, int]]:
    return [(i, (i + step) % count) for i in range(count) for step in range(1, chords + 1)]


def test_a_write_reaches_everyone() -> None:
    bench = Bench(8, ring(8))
    bench.peers[3].say("kv/a", 1)
    bench.exchange()
    assert bench.agree()
    assert all(peer.log.author(bench.peers[3].aid).count == 1 for peer in bench.peers)


def test_who_holds_a_write_shows_in_the_digests_that_neighbours_tell_anyway() -> None:
    bench = Bench(3, ring(3, 1))
    author, *others = bench.peers
    bench.advance(31.0)
    author.say("kv/a", 1)
    written = author.log.author(author.aid).head
    bench.exchange()
    assert author.machine.holders(MESH, author.aid, written) == set()
    assert all(author.aid in other.machine.holders(MESH, author.aid, written) for other in others)
    bench.advance(31.0)
    assert author.machine.holders(MESH, author.aid, written) == {other.aid for other in others}
    for other in others:
        everyone_else = {peer.aid for peer in bench.peers} - {other.aid}
        assert other.machine.holders(MESH, author.aid, written) == everyone_else
        assert other.machine.holders(MESH, author.aid, written + 1) == set()

    author.say("kv/b", 1)
    assert author.machine.holders(MESH, author.aid, written) == {other.aid for other in others}
    newer = author.log.author(author.aid).head
    assert author.machine.holders(MESH, author.aid, newer) == set()


def test_who_was_cut_off_is_not_counted_among_those_who_hold_a_write() -> None:
    bench = Bench(3, ring(3, 1))
    author, near, far = bench.peers
    bench.advance(31.0)
    bench.cut(0, 2)
    bench.cut(1, 2)
    author.say("kv/a", 1)
    bench.advance(31.0)
    written = author.log.author(author.aid).head
    assert author.machine.holders(MESH, author.aid, written) == {near.aid}
    assert far.machine.holders(MESH, author.aid, written) == set()
    bench.link(0, 2)
    bench.advance(31.0)
    assert author.machine.holders(MESH, author.aid, written) == {near.aid, far.aid}


def test_trees_form_so_that_each_node_gets_one_copy() -> None:
    bench = Bench(8, ring(8))
    for number in range(5):
        bench.peers[0].say(f"kv/{number}", number)
        bench.exchange()
        bench.advance(1.5)
    before = [peer.received for peer in bench.peers]
    bench.peers[0].say("kv/last", 1)
    bench.exchange()
    copies = [peer.received - old for peer, old in zip(bench.peers, before, strict=True)]
    assert copies == [0, 1, 1, 1, 1, 1, 1, 1]


def test_two_links_that_race_are_not_both_silenced() -> None:
    bench = Bench(4, [(3, 1), (3, 2), (1, 0), (2, 0)])
    bench.exchange()
    target, left, right, author = bench.peers

    def relay(path: str, first: Peer, second: Peer) -> None:
        """Bring a write to the target by both relays, before anything the target says arrives."""
        author.say(path, 1)
        for peer in (left, right):
            for body in author.machine.pull(peer.aid):
                peer.frame(author.aid, body)
        for peer in (first, second):
            for body in peer.machine.pull(target.aid):
                target.frame(peer.aid, body)

    relay("a", left, right)
    relay("b", right, left)
    bench.exchange()
    author.say("c", 1)
    bench.exchange()
    assert list(target.log.slots("c"))


def test_races_make_no_circle_that_nothing_enters() -> None:
    bench = Bench(5, [(0, 1), (0, 2), (1, 3), (2, 4), (3, 4)])
    bench.exchange()
    author, *_ = bench.peers

    def bring(*hops: tuple[int, int]) -> None:
        """Carry what is to be sent over these hops only, in this order."""
        for source, target in hops:
            for body in bench.peers[source].machine.pull(bench.peers[target].aid):
                bench.peers[target].frame(bench.peers[source].aid, body)

    author.say("a", 1)
    bring((0, 1), (1, 3), (3, 4), (0, 2), (2, 4))
    author.say("b", 1)
    bring((0, 2), (2, 4), (4, 3), (0, 1), (1, 3))
    bench.exchange()
    author.say("c", 1)
    bench.exchange()
    assert all(list(peer.log.slots("c")) for peer in bench.peers)


def test_a_cut_tree_is_repaired_by_the_lazy_announcement() -> None:
    bench = Bench(4, [(0, 1), (1, 2), (2, 3), (3, 0)])
    for number in range(3):
        bench.peers[0].say(f"kv/{number}", number)
        bench.exchange()
        bench.advance(1.5)
    bench.cut(0, 1)
    bench.peers[0].say("kv/after", 1)
    bench.advance(3.0)
    assert bench.agree()


def test_when_the_link_of_a_tree_ends_another_takes_over_at_once() -> None:
    bench = Bench(4, [(3, 1), (3, 2), (1, 0), (2, 0)])
    bench.exchange()
    target, left, _, author = bench.peers
    for number in range(3):
        author.say(f"kv/{number}", number)
        bench.exchange()
    bench.cut(0, 1 if target.machine._winner[MESH, author.aid] == left.aid else 2)
    bench.exchange()
    author.say("kv/after", 1)
    bench.exchange()
    assert list(target.log.slots("kv/after"))


def test_a_node_that_was_away_catches_up_at_the_hello() -> None:
    bench = Bench(3, [(0, 1)])
    for number in range(50):
        bench.peers[number % 2].say(f"kv/{number}", number)
    bench.exchange()
    bench.link(1, 2)
    bench.exchange()
    assert bench.agree()
    assert bench.peers[2].received == 50


def test_a_joiner_fetches_each_author_once_although_it_has_many_links() -> None:
    bench = Bench(5, ring(4))
    bench.peers[0].say("kv/big", "x" * 1000)
    bench.exchange()
    for number in range(4):
        bench.link(number, 4)
    bench.exchange()
    bench.advance(2.0)
    assert bench.agree()
    assert bench.peers[4].received == 1


@pytest.mark.parametrize("seed", range(20))
def test_loss_of_frames_is_healed_by_comparison(seed: int) -> None:
    bench = Bench(6, ring(6))
    bench.rng = random.Random(seed)
    bench.lose = 0.5
    for number in range(30):
        bench.peers[number % 6].say(f"kv/{number}", number)
        bench.exchange()
        bench.advance(0.3)
    bench.lose = 0.0
    bench.advance(70.0)
    assert bench.agree()


def test_a_delta_applied_before_the_one_it_builds_on_leaves_no_hole_for_ever() -> None:
    bench = Bench(3, [(0, 1), (1, 2), (2, 0)])
    bench.exchange()
    writer, other, judge = bench.peers
    judge.slow_disk = True
    for number, path in enumerate((writer, other)):
        writer.say(f"kv/{number}", number)
        for body in writer.machine.pull(other.aid):
            other.frame(writer.aid, body)
        for body in path.machine.pull(judge.aid):
            judge.frame(path.aid, body)
    assert [len(judge.waiting[peer.aid]) for peer in (writer, other)] == [1, 1]
    judge.slow_disk = False
    for peer in (other, writer):
        judge.apply(judge.waiting[peer.aid].popleft())
    bench.exchange()
    bench.advance(70.0)
    assert bench.agree()


def test_a_slow_link_costs_no_memory_and_superseded_records_are_never_sent() -> None:
    bench = Bench(2, [(0, 1)])
    bench.exchange()
    writer = bench.peers[0]
    for number in range(500):
        writer.say("kv/same", number)
    bodies = writer.machine.pull(bench.peers[1].aid)
    records = sum(len(m.records) for m in map(messages.decode, bodies) if isinstance(m, Delta))
    assert records == 1


def test_what_may_be_gathered_stays_when_only_the_live_scope_is_pulled() -> None:
    bench = Bench(2, [(0, 1)])
    bench.exchange()
    writer, other = bench.peers
    writer.say("kv/a", 1)
    assert writer.machine.pull(other.aid, whole=False) == []
    assert writer.machine.has_work(other.aid)
    assert writer.machine.pull(other.aid)


def test_a_refused_delta_is_asked_for_elsewhere() -> None:
    bench = Bench(3, [(0, 1), (1, 2), (2, 0)])
    bench.exchange()
    writer, other, judge = bench.peers
    writer.say("kv/a", 1)
    for body in writer.machine.pull(other.aid):
        other.frame(writer.aid, body)
    writer.machine.pull(judge.aid)  # lost on the way
    judge.event(tidings.DeltaRefused(writer.aid, MESH, writer.aid))
    bench.advance(5.0)
    assert bench.agree()


def test_acknowledgements_come_from_what_is_applied() -> None:
    bench = Bench(2, [(0, 1)])
    bench.exchange()
    writer, holder = bench.peers
    writer.say("kv/a", 1)
    head = writer.log.author(writer.aid).head
    out: list[tidings.Action] = []
    assert writer.machine.ask_heads(MESH, writer.aid, head, out) == 1
    acks: list[tidings.Acknowledged] = []
    for _ in range(4):
        for body in writer.machine.pull(holder.aid):
            holder.frame(writer.aid, body)
        for body in holder.machine.pull(writer.aid):
            message = messages.decode(body)
            assert message is not None
            for action in writer.machine.handle(tidings.Received(holder.aid, message), 0.0):
                if isinstance(action, tidings.Acknowledged):
                    acks.append(action)
    assert [ack.head for ack in acks if ack.aid == writer.aid][-1:] == [head]


def test_a_neighbour_that_has_less_than_it_announced_is_asked_once_and_no_more() -> None:
    bench = Bench(3, [(0, 1)])
    bench.exchange()
    one, set_back, author = bench.peers
    one.event(tidings.Received(set_back.aid, messages.Heads(MESH, [(author.aid, author.clock.send(1), b"")])))
    asked = 0
    for _ in range(20):
        bench.now += 0.3
        one.perform(one.machine.tick(bench.now))
        for body in one.machine.pull(set_back.aid):
            asked += isinstance(messages.decode(body), messages.Want)
            set_back.frame(one.aid, body)
        for body in set_back.machine.pull(one.aid):
            one.frame(set_back.aid, body)
    assert asked == 1
    assert not one.machine.behind(MESH)

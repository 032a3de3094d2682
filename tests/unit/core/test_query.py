"""Questions that flood and answers that come back, over a simulated network."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_sign_seed_keypair

from mesh.core import query as q
from mesh.core.query import Ask, Query, QueryMachine, Reply
from mesh.errors import PeerError, UsageError
from mesh.wire import messages

MESH = b"m" * 16


def aid(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Net:
    """Machines joined by links with delays; `value_of` is every node's answer (None: it stays silent)."""

    def __init__(
        self, size: int, links: set[tuple[int, int]], value_of: Callable[[int], Any], rng: random.Random
    ) -> None:
        self.machines = [QueryMachine(aid(index)) for index in range(size)]
        self.links = {(a, b) for a, b in links if a != b} | {(b, a) for a, b in links if a != b}
        self.value_of = value_of
        self.rng = rng
        self.now = 0.0
        self.events: list[tuple[float, int, int, Any]] = []
        self.count = self.messages = 0
        self.dead: set[int] = set()
        self.done: q.Complete | None = None
        self.done_at = 0.0

    def at(self, delay: float, node: int, event: Any) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + delay, self.count, node, event))

    def neighbours(self, node: int) -> tuple[bytes, ...]:
        return tuple(aid(b) for a, b in sorted(self.links) if a == node)

    def perform(self, node: int, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case q.Send(to=to, message=message):
                    self.messages += 1
                    wired = messages.decode(messages.encode(message))
                    self.at(self.rng.uniform(0.001, 0.02), int.from_bytes(to, "big"), (node, wired))
                case q.Compute(query=query):
                    value = self.value_of(node)
                    if value is not None:
                        self.at(self.rng.uniform(0, 0.005), node, q.Computed(query.qid, value))
                case q.Complete():
                    assert self.done is None
                    self.done, self.done_at = action, self.now

    def ask(self, node: int, query: Query, deadline_s: float = 2.0) -> q.Complete:
        ask = Ask(aid(node), b"", b"", int(deadline_s * 1000), 0)
        self.query = query
        self.perform(node, self.machines[node].handle(q.Asked(None, ask, query, self.neighbours(node)), 0.0))
        while self.events or any(machine.active for machine in self.machines):
            due = min(machine.deadline() for machine in self.machines)
            if self.events and self.events[0][0] <= due:
                self.now, _, target, event = heapq.heappop(self.events)
                self.deliver(target, event)
            else:
                self.now = due
                for index, machine in enumerate(self.machines):
                    self.perform(index, machine.tick(self.now))
        assert self.done is not None
        return self.done

    def deliver(self, node: int, event: Any) -> None:
        if node in self.dead:
            return
        machine = self.machines[node]
        if isinstance(event, tuple):
            sender, message = event
            if isinstance(message, Ask):
                event = q.Asked(aid(sender), message, self.query, self.neighbours(node))
            else:
                event = q.Replied(aid(sender), message)
        self.perform(node, machine.handle(event, self.now))


def ring(size: int, rng: random.Random) -> set[tuple[int, int]]:
    """Three random rings, as the overlay has them."""
    links = set()
    for _ in range(3):
        order = rng.sample(range(size), size)
        links |= {(order[i - 1], order[i]) for i in range(size)}
    return links


def question(combine: str = "sum") -> Query:
    return Query(b"q" * 16, "fn", None, combine, "", "m", 0)


@given(st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=40)
def test_everybody_answers_exactly_once(size: int, seed: int) -> None:
    rng = random.Random(seed)
    net = Net(size, ring(size, rng), lambda node: node + 1, rng)
    done = net.ask(rng.randrange(size), question())
    assert done.count == size
    assert done.nodes == {aid(node) for node in range(size)}
    assert done.state[0] == size * (size + 1) // 2
    assert done.failed == ()
    assert net.messages <= 2 * len(net.links)
    assert net.done_at < 1.0


@given(st.integers(3, 40), st.integers(0, 2**32))
@settings(max_examples=40)
def test_the_silent_are_missing_and_nobody_else_is_lost(size: int, seed: int) -> None:
    rng = random.Random(seed)
    silent = set(rng.sample(range(size), size // 3))
    asker = next(node for node in range(size) if node not in silent)
    net = Net(size, ring(size, rng), lambda node: None if node in silent else 1, rng)
    done = net.ask(asker, question())
    assert done.count == size - len(silent) == done.state[0]
    assert {name for name, code, _ in done.failed} == {aid(node) for node in silent}
    assert q.missing([aid(node) for node in range(size)], done) == []
    assert net.done_at <= 2.0


@given(st.integers(3, 30), st.integers(0, 2**32))
@settings(max_examples=40)
def test_dead_nodes_are_missing_and_the_asker_waits_no_longer_than_its_deadline(size: int, seed: int) -> None:
    rng = random.Random(seed)
    net = Net(size, ring(size, rng), lambda node: 1, rng)
    net.dead = set(rng.sample(range(1, size), size // 4))
    done = net.ask(0, question("count"))
    absent = q.missing([aid(node) for node in range(size)], done)
    assert {aid(node) for node in net.dead} <= set(absent)
    assert done.count == len(done.nodes) == size - len(absent) == done.state
    assert net.done_at <= 2.0


def test_a_link_that_ends_is_not_waited_for() -> None:
    machine = QueryMachine(aid(0))
    ask = Ask(aid(0), b"", b"", 5000, 0)
    actions = machine.handle(q.Asked(None, ask, question(), (aid(1), aid(2))), 10.0)
    assert [type(action) for action in actions] == [q.Send, q.Send, q.Compute]
    assert machine.handle(q.Computed(question().qid, 5), 10.1) == []
    assert machine.handle(q.Replied(aid(1), Reply(question().qid, already=True)), 10.1) == []
    (done,) = machine.handle(q.LinkEnded(aid(2)), 10.2)
    assert isinstance(done, q.Complete)
    assert done.nodes == {aid(0)}
    assert machine.deadline() == float("inf")


def test_a_node_that_is_not_chosen_passes_the_question_on_and_stays_silent_itself() -> None:
    machine = QueryMachine(aid(1))
    ask = Ask(aid(0), b"", b"", 5000, 0)
    refused = ("not_found", "no such function")
    (passed,) = machine.handle(
        q.Asked(aid(0), ask, question(), (aid(0), aid(2)), chosen=False, refusal=refused), 0.0
    )
    assert passed.to == aid(2)
    assert passed.message.remaining_ms == 4950
    assert passed.message.depth == 1
    (answer,) = machine.handle(q.Replied(aid(2), Reply(question().qid, False, 1, aid(2), [], [4, 1])), 0.1)
    assert answer == q.Send(aid(0), Reply(question().qid, False, 1, aid(2), [], [4, 1]))


def test_a_refusal_names_its_code() -> None:
    machine = QueryMachine(aid(1))
    ask = Ask(aid(0), b"", b"", 5000, 0)
    (answer,) = machine.handle(q.Asked(aid(0), ask, question(), (), refusal=("denied", "no")), 0.0)
    assert answer.message.failed == [(aid(1), "denied", "no")]
    assert answer.message.count == 0


def test_a_malformed_reply_costs_its_branch_only() -> None:
    machine = QueryMachine(aid(0))
    ask = Ask(aid(0), b"", b"", 5000, 0)
    machine.handle(q.Asked(None, ask, question(), (aid(1), aid(2), aid(3))), 0.0)
    machine.handle(q.Computed(question().qid, 5), 0.1)
    qid = question().qid
    assert machine.handle(q.Replied(aid(1), Reply(qid, False, 1, aid(1), [], ["junk", 1])), 0.1) == []
    assert machine.handle(q.Replied(aid(2), Reply(qid, False, 0, aid(2), [], None)), 0.1) == []
    (done,) = machine.handle(q.Replied(aid(3), Reply(qid, False, 1, aid(3), [], [2, 1])), 0.1)
    assert done.state == [7, 2]
    assert machine.nonsense == 2
    assert [name for name, _, _ in done.failed] == [aid(1), aid(2)]


def test_a_finished_question_is_answered_already_and_remembered_within_bounds() -> None:
    machine = QueryMachine(aid(1), q.Config(remembered_max=8))
    ask = Ask(aid(0), b"", b"", 5000, 0)
    for number in range(20):
        query = msgspec.structs.replace(question(), qid=aid(number))
        machine.handle(q.Asked(aid(0), ask, query, (), chosen=False), 0.0)
    last = msgspec.structs.replace(question(), qid=aid(19))
    assert machine.handle(q.Asked(aid(5), ask, last, ()), 0.0) == [
        q.Send(aid(5), Reply(aid(19), already=True))
    ]
    assert len(machine._finished) == 8


def test_one_asker_cannot_take_all_places() -> None:
    machine = QueryMachine(aid(1), q.Config(active_max=10, active_per_asker_max=4))

    def asked(asker: int, number: int) -> list[Any]:
        query = msgspec.structs.replace(question(), qid=aid(number))
        return machine.handle(q.Asked(aid(9), Ask(aid(asker), b"", b"", 5000, 0), query, ()), 0.0)

    for number in range(8):
        asked(0, number)
    assert machine.active == 4
    (refused,) = asked(0, 100)
    assert refused.message.failed[0][1] == "busy"
    assert isinstance(asked(2, 101)[0], q.Compute)


def test_a_computation_out_of_time_counts_as_failed() -> None:
    machine = QueryMachine(aid(1))
    machine.handle(q.Asked(aid(0), Ask(aid(0), b"", b"", 1000, 0), question(), ()), 0.0)
    assert machine.deadline() == pytest.approx(1.0)
    assert machine.tick(0.9) == []
    (answer,) = machine.tick(1.0)
    assert answer.message.failed == [(aid(1), "timeout", "no answer in time")]
    assert machine.handle(q.Computed(question().qid, 1), 1.1) == []


def test_an_answer_the_combine_cannot_take_is_a_failure_of_that_node() -> None:
    machine = QueryMachine(aid(1))
    machine.handle(q.Asked(aid(0), Ask(aid(0), b"", b"", 1000, 0), question(), ()), 0.0)
    (answer,) = machine.handle(q.Computed(question().qid, "text"), 0.1)
    assert answer.message.failed[0][1] == "usage"


PUBLIC, SECRET = crypto_sign_seed_keypair(b"s" * 32)


def test_a_signed_question_opens_in_its_mesh_only() -> None:
    body, sig = q.sign_query(SECRET, MESH, question())
    ask = Ask(PUBLIC[:16], body, sig, 1000, 0)
    assert q.open_query(PUBLIC, MESH, ask) == question()
    with pytest.raises(PeerError):
        q.open_query(PUBLIC, b"n" * 16, ask)
    with pytest.raises(PeerError):
        q.open_query(PUBLIC, MESH, Ask(PUBLIC[:16], body + b"x", sig, 1000, 0))
    with pytest.raises(PeerError):
        q.open_query(PUBLIC, MESH, Ask(PUBLIC[:16], body, b"", 1000, 0))


@pytest.mark.parametrize(
    "change",
    [{"combine": "median"}, {"selector": "a b"}, {"fn": ""}, {"fn": "f" * 200}, {"args": "x" * 20_000}],
)
def test_a_question_that_others_would_refuse_is_refused_at_home(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        q.sign_query(SECRET, MESH, msgspec.structs.replace(question(), **change))

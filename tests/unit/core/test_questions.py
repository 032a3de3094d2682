"""Announcements and questions: each is asked once, none is forgotten, a flood of them is taken in slices."""

from __future__ import annotations

import random
from contextlib import nullcontext

from hypothesis import given
from hypothesis import strategies as st

from mesh.core import record, tidings
from mesh.core.agenda import Agenda
from mesh.core.dissemination import Dissemination
from mesh.core.memory import MemoryLog
from mesh.core.questions import PER_TURN, UNDER_WAY_MAX, Questions
from mesh.core.record import MESH, Kind
from mesh.wire.messages import Delta, Heads, Want

ME, PEER, OTHER = b"m" * 16, b"p" * 16, b"o" * 16
KEYS = [(MESH, bytes([number]) * 16) for number in range(6)]

steps = st.lists(
    st.tuples(st.sampled_from(["set", "drop", "take"]), st.sampled_from(KEYS), st.integers(0, 20)),
    max_size=200,
)


@given(steps)
def test_an_agenda_is_a_table_of_moments(steps: list[tuple[str, tuple[str, bytes], int]]) -> None:
    agenda: Agenda[tuple[str, bytes]] = Agenda()
    table: dict[tuple[str, bytes], float] = {}
    for what, key, at in steps:
        if what == "set":
            agenda.set(key, at)
            table[key] = at
        elif what == "drop":
            agenda.drop(key)
            table.pop(key, None)
        else:
            due = sorted((when, held) for held, when in table.items() if when <= at)[:2]
            assert agenda.take(at, 2) == [held for _, held in due]
            table = {held: when for held, when in table.items() if held not in {key for _, key in due}}
        assert agenda.first() == min(table.values(), default=float("inf"))
        assert {held: agenda.at(held) for held in agenda} == table


def test_an_offer_waits_for_the_end_of_the_question_before_it() -> None:
    questions = Questions(tidings.Config())
    key = KEYS[0]
    questions.offered(PEER, key, 5, 0.0)
    assert questions.due(0.0) == [key]
    questions.asked(PEER, key, 0.0)
    questions.offered(OTHER, key, 7, 1.0)
    assert questions.due(1.0) == []
    assert questions.first() == 5.0, "nothing is to be done before the question's time is up"
    questions.over(key)
    assert questions.due(1.0) == [key]
    assert questions.offers[key] == {PEER: 5, OTHER: 7}


def test_a_question_that_nothing_answers_is_given_up_and_another_link_is_asked() -> None:
    questions = Questions(tidings.Config())
    key = KEYS[0]
    questions.offered(PEER, key, 5, 0.0)
    questions.offered(OTHER, key, 5, 0.0)
    questions.due(0.0)
    questions.asked(PEER, key, 0.0)
    questions.later(key, 0.15)
    questions.wants[key].at = 2.0  # part of the answer
    assert questions.due(4.0) == []
    questions.end_unanswered(5.0)
    assert key in questions.wants
    questions.end_unanswered(questions.first())
    assert questions.due(7.0) == [key]
    assert questions.offers[key] == {OTHER: 5}


def flooded(announced: int) -> tuple[Dissemination, int]:
    """A machine to which one neighbour announces authors that nobody knows; how many it asked for at once."""
    machine = Dissemination(ME, [MESH], lambda scope: nullcontext(MemoryLog()), random.Random(1))
    machine.handle(tidings.LinkUp(PEER, {MESH: bytes(16)}), 0.0)
    dice, most = random.Random(2), 0
    for _ in range(announced // 50):
        heads = [(dice.randbytes(16), dice.getrandbits(60), bytes(16)) for _ in range(50)]
        for ask in (False, True):
            before = len(machine.links[PEER].control)
            machine.handle(tidings.Received(PEER, Heads(MESH, heads, False, ask)), 0.0)
            most = max(most, len(machine.links[PEER].control) - before)
    return machine, most


def test_a_flood_of_announcements_is_asked_for_in_slices_and_kept_within_bounds() -> None:
    machine, most = flooded(20_000)
    assert most <= 2 * PER_TURN, "each is a question and a call to push"
    link = machine.links[PEER]
    assert len(link.tell) <= machine.config.control_max
    assert len(link.sent) <= machine.config.offers_max // 4
    link.control.clear()
    machine.tick(10.0)
    assert len(link.control) <= 2 * PER_TURN + 8
    machine.handle(tidings.LinkDown(PEER), 10.0)
    turns = 0
    while machine.deadline() <= 20.0:
        machine.tick(20.0)
        turns += 1
    assert machine.behind(MESH) == 0, "what it announced went with it"
    assert turns <= 20_000 // PER_TURN + UNDER_WAY_MAX // PER_TURN + 1


def test_one_that_announces_without_end_leaves_room_for_what_others_announce() -> None:
    questions = Questions(tidings.Config(offers_max=40))
    aids = [number.to_bytes(16, "big") for number in range(100)]
    assert sum(questions.offered(PEER, (MESH, aid), 5, 0.0) for aid in aids) == 10
    assert questions.offered(OTHER, (MESH, aids[90]), 5, 0.0)
    for aid in aids:
        questions.held((MESH, aid))
    assert questions.offered(PEER, (MESH, aids[91]), 5, 0.0)
    assert sum(questions.offered(PEER, (MESH, aid), 5, 0.0) for aid in aids) == 10, "and no more than before"


def test_what_waits_for_a_link_that_goes_is_asked_for_elsewhere() -> None:
    questions = Questions(tidings.Config())
    keys = [(MESH, number.to_bytes(16, "big")) for number in range(UNDER_WAY_MAX + 3)]
    for key in keys:
        questions.offered(PEER, key, 5, 0.0)
    asked = []
    while due := questions.due(0.0):
        for key in due:
            if questions.may_ask(PEER, key):
                questions.asked(PEER, key, 0.0)
                asked.append(key)
    assert asked == keys[:UNDER_WAY_MAX]
    questions.over(keys[0])
    assert questions.due(1.0) == [keys[UNDER_WAY_MAX]]
    questions.link_gone(PEER)
    assert questions.first() <= 1.0
    assert questions.due(1.0) == keys[-2:]


def test_all_that_is_announced_at_once_is_asked_for_though_not_at_one_turn() -> None:
    machine = Dissemination(ME, [MESH], lambda scope: nullcontext(MemoryLog()), random.Random(1))
    machine.handle(tidings.LinkUp(PEER, {MESH: bytes(16)}), 0.0)
    link = machine.links[PEER]
    link.control.clear()
    aids = [number.to_bytes(16, "big") for number in range(1, 1001)]
    machine.handle(tidings.Received(PEER, Heads(MESH, [(aid, 9, bytes(16)) for aid in aids], True)), 0.0)
    turns = 0
    while machine.deadline() <= 0.0:
        machine.tick(0.0)
        turns += 1
    wanted = [message.aid for message in link.control if isinstance(message, Want)]
    assert sorted(wanted) == aids
    assert turns <= 1000 // PER_TURN + 1


def test_what_was_accepted_and_never_came_to_the_disk_is_asked_for_again_and_taken() -> None:
    machine = Dissemination(ME, [MESH], lambda scope: nullcontext(MemoryLog()), random.Random(1))
    machine.handle(tidings.LinkUp(PEER, {MESH: bytes(16)}), 0.0)
    aid, rec = OTHER, record.sign(bytes(64), bytes(16), b"m", path="kv/a", kind=Kind.REG, hlc=9, val=1)
    rec = record.parse(aid, rec.body, rec.sig)
    brought = tidings.DeltaVerified(PEER, Delta(MESH, aid, 0, 9, False, [(rec.body, rec.sig)]), [rec], b"")
    assert machine.handle(brought, 1.0)
    link, asked_at = machine.links[PEER], float("inf")
    for second in range(1, 60):
        link.control.clear()
        machine.handle(tidings.Received(PEER, Heads(MESH, [(aid, 9, bytes(16))])), float(second))
        while machine.deadline() <= second + 0.5:
            machine.tick(second + 0.5)
        if any(isinstance(message, Want) for message in link.control):
            asked_at = second
            break
    assert machine.config.compare_s <= asked_at < 60
    assert [type(action) for action in machine.handle(brought, 60.0)][:1] == [tidings.Apply]

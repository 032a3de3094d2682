"""Entries of append-only logs leave every replica at the end of their time, and nobody offers them anew."""

from __future__ import annotations

from nodes import Village, until

from mesh.agent.author import Statement
from mesh.agent.duties import Duties
from mesh.agent.node import Node
from mesh.core.record import MESH, Kind, Op
from mesh.core.sync import GRACE_MS


def entries(node: Node) -> int:
    with node.store.read(MESH) as log:
        return len(list(log.slots("log/door")))


async def test_expired_entries_are_swept_everywhere_and_the_replicas_stay_equal(village: Village) -> None:
    first, second = await village.settle(2)
    for number in range(3):
        await first.author.say(
            MESH, lambda _, number=number: [Statement("log/door", Kind.LOG, number, Op.PUT, 1_000)]
        )
    await first.author.say(MESH, lambda _: [Statement("kv/after", Kind.REG, 1)])
    head = first.spread.machine.heads[MESH][first.me].head
    await until(lambda: second.spread.machine.heads[MESH][first.me].head == head)
    early = first.now_ms()
    assert [await Duties(node).sweep(MESH, early) for node in (first, second)] == [0, 0]
    late = early + GRACE_MS + 10_000
    assert [await Duties(node).sweep(MESH, late) for node in (first, second)] == [3, 3]
    assert [entries(node) for node in (first, second)] == [0, 0]
    assert first.spread.machine.root(MESH) == second.spread.machine.root(MESH)

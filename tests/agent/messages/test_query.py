"""Queries between nodes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.agent import query as module
from mesh.core.query import Query, sign_query
from mesh.errors import Denied, PeerError, UsageError
from mesh.wire.messages import Ask


async def ask(node: Any, name: str, payload: Any = None, **options: Any) -> tuple[list[Any], Any]:
    """The rows of a query and its coverage."""
    options = {"labels": {}, "timeout_s": 20, **options}
    rows = [row async for row in node.messages.query(name, payload, **options)]
    return rows[:-1], rows[-1]


def number_of(nodes: list[Any]) -> None:
    """Every node answers with its number."""
    for node in nodes:
        node.messages.queries.register("mesh.number", lambda args, node=node: node.number + (args or 0))


async def test_every_node_answers_for_itself(line: Any) -> None:
    nodes = await line(5)
    number_of(nodes)
    rows, coverage = await ask(nodes[1], "mesh.number", 100)
    assert {row["node"]: row["payload"] for row in rows} == {node.id: 100 + node.number for node in nodes}
    assert {row["node_name"] for row in rows} == {node.name for node in nodes}
    assert coverage == {
        "asked": 5,
        "answered": sorted(node.id for node in nodes),
        "missing": [],
        "left_out": 0,
    }


async def test_labels_choose_who_answers_and_others_pass_it_on(line: Any) -> None:
    nodes = await line(5)
    number_of(nodes)
    rows, coverage = await ask(nodes[0], "mesh.number", labels={"tier": "edge"})
    assert sorted(row["payload"] for row in rows) == [1, 3]
    assert coverage["asked"] == 2
    rows, _ = await ask(nodes[0], "mesh.number", labels={"name": "node-4"})
    assert [row["payload"] for row in rows] == [4]
    rows, _ = await ask(nodes[0], "mesh.number", labels={}, selector="tier!=edge,name!=node-0")
    assert sorted(row["payload"] for row in rows) == [2, 4]


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("sum", 10), ("count", 5), ("mean", 2.0), ("distinct", 5)],
)
async def test_answers_are_combined_on_the_way(line: Any, combine: str, expected: Any) -> None:
    nodes = await line(5)
    number_of(nodes)
    rows, coverage = await ask(nodes[2], "mesh.number", combine=combine)
    assert rows == [{"combine": combine, "value": expected}]
    assert len(coverage["answered"]) == 5


async def test_the_largest_is_named_with_its_node(line: Any) -> None:
    nodes = await line(4)
    number_of(nodes)
    rows, _ = await ask(nodes[0], "mesh.number", combine="max")
    assert rows[0]["value"] == {"value": 3, "node": nodes[3].id}


async def test_silent_nodes_are_missing_at_the_deadline(line: Any, autojump_clock: MockClock) -> None:
    nodes = await line(4)
    number_of(nodes)
    nodes[2].messages.queries._functions["mesh.number"] = lambda args: 1 / 0
    begun = trio.current_time()
    nodes[3].silent = True
    nodes[3].silent_but_present = True
    nodes[0].present = lambda: [node.key.aid for node in nodes]
    rows, coverage = await ask(nodes[0], "mesh.number", timeout_s=2)
    assert trio.current_time() - begun <= 2.0
    assert coverage["missing"] == [nodes[3].id]
    assert sorted(coverage["answered"]) == sorted(node.id for node in nodes[:3])
    (failed,) = [row for row in rows if "error" in row]
    assert failed["node"] == nodes[2].id
    assert "ZeroDivisionError" in failed["error"]["message"]


async def test_a_name_that_only_some_serve_is_answered_by_them(line: Any, nursery: trio.Nursery) -> None:
    nodes = await line(3)

    async def program(node: Any) -> None:
        async for call in node.messages.serve("temperature"):
            assert call["query"]
            assert call["node"] == nodes[0].id
            await node.messages.answer(call["call"], 20 + node.number, more=False, error=None)

    for node in nodes[1:]:
        nursery.start_soon(program, node)
    await wait_all_tasks_blocked()
    rows, coverage = await ask(nodes[0], "temperature", {"unit": "C"})
    answers = {row["node"]: row["payload"] for row in rows if "error" not in row}
    assert answers == {nodes[1].id: 21, nodes[2].id: 22}
    assert [row["error"]["code"] for row in rows if "error" in row] == ["no_handler"]
    assert coverage["missing"] == []
    nursery.cancel_scope.cancel()


async def test_a_program_that_is_too_slow_is_missing(
    line: Any, inbox: Any, autojump_clock: MockClock
) -> None:
    nodes = await line(2)
    inbox(nodes[1].messages.serve("slow"))
    await wait_all_tasks_blocked()
    _, coverage = await ask(nodes[0], "slow", timeout_s=1)
    assert coverage["missing"] == [nodes[1].id]
    assert nodes[1].messages.queries._computing == 0


async def test_rights_to_query_are_kept_at_both_ends(line: Any) -> None:
    nodes = await line(2)
    number_of(nodes)
    nodes[1].forbidden.add((nodes[0].key.aid, "query", "mesh.number"))
    rows, _ = await ask(nodes[0], "mesh.number")
    assert [row["error"]["code"] for row in rows if "error" in row] == ["denied"]
    nodes[0].forbidden.add((nodes[0].key.aid, "query", "mesh.number"))
    with pytest.raises(Denied):
        await ask(nodes[0], "mesh.number")


async def test_a_link_that_ends_does_not_hold_the_answer_up(line: Any, autojump_clock: MockClock) -> None:
    nodes = await line(3)
    number_of(nodes)
    nodes[2].silent = True
    begun = trio.current_time()
    done: list[Any] = []

    async def query() -> None:
        done.append(await ask(nodes[0], "mesh.number", timeout_s=30))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(query)
        await trio.sleep(0.1)
        assert not done
        nodes[1].links.remove(nodes[2])
        nodes[1].messages.queries.link_ended(nodes[2].key.aid)
    assert trio.current_time() - begun < 1
    assert len(done[0][1]["answered"]) == 2


async def test_a_link_that_takes_nothing_is_not_waited_for(line: Any) -> None:
    nodes = await line(2)
    number_of(nodes)
    nodes[0].send = lambda aid, message: False
    rows, _ = await ask(nodes[0], "mesh.number")
    assert [row["payload"] for row in rows] == [0]


def asked(node: Any, asked_ms: int, mesh_id: bytes = b"m" * 16) -> Ask:
    query = Query(b"q" * 16, "mesh.number", None, "collect", "", "m", asked_ms)
    body, sig = sign_query(node.key.secret, mesh_id, query)
    return Ask(node.key.aid, body, sig, 1000, 0)


async def test_a_forged_question_is_blamed_on_the_link(line: Any) -> None:
    a, b = await line(2)
    number_of([a, b])
    good = asked(a, b.fleet.now_ms())
    for bad in (
        Ask(b.key.aid, good.body, good.sig, 1000, 0),
        Ask(a.key.aid, good.body + b"\0", good.sig, 1000, 0),
        asked(a, b.fleet.now_ms(), b"x" * 16),
    ):
        with pytest.raises(PeerError):
            b.messages.queries.receive(a.key.aid, bad)
    assert b.messages.queries.machine.active == 0


async def test_an_old_question_is_not_answered_again(line: Any) -> None:
    a, b = await line(2)
    number_of([a, b])
    sent: list[Any] = []
    b.send = lambda aid, message: sent.append(message) or True
    b.messages.queries.receive(a.key.aid, asked(a, b.fleet.now_ms() - 2 * module.STALE_MS))
    assert sent[0].failed[0][1] == "denied"


async def test_a_question_of_an_unknown_asker_does_not_make_the_link_wait(line: Any) -> None:
    a, b = await line(2)
    sent: list[Any] = []
    b.send = lambda aid, message: sent.append(message) or True
    ask = asked(a, 0)
    b.messages.queries.receive(a.key.aid, Ask(b"u" * 16, ask.body, ask.sig, 1000, 0))
    assert sent[0].already
    assert b.counters["queries.unknown_asker"] == 1


async def test_a_flood_of_questions_on_one_link_breaks_the_protocol(
    line: Any, autojump_clock: MockClock
) -> None:
    a, b = await line(2)
    ask = Ask(b"u" * 16, asked(a, 0).body, b"", 1000, 0)

    def flood() -> None:
        for _ in range(module.ASKS_PER_LINK_S_MAX + 1):
            b.messages.queries.receive(a.key.aid, ask)

    with pytest.raises(PeerError, match="queries per second"):
        flood()


@pytest.mark.parametrize(
    "options", [{"combine": "median"}, {"selector": "a b"}, {"labels": {"a": "x,y"}}, {"payload": 1 << 70}]
)
async def test_what_cannot_be_asked_is_refused(line: Any, options: dict[str, Any]) -> None:
    (a,) = await line(1)
    with pytest.raises(UsageError):
        await ask(a, "mesh.number", **options)

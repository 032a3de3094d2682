"""The admin socket of real agents: every answer has the shape it promises, programs talk across nodes."""

from __future__ import annotations

import json
import threading
from typing import Any

import msgspec
import pytest
import trio
from yard import Yard, eventually

from mesh.admin import shapes
from mesh.client import AsyncClient, Client
from mesh.errors import Failed, NoHandler, TimedOut, UnknownNode, Unreachable


def has_shape(shape: Any, found: Any) -> None:
    """Every promised key with its type, and no undocumented one."""
    plain = json.loads(json.dumps(found, default=repr))
    msgspec.convert(plain, shape)
    documented = msgspec.json.schema(shape)["$defs"][shape.__name__]["properties"].keys()
    assert plain.keys() <= documented


def until(stream: Any, change: str) -> list[Any]:
    """Lines of a watch up to and with this change."""
    lines = [next(stream)]
    while lines[-1]["change"] != change:
        lines.append(next(stream))
    return lines


def test_every_answer_of_an_agent_has_the_shape_it_promises(yard: Yard) -> None:
    agents = yard.form(2)
    other = agents[1].name
    with agents[0].client() as client:
        writes = [
            client.put("k/reg", b"\x00"),
            client.put("k/mv", "x", type="mv", durable=1),
            client.put("k/flag", True, type="flag"),
            client.counter_add("k/counter", 3),
            client.set_change("k/set", add=["a", 1, b"b"]),
            client.map_change("k/map", set={"a": {"b": 1}}),
            client.log_append("k/log", [1], ttl_ms=60_000),
        ]
        invite = client.create_invite(labels={"site": "attic"})
        one: list[tuple[Any, Any]] = [
            *((shapes.Written, row) for row in writes),
            (shapes.Status, client.status()),
            (shapes.Version, client.version()),
            (shapes.LogLevel, client.log_level()),
            (shapes.Sample, client.metrics()),
            (shapes.MemberDetail, client.member(other)),
            (shapes.Pong, client.ping(other)),
            (shapes.RoundTrip, eventually(lambda: client.rtt(other), "a round trip is known")),
            (shapes.Certificate, client.certificate()),
            (shapes.Certificate, client.certificate(other)),
            (shapes.Invite, invite),
            (shapes.Invite, client.revoke_invite(invite["id"])),
            (shapes.Member, client.drain(other)),
            (shapes.Member, client.undrain(other)),
            (shapes.Member, client.cordon(other)),
            (shapes.Member, client.uncordon(other)),
            (shapes.Member, client.label(other, {"a": "b"})),
            (shapes.Batch, client.put_many([{"key": "k/b", "value": 1}, {"key": "", "value": 2}])),
            (shapes.Published, client.publish("a/b", 1, qos=1)),
            (shapes.PublishedMany, client.publish_many("a/b", [1, b"2", {"3": 3}])),
            (shapes.QueryResult, client.query("mesh.status")),
            (shapes.QueryResult, client.query("mesh.status", combine="count")),
        ]
        many: list[tuple[Any, list[Any]]] = [
            (shapes.Member, client.members()),
            (shapes.Check, client.doctor()),
            (shapes.Setting, client.config()),
            (shapes.Link, client.links()),
            (shapes.Event, client.events()),
            (shapes.Invite, client.invites()),
            (shapes.Entry, client.scan("k/")),
            (shapes.Entry, list(client.export("k/"))),
            (shapes.LogEntry, client.log_read("k/log")),
            *((shapes.Revision, client.history(row["key"])) for row in writes),
        ]
        with client.watch("k/", initial=True) as changes, client.watch_members() as members:
            many += [(shapes.Change, until(changes, "ready")), (shapes.MemberChange, until(members, "ready"))]
            client.delete("k/reg")
            many.append((shapes.Change, until(changes, "delete")))
        agents[1].may_end()
        one.append((shapes.Forgotten, client.revoke(other, reason="stolen")))
    for shape, rows in many:
        assert rows, shape
    for shape, row in [*one, *((shape, row) for shape, rows in many for row in rows)]:
        has_shape(shape, row)


def test_programs_on_two_nodes_ask_each_other(yard: Yard) -> None:
    here, there = yard.form(2)

    def answer(payload: Any) -> Any:
        if payload == "parts":
            return iter([1, 2, 3])
        if payload == "crash":
            raise KeyError("oops")
        return payload

    def serve() -> None:
        with there.client() as client:
            try:
                client.handle("echo", answer)
            except Unreachable:
                pass  # the agent was stopped

    thread = threading.Thread(target=serve)
    thread.start()
    with here.client() as client:
        eventually(lambda: client.request(there.name, "echo", 1), "the handler is known")
        assert client.request(there.name, "echo", {"a": b"\x00"})["payload"] == {"a": b"\x00"}
        with client.request_stream(there.name, "echo", "parts") as parts:
            assert [part["payload"] for part in parts] == [1, 2, 3]
        for word, payload, kind in (
            ("echo", "crash", Failed),
            ("nothing", 1, NoHandler),
        ):
            with pytest.raises(kind):
                client.request(there.name, word, payload)
        with pytest.raises(UnknownNode):
            client.request("nobody", "echo")
        found = client.query("echo", 7, timeout_s=60)
        payloads = [row["payload"] for row in found["answers"] if "error" not in row]
        assert payloads == [7]
        assert found["missing"] == []
    there.stop()
    thread.join()


async def test_the_trio_client_hears_other_nodes(yard: Yard) -> None:
    here, there = await trio.to_thread.run_sync(yard.form, 2)
    async with (
        AsyncClient(str(here.socket)) as one,
        AsyncClient(str(there.socket)) as other,
        one.subscribe("rooms/+") as messages,
        one.watch("site/") as changes,
    ):
        while not (await other.publish("rooms/attic", b"warm", qos=1))["acknowledged"]:
            await trio.sleep(0.05)
        await other.put("site/name", "Hamburg")
        async for message in messages:
            assert (message["payload"], message["author_name"]) == (b"warm", there.name)
            break
        async for change in changes:
            assert change["entry"]["value"] == "Hamburg"
            break


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["members", "-o", "wide"], 0),
        (["status"], 0),
        (["doctor"], 0),
        (["kv", "get", "nothing"], 4),
        (["node", "show", "nobody"], 4),
        (["node", "force-leave", "n1"], 5),
        (["kv", "put", "big", "x" * 70_000], 2),
        (["kv", "put", "k", "v", "--durable", "9"], 7),
    ],
)
def test_meshctl_ends_with_the_promised_status(yard: Yard, words: list[str], code: int) -> None:
    agent = yard.first()
    done = agent.ctl(*words)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr


def test_meshctl_says_what_why_and_try_when_no_agent_runs(yard: Yard) -> None:
    agent = yard.first()
    agent.stop()
    done = agent.ctl("status")
    assert done.returncode == 3
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()] == ["error", "why", "try"]


def test_a_frozen_agent_is_a_timeout_not_a_hang(yard: Yard) -> None:
    agent = yard.first()
    with Client(str(agent.socket), timeout_s=0.3) as client:
        eventually(lambda: client.version(), "it answers, on a busy machine not at once")
        agent.signal(19)
        try:
            with pytest.raises(TimedOut):
                client.version()
        finally:
            agent.signal(18)
        eventually(lambda: client.version(), "it answers again")


def test_what_was_exported_is_imported_into_another_mesh(yard: Yard) -> None:
    agent = yard.first()
    with agent.client() as client:
        client.put("x/reg", {"a": [1, None, b"\xff"]})
        client.put("x/mv", "v", type="mv")
        client.set_change("x/set", add=["a", "b"])
        client.counter_add("x/counter", -4)
        client.map_change("x/map", set={"f": "v"})
        client.put("x/flag", False, type="flag")
    lines = agent.ctl("kv", "export", "x/").stdout
    with agent.client() as client:
        for row in client.scan("x/"):
            client.delete(row["key"], type=row["type"])
        assert client.scan("x/") == []
    assert agent.ctl("kv", "import", "-", stdin=lines).returncode == 0
    assert agent.ctl("kv", "export", "x/").stdout == lines

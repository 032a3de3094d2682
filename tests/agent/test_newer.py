"""A neighbour of the next version: it says more than this one knows, and nothing breaks or goes wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import trio
from nacl.bindings import crypto_sign
from nodes import Village, until

from mesh.agent.author import Author, Statement
from mesh.agent.card import member_path
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.core import folds, lease, record
from mesh.core.policy import PATH as POLICY
from mesh.core.record import LIVE, MESH, ZONE, Kind, Op, Record
from mesh.core.vitals import State
from mesh.wire import codec, messages

NEW_KIND, NEW_OP, NEW_NUMBER = 77, 9, 99


class Hello(messages.Hello, frozen=True, tag=0):
    more: tuple[int, ...] = (1,)


class Ping(messages.Ping, frozen=True, tag=9):
    more: str = "x"


class Heads(messages.Heads, frozen=True, tag=2):
    more: str = "x"


class Want(messages.Want, frozen=True, tag=3):
    more: str = "x"


class Wave(messages.Message, frozen=True, tag=NEW_NUMBER):
    greeting: dict[str, Any]


class NewerAuthor(Author):
    """Each record has two fields more."""

    def _sign(self, scope: str, statement: Statement, clock: Any) -> Record:
        plain = super()._sign(scope, statement, clock)
        fields = codec.decode(plain.body)
        body = codec.encode([*fields, *[None] * (8 - len(fields)), {"since": "v2"}, [1, 2]])
        signed = record.signed_bytes(self._mesh_id, record.scope_tag(scope, self._zone), self.aid, body)
        return record.parse(self.aid, body, crypto_sign(signed, self._secret)[:64])


def renew(node: Node) -> None:
    """From here on it is of the next version."""
    node.author.__class__ = NewerAuthor
    plain = node.hello

    def hello() -> Hello:
        said = plain()
        fields = {name: getattr(said, name) for name in messages.Hello.__struct_fields__}
        return Hello(**{**fields, "scopes": [*said.scopes, "q"], "features": ["telepathy"]})

    def publish(said: lease.Lease, ttl_s: float) -> None:
        value = {**lease.encode_lease(said), "st": "resting", "mood": ["fine"]}
        node.vitality._say(node.me, Op.PUT, value, ttl_s)

    node.hello = hello  # type: ignore[method-assign]
    node.vitality._publish = publish  # type: ignore[method-assign]
    node.vitality.say_again()


async def newer(village: Village) -> list[Node]:
    """Three linked nodes; the first is of the next version, and an admin."""
    nodes = await village.settle(3)
    first = nodes[0]
    renew(first)
    for other in nodes[1:]:
        await first.links.close(other.me, "it is another one now")
    await until(lambda: all(heard(other, first) and other.me in first.links.sessions for other in nodes[1:]))
    return nodes


def heard(node: Node, other: Node) -> bool:
    """Whether their link was made by the next version."""
    session = node.links.sessions.get(other.me)
    return session is not None and session.hello.features == ["telepathy"]


def held(node: Node, scope: str, path: str) -> list[Record]:
    with node.store.read(scope) as slots:
        return list(slots.slots(path))


def roots(node: Node) -> list[bytes]:
    return [node.spread.machine.root(scope) for scope in (MESH, ZONE)]


async def stop(village: Village, node: Node) -> None:
    village.scopes[node.me].cancel()
    await village.ended[node.me].wait()
    village.nodes.remove(node)
    await until(lambda: all(node.me not in other.links.sessions for other in village.nodes))


async def test_frames_that_say_more_are_read_as_far_as_they_are_known(village: Village) -> None:
    first, second, third = await newer(village)
    session = first.links.sessions[second.me]
    session.send_nowait(Wave({"hands": 2}))
    session.send_nowait(Heads(MESH, [], more="x"))
    session.send_nowait(Heads("q", [(first.me, 1, bytes(16))]))
    session.send_nowait(Want(MESH, second.me, 0))
    session.send_nowait(Want("q", second.me, 0))
    session.send_nowait(messages.Delta("q", first.me, 0, 1, False, [(b"x", bytes(64))]))
    session.send_nowait(messages.Root("q", bytes(16)))
    session.send_nowait(messages.Probe(codec.encode([NEW_NUMBER, 1, {"x": 1}])))
    session.send_nowait(messages.Probe(codec.encode([0, 1, "more"])))
    asked = session._nonce
    session._pinged = (asked + 1, first.wall_ms(), trio.current_time())
    session.send_nowait(Ping(asked + 1, first.wall_ms()))
    with trio.fail_after(60):
        await session.round_trip(first.wall_ms())  # all before it was read
    assert first.links.sessions[second.me] is session
    assert village.all_see([second, third], [first], State.ALIVE)
    assert second.alarms == third.alarms == {}


async def test_records_that_say_more_are_stored_passed_on_and_read_as_far_as_they_are_known(
    village: Village,
) -> None:
    first, second, third = await newer(village)
    await stop(village, third)
    card = {**first.cards[first.me], "more": 1}
    card["card"] = {**card["card"], "mood": "fine", "labels": {"a": "b"}}
    statements = [
        Statement("kv/known", Kind.REG, "value"),
        Statement("kv/new-kind", NEW_KIND, {"a": 1}),  # type: ignore[arg-type]
        Statement("kv/new-op", Kind.REG, "x", NEW_OP),  # type: ignore[arg-type]
        Statement("room-of-v2/x", Kind.ALL, ["y"]),
        Statement(member_path(first.me), Kind.ALL, card),
    ]
    said = await first.author.say(MESH, lambda _: statements)
    await first.author.say(ZONE, lambda _: [Statement("room-of-v2/zone", NEW_KIND, 1)])  # type: ignore[arg-type]
    await until(lambda: roots(first) == roots(second))
    await stop(village, first)
    third = await village._start(third.home.name)  # it can only hear it from the second
    await until(lambda: roots(second) == roots(third))

    for node in (second, third):
        for rec in said:
            (copy,) = [each for each in held(node, MESH, rec.path) if each.aid == first.me]
            assert (copy.body, copy.sig) == (rec.body, rec.sig)
        now_ms = node.now_ms()
        found = folds.register(held(node, MESH, "kv/known"), now_ms)
        assert found is not None
        assert found.val == "value"
        assert folds.register(held(node, MESH, "kv/new-kind"), now_ms) is None
        assert folds.register(held(node, MESH, "kv/new-op"), now_ms) is None
        assert Members(node).card_of(first.me)["labels"] == {"a": "b"}
        assert not {kind for kind, aid in node.alarms if aid == first.me}


async def test_a_lease_with_words_of_later_is_a_sign_of_life(village: Village) -> None:
    first, second, third = await newer(village)

    def rests(node: Node) -> bool:
        found = [rec for rec in held(node, LIVE, lease.path_of(first.me)) if rec.aid == first.me]
        return bool(found) and found[0].val.get("st") == "resting"

    await until(lambda: rests(second) and rests(third))
    await until(
        lambda: all(node.vitality.machine.board.members[first.me].lease.steady for node in (second, third))
    )
    assert village.all_see([second, third], [first], State.ALIVE)
    assert msgspec.structs.asdict(second.vitality.machine.board.members[first.me].lease)["st"] == "up"


async def test_a_verb_of_later_takes_nothing_from_the_rest_of_a_policy(village: Village) -> None:
    first, second, _ = await newer(village)
    policy = {"roles": {"member": {"write": ["kv/mine/**"], "fly": ["**"]}}, "seasons": {"summer": 1}}
    (said,) = await first.author.say(MESH, lambda _: [Statement(POLICY, Kind.REG, policy)])
    await until(lambda: bool(held(second, MESH, POLICY)))
    (found,) = held(second, MESH, POLICY)
    assert found.body == said.body
    assert second.view.policy.fault == ""
    cert = second.directory.certificate(second.me)
    assert cert is not None
    assert second.view.policy.may(cert, "write", "kv/mine/x")
    assert not second.view.policy.may(cert, "write", "kv/x")

"""Ways between members on real nodes in one process: direct, through a third, and direct again."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from nodes import Village, until

from mesh.agent import ways
from mesh.agent.links import RELAY_AFTER_S, Links
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.ways import race
from mesh.core.vitals import DialResult, State
from mesh.errors import MeshError, TimedOut, Unreachable
from mesh.net.base import Refused, Stream

ECHO = "/test/echo"


@pytest.fixture(autouse=True)
def quick_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "LOOK_S", 0.2)
    monkeypatch.setattr(ways, "RETURN_S", (0.5,))


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def ask(node: Node, other: Node, deadline_s: float = 5.0) -> bytes:
    with trio.fail_after(deadline_s):
        stream = await node.open(other.key.public, ECHO, deadline_s)
        async with stream:
            await stream.send(b"hello")
            return await stream.receive()


def relayed(node: Node, other: Node) -> bool | None:
    session = node.links.sessions.get(other.me)
    return None if session is None else session.relayed


async def three(village: Village) -> list[Node]:
    nodes = await village.settle(3)
    for node in nodes:
        node.host.handle(ECHO, echo)
    return nodes


async def test_a_pair_that_is_cut_apart_goes_by_the_third_and_directly_again_after_the_heal(
    village: Village,
) -> None:
    middle, one, other = await three(village)
    assert relayed(one, other) is False
    village.board.cut(one.key.public, other.key.public)
    await until(lambda: relayed(one, other) and relayed(other, one))
    assert await ask(one, other) == b"hello"
    assert await ask(other, one) == b"hello"
    assert village.all_see(village.nodes, village.nodes, State.ALIVE)
    links = await Members(one).links()
    assert {row["name"]: row["relay"] for row in links} == {
        middle.home.name: None,
        other.home.name: middle.home.name,
    }
    assert await one.reach(other.key.public) == "relay"
    assert await one.reach(middle.key.public) == "link"

    async with await one.open(other.key.public, ECHO, 5.0) as under_way:
        await under_way.send(b"before")
        assert await under_way.receive() == b"before"
        village.board.cut(one.key.public, other.key.public, cut=False)
        await until(lambda: relayed(one, other) is False and relayed(other, one) is False)
        await under_way.send(b"after")
        assert await under_way.receive() == b"after"
        async with await one.open(other.key.public, ECHO, 5.0) as anew:
            assert not anew.relayed
    await until(lambda: not middle.host.relay.carried)


async def test_the_first_request_of_a_pair_without_a_direct_way_is_answered(village: Village) -> None:
    _, one, other = await three(village)
    village.board.cut(one.key.public, other.key.public)
    for node, peer in ((one, other), (other, one)):
        await node.links.close(peer.me, "as if they had never been linked")
    assert await ask(one, other) == b"hello"


async def test_a_member_that_nobody_reaches_is_not_reached_in_time(village: Village) -> None:
    nodes = await three(village)
    _, one, other = nodes
    village.cut([other])
    await one.links.close(other.me, "as after a minute")
    with pytest.raises(MeshError):
        await one.open(other.key.public, ECHO, 1.0)


def tries(said: list[str], name: str, after_s: float, result: object) -> Callable[[], Awaitable[bool]]:
    async def attempt() -> bool:
        said.append(name)
        await trio.sleep(after_s)
        if isinstance(result, Exception):
            raise result
        said.append(f"{name} stands")
        return bool(result)

    return attempt


@pytest.mark.parametrize(
    ("direct_s", "direct", "relayed_s", "relay", "expected"),
    [
        (0.5, True, 0, True, ["direct", "direct stands"]),
        (9, True, 0.5, True, ["direct", "relay", "relay stands"]),
        (2, True, 9, True, ["direct", "relay", "direct stands"]),
        (0.1, Unreachable("no"), 0.5, True, ["direct", "relay", "relay stands"]),
    ],
    ids=["the direct way is quick", "it is slow", "the relay is slower", "it fails"],
)
async def test_the_first_way_that_stands_is_taken(
    autojump_clock: trio.testing.MockClock,
    direct_s: float,
    direct: object,
    relayed_s: float,
    relay: bool,
    expected: list[str],
) -> None:
    said: list[str] = []
    await race(tries(said, "direct", direct_s, direct), tries(said, "relay", relayed_s, relay), 1.0)
    assert said == expected


@pytest.mark.parametrize(
    ("error", "asked"), [(Refused("nobody listens"), False), (Unreachable("no way"), True)]
)
async def test_no_relay_is_asked_for_an_agent_that_is_not_there(
    autojump_clock: trio.testing.MockClock, error: MeshError, asked: bool
) -> None:
    said: list[str] = []
    with pytest.raises(type(error)):
        await race(tries(said, "direct", 0.1, error), tries(said, "relay", 0.1, False), 1.0)
    assert ("relay" in said) is asked


@pytest.mark.parametrize("direct_s", [0.1, 3.0], ids=["it failed before", "it fails later"])
async def test_a_relay_that_breaks_leaves_the_error_of_the_direct_way(
    autojump_clock: trio.testing.MockClock, direct_s: float
) -> None:
    """One error, and not a group of them: nobody expects that, and it would end the agent."""
    broken = tries([], "relay", 0.5, TimedOut("no hello"))
    with pytest.raises(Unreachable, match="no way"):
        await race(tries([], "direct", direct_s, Unreachable("no way")), broken, 1.0)


async def test_a_relay_that_breaks_does_not_end_the_direct_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    said: list[str] = []
    await race(tries(said, "direct", 3.0, True), tries(said, "relay", 0.5, TimedOut("no hello")), 1.0)
    assert said == ["direct", "relay", "direct stands"]


PEER = b"p" * 32


class Slow:
    """The links of a node with one neighbour, connected as soon as it is dialled and slow to greet."""

    def __init__(self, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, greets_s: float) -> None:
        self.greets_s = greets_s
        self.connected = False
        self.greeted = 0
        self.held: list[bytes] = []
        host: Any = SimpleNamespace(dial=self._dial, open=self._open, connection=self._connection)
        hooks: Any = SimpleNamespace()
        at = ["/ip4/10.0.0.1/tcp/1"]
        self.links = Links(b"m" * 16, hooks, lambda _: at, lambda _: PEER, lambda _: (), rng=random.Random(1))
        self.links.use(host)
        monkeypatch.setattr(self.links, "_nursery", nursery, raising=False)
        monkeypatch.setattr(self.links, "_greet", self._greet)
        monkeypatch.setattr(self.links, "_hold", self._hold)

    async def _dial(self, address: str, public: bytes, *, deadline_s: float) -> None:
        self.connected = True

    async def _open(self, public: bytes, protocol: str, *, deadline_s: float) -> None: ...

    def _connection(self, public: bytes) -> Any:
        return SimpleNamespace(relayed=False) if self.connected else None

    async def _greet(self, wire: Any, *, dialled: bool) -> Any:
        self.greeted += 1
        await trio.sleep(self.greets_s)
        return SimpleNamespace(aid=PEER[:16])

    async def _hold(self, session: Any) -> None:
        self.held.append(session.aid)


async def test_a_neighbour_that_greets_slowly_is_not_greeted_once_more_beside_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two greetings the other end would take the second for the link, and the first would end that."""
    slow = Slow(nursery, monkeypatch, 2 * RELAY_AFTER_S)
    await slow.links.connect(PEER)
    assert (slow.greeted, slow.held) == (1, [PEER[:16]])
    assert slow.links.worked == {PEER[:16]: "/ip4/10.0.0.1/tcp/1"}


async def test_a_link_that_was_begun_is_held_though_the_redial_has_no_more_time(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other end may have it already, in the place of the one before."""
    slow = Slow(nursery, monkeypatch, 2.0)
    assert await slow.links.redial(PEER[:16], 1.0) == DialResult.TIMED_OUT
    assert slow.held == []
    await trio.sleep(1.5)
    assert (slow.greeted, slow.held) == (1, [PEER[:16]])

"""What must cost a link, or wait, and never end a node: senseless messages, and a disk that is full."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from nodes import Village, until

from mesh.agent import insist
from mesh.agent.author import Statement
from mesh.agent.node import Node
from mesh.agent.session import Session
from mesh.core import record
from mesh.core.clock import hlc_of
from mesh.core.record import MESH, Kind
from mesh.core.vitals import State
from mesh.errors import Failed, StoreFull, Unreachable
from mesh.store.watch import Change
from mesh.wire import messages


class Stubborn:
    """Refuses a few times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0

    async def __call__(self) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insist, "AGAIN_S", 0.01)


@pytest.mark.usefixtures("quick")
async def test_what_finds_no_room_is_tried_until_there_is_some() -> None:
    write = Stubborn(StoreFull("no room"), StoreFull("no room"))
    await insist.insist(write)
    assert write.tries == 3


async def test_what_is_refused_otherwise_is_told_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    write = Stubborn(Failed("not now"))
    with caplog.at_level(logging.ERROR):
        await insist.insist(write)
    assert write.tries == 1
    assert "not now" in caplog.text


@pytest.mark.usefixtures("quick")
async def test_a_node_lives_through_a_full_disk_and_says_what_it_owed(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    one, other = await Village(tmp_path, nursery).settle(2)
    store = one.store._writer

    async def owed() -> None:
        await one.author.say(MESH, lambda _: [Statement("kv/owed", Kind.REG, 1)])

    store.full = True
    one.author.fences[MESH].checked = False
    one._remembered(MESH)
    one.nursery.start_soon(insist.insist, owed)
    await trio.sleep(0.1)
    assert not one._ended
    store.full = False
    await until(lambda: _has(other, "kv/owed"))


def _has(node: Node, path: str) -> bool:
    with node.store.read(MESH) as slots:
        return any(slots.slots(path))


async def test_a_stamp_below_zero_costs_the_link_that_it_came_by(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    one, other = await Village(tmp_path, nursery).settle(2)
    held = one.links.sessions[other.me]
    head = one.spread.machine.heads[MESH][one.me].head
    other.links.sessions[one.me].send_nowait(messages.Pull(MESH, one.me, [-1], head))
    await until(lambda: one.links.sessions.get(other.me) not in (None, held))
    await until(lambda: Village.all_see([one, other], [one, other], State.ALIVE))


async def test_what_nobody_foresaw_costs_the_link_that_it_came_by(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await Village(tmp_path, nursery).settle(2)
    held, real = one.links.sessions[other.me], one.spread.frame

    async def fails_once(session: Session, message: messages.Message, body: bytes) -> None:
        one.spread.frame = real  # type: ignore[method-assign]
        raise KeyError("nobody thought of this")

    one.spread.frame = fails_once  # type: ignore[method-assign]
    other.links.sessions[one.me].send_nowait(messages.Want(MESH, one.me, 0))
    await until(lambda: one.links.sessions.get(other.me) not in (None, held))
    assert "nobody thought of this" in caplog.text
    assert not one._ended


async def test_a_node_that_is_just_starting_reaches_nobody_and_says_so(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    one, other = await Village(tmp_path, nursery).settle(2)
    one.host = None  # as it is while the host is loaded, when the admin socket answers already
    one.links.sessions.clear()
    with pytest.raises(Unreachable, match="starting"):
        await one.reach(other.key.public)


async def test_a_node_that_is_about_to_end_takes_no_question_any_more(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    one, other = await Village(tmp_path, nursery).settle(2)
    asked: list[bytes] = []

    class Queries:
        def receive(self, sender: bytes, message: messages.Ask | messages.Reply) -> None:
            asked.append(sender)

        def link_ended(self, aid: bytes) -> None:
            pass

    one.use_queries(Queries())  # type: ignore[arg-type]
    question = messages.Ask(other.me, b"", b"", 1, 1)
    other.links.sessions[one.me].send_nowait(question)
    await until(lambda: asked == [other.me])
    one.hush()
    await one.frame(one.links.sessions[other.me], messages.encode(question))
    assert asked == [other.me]


async def test_a_listener_that_fails_keeps_nothing_from_the_others(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    (one,) = await Village(tmp_path, nursery).settle(1)
    told: list[str] = []

    def fails(changes: list[Change]) -> None:
        raise KeyError("a value that one consumer cannot bear")

    one.store.add_listener(fails)
    one.store.add_listener(lambda changes: told.extend(change.path for change in changes))
    await one.author.say(MESH, lambda _: [Statement("kv/a", Kind.REG, 1)])
    assert told == ["kv/a"]
    assert not one._ended


async def test_what_a_link_brought_as_it_ended_is_taken_when_it_comes_again(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    one, other = await Village(tmp_path, nursery).settle(2)
    session, head = one.links.sessions[other.me], other.spread.machine.heads[MESH][other.me].head
    said = record.sign(
        other.key.secret,
        other.mesh_id,
        record.scope_tag(MESH, other.zone),
        path="kv/late",
        kind=Kind.REG,
        hlc=hlc_of(other.now_ms() + 30_000),  # above whatever else it may say meanwhile
        val=1,
    )
    delta = messages.Delta(MESH, other.me, head, said.hlc, False, [(said.body, said.sig)])
    with trio.CancelScope() as ended:
        ended.cancel()
        await one.spread.frame(session, delta, messages.encode(delta))
    assert not _has(one, "kv/late"), "its link ended before it was applied"
    await one.spread.frame(session, delta, messages.encode(delta))
    await until(lambda: _has(one, "kv/late"))

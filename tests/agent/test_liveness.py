"""Liveness on real nodes in one process, over in-memory links and datagrams that can be cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from nodes import CONFIG, Village, until

from mesh.agent import liveness
from mesh.agent.liveness import Vitality
from mesh.agent.node import Node
from mesh.core.clock import FUTURE_MS_MAX, hlc_of, unix_ms_of
from mesh.core.collect import Statement
from mesh.core.lease import Status, decode_lease, path_of
from mesh.core.liveness import Liveness
from mesh.core.record import MESH, Kind
from mesh.core.rings import Place
from mesh.core.vitals import PROFILES, DialResult, LoopLate, PersistIncarnation, State

TEN_YEARS_MS = 3_650 * 86_400_000


async def test_sides_whose_links_are_all_closed_find_each_other_after_the_heal(village: Village) -> None:
    nodes = await village.settle(4)
    near, far = nodes[:2], nodes[2:]
    village.cut(near)
    await until(lambda: village.all_see(near, far, State.DEAD) and village.all_see(far, near, State.DEAD))
    assert village.all_see(near, near, State.ALIVE)
    assert village.all_see(far, far, State.ALIVE)
    for node, others in [(node, far) for node in near] + [(node, near) for node in far]:
        for other in others:
            await node.links.close(other.me, "as after a minute that nobody wanted it")
    await until(lambda: all(len(node.links.sessions) == 1 for node in nodes))
    village.cut(near, cut=False)
    await until(lambda: village.all_see(nodes, nodes, State.ALIVE))


async def test_an_order_that_comes_before_liveness_runs_is_obeyed_when_it_does(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Vitality.run

    async def ordered(self: Vitality, datagrams: Any, *, task_status: Any) -> None:
        self.set_status(Status.CORDON)
        await run(self, datagrams, task_status=task_status)

    monkeypatch.setattr(Vitality, "run", ordered)
    first, second = await village.settle(2)

    def told() -> object:
        lease = first.vitality.machine.board.members[second.me].lease
        return lease is not None and lease.st == Status.CORDON

    await until(told)


async def test_what_is_heard_after_liveness_has_ended_begins_nothing(village: Village) -> None:
    first, _ = await village.settle(2)
    village.scopes[first.me].cancel()
    await village.ended[first.me].wait()
    first.vitality._perform(PersistIncarnation(99))
    assert not first.vitality._persisting


async def test_a_redial_tells_the_living_from_the_gone_and_the_unreachable(village: Village) -> None:
    first, second, third = await village.settle(3)
    links = first.links
    for other in (second, third):
        await until(lambda other=other: other.me in links.worked)
    assert await links.redial(second.me, 5.0) == DialResult.OK
    village.board.cut(first.key.public, second.key.public)
    assert await links.redial(second.me, 0.1) == DialResult.TIMED_OUT
    village.scopes[third.me].cancel()
    await until(lambda: third.me not in links.sessions)
    assert await links.redial(third.me, 5.0) == DialResult.REFUSED
    del links.worked[third.me]
    assert await links.redial(third.me, 5.0) == DialResult.TIMED_OUT, "it was never reached there"
    assert await links.redial(b"?" * 16, 5.0) == DialResult.TIMED_OUT


async def test_a_refusal_elsewhere_than_where_it_worked_is_no_evidence(village: Village) -> None:
    first, second = await village.settle(2)
    await until(lambda: second.me in first.links.worked)
    worked = first.links.worked[second.me]
    first.cards[second.me] = {**first.cards[second.me], "addr": [worked, "/ip4/10.0.0.99/tcp/1"]}
    village.board.cut(first.key.public, second.key.public)
    assert await first.links.redial(second.me, 0.3) == DialResult.TIMED_OUT


async def test_who_answers_datagrams_at_its_own_address_has_proved_it(village: Village) -> None:
    first, second = await village.settle(2)
    for one, other in ((first, second), (second, first)):
        one.links.worked.clear()
        one.vitality._replied_from.clear()
        await until(lambda one=one, other=other: other.me in one.links.worked)
        assert one.links.worked[other.me] == other.host.addresses[0]


async def test_an_address_that_a_member_does_not_name_is_not_proved_by_a_datagram(village: Village) -> None:
    first, second = await village.settle(2)
    first.links.worked.clear()
    first.links.vouch(second.me, "10.9.9.9", 5)
    assert second.me not in first.links.worked


async def test_a_node_whose_clock_ran_ahead_before_a_restart_is_heard_at_once_after_it(
    village: Village,
) -> None:
    seldom = msgspec.structs.replace(CONFIG.membership, lease_s=300.0)
    village.config = msgspec.structs.replace(CONFIG, membership=seldom)
    first, second = await village.settle(2)
    ahead = hlc_of(village.wall_ms() + FUTURE_MS_MAX - 5_000)
    second.author.live_clock.receive(ahead)  # others pull it along
    second.vitality.say_again()
    await until(lambda: first.store.live.author(second.me).head > ahead)
    again = await village.restart(second)
    inc = again.vitality.machine.incarnation
    await until(lambda: heard_incarnation(first, again) == inc)  # long before the next lease


async def restarted_ahead(village: Village, *, cut: bool) -> Node:
    """The last of three nodes, started again with a clock ten years ahead."""
    third = (await village.settle(3))[2]

    def meanwhile() -> None:
        village.ahead_ms["n2"] = TEN_YEARS_MS
        if cut:
            village.cut([third])

    return await village.restart(third, meanwhile)


async def test_a_node_whose_clock_is_years_ahead_meets_others_and_learns_the_time(
    village: Village,
) -> None:
    again = await restarted_ahead(village, cut=False)
    await until(lambda: abs(again.now_ms() - village.wall_ms()) < 60_000)
    await until(lambda: village.all_see(village.nodes, village.nodes, State.ALIVE))


async def test_what_was_written_by_a_clock_ahead_reaches_the_others_once_it_is_set_right(
    village: Village,
) -> None:
    again = await restarted_ahead(village, cut=True)
    (written,) = await again.author.say(MESH, lambda _: [Statement("kv/a", Kind.REG, "kept")])
    assert unix_ms_of(written.hlc) > village.wall_ms() + FUTURE_MS_MAX
    village.ahead_ms["n2"] = 0  # as by NTP, before anybody else was met
    village.cut([again], cut=False)

    def held(node: Node) -> bool:
        with node.store.read(MESH) as log:
            return [rec.val for rec in log.slots("kv/a")] == ["kept"]

    await until(lambda: all(held(node) for node in village.nodes))
    once_more = await village.restart(again)
    assert unix_ms_of(once_more.author.newest) < village.wall_ms() + FUTURE_MS_MAX


def heard_incarnation(viewer: Node, subject: Node) -> int:
    """The incarnation in a node's newest lease, as another holds it; accusations may stand beside it."""
    (lease,) = (rec for rec in viewer.store.live.slots(path_of(subject.me)) if rec.aid == subject.me)
    return decode_lease(lease.val).inc


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that the system says it was suspended."""
    told = [0.0]
    monkeypatch.setattr(liveness, "slept_s", lambda: told[0])
    return told


def test_a_machine_is_told_of_a_suspend_before_anything_else(asleep: list[float]) -> None:
    machine = Liveness(PROFILES["lan"], b"a" * 16, b"m" * 16, Place("default"), random.Random(1), 0, 10.0)
    awake = liveness.Awake(machine)
    awake.tick(10.0)
    asleep[0] = 3600.0
    assert machine.steady(10.5)
    awake.handle(LoopLate(0.0), 10.5)
    assert not machine.steady(10.5)
    assert machine.slowness(10.5) == 8
    awake.tick(awake.deadline())
    assert machine.slowness(22.0) == 0, "it is told once"


def test_the_system_tells_how_long_it_slept() -> None:
    assert abs(liveness.slept_s() - liveness.slept_s()) < 0.05

"""An invite for one device, used on both sides of a split."""

from __future__ import annotations

from nodes import NOW_MS, Village, until

from mesh.agent.certs import Certs
from mesh.agent.invites import Invites
from mesh.agent.members import Members
from mesh.core.vitals import State
from mesh.identity import home


async def test_an_invite_used_on_both_sides_of_a_split_lets_one_in_and_raises_the_alarm(
    village: Village,
) -> None:
    first, second = await village.settle(2)
    made, _ = (Invites(node, Certs(node, Members(node).rows)) for node in (first, second))
    wanted = {"roles": [], "zone": None, "tier": None, "labels": {}, "uses": 1, "ttl_s": None}
    token = (await made.create(**wanted))["token"]
    for name in ("n2", "n3"):
        home.join_mesh(village.folder / name, token, name, now_ms=NOW_MS)
    keys = [home.open_home(village.folder / name).key.public for name in ("n2", "n3")]
    apart = [
        (first.key.public, second.key.public),
        (first.key.public, keys[1]),
        (second.key.public, keys[0]),
        (keys[0], keys[1]),
    ]
    for one, other in apart:
        village.board.cut(one, other)
    guests = [await village._start(name) for name in ("n2", "n3")]
    await until(lambda: village.all_see([first], guests[:1], State.ALIVE))
    await until(lambda: village.all_see([second], guests[1:], State.ALIVE))
    for one, other in apart:
        village.board.cut(one, other, cut=False)
    await until(lambda: village.refused)
    for node in (first, second):
        await until(lambda node=node: "invite_overused" in {kind for kind, _ in node.alarms})
        assert sum(node.directory.is_member(guest.me) for guest in guests) == 1

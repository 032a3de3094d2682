"""Invites, certificates, renewal and removal on real nodes in one process, over in-memory links."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.invites import Invites
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.agent.policy import Policies
from mesh.agent.removed import Refusal
from mesh.agent.renewal import Keeper
from mesh.config import Config, Discovery, Store
from mesh.core import folds, record
from mesh.core.evidence import REMOVED, path_of
from mesh.core.judgement import Verdict
from mesh.core.record import MESH, ZONE, Kind
from mesh.errors import Conflict, Denied, NotFound, StoreError, UsageError
from mesh.identity import home, invites
from mesh.identity.certs import ADMIN, DAY_MS, MEMBER
from mesh.net.base import Admission
from mesh.net.memory import MemoryDatagrams, MemoryHost, Switchboard
from mesh.wire.messages import Bye

NOW_MS = 1_800_000_000_000
CONFIG = Config(
    store=Store(map_bytes=64 << 20, ballast_bytes=0, linger_ms=0.0), discovery=Discovery(mdns=False)
)


class Plant:
    """One node of the garden with the features under test."""

    def __init__(self, garden: Garden, folder: Path) -> None:
        self.garden = garden
        self.node = Node(home.open_home(folder), CONFIG, garden.host_for, wall_ms=lambda: garden.now_ms)
        self.members = Members(self.node)
        self.certs = Certs(self.node, self.members.rows)
        self.invites = Invites(self.node, self.certs)
        self.policy = Policies(self.node, self.certs, self.members.name_of)
        self.zones: list[str] = []
        self.keeper = Keeper(self.node, self.certs, self.zones.append)
        self.scope = trio.CancelScope()
        self.refused = False

    @property
    def id(self) -> str:
        return self.node.key.peer_id

    @property
    def aid(self) -> bytes:
        return self.node.me

    def verdict_on(self, other: Plant) -> Verdict:
        return self.node.directory.verdict(other.aid)

    def value(self, path: str, scope: str = MESH):
        """What a register says here."""
        with self.node.store.read(scope) as slots:
            found = folds.register(self.node.view.visible(slots.slots(path)), self.node.now_ms())
        return found.val if found is not None else None

    async def put(self, path: str, value: object, scope: str = MESH) -> None:
        await self.node.author.say(scope, lambda _: [Statement(path, Kind.REG, value)])

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            try:
                await self.node.run(task_status=task_status)
            except* Refusal:
                self.refused = True

    def meet(self, other: Plant) -> None:
        """Learn where another one is, as discovery would, and try it now."""
        self.node.links.found(other.node.key.public, other.node.host.addresses[0])
        self.node.links.dial_now(other.aid)


class Garden:
    """Nodes on one switchboard and one calendar."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.nursery = nursery
        self.rng = random.Random(5)
        self.board = Switchboard(self.rng)
        self.now_ms = NOW_MS
        self.plants: list[Plant] = []

    def host_for(self, node: Node):
        ip = f"10.0.0.{len(self.plants) + 1}"
        host = MemoryHost(
            self.board,
            node.key,
            listen=[f"/ip4/{ip}/tcp/0"],
            gate=lambda public, _: Admission[node.directory.gate(public).name],
        )
        return host, MemoryDatagrams(self.board, node.key, node.public_of_member, host=ip)

    async def start(self, folder: Path) -> Plant:
        plant = Plant(self, folder)
        await self.nursery.start(plant.run)
        for other in self.plants:
            plant.meet(other)
        self.plants.append(plant)
        return plant

    async def founder(self) -> Plant:
        home.create_mesh(self.folder / "n0", "n0", "garden", now_ms=self.now_ms)
        return await self.start(self.folder / "n0")

    async def enrol(self, token: str) -> Plant:
        name = f"n{len(self.plants)}"
        home.join_mesh(self.folder / name, token, name, now_ms=self.now_ms)
        return await self.start(self.folder / name)

    async def enrol_hidden(self, token: str, *, hidden_from: Plant) -> Plant:
        """A device that a certain member does not reach, nor it that member."""
        folder = self.folder / f"n{len(self.plants)}"
        home.join_mesh(folder, token, folder.name, now_ms=self.now_ms)
        self.board.cut(hidden_from.node.key.public, home.open_home(folder).key.public)
        return await self.start(folder)

    async def join(self, by: Plant, **terms: object) -> Plant:
        """A new member by a fresh invite, known to everyone."""
        plant = await self.enrol((await invite(by, **terms))["token"])
        await until(lambda: all(each.verdict_on(plant) == Verdict.MEMBER for each in self.plants))
        await until(lambda: all(plant.verdict_on(each) == Verdict.MEMBER for each in self.plants))
        return plant

    async def stop(self, plant: Plant) -> None:
        plant.scope.cancel()
        self.plants.remove(plant)


def held(plant: Plant, aid: bytes) -> int:
    """How many slots of an author a node stores."""
    with plant.node.store.read(MESH) as slots:
        return slots.author(aid).count


async def invite(by: Plant, **terms: object):
    fields = {"roles": [], "zone": None, "tier": None, "labels": {}, "uses": 1, "ttl_s": None}
    return await by.invites.create(**{**fields, **terms})


async def until(condition, seconds: float = 120.0) -> None:
    """Wait for a condition; the bound only keeps a failed test from hanging."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


@pytest.fixture
async def garden(tmp_path, nursery):
    made = Garden(tmp_path, nursery)
    yield made
    for plant in list(made.plants):
        plant.scope.cancel()


async def test_an_invite_lets_a_device_in_and_is_listed_everywhere(garden):
    first = await garden.founder()
    made = await invite(first, labels={"site": "home"}, tier="edge", uses=2)
    assert made["state"] == "open"
    assert made["created_by"] == first.id
    assert (made["roles"], made["zone"], made["tier"]) == ([MEMBER], "default", "edge")
    token = invites.parse(made["token"])
    assert token.addresses[0].endswith(f"/p2p/{first.id}")
    second = await garden.enrol(made["token"])
    await until(lambda: second.verdict_on(second) == Verdict.MEMBER)
    assert second.node.home.labels == {"site": "home"}
    await until(lambda: second.node.directory.evidence.notices)
    (row,) = await second.invites.list()
    assert "token" not in row
    assert (row["id"], row["used"], row["admitted"]) == (made["id"], 1, [second.id])
    assert (await first.invites.list()) == [row]


async def test_only_admin_nodes_make_and_revoke_invites(garden):
    first = await garden.founder()
    second = await garden.join(first)
    with pytest.raises(Denied, match="n1 is not an admin node"):
        await invite(second)
    (row,) = await first.invites.list()
    with pytest.raises(Denied, match="not an admin"):
        await second.invites.revoke(row["id"], remove_admitted=False)
    with pytest.raises(Denied, match="not an admin"):
        await second.certs.revoke(first.id, reason="coup")


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"roles": ["a b"]}, "the role 'a b'"),
        ({"zone": "x/y"}, "the zone"),
        ({"tier": "\x1b"}, "the tier"),
        ({"labels": {"a": "\n"}}, "label a"),
        ({"uses": 0}, "0 uses"),
        ({"uses": 1 << 40}, "uses"),
        ({"ttl_s": 0.0}, "0 days"),
        ({"ttl_s": 1e12}, "s"),
    ],
)
async def test_terms_that_are_not_allowed_are_named(garden, terms, said):
    first = await garden.founder()
    with pytest.raises(UsageError, match=said):
        await invite(first, **terms)
    assert await first.invites.list() == []


async def test_a_used_up_invite_refuses_the_next_device_which_says_why(garden):
    first = await garden.founder()
    token = (await invite(first))["token"]
    await garden.enrol(token)
    await until(lambda: len(first.node.directory.members()) == 2)
    late = await garden.enrol(token)
    await until(lambda: late.refused)
    assert any("used up" in text for text in late.node.refused.values())
    assert first.verdict_on(late) != Verdict.MEMBER
    (row,) = await first.invites.list()
    assert (row["state"], row["used"]) == ("used", 1)


async def test_a_revoked_invite_refuses_and_may_take_along_whom_it_let_in(garden):
    first = await garden.founder()
    kept = await garden.join(first)
    made = await invite(first, uses=9)
    taken = await garden.enrol(made["token"])
    await until(lambda: kept.verdict_on(taken) == Verdict.MEMBER)
    row = await first.invites.revoke(made["id"][-8:], remove_admitted=False)
    assert row["state"] == "revoked"
    assert first.verdict_on(taken) == Verdict.MEMBER
    late = await garden.enrol(made["token"])
    await until(lambda: late.refused)
    await first.invites.revoke(made["id"], remove_admitted=True)
    assert first.verdict_on(taken) == Verdict.REMOVED
    await until(lambda: kept.verdict_on(taken) == Verdict.REMOVED)
    assert kept.verdict_on(kept) == Verdict.MEMBER


async def test_an_invite_used_on_both_sides_of_a_split_lets_in_one_after_the_heal(garden):
    first = await garden.founder()
    far = await garden.join(first)
    token = (await invite(first))["token"]
    await until(lambda: len(far.node.directory.evidence.notices) == 2)
    garden.board.cut(first.node.key.public, far.node.key.public)
    here = await garden.enrol_hidden(token, hidden_from=far)
    there = await garden.enrol_hidden(token, hidden_from=first)
    garden.board.cut(here.node.key.public, there.node.key.public)
    await until(lambda: first.verdict_on(here) == here.verdict_on(here) == Verdict.MEMBER)
    await until(lambda: far.verdict_on(there) == there.verdict_on(there) == Verdict.MEMBER)
    await here.put("kv/here", 1)
    await there.put("kv/there", 1)
    await until(lambda: first.value("kv/here") == far.value("kv/there") == 1)
    for one in garden.plants:
        for other in garden.plants:
            garden.board.cut(one.node.key.public, other.node.key.public, False)
    far.meet(first)
    staying = [first, far]
    await until(lambda: all(plant.node.directory.overused() for plant in staying))
    (out,) = [plant for plant in (here, there) if first.verdict_on(plant) != Verdict.MEMBER]
    assert far.verdict_on(out) == first.verdict_on(out) == Verdict.USED_UP
    await until(lambda: not any(held(plant, out.aid) for plant in staying))
    await until(lambda: len({plant.node.spread.machine.root(MESH) for plant in staying}) == 1)
    await until(lambda: out.verdict_on(out) == Verdict.USED_UP or out.node.refused)


async def test_an_invite_is_named_by_its_id_or_an_end_of_it(garden):
    first = await garden.founder()
    one, two = await invite(first), await invite(first)
    with pytest.raises(NotFound, match="no invite zzz"):
        await first.invites.revoke("zzz", remove_admitted=False)
    with pytest.raises(NotFound):
        await first.invites.revoke("", remove_admitted=False)
    if one["id"][-1] == two["id"][-1]:
        with pytest.raises(UsageError, match="2 invites end in"):
            await first.invites.revoke(one["id"][-1], remove_admitted=False)
    assert (await first.invites.revoke(one["id"], remove_admitted=False))["state"] == "revoked"
    assert {row["state"] for row in await first.invites.list()} == {"open", "revoked"}


async def test_a_certificate_is_shown_with_who_let_the_node_in(garden):
    first = await garden.founder()
    second = await garden.join(first, tier="cloud")
    own = await first.certs.show(first.id)
    assert (own["admitted_by"], own["countersigned_by"], own["valid"], own["reason"]) == (
        None,
        None,
        True,
        "",
    )
    row = await second.certs.show(second.id)
    (listed,) = await first.invites.list()
    assert row["admitted_by"] == listed["id"]
    assert row["countersigned_by"] == first.id
    assert (row["name"], row["roles"], row["tier"], row["valid"]) == ("n1", [MEMBER], "cloud", True)
    garden.now_ms += 100 * DAY_MS
    row = await first.certs.show(second.id)
    assert not row["valid"]
    assert "expired" in row["reason"]
    with pytest.raises(NotFound):
        await first.certs.show(invites.NodeKey.generate().peer_id)


async def test_a_removed_node_is_out_everywhere_and_what_it_wrote_stays(garden):
    first = await garden.founder()
    second, third = await garden.join(first), await garden.join(first)
    await second.put("kv/a", "by second")
    await second.put("kv/z", "in the zone", ZONE)
    await until(lambda: third.value("kv/a") == first.value("kv/a") == "by second")
    await until(lambda: first.value("kv/z", ZONE) == "in the zone")
    await first.certs.revoke(second.id, reason="stolen")
    await until(lambda: third.verdict_on(second) == Verdict.REMOVED)
    await until(lambda: not any(second.aid in plant.node.links.sessions for plant in (first, third)))
    await until(lambda: any("stolen" in text for text in second.node.refused.values()))
    for plant in (first, third):
        await until(lambda plant=plant: plant.value("kv/a") == "by second")
        await until(lambda plant=plant: plant.value("kv/z", ZONE) == "in the zone")
        await until(lambda plant=plant: not held(plant, second.aid))
    row = await third.certs.show(second.id)
    assert not row["valid"]
    assert "was removed from the mesh: stolen" in row["reason"]
    with contextlib.suppress(StoreError):  # it ends itself once it knows
        await second.put("kv/a", "from outside")
    await first.put("kv/b", 1)
    await until(lambda: third.value("kv/b") == 1)
    assert third.value("kv/a") == "by second"


async def test_whom_a_removed_member_let_in_stays(garden):
    first = await garden.founder()
    made = await invite(first, uses=2)
    door = await garden.enrol(made["token"])
    await until(lambda: first.verdict_on(door) == door.verdict_on(door) == Verdict.MEMBER)
    guest = await garden.enrol_hidden(made["token"], hidden_from=first)
    await until(lambda: guest.verdict_on(guest) == Verdict.MEMBER)
    assert guest.node.directory.standing(guest.aid).by == door.aid
    await until(lambda: first.verdict_on(guest) == Verdict.MEMBER)
    await first.certs.revoke(door.id, reason="")
    garden.board.cut(first.node.key.public, guest.node.key.public, False)
    guest.meet(first)
    await until(lambda: guest.verdict_on(door) == Verdict.REMOVED)
    assert first.verdict_on(guest) == guest.verdict_on(guest) == Verdict.MEMBER
    assert first.node.directory.standing(guest.aid).by == first.aid


async def test_a_device_that_met_one_not_yet_let_in_is_let_in_by_it_later(garden):
    first = await garden.founder()
    token = (await invite(first, uses=2))["token"]
    folders = [garden.folder / "n1", garden.folder / "n2"]
    for folder in folders:
        home.join_mesh(folder, token, folder.name, now_ms=garden.now_ms)
        garden.board.cut(first.node.key.public, home.open_home(folder).key.public)
    door, guest = await garden.start(folders[0]), await garden.start(folders[1])
    await until(lambda: guest.aid in door.node.links.sessions)
    assert door.verdict_on(guest) != Verdict.MEMBER
    garden.board.cut(first.node.key.public, door.node.key.public, False)
    await until(lambda: guest.verdict_on(guest) == first.verdict_on(guest) == Verdict.MEMBER)
    assert first.node.directory.standing(guest.aid).by == door.aid


async def test_a_node_neither_removes_itself_nor_forgets_a_live_one(garden):
    first = await garden.founder()
    second = await garden.join(first)
    with pytest.raises(UsageError, match="does not remove itself"):
        await first.certs.revoke(first.id, reason="")
    await until(lambda: any(row["name"] == "n1" and row["state"] == "alive" for row in first.members.rows()))
    with pytest.raises(Conflict, match="n1 is alive"):
        await first.certs.forget(second.id)
    assert await first.certs.prune(older_than_s=0.0, dry_run=False) == []


async def test_the_dead_are_listed_pruned_and_forgotten(garden):
    first = await garden.founder()
    second, third = await garden.join(first), await garden.join(first)
    for plant in (second, third):
        await garden.stop(plant)
    rows = first.members.rows
    await until(lambda: sum(row["state"] == "dead" for row in rows()) == 2)
    listed = await first.certs.prune(older_than_s=0.0, dry_run=True)
    assert sorted(row["name"] for row in listed) == ["n1", "n2"]
    assert await first.certs.prune(older_than_s=3600.0, dry_run=False) == []
    assert (await first.certs.forget(second.id))["state"] == "dead"
    assert first.verdict_on(second) == Verdict.REMOVED
    (pruned,) = await first.certs.prune(older_than_s=0.0, dry_run=False)
    assert pruned["id"] == third.id
    assert first.verdict_on(third) == Verdict.REMOVED


async def test_certificates_are_renewed_by_an_admin_and_adopted(garden):
    first = await garden.founder()
    second = await garden.join(first)
    before = second.node.home.cert
    await first.keeper.check()
    assert first.node.directory.certificate(second.aid) == before, "nothing is due yet"
    garden.now_ms += 61 * DAY_MS
    await first.keeper.check()
    for plant in (first, second):
        await until(
            lambda plant=plant: second.node.directory.certificate(plant.aid).exp_ms > NOW_MS + 150 * DAY_MS
        )
        await plant.keeper.check()
        reopened = home.open_home(plant.node.home.path)
        assert reopened.cert.exp_ms == NOW_MS + 151 * DAY_MS
        assert reopened.cert.data == plant.node.directory.certificate(plant.aid).data
    assert second.node.home.cert.settled
    assert second.node.home.cert.via_invite == before.via_invite
    (row,) = await first.invites.list()
    assert row["used"] == 1, "a renewed certificate is still a use of its invite"


async def test_an_invite_may_say_that_its_certificates_end_for_good(garden):
    first = await garden.founder()
    second = await garden.join(first)
    cert = second.node.home.cert
    assert cert.renew
    garden.now_ms += 61 * DAY_MS
    await first.keeper.check()
    await until(lambda: first.node.directory.certificate(second.aid).settled)


async def test_a_second_admin_is_confirmed_and_may_then_admit_and_remove_the_first(garden):
    first = await garden.founder()
    second = await garden.join(first, roles=[ADMIN])
    assert second.node.home.cert.roles == (ADMIN, MEMBER)
    with pytest.raises(Denied, match="not confirmed yet"):
        await invite(second)
    with pytest.raises(Denied, match="not confirmed yet"):
        await second.certs.revoke(first.id, reason="")
    await first.keeper.check()
    await until(lambda: second.node.directory.certificate(second.aid).settled)
    await until(lambda: second.node.directory.evidence.authorities.get(second.aid))
    await second.keeper.check()
    assert second.node.home.authority is not None
    third = await garden.join(second)
    garden.now_ms += 61 * DAY_MS
    for plant in (first, second):
        await plant.keeper.check()
    await until(lambda: third.node.directory.certificate(second.aid).exp_ms > NOW_MS + 100 * DAY_MS)
    assert third.node.directory.evidence.authorities[second.aid], "what it may is known after a renewal too"
    await second.put("kv/a", 1)
    await second.certs.revoke(first.id, reason="lost")
    await until(lambda: third.verdict_on(first) == Verdict.REMOVED)
    assert second.verdict_on(second) == second.verdict_on(third) == Verdict.MEMBER
    assert third.verdict_on(second) == third.verdict_on(third) == Verdict.MEMBER
    fourth = await garden.enrol((await invite(second))["token"])
    await until(lambda: third.verdict_on(fourth) == Verdict.MEMBER)


async def test_the_root_key_put_back_makes_a_node_an_admin(garden):
    first = await garden.founder()
    second = await garden.join(first)
    await garden.stop(first)
    (first.node.home.path / "root.key").rename(second.node.home.path / "root.key")
    await second.keeper.check()
    await until(lambda: second.node.directory.certificate(second.aid).is_admin)
    assert second.node.home.authority is not None
    assert (await invite(second))["state"] == "open"
    held = second.node.home.cert
    await second.keeper.check()
    assert second.node.home.cert == held, "once is enough"


async def test_moving_a_node_to_another_zone_reaches_it_through_its_certificate(garden):
    first = await garden.founder()
    second = await garden.join(first)
    with pytest.raises(UsageError, match="the zone"):
        await first.certs.move_zone(second.id, "no zone")
    await first.certs.move_zone(second.id, "attic")
    await until(lambda: second.node.directory.certificate(second.aid).zone == "attic")
    await second.keeper.check()
    assert second.zones == ["attic"]
    assert home.open_home(second.node.home.path).cert.zone == "attic"


async def test_a_certificate_that_nobody_renews_is_warned_of(garden):
    first = await garden.founder()
    second = await garden.join(first)
    garden.now_ms += 80 * DAY_MS
    await second.keeper.check()
    assert ("certificate", second.aid) in second.node.alarms
    await first.keeper.check()
    await until(lambda: second.node.directory.certificate(second.aid).settled)
    await second.keeper.check()
    assert ("certificate", second.aid) not in second.node.alarms


async def test_an_admins_policy_counts_everywhere_also_for_what_was_written_before(garden):
    first = await garden.founder()
    second, sensor = await garden.join(first), await garden.join(first, roles=["sensor"])
    before = await first.policy.show()
    assert (before["roles"], before["author"], before["fault"]) == ({}, None, "")
    assert before["defaults"][MEMBER]["write"][0] == "kv/**"
    await sensor.put("kv/sensors/a", 20)
    await first.put("kv/seen", 1)
    await until(lambda: second.value("kv/seen") == 1)
    assert second.value("kv/sensors/a") is None, "a role that nobody has described has no right"
    with pytest.raises(Denied, match="not an admin"):
        await second.policy.set({MEMBER: {}}, {})
    with pytest.raises(UsageError, match="unknown verb 'fly'"):
        await first.policy.set({"sensor": {"fly": []}}, {})
    shown = await first.policy.set({"sensor": {"write": ["kv/sensors/**"]}}, {})
    assert (shown["author"], shown["author_name"]) == (first.id, "n0")
    await until(lambda: second.value("kv/sensors/a") == 20)
    assert (await second.policy.check(sensor.id, "write", "kv/sensors/a b"))["allowed"]
    assert not (await second.policy.check(sensor.id, "write", "kv/other"))["allowed"]
    with pytest.raises(UsageError, match="unknown verb"):
        await second.policy.check(sensor.id, "fly", "kv/other")
    with pytest.raises(NotFound):
        await second.policy.check(invites.NodeKey.generate().peer_id, "write", "kv/other")
    await first.policy.set({}, {sensor.id: {"write": ["kv/other"]}})
    await until(lambda: second.value("kv/sensors/a") is None)
    await first.policy.reset()
    assert (await first.policy.show())["roles"] == {}


async def test_who_is_shown_its_own_removal_stops(garden):
    """It was away when it was removed, so that only a refusal can tell it."""
    first = await garden.founder()
    gone = await garden.join(first)
    await garden.stop(gone)
    await first.certs.revoke(gone.id, reason="stolen")
    await until(lambda: gone.node.store._closed)
    again = await garden.start(gone.node.home.path)
    await until(lambda: again.refused)


async def test_a_refusal_without_proof_or_with_a_false_one_stops_nobody(garden):
    first = await garden.founder()
    liar, member, out = [await garden.join(first) for _ in range(3)]
    await first.certs.revoke(out.id, reason="stolen")
    ((author, body, sig),) = first.node.proof_against(out.node.key.public)
    public = liar.node.key.public
    for proof in [], [(author, body, sig)], [(author, body, bytes(64))], [(liar.aid, b"\x80", sig)]:
        member.node.turned_away(public, Bye("denied: go away", proof))
    statement = Statement(
        path_of(REMOVED, member.aid), Kind.ALL, {"by": liar.node.home.cert_chain, "keep": []}
    )
    await liar.node.author.say(MESH, lambda _: [statement])
    said = liar.node.proof_against(member.node.key.public)
    assert said
    member.node.turned_away(public, Bye("denied: go away", said))
    assert member.verdict_on(member) == Verdict.MEMBER
    await member.put("kv/still", 1)
    await until(lambda: first.value("kv/still") == 1)


async def test_who_learns_from_records_that_it_was_removed_stops(garden):
    first = await garden.founder()
    gone = await garden.join(first)
    await first.certs.revoke(gone.id, reason="stolen")
    ((author, body, sig),) = first.node.proof_against(gone.node.key.public)
    gone.node._judge(gone.node.directory.feed([record.parse(author, body, sig)]))
    await until(lambda: gone.refused)


async def test_a_newcomer_goes_on_that_is_refused_for_dates_and_stops_for_anything_else(garden):
    """Of two newcomers one may have a wrong clock, and nobody is a member yet."""
    first = await garden.founder()
    token = (await invite(first))["token"]
    late = await garden.enrol_hidden(token, hidden_from=first)
    public = first.node.key.public
    late.node.turned_away(public, Bye("denied: begins in 400 days", passing=True))
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not late.refused
    late.node.turned_away(public, Bye("denied: used up"))
    await until(lambda: late.refused)

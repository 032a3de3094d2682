"""The overlay is a pure function of the member table."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from mesh.core.rings import Overlay, Place, Rings, hrw_top

MESH = b"m" * 16


def aids(count: int, seed: int = 1) -> list[bytes]:
    dice = random.Random(seed)
    return [dice.randbytes(16) for _ in range(count)]


def reach(links: dict[bytes, tuple[bytes, ...]], start: bytes) -> set[bytes]:
    seen, todo = {start}, [start]
    while todo:
        for peer in links[todo.pop()]:
            if peer in links and peer not in seen:
                seen.add(peer)
                todo.append(peer)
    return seen


def overlay_of(places: dict[bytes, Place]) -> Overlay:
    overlay = Overlay(MESH)
    for aid, place in places.items():
        overlay.set(aid, place)
    return overlay


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 33, 100])
def test_neighbourhood_is_symmetric_and_bounded(count: int) -> None:
    members = aids(count)
    table = Rings(MESH, "default", 3, members)
    for aid in members:
        near = table.neighbours(aid)
        assert aid not in near
        assert len(near) <= 6
        assert list(near) == sorted(set(near))
        assert all(aid in table.neighbours(peer) for peer in near)


@pytest.mark.parametrize("count", [2, 4, 7])
def test_a_small_mesh_is_a_full_mesh(count: int) -> None:
    members = aids(count)
    table = Rings(MESH, "default", 3, members)
    assert all(len(table.neighbours(aid)) == count - 1 for aid in members)


def test_adding_and_removing_gives_what_building_afresh_gives() -> None:
    dice = random.Random(7)
    pool = aids(60)
    table, held = Rings(MESH, "z", 2), set()
    for _ in range(400):
        aid = dice.choice(pool)
        (table.discard if aid in held else table.add)(aid)
        held ^= {aid}
    fresh = Rings(MESH, "z", 2, held)
    assert table.members() == sorted(held)
    assert all(table.neighbours(aid) == fresh.neighbours(aid) for aid in pool)


def test_an_absent_subject_is_placed_as_if_it_were_present() -> None:
    members = aids(40)
    full = Rings(MESH, "z", 3, members)
    without = Rings(MESH, "z", 3, members[1:])
    assert without.neighbours(members[0]) == full.neighbours(members[0])
    assert members[0] not in without


def test_the_order_of_the_member_list_does_not_matter() -> None:
    members = aids(50)
    shuffled = members[:]
    random.Random(3).shuffle(shuffled)
    one, other = Rings(MESH, "z", 3, members), Rings(MESH, "z", 3, shuffled)
    assert all(one.neighbours(aid) == other.neighbours(aid) for aid in members)


def test_another_mesh_or_zone_has_other_rings() -> None:
    members = aids(50)
    tables = [Rings(MESH, "a", 2, members), Rings(MESH, "b", 2, members), Rings(b"n" * 16, "a", 2, members)]
    near = [tuple(table.neighbours(aid) for aid in members) for table in tables]
    assert len(set(near)) == 3


def test_a_fifth_of_the_members_may_die_before_the_overlay_breaks() -> None:
    members = aids(300)
    table = Rings(MESH, "default", 3, members)
    dead = set(random.Random(5).sample(members, 60))
    alive = [aid for aid in members if aid not in dead]
    links = {aid: tuple(p for p in table.neighbours(aid) if p not in dead) for aid in alive}
    assert len(reach(links, alive[0])) >= 239


def test_rendezvous_moves_only_what_it_must() -> None:
    members = aids(20)
    gone = members[4]
    for number in range(200):
        key = str(number).encode()
        before, after = hrw_top(key, members, 3), hrw_top(key, [m for m in members if m != gone], 3)
        assert [m for m in before if m != gone] == after[: len(before) - (gone in before)]


def test_one_zone_has_three_rings_and_several_have_two() -> None:
    one = {aid: Place("default") for aid in aids(40)}
    assert max(len(overlay_of(one).neighbours(aid)) for aid in one) == 6
    two = {**one, **{aid: Place("other") for aid in aids(40, seed=2)}}
    overlay = overlay_of(two)
    inside = [len(overlay.zone_neighbours(aid)) for aid in two]
    assert max(inside) == 4
    for aid in aids(40, seed=2):
        overlay.remove(aid)
    assert overlay.zones() == ["default"]
    assert max(len(overlay.neighbours(aid)) for aid in one) == 6


def test_zones_are_joined_by_gateways_only() -> None:
    places = {
        aid: Place(f"zone-{zone}", gateway=number % 2 == 0)
        for zone in range(5)
        for number, aid in enumerate(aids(20, seed=zone))
    }
    overlay = overlay_of(places)
    links = {aid: overlay.neighbours(aid) for aid in places}
    assert len(reach(links, next(iter(places)))) == 100
    chosen = {aid for zone in overlay.zones() for aid in overlay.gateways(zone)}
    assert len(chosen) == 15
    assert all(places[aid].gateway for aid in chosen)
    for aid, near in links.items():
        if aid not in chosen:
            assert all(places[peer].zone == places[aid].zone for peer in near)


def test_a_zone_without_an_able_gateway_is_not_cut_off() -> None:
    places = {aid: Place("a", gateway=True) for aid in aids(9, seed=1)}
    places |= {aid: Place("b") for aid in aids(9, seed=2)}
    overlay = overlay_of(places)
    assert len(overlay.gateways("b")) == 3
    links = {aid: overlay.neighbours(aid) for aid in places}
    assert len(reach(links, next(iter(places)))) == 18
    assert overlay.gateways("nowhere") == []


def test_a_leaf_has_two_hosts_and_no_ring_duty() -> None:
    hosts = {aid: Place("default") for aid in aids(20)}
    leaves = {aid: Place("default", leaf=True) for aid in aids(6, seed=9)}
    overlay = overlay_of({**hosts, **leaves})
    for leaf in leaves:
        near = overlay.neighbours(leaf)
        assert len(near) == 2
        assert all(peer in hosts and leaf in overlay.neighbours(peer) for peer in near)
    plain = overlay_of(hosts)
    for host in hosts:
        assert set(overlay.neighbours(host)) - set(leaves) == set(plain.neighbours(host))


def test_the_monitors_of_a_removed_member_can_still_be_asked_for() -> None:
    places = {aid: Place("default") for aid in aids(30)}
    overlay = overlay_of(places)
    subject = next(iter(places))
    before = overlay.zone_neighbours(subject)
    overlay.remove(subject)
    assert overlay.zone_neighbours(subject) == ()
    assert overlay.zone_neighbours(subject, places[subject]) == before


def test_random_changes_of_the_table_leave_no_trace() -> None:
    dice = random.Random(11)
    pool, overlay = aids(40), Overlay(MESH)
    held: dict[bytes, Place] = {}
    for _ in range(600):
        aid = dice.choice(pool)
        if aid in held and dice.random() < 0.5:
            overlay.remove(aid)
            del held[aid]
        else:
            place = Place(dice.choice("ab"), leaf=dice.random() < 0.2, gateway=dice.random() < 0.3)
            overlay.set(aid, place)
            held[aid] = place
    fresh = overlay_of(held)
    assert overlay.members() == sorted(held)
    assert all(overlay.neighbours(aid) == fresh.neighbours(aid) for aid in held)
    assert all(one < two for one, two in pairwise(overlay.members()))

"""Who renews which certificate when, so that one does it and the others stand by."""

from __future__ import annotations

import random

import pytest

from mesh.core import renewal
from mesh.core.admission import Directory
from mesh.identity.certs import ADMIN, DAY_MS, MEMBER
from mesh.sim.village import FOUNDED_MS, Village

BEFORE_MS = 30 * DAY_MS


class Scene:
    """Three confirmed admins, and members by invites."""

    def __init__(self):
        self.v = v = Village(random.Random(6))
        self.founder = v.founder()
        self.admins = [self.founder, v.admin(self.founder), v.admin(self.founder)]
        self.invite = v.invite(self.founder, uses=30)
        self.members = [v.joiner(self.invite) for _ in range(12)]
        self.directory = Directory(v.mesh)
        self.directory.feed(v.member(who) for who in self.admins)
        self.directory.feed(v.admit(self.founder, who, at=10 + at) for at, who in enumerate(self.members))

    def due(self, admin, day):
        return {
            it.cert.aid
            for it in renewal.due(self.directory, admin.aid, FOUNDED_MS + int(day * DAY_MS), BEFORE_MS)
        }


@pytest.fixture
def scene():
    return Scene()


def test_nothing_is_due_before_its_last_thirty_days(scene):
    assert all(scene.due(admin, 59.9) == set() for admin in scene.admins)


def test_each_certificate_has_one_admin_at_first_and_the_next_ones_a_day_later_each(scene):
    everyone = {who.aid for who in [*scene.admins, *scene.members]}
    first = [scene.due(admin, 60.1) for admin in scene.admins]
    assert set().union(*first) == everyone
    assert sum(map(len, first)) == len(everyone), "no two admins at once"
    second = [scene.due(admin, 61.1) for admin in scene.admins]
    assert sum(map(len, second)) > len(everyone)
    assert all(scene.due(admin, 62.1) == everyone for admin in scene.admins)


def test_an_admin_sees_to_its_own_certificate_first(scene):
    for admin in scene.admins:
        assert admin.aid in scene.due(admin, 60.1)


def test_the_order_does_not_depend_on_who_asks(scene):
    admins = [admin.aid for admin in scene.admins]
    for who in scene.members:
        ranks = sorted(renewal.rank(who.aid, admin, admins) for admin in admins)
        assert ranks == [0, 1, 2]


def test_what_ends_soonest_comes_first(scene):
    found = renewal.due(scene.directory, scene.founder.aid, FOUNDED_MS + 80 * DAY_MS, BEFORE_MS)
    ends = [it.cert.exp_ms for it in found]
    assert ends == sorted(ends)


def test_a_renewal_carries_on_the_use_of_the_invite(scene):
    who = scene.members[3]
    wanted = renewal.renewal(scene.directory, who.aid)
    assert wanted.via.invite == scene.invite.key.public
    assert wanted.via.stamp == scene.directory.standing(who.aid).stamp
    assert wanted.via.uses == 30
    assert not wanted.authority
    settled = scene.v.settle(scene.founder, who, scene.invite, stamp_at=13, at=100)
    scene.directory.feed([scene.v.renew(scene.founder, who, settled, at=100)])
    assert renewal.renewal(scene.directory, who.aid).via == wanted.via


def test_certificates_that_are_to_end_are_not_renewed(scene):
    guest = scene.v.joiner(scene.v.invite(scene.founder, renew=False))
    scene.directory.feed([scene.v.admit(scene.founder, guest, at=50)])
    assert not any(guest.aid in scene.due(admin, 80) for admin in scene.admins)


def test_a_removed_member_is_not_renewed(scene):
    gone = scene.members[0]
    scene.directory.feed([scene.v.remove(scene.founder, gone.aid, at=500)])
    assert not any(gone.aid in scene.due(admin, 80) for admin in scene.admins)


def test_an_admin_by_invite_is_confirmed_by_one_at_once_and_by_others_later(scene):
    new = scene.v.joiner(scene.v.invite(scene.founder, roles=(ADMIN, MEMBER)))
    scene.directory.feed([scene.v.admit(scene.founder, new, at=60)])
    waits = sorted(dict(renewal.unconfirmed(scene.directory, admin.aid))[new.aid] for admin in scene.admins)
    assert waits == [0.0, renewal.CONFIRM_S, 2 * renewal.CONFIRM_S]
    assert renewal.unconfirmed(scene.directory, new.aid) == []
    assert renewal.renewal(scene.directory, new.aid).authority
    assert new.aid not in renewal.confirmed(scene.directory)

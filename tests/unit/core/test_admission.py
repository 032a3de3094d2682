"""Who is a member: every rule of admission, on records made by hand."""

from __future__ import annotations

import random

import msgspec
import pytest

from mesh.core import record
from mesh.core.admission import Directory, Gate
from mesh.core.clock import hlc_of
from mesh.core.judgement import Verdict
from mesh.core.memory import MemoryLog
from mesh.core.record import MESH, Kind, Op
from mesh.errors import Denied, PeerError
from mesh.identity import certs, invites
from mesh.identity.certs import ADMIN, DAY_MS, MEMBER
from mesh.sim.village import FOUNDED_MS, Village, Villager

HOUR_MS = 3_600_000


class Scene:
    """A village with a founder, and directories fed with chosen records."""

    def __init__(self):
        self.v = Village(random.Random(11))
        self.founder = self.v.founder()
        self.first = self.v.member(self.founder)

    def directory(self, *records, me=None):
        found = Directory(self.v.mesh, me)
        found.feed([self.first, *records])
        return found

    def verdicts(self, *records):
        """Verdicts by aid, the same in whatever order the records come, one by one or all at once."""
        found = {aid: it.verdict for aid, it in self.directory(*records).known().items()}
        for seed in range(4):
            shuffled = [self.first, *records]
            random.Random(seed).shuffle(shuffled)
            other = Directory(self.v.mesh)
            for rec in shuffled:
                other.feed([rec])
            assert {aid: it.verdict for aid, it in other.known().items()} == found
        return found


@pytest.fixture
def scene():
    return Scene()


# -- members ------------------------------------------------------------------------------------------------


def test_the_founder_is_a_member_by_the_roots_word(scene):
    directory = scene.directory()
    assert directory.members() == [scene.founder.aid]
    assert directory.public_of(scene.founder.aid) == scene.founder.key.public
    assert directory.certificate(scene.founder.aid).roles == (ADMIN, MEMBER)


def test_a_joiner_is_a_member_once_a_member_countersigned_it(scene):
    v, founder = scene.v, scene.founder
    invite = v.invite(founder)
    new = v.joiner(invite)
    assert scene.verdicts(v.member(new))[new.aid] == Verdict.UNADMITTED
    directory = scene.directory(v.admit(founder, new, at=10), v.member(new))
    assert directory.standing(new.aid).verdict == Verdict.MEMBER
    assert directory.standing(new.aid).by == founder.aid
    assert [use.aid for use in directory.uses(invite.key.public)] == [new.aid]


def test_the_countersignature_alone_makes_the_member_known(scene):
    new = scene.v.joiner(scene.v.invite(scene.founder))
    directory = scene.directory(scene.v.admit(scene.founder, new, at=10))
    assert directory.public_of(new.aid) == new.key.public
    assert directory.is_member(new.aid)


def test_a_member_that_was_invited_lets_others_in_without_an_admin(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=2)
    one, two = v.joiner(invite), v.joiner(invite)
    verdicts = scene.verdicts(v.admit(scene.founder, one, at=10), v.admit(one, two, at=20))
    assert verdicts[two.aid] == Verdict.MEMBER


def test_a_stranger_cannot_let_anyone_in(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=5)
    one, two = v.joiner(invite), v.joiner(invite)
    verdicts = scene.verdicts(
        v.admit(one, two, at=20), v.admit(two, one, at=20), v.member(one), v.member(two)
    )
    assert verdicts[one.aid] == verdicts[two.aid] == Verdict.UNADMITTED


def test_nobody_lets_others_in_from_before_it_came_itself(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=2)
    one, two = v.joiner(invite), v.joiner(invite)
    verdicts = scene.verdicts(v.admit(scene.founder, one, at=10), v.admit(one, two, at=5))
    assert verdicts[two.aid] == Verdict.UNADMITTED


def test_a_use_after_the_invite_expired_does_not_count(scene):
    v = scene.v
    new = v.joiner(v.invite(scene.founder, hours=1))
    assert scene.verdicts(v.admit(scene.founder, new, at=2 * HOUR_MS))[new.aid] == Verdict.UNADMITTED
    assert scene.verdicts(v.admit(scene.founder, new, at=HOUR_MS))[new.aid] == Verdict.MEMBER


def test_malformed_records_say_nothing_and_the_field_is_named(scene):
    v, founder = scene.v, scene.founder
    new = v.joiner(v.invite(founder))
    for bad in (
        None,
        {},
        {"cert": 5},
        {"cert": b"\xff"},
        {"cert": founder.chain},
        "text",
        [1],
        {"cert": None},
    ):
        directory = scene.directory(v.says(new, f"member/{new.aid.hex()}", bad, at=3))
        assert not directory.is_member(new.aid)
        assert directory.evidence.faults[new.aid].startswith("cert: ")
        scene.verdicts(
            *(
                v.says(founder, f"{room}/{new.aid.hex()}", bad, at=4, kind=kind)
                for room in ("admit", "cert", "invite", "fork")
                for kind in Kind
            )
        )
    assert scene.verdicts(v.says(new, f"member/{founder.aid.hex()}", {"cert": founder.chain}, at=9)) == {
        founder.aid: Verdict.MEMBER
    }


def test_nobody_speaks_at_anothers_member_path(scene):
    v, founder = scene.v, scene.founder
    liar = v.joiner(v.invite(founder))
    at_founders = f"member/{founder.aid.hex()}"
    for value in (None, {"cert": liar.chain}, {"cert": b""}):
        verdicts = scene.verdicts(v.admit(founder, liar, at=2), v.says(liar, at_founders, value, at=9))
        assert verdicts[founder.aid] == Verdict.MEMBER


def test_paths_that_only_look_alike_say_nothing(scene):
    v, founder = scene.v, scene.founder
    hexed = founder.aid.hex()
    for path in (
        f"removed/{hexed}/x",
        f"removed/{hexed.upper()}",
        f"xremoved/{hexed}",
        f"removed/{hexed[:-1]}",
    ):
        assert scene.directory(v.says(founder, path, {"by": founder.chain}, at=4)).is_member(founder.aid)


# -- counts of uses: attack 4 -------------------------------------------------------------------------------


def test_uses_beyond_the_count_are_not_admitted_in_the_order_of_the_countersignatures(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=2)
    people = [v.joiner(invite) for _ in range(5)]
    records = [v.admit(scene.founder, who, at=100 - index) for index, who in enumerate(people)]
    verdicts = scene.verdicts(*records)
    assert [verdicts[who.aid] for who in people] == [Verdict.USED_UP] * 3 + [Verdict.MEMBER] * 2
    assert scene.directory(*records).overused() == {invite.key.public: 3}


def test_an_invite_replayed_across_a_partition_lets_in_no_more_than_its_uses_after_the_heal(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=3)
    far = v.admin(scene.founder)
    sides = [[v.member(far)], [v.member(far)]]
    for index in range(1000):
        by = (scene.founder, far)[index % 2]
        sides[index % 2].append(v.admit(by, v.joiner(invite), at=10 + (index * 7919) % 1000))
    alone = [scene.directory(*side) for side in sides]
    assert all(len(found.uses(invite.key.public)) == 3 for found in alone)
    healed = [scene.directory(*sides[0], *sides[1]), scene.directory(*sides[1], *sides[0])]
    assert healed[0].known() == healed[1].known()
    assert len(healed[0].members()) == 2 + 3
    assert healed[0].overused() == {invite.key.public: 997}


def test_a_joiner_cannot_displace_anyone_with_its_own_stamps(scene):
    v = scene.v
    invite = v.invite(scene.founder)
    honest, thief = v.joiner(invite), v.joiner(invite)
    records = [
        v.admit(scene.founder, honest, at=50),
        v.member(thief, at=1),
        v.admit(thief, thief, at=2),
        v.says(thief, f"admit/{thief.aid.hex()}", {"cert": thief.chain}, at=90, asof=3),
    ]
    verdicts = scene.verdicts(*records)
    assert verdicts[honest.aid] == Verdict.MEMBER
    assert verdicts[thief.aid] == Verdict.UNADMITTED


def test_one_key_let_in_by_many_is_one_use_by_the_earliest(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=1)
    other = v.admin(scene.founder)
    new = v.joiner(invite)
    directory = scene.directory(
        v.member(other), v.admit(other, new, at=30), v.admit(scene.founder, new, at=20)
    )
    assert directory.standing(new.aid).stamp == hlc_of(FOUNDED_MS + 20)
    assert len(directory.uses(invite.key.public)) == 1
    assert not directory.overused()


def test_a_use_stays_used_when_the_member_is_removed(scene):
    v = scene.v
    invite = v.invite(scene.founder)
    one, two = v.joiner(invite), v.joiner(invite)
    records = [v.admit(scene.founder, one, at=10), v.remove(scene.founder, one.aid, at=20)]
    records.append(v.admit(scene.founder, two, at=30))
    verdicts = scene.verdicts(*records)
    assert (verdicts[one.aid], verdicts[two.aid]) == (Verdict.REMOVED, Verdict.USED_UP)


def test_a_use_stays_used_when_an_admin_renews_the_certificate(scene):
    v = scene.v
    invite = v.invite(scene.founder)
    one, two = v.joiner(invite), v.joiner(invite)
    renewed = v.settle(scene.founder, one, invite, stamp_at=10, at=500)
    verdicts = scene.verdicts(
        v.renew(scene.founder, one, renewed, at=500), v.admit(scene.founder, two, at=30)
    )
    assert (verdicts[one.aid], verdicts[two.aid]) == (Verdict.MEMBER, Verdict.USED_UP)


def test_renewed_members_beyond_the_count_stay_out_as_well(scene):
    v = scene.v
    invite = v.invite(scene.founder)
    far = v.admin(scene.founder)
    one, two = v.joiner(invite), v.joiner(invite)
    records = [v.member(far)]
    records.append(v.renew(far, one, v.settle(far, one, invite, stamp_at=20, at=100), at=100))
    records.append(
        v.renew(scene.founder, two, v.settle(scene.founder, two, invite, stamp_at=10, at=100), at=100)
    )
    verdicts = scene.verdicts(*records)
    assert (verdicts[one.aid], verdicts[two.aid]) == (Verdict.USED_UP, Verdict.MEMBER)


# -- revoking an invite -------------------------------------------------------------------------------------


def test_revoking_an_invite_stops_later_uses_and_keeps_earlier_ones(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    one, two = v.joiner(invite), v.joiner(invite)
    records = [v.admit(scene.founder, one, at=10), v.admit(scene.founder, two, at=30)]
    verdicts = scene.verdicts(*records, v.revoke(scene.founder, invite, at=20))
    assert (verdicts[one.aid], verdicts[two.aid]) == (Verdict.MEMBER, Verdict.REVOKED)


def test_revoking_may_remove_those_it_let_in_also_renewed_ones(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    one, two, three = (v.joiner(invite) for _ in range(3))
    records = [
        v.admit(scene.founder, one, at=10),
        v.renew(scene.founder, two, v.settle(scene.founder, two, invite, stamp_at=5, at=6), at=6),
        v.admit(one, three, at=15),
        v.revoke(scene.founder, invite, at=20, purge=True),
    ]
    verdicts = scene.verdicts(*records)
    assert verdicts[one.aid] == verdicts[two.aid] == Verdict.PURGED
    assert verdicts[three.aid] != Verdict.MEMBER


def test_a_revocation_cannot_be_taken_back_by_another_admins_older_word(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    other, new = v.admin(scene.founder), v.joiner(invite)
    listed = {"cert": invite.cert.data}
    path = f"invite/{invite.key.aid.hex()}"
    records = [
        v.member(other),
        v.revoke(scene.founder, invite, at=20),
        v.says(other, path, listed, at=90, kind=Kind.REG),
        v.admit(other, new, at=95),
    ]
    assert scene.verdicts(*records)[new.aid] == Verdict.REVOKED


def test_only_admins_revoke_invites(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    one, two = v.joiner(invite), v.joiner(invite)
    records = [v.admit(scene.founder, one, at=10), v.admit(scene.founder, two, at=30)]
    verdicts = scene.verdicts(*records, v.revoke(one, invite, at=15, purge=True))
    assert verdicts[two.aid] == Verdict.MEMBER


# -- removal: attack 5 --------------------------------------------------------------------------------------


def test_a_removal_wins_over_every_grant_before_and_after(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    gone = v.joiner(invite)
    again = v.certify(scene.founder, gone.key.public, "again", at=50, roles=(ADMIN, MEMBER))
    records = [
        v.admit(scene.founder, gone, at=10),
        v.remove(scene.founder, gone.aid, at=20, why="stolen"),
        v.admit(scene.founder, gone, at=30),
        v.renew(scene.founder, gone, again, at=60),
        v.member(gone, at=70),
    ]
    assert scene.verdicts(*records)[gone.aid] == Verdict.REMOVED
    directory = scene.directory(*records)
    assert directory.standing(gone.aid).why == "stolen"
    assert directory.certificate(gone.aid) is None
    assert directory.public_of(gone.aid) == gone.key.public


@pytest.mark.parametrize("op", [Op.DEL, Op.VOID])
def test_no_delete_or_void_takes_a_removal_back(scene, op):
    v = scene.v
    gone = v.joiner(v.invite(scene.founder))
    records = [v.admit(scene.founder, gone, at=10), v.remove(scene.founder, gone.aid, at=20, op=op)]
    assert scene.verdicts(*records)[gone.aid] == Verdict.REMOVED


def test_a_member_without_the_role_removes_nobody(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    one, two = v.joiner(invite), v.joiner(invite)
    records = [v.admit(scene.founder, one, at=10), v.admit(scene.founder, two, at=11)]
    for whom in (two, scene.founder):
        assert scene.verdicts(*records, v.remove(one, whom.aid, at=20))[whom.aid] == Verdict.MEMBER


def test_an_admin_by_an_invite_alone_removes_nobody_until_an_authority_confirms_it(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9, roles=(ADMIN, MEMBER))
    new, victim = v.joiner(invite), v.joiner(invite)
    records = [v.admit(scene.founder, new, at=10), v.admit(scene.founder, victim, at=10)]
    removal = v.remove(new, victim.aid, at=600)
    assert scene.verdicts(*records, removal)[victim.aid] == Verdict.MEMBER
    chain = v.certify(scene.founder, new.key.public, "new", at=500, roles=(ADMIN, MEMBER))
    records.append(v.renew(scene.founder, new, chain, at=500))
    assert scene.verdicts(*records, removal)[victim.aid] == Verdict.REMOVED


def test_a_removal_by_an_expired_certificate_does_not_count(scene):
    v = scene.v
    other = v.admin(scene.founder)
    late = v.remove(other, scene.founder.aid, at=91 * DAY_MS)
    assert scene.verdicts(v.member(other), late)[scene.founder.aid] == Verdict.MEMBER


def test_two_admins_that_remove_each_other_are_both_removed(scene):
    v, founder = scene.v, scene.founder
    other = v.admin(founder)
    records = [v.member(other), v.remove(founder, other.aid, at=10), v.remove(other, founder.aid, at=10)]
    verdicts = scene.verdicts(*records)
    assert verdicts[founder.aid] == verdicts[other.aid] == Verdict.REMOVED


def test_a_removed_admins_removals_go_on_counting(scene):
    v, founder = scene.v, scene.founder
    other, victim = v.admin(founder), v.joiner(v.invite(founder))
    records = [v.member(other), v.admit(founder, victim, at=5), v.remove(other, victim.aid, at=10)]
    assert scene.verdicts(*records, v.remove(founder, other.aid, at=20))[victim.aid] == Verdict.REMOVED
    # … also where all that is left of it is the removal itself, which brings its certificate along
    assert scene.verdicts(*records[1:])[victim.aid] == Verdict.REMOVED


def test_what_a_removed_admin_certified_is_void_unless_the_remover_keeps_it(scene):
    v, founder = scene.v, scene.founder
    thief = v.admin(founder)
    kept, minted = v.admin(thief), v.admin(thief)
    child = v.joiner(v.invite(kept))
    base = [v.member(who) for who in (thief, kept, minted)] + [v.admit(kept, child, at=9)]
    assert set(scene.verdicts(*base).values()) == {Verdict.MEMBER}
    keep = [v.link_of(kept.chain), v.link_of(kept.authority, certs.LinkKind.AUTHORITY)]
    verdicts = scene.verdicts(*base, v.remove(founder, thief.aid, at=20, keep=keep))
    assert verdicts[thief.aid] == Verdict.REMOVED
    assert verdicts[minted.aid] == Verdict.VOID
    assert verdicts[kept.aid] == verdicts[child.aid] == Verdict.MEMBER


def test_a_void_invite_does_not_let_in_who_shows_a_valid_one_too(scene):
    v, founder = scene.v, scene.founder
    thief = v.admin(founder)
    stolen, good = v.invite(thief), v.invite(founder)
    who = v.joiner(stolen)
    other = Villager(who.key, invites.use(good, who.key, name="x", now_ms=FOUNDED_MS + 5))
    records = [v.member(thief), v.admit(founder, who, at=5), v.member(other, at=6)]
    records.append(v.remove(founder, thief.aid, at=20))
    assert scene.verdicts(*records)[who.aid] == Verdict.UNADMITTED
    assert scene.verdicts(*records, v.admit(founder, other, at=30))[who.aid] == Verdict.MEMBER


def test_a_lost_first_admin_is_removed_by_the_one_it_certified_without_the_root(scene):
    v, lost = scene.v, scene.founder
    second = v.admin(lost)
    member = v.joiner(v.invite(lost, uses=3))
    keep = [v.link_of(second.chain), v.link_of(second.authority, certs.LinkKind.AUTHORITY)]
    keep.append(certs.verify_chain(member.chain, v.mesh).links[1].digest)
    records = [v.member(second), v.admit(lost, member, at=5), v.admit(second, member, at=6, asof=5)]
    verdicts = scene.verdicts(*records, v.remove(second, lost.aid, at=20, keep=keep))
    assert verdicts[lost.aid] == Verdict.REMOVED
    assert verdicts[second.aid] == verdicts[member.aid] == Verdict.MEMBER


def test_a_removed_admin_keeps_nothing_for_itself(scene):
    v, founder = scene.v, scene.founder
    thief = v.admin(founder)
    minted = v.admin(thief)
    own = v.remove(thief, thief.aid, at=30, keep=[v.link_of(minted.chain)])
    records = [v.member(thief), v.member(minted), v.remove(founder, thief.aid, at=20), own]
    assert scene.verdicts(*records)[minted.aid] == Verdict.VOID


def test_who_a_removed_member_let_in_stays_if_another_countersigned_too(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    door, one, two = (v.joiner(invite) for _ in range(3))
    records = [
        v.admit(scene.founder, door, at=10),
        v.admit(door, one, at=20),
        v.admit(door, two, at=21),
        v.admit(scene.founder, one, at=40, asof=20),
        v.remove(scene.founder, door.aid, at=50),
    ]
    verdicts = scene.verdicts(*records)
    assert verdicts[one.aid] == Verdict.MEMBER
    assert verdicts[two.aid] == Verdict.UNADMITTED
    assert scene.directory(*records).standing(one.aid).stamp == hlc_of(FOUNDED_MS + 20)


def test_a_removed_author_is_stored_no_more_but_a_confirmed_admins_removals_are(scene):
    v, founder = scene.v, scene.founder
    other, plain = v.admin(founder), v.joiner(v.invite(founder))
    directory = scene.directory(
        v.member(other),
        v.admit(founder, plain, at=5),
        v.remove(founder, other.aid, at=20),
        v.remove(founder, plain.aid, at=20),
    )
    assert (directory.limits(other.aid).removed, directory.limits(other.aid).admin) == (True, True)
    assert (directory.limits(plain.aid).removed, directory.limits(plain.aid).admin) == (True, False)


# -- certificates: newest, renewal, expiry ------------------------------------------------------------------


def test_an_admins_newer_certificate_changes_roles_and_zone_and_the_old_invite_cannot_undo_it(scene):
    v, founder = scene.v, scene.founder
    invite = v.invite(founder, roles=(ADMIN, MEMBER), zone=None)
    who = v.joiner(invite)
    assert scene.directory(v.admit(founder, who, at=10)).certificate(who.aid).is_admin
    demoted = v.certify(founder, who.key.public, "demoted", at=20, zone="attic")
    later = Villager(
        who.key,
        certs.issue(
            invite.key,
            invite.cert.data,
            v.mesh,
            public=who.key.public,
            name="back",
            roles=(ADMIN,),
            nbf_ms=FOUNDED_MS + 5000,
            exp_ms=FOUNDED_MS + DAY_MS,
        ),
    )
    directory = scene.directory(
        v.admit(founder, who, at=10), v.renew(founder, who, demoted, at=20), v.member(later, at=6000)
    )
    cert = directory.certificate(who.aid)
    assert (cert.roles, cert.zone, cert.name) == ((MEMBER,), "attic", "demoted")


def test_the_newest_known_expiry_bounds_what_is_stored(scene):
    v, founder = scene.v, scene.founder
    who = v.joiner(v.invite(founder))
    short = scene.directory(v.admit(founder, who, at=10), v.member(who))
    end_ms = certs.verify_chain(who.chain, v.mesh).exp_ms
    assert short.limits(who.aid).until_ms == end_ms
    renewed = v.certify(founder, who.key.public, "joiner", at=60 * DAY_MS)
    assert short.feed([v.renew(founder, who, renewed, at=60 * DAY_MS)]) == [who.aid]
    assert short.limits(who.aid).until_ms == FOUNDED_MS + 150 * DAY_MS


def test_a_certificate_published_by_anyone_counts_because_it_proves_itself(scene):
    v, founder = scene.v, scene.founder
    who = v.joiner(v.invite(founder))
    renewed = v.certify(founder, who.key.public, "joiner", at=DAY_MS)
    directory = scene.directory(v.admit(founder, who, at=10), v.renew(who, who, renewed, at=DAY_MS))
    assert directory.certificate(who.aid).settled


def test_quotas_follow_the_role(scene):
    v, founder = scene.v, scene.founder
    who = v.joiner(v.invite(founder))
    directory = scene.directory(v.admit(founder, who, at=10))
    assert (directory.limits(founder.aid).slots_max, directory.limits(founder.aid).bytes_max) == (None, None)
    assert directory.limits(who.aid).slots_max == 100_000
    assert directory.limits(who.aid).bytes_max == 64 << 20
    assert directory.limits(b"?" * 16).removed


def test_names_claimed_twice_are_shown(scene):
    v, founder = scene.v, scene.founder
    invite = v.invite(founder, uses=9)
    one, two, three = v.joiner(invite, "pump"), v.joiner(invite, "pump"), v.joiner(invite, "lamp")
    names = scene.directory(*(v.admit(founder, who, at=10) for who in (one, two, three))).names()
    assert names["pump"] == sorted([one.aid, two.aid])
    assert names["lamp"] == [three.aid]


# -- two histories under one key: attack 8 ------------------------------------------------------------------


def test_a_proven_double_history_quarantines_the_author_on_every_node(scene):
    v, founder = scene.v, scene.founder
    liar = v.joiner(v.invite(founder))
    records = [v.admit(founder, liar, at=10), v.member(liar), v.fork(founder, liar, at=30)]
    assert scene.verdicts(*records)[liar.aid] == Verdict.FORKED
    directory = scene.directory(*records)
    assert directory.gate(liar.key.public) == Gate.STRANGER
    assert not directory.limits(liar.aid).removed, "what it had written stays and converges"
    with pytest.raises(Denied, match="in use twice"):
        directory.welcome(liar.chain, liar.key.public, FOUNDED_MS)


def test_a_proof_convicts_only_whom_it_proves(scene):
    v, founder = scene.v, scene.founder
    liar = v.joiner(v.invite(founder))
    proof = v.fork(founder, liar, at=30)
    other = v.says(founder, f"fork/{founder.aid.hex()}", proof.val, at=30)
    assert scene.verdicts(v.admit(founder, liar, at=10), other)[founder.aid] == Verdict.MEMBER


# -- incremental --------------------------------------------------------------------------------------------


def test_feeding_says_who_is_judged_otherwise(scene):
    v, founder = scene.v, scene.founder
    invite = v.invite(founder)
    new = v.joiner(invite)
    directory = scene.directory()
    admit = v.admit(founder, new, at=10)
    assert directory.feed([admit]) == [new.aid]
    assert directory.feed([v.member(new, addr=["/a"])]) == []
    assert directory.feed([v.member(new, at=2, addr=["/b"])]) == [], "an address is no news about membership"
    assert directory.feed([v.says(founder, "kv/a", 1, at=9)]) == []
    assert directory.feed([], [admit.slot]) == [new.aid]
    assert not directory.is_member(new.aid)
    assert directory.feed([], [v.member(new).slot]) == [new.aid]
    assert new.aid not in directory.known()


def test_dropping_every_kind_of_record_undoes_it(scene):
    v, founder = scene.v, scene.founder
    invite = v.invite(founder, uses=3)
    who = v.joiner(invite)
    base = [v.admit(founder, who, at=10), v.member(who)]
    for extra in (
        v.remove(founder, who.aid, at=20),
        v.revoke(founder, invite, at=5),
        v.fork(founder, who, at=20),
        v.renew(founder, who, v.certify(founder, who.key.public, "x", at=7), at=7),
    ):
        directory = scene.directory(*base, extra)
        directory.feed([], [extra.slot])
        assert directory.known() == scene.directory(*base).known()


def test_a_directory_is_loaded_from_a_store(scene):
    v, founder = scene.v, scene.founder
    who = v.joiner(v.invite(founder))
    records = [scene.first, v.admit(founder, who, at=10), v.member(who), v.says(founder, "kv/x", 1, at=5)]
    log = MemoryLog()
    for rec in records:
        log.put(rec)
    directory = Directory(v.mesh)
    directory.load(log)
    assert directory.known() == scene.directory(*records).known()
    assert directory.members() == sorted([founder.aid, who.aid])


def test_who_introduced_itself_is_told_as_new_once_its_record_is_there(scene):
    directory, founder = Directory(scene.v.mesh), scene.founder
    record = scene.v.member(founder)
    assert directory.introduce(record) == founder.key.public
    assert directory.feed([record]) == [founder.aid]
    assert directory.feed([record]) == []


def test_an_unknown_author_introduces_itself_by_a_certificate_that_needs_nobody_else(scene):
    v, founder = scene.v, scene.founder
    directory = Directory(v.mesh)
    invited = v.joiner(v.invite(founder))
    assert directory.introduce(v.member(invited)) is None
    assert directory.introduce(v.says(founder, "kv/a", 1, at=3)) is None
    assert directory.introduce(v.says(founder, f"member/{founder.aid.hex()}", {"cert": "x"}, at=3)) is None
    other = v.says(invited, f"member/{invited.aid.hex()}", {"cert": founder.chain}, at=3)
    assert directory.introduce(other) is None
    assert directory.introduce(v.member(founder)) == founder.key.public
    assert directory.is_member(founder.aid)


def test_learned_certificates_are_bounded(scene):
    v, founder = scene.v, scene.founder
    directory = Directory(v.mesh)
    chain = v.certify(founder, v.new_key().public, "x")
    cert = certs.verify_chain(chain, v.mesh)
    for index in range(5000):
        directory.evidence.learn(msgspec.structs.replace(cert, public=index.to_bytes(32, "little")))
    assert len(directory.evidence.claims) == 4096


# -- hello: attacks 4, 5, 21 --------------------------------------------------------------------------------


def test_a_member_is_welcome_and_a_joiner_with_a_free_use_is_countersigned(scene):
    v, founder = scene.v, scene.founder
    new = v.joiner(v.invite(founder))
    directory = scene.directory(me=founder.aid)
    welcome = directory.welcome(new.chain, new.key.public, FOUNDED_MS + 10)
    assert welcome.admit
    assert directory.gate(new.key.public) == Gate.STRANGER
    directory.feed([v.admit(founder, new, at=10)])
    assert not directory.welcome(new.chain, new.key.public, FOUNDED_MS + 10).admit
    assert directory.gate(new.key.public) == Gate.MEMBER
    assert directory.gate(founder.key.public) == Gate.REFUSED, "our own key from outside is a clone"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("used", "is used up"),
        ("revoked", "was revoked before it was used"),
        ("expired invite", r"expired 2 days ago, before any member"),
        ("expired certificate", r"expired 58 days ago"),
        ("future", "begins in"),
        ("removed", "was removed from the mesh: stolen"),
        ("purged", "together with its invite"),
        ("void", "certified by an admin that has been removed"),
    ],
)
def test_who_cannot_become_a_member_is_told_why(scene, case, said):
    v, founder = scene.v, scene.founder
    issuer = v.admin(founder)
    invite = v.invite(issuer)
    new, first = v.joiner(invite), v.joiner(invite)
    records, now_ms = [v.member(issuer)], FOUNDED_MS + 100
    if case == "used":
        records.append(v.admit(founder, first, at=5))
    elif case == "revoked":
        records.append(v.revoke(founder, invite, at=5))
    elif case == "expired invite":
        now_ms += 3 * DAY_MS
    elif case == "expired certificate":
        records.append(v.admit(founder, new, at=5))
        now_ms += 148 * DAY_MS
    elif case == "future":
        now_ms -= DAY_MS
    elif case == "removed":
        records += [v.admit(founder, new, at=5), v.remove(founder, new.aid, at=6, why="stolen")]
    elif case == "purged":
        records += [v.admit(founder, new, at=5), v.revoke(founder, invite, at=6, purge=True)]
    elif case == "void":
        records.append(v.remove(founder, issuer.aid, at=6))
    directory = scene.directory(*records, me=founder.aid)
    with pytest.raises(Denied, match=said) as caught:
        directory.welcome(new.chain, new.key.public, now_ms)
    assert caught.value.hint


def test_dates_are_not_looked_at_while_no_clock_is_believable(scene):
    v, founder = scene.v, scene.founder
    new = v.joiner(v.invite(founder))
    assert scene.directory(me=founder.aid).welcome(new.chain, new.key.public, None).admit


def test_a_clock_that_nobody_agrees_to_refuses_no_certificate_that_begins_later(scene):
    """A device whose clock is days behind refused everybody who could have set it right."""
    v, founder = scene.v, scene.founder
    new = v.joiner(v.invite(founder))
    directory = scene.directory(me=founder.aid)
    assert directory.welcome(new.chain, new.key.public, FOUNDED_MS - 3 * DAY_MS, agreed=False).admit
    with pytest.raises(Denied, match="expired"):
        directory.welcome(new.chain, new.key.public, FOUNDED_MS + 200 * DAY_MS, agreed=False)


def test_a_member_is_welcome_with_its_old_certificate_once_it_was_renewed(scene):
    v, founder = scene.v, scene.founder
    new = v.joiner(v.invite(founder))
    renewed = v.certify(founder, new.key.public, "joiner", at=60 * DAY_MS)
    directory = scene.directory(v.admit(founder, new, at=10), v.renew(founder, new, renewed, at=60 * DAY_MS))
    welcome = directory.welcome(new.chain, new.key.public, FOUNDED_MS + 140 * DAY_MS)
    assert welcome.cert.data == renewed


def test_a_chain_of_another_key_or_another_mesh_ends_the_hello(scene):
    v, founder = scene.v, scene.founder
    directory = scene.directory(me=founder.aid)
    stranger = v.new_key()
    with pytest.raises(PeerError, match="not of the key in the handshake"):
        directory.welcome(founder.chain, stranger.public, FOUNDED_MS)
    elsewhere = Village(random.Random(5))
    foreign = elsewhere.founder()
    with pytest.raises(PeerError, match="another mesh"):
        directory.welcome(foreign.chain, foreign.key.public, FOUNDED_MS)
    for garbage in (b"", b"\x80", b"\xff" * 9000):
        with pytest.raises(PeerError):
            directory.welcome(garbage, stranger.public, FOUNDED_MS)


def test_a_new_device_believes_a_valid_chain_until_it_is_a_member_itself(scene):
    v, founder = scene.v, scene.founder
    invite = v.invite(founder, uses=3)
    door, new = v.joiner(invite), v.joiner(invite)
    directory = Directory(v.mesh, new.aid)
    welcome = directory.welcome(door.chain, door.key.public, FOUNDED_MS + 10)
    assert not welcome.admit
    directory.feed([scene.first, v.admit(founder, door, at=1), v.admit(door, new, at=2)])
    assert directory.is_member(new.aid)


def test_a_settled_certificate_in_a_hello_is_believed_before_its_record_arrives(scene):
    v, founder = scene.v, scene.founder
    other = v.admin(founder)
    directory = scene.directory(me=founder.aid)
    assert not directory.welcome(other.chain, other.key.public, FOUNDED_MS + 10).admit
    assert directory.is_member(other.aid)


def test_a_settled_certificate_beyond_the_uses_of_its_invite_is_denied(scene):
    v, founder = scene.v, scene.founder
    invite = v.invite(founder)
    one, two = v.joiner(invite), v.joiner(invite)
    directory = scene.directory(v.admit(founder, one, at=5), me=founder.aid)
    chain = v.settle(founder, two, invite, stamp_at=50, at=60)
    with pytest.raises(Denied, match="used up"):
        directory.welcome(chain, two.key.public, FOUNDED_MS + 100)


def test_every_verdict_is_explained(scene):
    v, founder = scene.v, scene.founder
    new = v.joiner(v.invite(founder))
    directory = scene.directory(v.member(new))
    assert "not been let in" in directory.explain(new.aid).message
    assert "not a member" in directory.explain(b"?" * 16).message


def test_records_stay_as_signed():
    """The village's records are what a node accepts from the wire."""
    v = Village(random.Random(3))
    founder = v.founder()
    rec = v.member(founder)
    tag = record.scope_tag(MESH, "")
    assert record.verify(founder.key.public, v.mesh.mesh_id, tag, rec.body, rec.sig)
    assert record.parse(rec.aid, rec.body, rec.sig) == rec

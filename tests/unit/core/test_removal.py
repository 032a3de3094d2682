"""What a removal writes, so that nothing else falls with the node that is removed."""

from __future__ import annotations

import random

import pytest

from mesh.core import removal
from mesh.core.admission import Directory
from mesh.core.collect import Removal
from mesh.core.evidence import KEEP_MAX
from mesh.core.judgement import Verdict
from mesh.core.record import Kind
from mesh.identity.certs import LinkKind, verify_chain
from mesh.sim.village import FOUNDED_MS, Village, Villager

NOTHING = Removal([], [{}])


class Scene:
    """A founder, a second admin whom it certified, and a directory that applies what is written."""

    def __init__(self):
        self.v = v = Village(random.Random(4))
        self.founder = v.founder()
        self.second = v.admin(self.founder)
        self.records = [v.member(self.founder), v.member(self.second)]

    def directory(self, *records):
        found = Directory(self.v.mesh)
        found.feed([*self.records, *records])
        return found

    def statements(self, directory, gone, *, by=None, saved=NOTHING, at=1000):
        by = by or self.second
        own = [verify_chain(by.authority, self.v.mesh, LinkKind.AUTHORITY)]
        cert = verify_chain(by.chain, self.v.mesh)
        now_ms = FOUNDED_MS + at
        return removal.statements(directory, gone.aid, saved, by=cert, now_ms=now_ms, why="lost", own=own)

    def write(self, directory, gone, *, by=None, at=1000, saved=NOTHING):
        """Remove, and let the directory forget what the removed key wrote, as a node does."""
        by = by or self.second
        said = [
            self.v.says(
                by,
                it.path,
                it.val,
                at=at + number,
                kind=it.kind,
                op=it.op,
                asof=None if it.asof is None else (it.asof >> 16) - FOUNDED_MS,
            )
            for number, it in enumerate(self.statements(directory, gone, by=by, saved=saved, at=at))
        ]
        dropped = [rec.slot for rec in directory_records(directory, gone)]
        directory.feed(said, dropped)
        return said


def directory_records(directory, gone):
    """The records of a removed key that the scene has fed (kept by the caller on the directory)."""
    return [rec for rec in getattr(directory, "fed", []) if rec.aid == gone.aid]


@pytest.fixture
def scene():
    return Scene()


def test_the_removal_is_the_last_word_and_says_who_and_why(scene):
    *_, last = scene.statements(scene.directory(), scene.founder)
    assert (last.path, last.kind) == (f"removed/{scene.founder.aid.hex()}", Kind.ALL)
    assert last.val["by"] == scene.second.chain
    assert (last.val["name"], last.val["why"]) == ("founder", "lost")


def test_everyone_the_removed_admin_certified_stays_and_nobody_it_certifies_later_comes(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    old, third = v.joiner(invite), v.admin(scene.founder)
    given = v.renew(scene.founder, third, third.chain, at=4, authority=third.authority)
    directory = scene.directory(v.admit(scene.second, old, at=5), v.member(third), given)
    scene.write(directory, scene.founder)
    assert directory.verdict(scene.founder.aid) == Verdict.REMOVED
    for who in (scene.second, third, old):
        assert directory.is_member(who.aid)
    minted, late = v.admin(scene.founder, "thief"), v.joiner(invite)
    directory.feed([v.member(minted, at=2000), v.admit(scene.second, late, at=2000)])
    assert directory.verdict(minted.aid) == Verdict.VOID
    assert directory.verdict(late.aid) == Verdict.REVOKED, "its invites take no further use"
    child = v.joiner(v.invite(third))
    directory.feed([v.admit(scene.second, child, at=2001)])
    assert directory.is_member(child.aid), "what a kept admin certifies is valid"


def test_whom_the_removed_node_let_in_is_countersigned_again_as_of_then(scene):
    v = scene.v
    invite = v.invite(scene.founder, uses=9)
    door, guest, shared = (v.joiner(invite) for _ in range(3))
    fed = [v.admit(door, guest, at=20), v.admit(door, shared, at=30), v.admit(scene.second, shared, at=25)]
    directory = scene.directory(v.admit(scene.founder, door, at=10), *fed)
    directory.fed = fed
    stamp = directory.standing(guest.aid).stamp
    said = scene.write(directory, door)
    again = [rec for rec in said if rec.path.startswith("admit/")]
    assert [(rec.path, rec.asof) for rec in again] == [(f"admit/{guest.aid.hex()}", stamp)]
    assert directory.standing(guest.aid).stamp == stamp
    assert directory.standing(guest.aid).by == scene.second.aid
    assert directory.is_member(shared.aid)


def test_expired_and_revoked_invites_are_left_as_they_are(scene):
    v = scene.v
    brief = v.invite(scene.founder, hours=0.0001)
    listed = [v.invite(scene.founder), brief, v.invite(scene.second)]
    records = [
        v.says(scene.founder, f"invite/{it.key.aid.hex()}", {"cert": it.cert.data}, at=2, kind=Kind.REG)
        for it in listed
    ]
    gone = v.invite(scene.founder)
    directory = scene.directory(*records, v.revoke(scene.founder, gone, at=3))
    paths = [it.path for it in scene.statements(directory, scene.founder) if it.path.startswith("invite/")]
    assert paths == [f"invite/{listed[0].key.aid.hex()}"]


def test_counters_and_a_long_list_to_keep_go_into_pieces(scene):
    v = scene.v
    people = [
        Villager(key, v.certify(scene.founder, key.public, "x")) for key in (v.new_key() for _ in range(40))
    ]
    directory = scene.directory(*(v.member(who) for who in people))
    saved = Removal([], [{"kv/a": [1, 0]}, {"kv/b": [2, 1]}])
    said = scene.statements(directory, scene.founder, saved=saved)
    hexed = scene.founder.aid.hex()
    assert [it.path for it in said] == [f"removed/{hexed}/0", f"removed/{hexed}/1", f"removed/{hexed}"]
    assert said[0].val == {"counters": {"kv/a": [1, 0]}}
    assert len(said[-1].val["keep"]) == 40 + 2


def test_pieces_are_kept_as_well_and_only_from_those_who_removed(scene, monkeypatch):
    v = scene.v
    monkeypatch.setattr(removal, "KEEP_MAX", 10)
    people = [
        Villager(key, v.certify(scene.founder, key.public, "x")) for key in (v.new_key() for _ in range(35))
    ]
    directory = scene.directory(*(v.member(who) for who in people))
    scene.write(directory, scene.founder)
    assert all(directory.is_member(who.aid) for who in people)
    minted = Villager(v.new_key(), b"")
    minted.chain = v.certify(scene.founder, minted.key.public, "thief")
    keep = {"keep": [v.link_of(minted.chain)]}
    path = f"removed/{scene.founder.aid.hex()}/99"
    directory.feed([v.member(minted), v.says(people[0], path, keep, at=3000)])
    assert directory.verdict(minted.aid) == Verdict.VOID
    directory.feed([v.says(scene.second, path, keep, at=3000)])
    assert directory.is_member(minted.aid)


def test_a_piece_fits_a_record_at_its_fullest(scene):
    v = scene.v
    keep = [random.Random(1).randbytes(16) for _ in range(KEEP_MAX)]
    value = {"by": scene.second.chain, "keep": keep, "why": "x" * 256, "name": "n" * 63}
    assert v.says(scene.second, f"removed/{'0' * 32}", value, at=1).size < 64 << 10

"""One key in two places: proofs that convince everyone, and signs that raise an alarm."""

from __future__ import annotations

import random

import pytest

from mesh.core import forks, record
from mesh.core.forks import CloneWatch
from mesh.core.record import MESH, ZONE, Kind
from mesh.sim.village import Village

TAG = record.scope_tag(MESH, "")


@pytest.fixture
def scene():
    v = Village(random.Random(2))
    return v, v.founder()


def test_two_bodies_under_one_stamp_are_a_proof_whatever_their_paths(scene):
    v, liar = scene
    one, two = v.says(liar, "kv/a", 1, at=5), v.says(liar, "kv/b", 1, at=5, kind=Kind.REG)
    value = forks.proof(liar.key.public, TAG, one, two)
    assert forks.proven(value, v.mesh.mesh_id) == liar.aid
    assert value == forks.proof(liar.key.public, TAG, two, one), "both finders publish the same"


def test_what_an_honest_node_says_proves_nothing(scene):
    v, honest = scene
    one, later = v.says(honest, "kv/a", 1, at=5), v.says(honest, "kv/a", 2, at=6)
    assert forks.proof(honest.key.public, TAG, one, later) is None
    assert forks.proof(honest.key.public, TAG, one, one) is None
    pair = [[one.body, one.sig], [later.body, later.sig]]
    assert forks.proven({"public": honest.key.public, "tag": TAG, "said": pair}, v.mesh.mesh_id) is None


def test_a_forged_proof_proves_nothing(scene):
    v, victim = scene
    liar = v.founder()
    good = forks.proof(liar.key.public, TAG, v.says(liar, "kv/a", 1, at=5), v.says(liar, "kv/a", 2, at=5))
    assert forks.proven(good, bytes(16)) is None, "another mesh"
    for change in (
        {"public": victim.key.public},
        {"public": b""},
        {"tag": record.scope_tag(ZONE, "attic")},
        {"tag": None},
        {"said": good["said"][:1]},
        {"said": [good["said"][0], good["said"][0]]},
        {"said": [[b"", b""], [b"", b""]]},
        {"said": [[good["said"][0][0], bytes(64)], good["said"][1]]},
        {"said": "text"},
        {"said": 5},
    ):
        assert forks.proven({**good, **change}, v.mesh.mesh_id) is None, change
    for nonsense in (None, 5, "text", [], {}, {"public": 1}):
        assert forks.proven(nonsense, v.mesh.mesh_id) is None


def test_a_proof_that_does_not_fit_a_record_is_not_made(scene):
    v, liar = scene
    big = "x" * 40_000
    assert (
        forks.proof(liar.key.public, TAG, v.says(liar, "kv/a", big, at=5), v.says(liar, "kv/b", big, at=5))
        is None
    )


def test_two_streams_of_incarnations_raise_the_alarm():
    watch = CloneWatch()
    heard = [watch.heard(b"a" * 16, hlc, inc) for hlc, inc in [(1, 7), (2, 3), (3, 7), (4, 3), (5, 8)]]
    assert heard == [False, False, False, True, False]  # the sign is the fall


def test_restarts_refutations_and_one_restored_backup_raise_no_alarm():
    watch = CloneWatch()
    for hlc, inc in [(1, 1), (2, 1), (3, 2), (9, 3), (10, 2), (11, 4), (12, 5), (13, 5)]:
        assert not watch.heard(b"a" * 16, hlc, inc)


def test_old_leases_that_arrive_late_prove_nothing():
    watch = CloneWatch()
    for hlc, inc in [(10, 5), (4, 1), (11, 5), (5, 2), (10, 1)]:
        assert not watch.heard(b"a" * 16, hlc, inc)


def test_links_that_come_from_two_processes_in_turn_raise_the_alarm():
    watch = CloneWatch()
    assert [watch.met(b"a" * 16, life) for life in (b"1", b"2", b"1", b"1", b"2", b"1")] == [
        False,
        False,
        False,
        False,
        True,
        True,
    ]
    watch.forget(b"a" * 16)
    assert not watch.met(b"a" * 16, b"2")


def test_restarts_late_links_and_older_versions_raise_no_alarm():
    watch = CloneWatch()
    lives = [b"1", b"1", b"2", b"1", b"3", b"", b"4", b"5", b"6", b"6", b"7"]
    assert not any(watch.met(b"a" * 16, life) for life in lives)
    assert not any(watch.met(index.to_bytes(16, "big"), b"x") for index in range(20_000))
    assert len(watch._lives) == 16_384


def test_the_watch_is_bounded_and_forgets_when_told():
    watch = CloneWatch()
    for index in range(20_000):
        watch.heard(index.to_bytes(16, "big"), 1, 1)
    assert len(watch._last) == 16_384
    aid = b"a" * 16
    for hlc, inc in [(1, 5), (2, 1), (3, 5), (4, 1)]:
        watch.heard(aid, hlc, inc)
    watch.forget(aid)
    assert not watch.heard(aid, 5, 1)
